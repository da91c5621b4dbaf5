package server

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"time"

	"github.com/rstream-dev/rstream/event"
	"github.com/rstream-dev/rstream/internal/wire"
)

// stream answers with SSE: history, a live event, then what happens.
func (s *Server) stream(w http.ResponseWriter, r *http.Request, st stretch) *wire.Error {
	if st.ends && st.resume && st.from >= st.to {
		// An EventSource would come back for ever; 204 tells it not to.
		w.WriteHeader(http.StatusNoContent)
		return nil
	}
	// The first read decides between a stream and a refusal: browsers give up
	// for good on anything but 200.
	if _, _, err := s.log.Read(r.Context(), st.topics, st.from, st.from, 0); err != nil {
		return s.readProblem(r, err)
	}
	st.announce(w.Header(), wire.SSE, "no-cache, no-transform")
	w.Header().Set("X-Accel-Buffering", "no") // nginx would hold events to the end
	if r.Method == http.MethodHead {
		return nil
	}
	c := &connection{s: s, w: w, rc: http.NewResponseController(w), r: r}
	if err := c.run(st); err != nil && r.Context().Err() == nil && !errors.Is(err, ErrStopped) && !errors.Is(err, errWrite) {
		s.cfg.Logger.Error("stream ended", "error", err)
	}
	return nil
}

// A connection is one SSE stream on its way out. It ends only at the end of an
// event, but for a reader that takes nothing.
type connection struct {
	s       *Server
	w       http.ResponseWriter
	rc      *http.ResponseController
	r       *http.Request
	buf     []byte
	written time.Time
}

// run sends the stream to its end.
func (c *connection) run(st stretch) error {
	c.buf = wire.AppendPreamble(c.buf, c.s.cfg.Retry)
	if err := c.flush(); err != nil {
		return err
	}
	if st.ends {
		return c.replay(st)
	}
	return c.follow(c.r.Context(), st)
}

// errWrite means that the reader has gone or takes nothing.
var errWrite = errors.New("write")

// maxKeep is the largest buffer that a connection keeps between writes.
const maxKeep = 1 << 20

// flush writes what has been gathered in one go.
func (c *connection) flush() error {
	if len(c.buf) == 0 {
		return nil
	}
	_, err := c.w.Write(c.buf)
	if err == nil {
		err = c.rc.Flush()
	}
	if err != nil {
		return fmt.Errorf("%w: %w", errWrite, err)
	}
	c.buf = c.buf[:0]
	if cap(c.buf) > maxKeep {
		c.buf = nil
	}
	c.written = time.Now()
	return nil
}

// event gathers one event.
func (c *connection) event(ev *event.Event) {
	c.buf = wire.AppendEvent(c.buf, ev, c.s.log.Log())
}

// position gathers how far the reader is, so that a long silence moves its cursor,
// too.
func (c *connection) position(at event.ID) {
	c.buf = wire.AppendPosition(c.buf, at, c.s.log.Log())
}

// live gathers that the reader has come to the end of what was there.
func (c *connection) live(at event.ID) {
	c.buf = wire.AppendLive(c.buf, at, c.s.log.Head(), c.s.log.Log())
}

// overdue reports whether the reader should have had a sign of life.
func (c *connection) overdue() bool { return time.Since(c.written) >= c.s.cfg.Heartbeat }

// replay sends a stretch with an end, then the position of that end, so that the
// reader's next request is answered with 204.
func (c *connection) replay(st stretch) error {
	for at := st.from; at < st.to; {
		if c.s.isStopped() {
			return ErrStopped
		}
		evs, next, err := c.s.readOn(c.r, st, at)
		if err != nil {
			return err
		}
		at = next
		for i := range evs {
			c.event(&evs[i])
		}
		if len(evs) == 0 && c.overdue() {
			c.position(at)
		}
		if err := c.flush(); err != nil {
			return err
		}
	}
	c.live(st.to)
	return c.flush()
}

// follow sends history and then what happens, until the reader or the server ends
// it. A quiet stream beats with the position of this very reader, never with the
// log's head.
func (c *connection) follow(ctx context.Context, st stretch) error {
	sub := c.s.hub.Subscribe(st.topics, st.from)
	defer sub.Close()
	for told := false; ; {
		batch, err := next(ctx, sub, c.s.cfg.Heartbeat-time.Since(c.written))
		switch {
		case errors.Is(err, errQuiet):
			c.position(sub.Position())
		case err != nil:
			return err
		}
		for _, ev := range batch.Events {
			if !st.leavesOut(ev) {
				c.event(ev)
			}
		}
		if batch.Live && !told {
			told = true
			c.live(batch.Position)
		}
		if err == nil && len(c.buf) == 0 && c.overdue() {
			c.position(batch.Position)
		}
		if err := c.flush(); err != nil {
			return err
		}
	}
}
