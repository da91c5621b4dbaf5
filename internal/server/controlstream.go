package server

import (
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"time"

	"github.com/rstream-dev/rstream/internal/wire"
)

// A controlStream sends Server-Sent Events that are not those of the log.
type controlStream struct {
	s    *Server
	w    http.ResponseWriter
	rc   *http.ResponseController
	r    *http.Request
	to   *recorder
	done func()        // gives its place to another stream of its client
	age  time.Duration // age at which it ends; 0 is never

	news    chan struct{} // has an element if there may be something to send
	buf     []byte
	waits   bool // something was written and not flushed
	written time.Time
}

// prepareControlStream prepares the stream that of returns.
func (s *Server) prepareControlStream(w http.ResponseWriter, r *http.Request, of func(controlStream) stream) *wire.Error {
	h := w.Header()
	h.Set("Content-Type", wire.SSE)
	h.Set("Cache-Control", "no-cache, no-transform")
	h.Set("X-Accel-Buffering", "no") // else nginx delays events
	if r.Method == http.MethodHead {
		return nil
	}
	done, problem := s.openStream(w, r)
	if problem != nil {
		return problem
	}
	rec := recorderOf(w)
	rec.stream = of(controlStream{s: s, w: w, rc: http.NewResponseController(w), r: r, to: rec, done: done, age: s.streamAge(), news: make(chan struct{}, 1)})
	return nil
}

// run sends the stream with follow, to its end.
func (c *controlStream) run(follow func() error) {
	defer c.done()
	defer c.to.limitWrites(c.wake)()
	c.to.noteEnd(c.r, follow())
}

// wake makes the stream look for news. It may be called from any goroutine.
func (c *controlStream) wake() {
	select {
	case c.news <- struct{}{}:
	default:
	}
}

// await waits for news, or until timer is due.
func (c *controlStream) await(timer *time.Timer) error {
	select {
	case <-c.news:
	case <-timer.C:
	case <-c.s.stopped:
	case <-c.r.Context().Done():
		return c.r.Context().Err()
	}
	return nil
}

// checkEnd returns the reason for which the stream must end now, or nil.
func (c *controlStream) checkEnd() error {
	switch {
	case c.s.isStopped():
		return ErrStopped
	case c.age > 0 && time.Since(c.to.began) >= c.age:
		return errAged
	}
	return c.to.checkGrant()
}

// patience returns how long to wait for news: until a time without output has passed, or the
// end is due.
func (c *controlStream) patience(silence time.Duration) time.Duration {
	d := silence - time.Since(c.written)
	if c.to.grant != nil {
		d = min(d, c.to.grant.Left())
	}
	if c.age > 0 {
		d = min(d, c.age-time.Since(c.to.began))
	}
	return d
}

// gather appends an event, without an id or after its id.
func (c *controlStream) gather(name string, data any) error {
	b, err := json.Marshal(data)
	if err != nil {
		return err
	}
	c.buf = fmt.Appendf(c.buf, "event: %s\ndata: %s\n\n", name, b)
	if len(c.buf) < eventPiece {
		return nil
	}
	return c.write()
}

func (c *controlStream) write() error {
	c.waits = true
	_, err := c.w.Write(c.buf)
	c.buf = c.buf[:0]
	if err != nil {
		return errors.Join(errWrite, err)
	}
	return nil
}

// flush sends all output.
func (c *controlStream) flush() error {
	if len(c.buf) > 0 {
		if err := c.write(); err != nil {
			return err
		}
	}
	if !c.waits {
		return nil
	}
	c.waits = false
	if err := c.rc.Flush(); err != nil {
		return errors.Join(errWrite, err)
	}
	c.written = time.Now()
	return nil
}
