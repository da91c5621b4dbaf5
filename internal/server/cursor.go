package server

import (
	"context"
	"errors"
	"net/http"

	"github.com/rstream-dev/rstream/event"
	"github.com/rstream-dev/rstream/internal/wire"
)

// setPosition sets a header to a position of the log.
func (s *Server) setPosition(h http.Header, name string, p event.Point) {
	h.Set(name, p.Cursor(s.log.Log()).String())
}

// markedPoint returns a position with its mark. The position must not be below the horizon. For the
// head, it does not read the log.
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

// resolveMoment resolves a moment to a position of this log. A position below the horizon has no
// mark, and cannot be read from.
func (s *Server) resolveMoment(r *http.Request, m event.Moment, horizon event.ID, head event.Point) (p event.Point, problem *wire.Error) {
	c, err := m.Resolve(s.cfg.Now(), head.Cursor(s.log.Log()), func(t event.Time) (event.ID, error) {
		return s.log.PositionAt(r.Context(), t)
	})
	if err != nil {
		return p, s.internalProblem(r, err)
	}
	return s.resolveCursor(r, c, horizon, head)
}

// resolveCursor returns the position of a cursor, or a problem if the cursor is not one of this
// log.
func (s *Server) resolveCursor(r *http.Request, c event.Cursor, horizon event.ID, head event.Point) (p event.Point, problem *wire.Error) {
	if !c.Of(s.log.Log()) {
		return p, s.conflictError(wire.ReasonLog, head, "cursor %s belongs to another log; this log is %s", c, s.log.Log())
	}
	if c.ID > head.ID {
		why := "it belongs to another log, or this log was rolled back to an older state"
		if c.Mark != 0 { // only this log can have sent it
			why = "the log was rolled back to an older state"
		}
		return p, s.conflictError(wire.ReasonAhead, head, "cursor %s is ahead of this log, whose head is %s: %s", c, head.ID, why)
	}
	if c.ID < horizon {
		return event.Point{ID: c.ID}, nil
	}
	p, err := s.markedPoint(uncancelled(r), c.ID, head)
	if err != nil {
		return p, s.readProblem(r, err)
	}
	p, same, err := s.knowsMark(uncancelled(r), p, c.Mark)
	var away *wire.Error
	if errors.As(err, &away) {
		return p, away
	} else if err != nil {
		return p, s.internalProblem(r, err)
	}
	if !same {
		return p, s.conflictError(wire.ReasonMark, head, "cursor %s: this log has another event at that position; it was rolled back to an older state", c)
	}
	return p, nil
}

// checkHeld checks the position in Rstream-Held, for every request. It cannot check a
// position below the horizon.
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
		return nil // the horizon has just passed it
	}
	return problem
}

func (s *Server) conflictError(reason string, head event.Point, format string, args ...any) *wire.Error {
	s.metrics.refused.WithLabelValues(reason).Inc()
	e := wire.Errorf(http.StatusConflict, format, args...)
	at := head.Cursor(s.log.Log())
	e.Log, e.Head, e.Reason = s.log.Log(), &at, reason
	return e
}
