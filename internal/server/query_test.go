package server

import (
	"context"
	"errors"
	"net/http"
	"strconv"
	"strings"
	"testing"
	"testing/synctest"

	"github.com/rstream-dev/rstream/event"
	"github.com/rstream-dev/rstream/internal/wire"
)

// request makes a request with a form as its body and the headers in pairs.
func (s *served) request(ctx context.Context, method, target, form string, header ...string) *http.Response {
	s.t.Helper()
	r, err := http.NewRequestWithContext(ctx, method, "http://localhost"+target, strings.NewReader(form))
	if err != nil {
		s.t.Fatal(err)
	}
	r.Header.Set("Content-Type", wire.FormData+"; charset=UTF-8")
	for i := 0; i+1 < len(header); i += 2 {
		r.Header.Set(header[i], header[i+1])
	}
	resp, err := s.http.Do(r)
	if err != nil {
		s.t.Fatal(err)
	}
	return resp
}

// Parameters mean the same in a URL, in a body and in both, for every form of response.
func TestEventsInABody(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		log := newLog()
		log.put(t, "a", "p", 3)
		log.put(t, "b+c", "q r", 2)
		s, stop := serve(t, log, Config{})
		defer stop()
		params := "topic=a&topic=b%2Bc/q+r&since=0000000000001&until=0000000000005"
		for _, accept := range []string{wire.JSON, wire.NDJSON, wire.SSE} {
			want := body(t, s.get("/events?"+params, "Accept", accept))
			if strings.Count(want, `"id"`) != 4 {
				t.Fatalf("%s: %s", accept, want)
			}
			for _, method := range []string{http.MethodPost, wire.MethodQuery} {
				for _, at := range []int{0, strings.Index(params, "&"), strings.LastIndex(params, "&"), len(params)} {
					resp := s.request(t.Context(), method, "/events?"+params[:at], strings.TrimPrefix(params[at:], "&"), "Accept", accept)
					if got := body(t, resp); resp.StatusCode != http.StatusOK || got != want || resp.Header.Get(wire.HeaderAcceptQuery) != wire.FormData {
						t.Errorf("%s, %d in the URL, %s: %v %s, want %s", method, at, accept, resp, got, want)
					}
				}
			}
		}
		if resp := s.get("/events?" + params); resp.Header.Get(wire.HeaderAcceptQuery) != "" {
			t.Error("a GET says what QUERY takes")
		}
	})
}

// A body has room for the maximum number of topics, and a stream of them is like any other: it
// follows the log, sends heartbeats and resumes from a cursor.
func TestStreamOfTopicsInABody(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		log := newLog()
		log.put(t, "user-7", "p", 2)
		s, stop := serve(t, log, Config{})
		defer stop()
		var form strings.Builder
		for i := range wire.MaxTopics {
			form.WriteString("&topic=user-" + strconv.Itoa(i) + "/" + strings.Repeat("x", i))
			if i == 7 {
				form.WriteString("&topic=user-7")
			}
			if i == wire.MaxTopics-2 {
				break
			}
		}
		ctx, cancel := context.WithCancel(t.Context())
		resp := s.request(ctx, http.MethodPost, "/events", form.String(), "Accept", wire.SSE, wire.HeaderLastEventID, "0000000000001.K7Q2M")
		if resp.StatusCode != http.StatusOK {
			t.Fatal(body(t, resp))
		}
		fs := newFrames(resp.Body)
		if f, err := fs.next(); err != nil || f.rest == "" {
			t.Fatal(f, err)
		}
		fs.want(t, "PUT", 2)
		fs.want(t, wire.LiveEvent, 2)
		log.put(t, "user-8", "xxxxxxxx", 1)
		fs.want(t, "PUT", 3)
		fs.want(t, "", 3)
		cancel()
		if f, err := fs.next(); !errors.Is(err, context.Canceled) {
			t.Errorf("%q, %v", f, err)
		}
		_ = resp.Body.Close()
		synctest.Wait()
		if n := s.readerStats(event.MaxID).Readers; n != 0 {
			t.Errorf("%d readers are left", n)
		}
	})
}
