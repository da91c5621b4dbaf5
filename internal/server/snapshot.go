package server

import (
	"net/http"

	"github.com/rstream-dev/rstream/event"
	"github.com/rstream-dev/rstream/internal/wire"
)

// getSnapshot returns the state of a topic at a moment, as the events that made it, or as a
// stream that continues with its changes: GET /snapshot. It writes events while it reads them,
// so a large state needs no memory.
func (s *Server) getSnapshot(w http.ResponseWriter, r *http.Request) *wire.Error {
	w.Header().Add("Vary", "Accept")
	form, ok := wire.NegotiateForm(r.Header.Values("Accept"))
	if !ok {
		return wire.Errorf(http.StatusNotAcceptable, "Accept must allow %s, %s or %s", wire.JSON, wire.NDJSON, wire.SSE)
	}
	q, err := wire.ParseSnapshot(r.URL.RawQuery)
	if err != nil {
		return wire.Errorf(http.StatusBadRequest, "%v", err)
	}
	if problem := s.mayRead(w, q.Topic); problem != nil {
		return problem
	}
	switch {
	case form == wire.Stream && q.After != (event.Storage{}):
		return wire.Errorf(http.StatusBadRequest, "after: a stream has the whole state; leave it out, or request %s", wire.NDJSON)
	case form == wire.Stream:
		return s.prepareStateStream(w, r, q)
	case q.Until != nil:
		return wire.Errorf(http.StatusBadRequest, "until: only a stream has an end; leave it out, or request %s", wire.SSE)
	}
	return s.sendState(w, r, q, form, "{")
}

// sendState sends the state of a topic at a moment. begin is how a JSON object begins, before
// the members at and events.
func (s *Server) sendState(w http.ResponseWriter, r *http.Request, q *wire.SnapshotQuery, form wire.Form, begin string) *wire.Error {
	head := s.log.HeadPoint()
	horizon, err := s.log.Horizon(r.Context())
	if err != nil {
		return s.internalProblem(r, err)
	}
	at, problem := s.resolveMoment(r, q.At, horizon, head)
	if problem != nil {
		return problem
	}
	if at.ID < horizon {
		return goneError(at.ID, horizon)
	}
	s.setPosition(w.Header(), wire.HeaderHead, head) // To is never after it
	s.setPosition(w.Header(), wire.HeaderTo, at)
	out := eventWriter{w: w, form: form, before: begin + `"at":"` + at.Cursor(s.log.Log()).String() + `","events":[`, line: (*event.Event).AppendLine}
	if r.Method == http.MethodHead {
		out.beginBody()
		return nil
	}
	problem = s.whileOpen(w, r, func() *wire.Error {
		return s.writeEvents(r, &out, func() error { return s.log.StateAfter(r.Context(), q.Topic, at.ID, q.After, out.writeEvent) })
	})
	if problem != nil {
		w.Header().Del(wire.HeaderTo)
	}
	return problem
}

// prepareStateStream prepares a stream that begins with the state of a topic and continues with
// its changes.
func (s *Server) prepareStateStream(w http.ResponseWriter, r *http.Request, q *wire.SnapshotQuery) *wire.Error {
	st := resolvedQuery{topics: []event.Topic{q.Topic}, head: s.log.HeadPoint()}
	horizon, err := s.log.Horizon(uncancelled(r))
	if err != nil {
		return s.internalProblem(r, err)
	}
	st.to = st.head
	var problem *wire.Error
	if q.Until != nil {
		st.ends = true
		if st.to, problem = s.resolveMoment(r, *q.Until, horizon, st.head); problem != nil {
			return problem
		}
	}
	st.from, st.resume = s.resumePoint(r, horizon, st.head)
	if !st.resume {
		st.withState = true
		if st.from, problem = s.resolveMoment(r, q.At, horizon, st.head); problem != nil {
			return problem
		}
	}
	if !st.resume || st.from.ID < st.to.ID {
		if problem := checkSpan(st.span(), horizon); problem != nil {
			return problem
		}
	}
	return s.prepareStream(w, r, &st)
}

// resumePoint returns the position of Last-Event-ID if the log has everything since then. A
// cursor of another log or history, or from before the horizon, is none: the state takes the
// place of all that the reader has.
func (s *Server) resumePoint(r *http.Request, horizon event.ID, head event.Point) (p event.Point, ok bool) {
	c, err := event.ParseCursor(r.Header.Get(wire.HeaderLastEventID))
	if err != nil || !c.Of(s.log.Log()) || c.ID > head.ID || c.ID < horizon {
		return p, false
	}
	p, err = s.markedPoint(uncancelled(r), c.ID, head)
	if err != nil {
		return p, false
	}
	p, same, err := s.knowsMark(uncancelled(r), p, c.Mark)
	return p, err == nil && same
}

// replayState sends the state of the stream's topic at its position, without ids: a reader whose
// connection breaks before its end gets it again.
func (c *connection) replayState() error {
	log := c.s.log.Log()
	c.gatherBytes(wire.AppendStateBegin(c.gatherRoom(), c.st.from, log))
	err := c.s.log.StateAfter(c.r.Context(), c.st.topics[0], c.st.from.ID, event.Storage{}, func(ev *event.Event) error {
		c.gatherBytes(wire.AppendStateEvent(c.gatherRoom(), ev))
		if c.events++; c.buf != nil { // nothing was written
			return nil
		}
		if c.s.isStopped() {
			return ErrStopped
		}
		return c.flushOrEnd()
	})
	if err != nil {
		return err
	}
	c.gatherBytes(wire.AppendPosition(c.gatherRoom(), c.st.from, log))
	return c.flushGathered()
}
