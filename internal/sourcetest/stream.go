// Package sourcetest serves event streams as the servers of known kinds do, with their
// traps, for tests. The events of a stream are numbered from 1.
package sourcetest

import (
	"fmt"
	"io"
	"math/rand/v2"
	"net/http"
	"time"
)

// A Stream is a history of events, of which one comes into being after the other. It keeps
// no state: a process that is killed and started again serves the same one.
type Stream struct {
	Kind string // one of Kinds
	N    int    // how many events there are in the end
	// Event n exists from n times Every after Begun. If Every is zero, all exist.
	Begun time.Time
	Every time.Duration
	// Released returns how many events exist. If nil, Begun and Every say it.
	Released func() int
	// Cut is called for each connection. It ends after some events, in the middle of the
	// next one if torn. If Cut is nil or returns 0, it does not end.
	Cut func() (events int, torn bool)
	// Sent is called after each event. It may be nil.
	Sent func()
}

// Kinds are the kinds of streams.
var Kinds = []string{"sse", "wikimedia", "mercure", "ntfy", "pubky", "durable"}

// EndBlock follows the last event.
const EndBlock = "event: end\ndata: x\n\n"

// Query returns the query of the URL of a stream.
func Query(kind string) string {
	switch kind {
	case "pubky":
		return "?user=ann&user=bob&live=true"
	case "durable":
		return "?offset=-1&live=sse"
	}
	return ""
}

// ServeHTTP serves a connection.
func (s *Stream) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	c := &connection{Stream: s, w: w, r: r, opened: s.exists()}
	if s.Cut != nil {
		c.left, c.torn = s.Cut()
		c.cut = c.left > 0
	}
	w.Header().Set("Content-Type", "text/event-stream")
	switch s.Kind {
	case "wikimedia":
		c.serveWikimedia()
	case "mercure":
		c.serveMercure()
	case "ntfy":
		c.serveNtfy()
	case "pubky":
		c.servePubky()
	case "durable":
		c.serveDurable()
	default:
		c.serveSSE()
	}
}

// exists returns how many events exist.
func (s *Stream) exists() int {
	switch {
	case s.Released != nil:
		return s.Released()
	case s.Every == 0:
		return s.N
	}
	return min(s.N, int(time.Since(s.Begun)/s.Every))
}

// A connection is a connection to a stream.
type connection struct {
	*Stream
	w      http.ResponseWriter
	r      *http.Request
	opened int // how many events existed

	cut, torn bool // it ends after left events
	left      int
}

// write sends text that is no event.
func (c *connection) write(text string) { io.WriteString(c.w, text) }

// sendEvent sends event n once it exists. It reports whether the connection goes on.
func (c *connection) sendEvent(n int, block string) bool {
	if c.exists() < n {
		http.NewResponseController(c.w).Flush()
	}
	for c.exists() < n {
		wait := time.Until(c.Begun.Add(time.Duration(n) * c.Every))
		if c.Released != nil {
			wait = time.Millisecond
		}
		select {
		case <-time.After(wait):
		case <-c.r.Context().Done():
			return false
		}
	}
	if c.cut && c.left == 0 {
		if c.torn {
			c.write(block[:rand.IntN(len(block))])
			http.NewResponseController(c.w).Flush()
			panic(http.ErrAbortHandler)
		}
		return false
	}
	c.left--
	c.write(block)
	if c.Sent != nil {
		c.Sent()
	}
	return true
}

// sendAll sends the events after one, and the end.
func (c *connection) sendAll(after int, skip func(n int) bool, block func(n int) string) {
	for n := after + 1; n <= c.N; n++ {
		if (skip == nil || !skip(n)) && !c.sendEvent(n, block(n)) {
			return
		}
	}
	c.write(EndBlock)
}

func (c *connection) serveSSE() {
	after := 0
	fmt.Sscan(c.r.Header.Get("Last-Event-ID"), &after)
	c.write("retry: 1\n: hello\n\n")
	c.sendAll(after, nil, func(n int) string { return fmt.Sprintf("id: %d\ndata: {\"n\":%d}\n\n", n, n) })
}
