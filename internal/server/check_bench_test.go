package server

import (
	"fmt"
	"net/http"
	"net/http/httptest"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/rstream-dev/rstream/cache"
	"github.com/rstream-dev/rstream/internal/auth"
)

// BenchmarkTokenCheck measures what the check of a known token takes of an append of one
// event through the handler, in the same run. The goal is 3 % at most.
func BenchmarkTokenCheck(b *testing.B) {
	ring := newKeyring(b, auth.Config{})
	log, err := cache.Open(b.Context(), filepath.Join(b.TempDir(), "server.db"), cache.Config{Role: cache.Server})
	if err != nil {
		b.Fatal(err)
	}
	defer log.Close()
	s := New(log, Config{Guard: ring.guard})
	defer s.Stop()
	token := bearer(ring.grant(nil, []string{"a"}, nil))
	request := func(i int) *http.Request {
		r := httptest.NewRequestWithContext(b.Context(), http.MethodPost, fmt.Sprint("/set/a/", i%1000), strings.NewReader(`{"value":"something of a usual length, for example this sentence"}`))
		r.Header.Set("Authorization", token)
		return r
	}
	var appends, checks time.Duration
	n := 0
	for b.Loop() {
		r := request(n)
		n++
		w := httptest.NewRecorder()
		began := time.Now()
		s.ServeHTTP(w, r)
		appends += time.Since(began)
		if w.Code != http.StatusCreated {
			b.Fatal(w.Code, w.Body)
		}
	}
	r := request(0)
	rec := &recorder{ResponseWriter: httptest.NewRecorder(), s: s}
	began := time.Now()
	for range n {
		if problem := s.admit(rec, r); problem != nil {
			b.Fatal(problem)
		}
	}
	checks = time.Since(began)
	b.ReportMetric(float64(checks.Nanoseconds())/float64(n), "ns/check")
	b.ReportMetric(100*checks.Seconds()/appends.Seconds(), "%check/append")
}
