package server

import (
	"context"
	"net/http"

	"github.com/rstream-dev/rstream/event"
	"github.com/rstream-dev/rstream/internal/wire"
)

// setPosition puts a position of the log into a header.
func (s *Server) setPosition(h http.Header, name string, p event.Point) {
	h.Set(name, p.Cursor(s.log.Log()).String())
}

// markedPoint adds its mark to a position, which is not below the horizon. That of the head
// costs nothing.
func (s *Server) markedPoint(ctx context.Context, at event.ID, head event.Point) (event.Point, error) {
	switch at {
	case head.ID:
		return head, nil
	case event.Beginning:
		return event.Point{}, nil
	}
	_, mark, _, err := s.log.LastAt(ctx, at)
	return event.Point{ID: at, Mark: mark}, err
}

// resolveMoment turns a moment into a position of this log. Below the horizon it has no mark,
// and nothing can be read from there.
func (s *Server) resolveMoment(r *http.Request, m event.Moment, horizon event.ID, head event.Point) (p event.Point, problem *wire.Error) {
	c, err := m.Resolve(s.cfg.Now(), head.Cursor(s.log.Log()), func(t event.Time) (event.ID, error) {
		return s.log.PositionAt(r.Context(), t)
	})
	if err != nil {
		return p, s.internalProblem(r, err)
	}
	return s.resolveCursor(r, c, horizon, head)
}

// resolveCursor returns the position of a cursor, if it can be one of this log.
func (s *Server) resolveCursor(r *http.Request, c event.Cursor, horizon event.ID, head event.Point) (p event.Point, problem *wire.Error) {
	if !c.Of(s.log.Log()) {
		return p, s.conflict(wire.ReasonLog, head, "cursor %s belongs to another log; this one is %s", c, s.log.Log())
	}
	if c.ID > head.ID {
		why := "it belongs to another log, or this one was put back to an older state"
		if c.Mark != 0 { // this log has given it
			why = "the log was put back to an older state"
		}
		return p, s.conflict(wire.ReasonAhead, head, "cursor %s is ahead of this log, whose head is %s: %s", c, head.ID, why)
	}
	if c.ID < horizon {
		return event.Point{ID: c.ID}, nil
	}
	p, err := s.markedPoint(uncancelled(r), c.ID, head)
	if err != nil {
		return p, s.readProblem(r, err)
	}
	if !p.Mark.Agrees(c.Mark) {
		return p, s.conflict(wire.ReasonMark, head, "cursor %s: this log has another event at that position; it was put back to an older state", c)
	}
	return p, nil
}

// checkHeld checks the position that a request says its reader has come to, whatever it
// asks for. Below the horizon nothing can be said of it.
func (s *Server) checkHeld(r *http.Request) *wire.Error {
	c, ok, problem := cursorIn(r, wire.HeaderHeld)
	if problem != nil || !ok {
		return problem
	}
	horizon, err := s.log.Horizon(uncancelled(r))
	if err != nil {
		return s.internalProblem(r, err)
	}
	_, problem = s.resolveCursor(r, c, horizon, s.log.HeadPoint())
	if problem != nil && problem.Status == http.StatusGone {
		return nil // the horizon has passed it just now
	}
	return problem
}

func (s *Server) conflict(reason string, head event.Point, format string, args ...any) *wire.Error {
	s.metrics.refused.WithLabelValues(reason).Inc()
	e := wire.Errorf(http.StatusConflict, format, args...)
	at := head.Cursor(s.log.Log())
	e.Log, e.Head, e.Reason = s.log.Log(), &at, reason
	return e
}
