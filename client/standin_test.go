package client

import (
	"fmt"
	"io"
	"net/http"
	"strings"
	"sync/atomic"
	"testing"
	"testing/synctest"

	"github.com/rstream-dev/rstream/internal/wire"
)

// A proxy that answers while its server is down, as docs/proxies.md describes for
// browsers, does not end a tail.
func TestTailBehindStandIn(t *testing.T) {
	noLeaks(t)
	f := newFixture(t)
	f.put("alice/x", 50)
	var streams atomic.Int64
	f.through(func(h http.Handler) http.Handler {
		return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			if r.Header.Get("Accept") == wire.SSE && streams.Add(1) <= 3 {
				w.Header().Set("Content-Type", wire.SSE)
				io.WriteString(w, "retry: 1\n: nginx\n\n")
				return
			}
			h.ServeHTTP(w, r)
		})
	})
	n := 0
	for _, err := range newTestClient(t, f.newCache(), hasty(f.http.URL)).Tail(t.Context(), mustTopic(t, "alice"), TailOptions{}) {
		if err != nil {
			t.Fatal(err)
		}
		if n++; n >= 50 {
			if streams.Load() > 3 {
				break
			}
			f.put("alice/x", 1)
		}
	}
	if want := len(f.truth("alice", "", "")); n != want {
		t.Errorf("the tail has %d events, the log %d", n, want)
	}
}

// A foreign stream is not a stand-in if it has events or does not end.
func TestStandIn(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		for body, want := range map[string]bool{
			"":                                  true,
			"retry: 1000\n\n":                   true,
			"\r\n: away\r\nretry: 1000\r\n\r\n": true,
			"id: 1\n\n":                         false,
			"retry: 1\n\ndata: x\n\n":           false,
			strings.Repeat(": x\n", 300):        false,
		} {
			resp := &http.Response{Header: http.Header{"Content-Type": {wire.SSE}}, Body: text(body)}
			if got := isStandIn(resp); got != want {
				t.Errorf("isStandIn(%.20q) = %t", body, got)
			}
		}
		r, w := io.Pipe()
		go fmt.Fprint(w, "retry: 1\n\n") // and no end
		if isStandIn(&http.Response{Header: http.Header{"Content-Type": {wire.SSE}}, Body: r}) {
			t.Error("a stream that goes on is taken for a stand-in")
		}
		resp := &http.Response{Header: http.Header{"Content-Type": {wire.SSE}, wire.HeaderLog: {stubLog}}, Body: text("")}
		if isStandIn(resp) {
			t.Error("an answer of a log is taken for a stand-in")
		}
	})
}
