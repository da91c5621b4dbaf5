package server

import (
	"net/http"

	"github.com/rstream-dev/rstream/event"
	"github.com/rstream-dev/rstream/internal/wire"
)

// getSnapshot returns the state of a topic at a moment, as the events that made it: GET
// /snapshot. It writes events while it reads them, so a large state needs no memory.
func (s *Server) getSnapshot(w http.ResponseWriter, r *http.Request) *wire.Error {
	w.Header().Add("Vary", "Accept")
	form, ok := wire.NegotiateForm(r.Header.Values("Accept"))
	if !ok || form == wire.Stream {
		return wire.Errorf(http.StatusNotAcceptable, "Accept must allow %s or %s", wire.JSON, wire.NDJSON)
	}
	q, err := wire.ParseSnapshot(r.URL.RawQuery)
	if err != nil {
		return wire.Errorf(http.StatusBadRequest, "%v", err)
	}
	if problem := s.mayRead(w, q.Topic); problem != nil {
		return problem
	}
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
	out := eventWriter{w: w, form: form, before: `{"at":"` + at.Cursor(s.log.Log()).String() + `","events":[`, line: (*event.Event).AppendLine}
	if r.Method == http.MethodHead {
		out.beginBody()
		return nil
	}
	problem = s.writeEvents(r, &out, func() error { return s.log.StateAfter(r.Context(), q.Topic, at.ID, q.After, out.writeEvent) })
	if problem != nil {
		w.Header().Del(wire.HeaderTo)
	}
	return problem
}
