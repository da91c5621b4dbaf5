package server

import (
	"errors"
	"fmt"
	"net/http"
	"strings"
	"testing"
)

// A passing is a temporary error of the log, such as too many open files.
type passing struct{ error }

func (passing) HTTPStatus() int { return http.StatusServiceUnavailable }

// A temporary error is 503 with Retry-After for every reader, and any other is 500.
func TestPassingErrorsAre503(t *testing.T) {
	bubble(t, Config{}, func(t *testing.T, s *served, log *memLog) {
		log.put(t, "a", "p", 3)
		for _, c := range []struct {
			err    error
			status int
			after  string
			detail string
		}{
			{fmt.Errorf("read /secret/log.db: %w", passing{errors.New("too many files are open")}), 503, "1", "too many files are open"},
			{errors.New("read /secret/log.db: broken"), 500, "", "see the server's log"},
		} {
			for _, target := range []string{"/events?topic=a&limit=2", "/events?topic=a", "/get?id=a/p", "/snapshot?topic=a"} {
				log.set(func() { log.err = c.err })
				resp, body := s.raw("GET " + target + " HTTP/1.1\nHost: localhost\n\n")
				if resp.StatusCode != c.status || resp.Header.Get("Retry-After") != c.after || !strings.Contains(body, c.detail) || strings.Contains(body, "secret") {
					t.Errorf("%s, %v: %d, Retry-After %q, %s", target, c.err, resp.StatusCode, resp.Header.Get("Retry-After"), body)
				}
			}
		}
		log.set(func() { log.err = nil })
	})
}
