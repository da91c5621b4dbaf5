package server

import (
	"net/http"
	"slices"

	"github.com/rstream-dev/rstream/event"
	"github.com/rstream-dev/rstream/internal/wire"
)

// sourcesUser is the user of events about sources, which only the relay writes.
const sourcesUser = ".sources"

var sourcesTopic, _ = event.ParseTopic(sourcesUser) // a test reads it

// getSources returns how the sources of a relay are: GET /sources. They can be read by those
// who may read the events about them.
func (s *Server) getSources(w http.ResponseWriter, _ *http.Request) *wire.Error {
	if problem := s.mayRead(w, sourcesTopic); problem != nil {
		return problem
	}
	return writeJSON(w, map[string][]wire.Source{"sources": s.sources()})
}

// sources returns how the sources are, never nil.
func (s *Server) sources() []wire.Source {
	if s.cfg.Sources == nil {
		return []wire.Source{}
	}
	return s.cfg.Sources()
}

// getOrigin returns where events came from: GET /origin, also those that were dropped. Those that the
// token does not cover are left out, as are those that the log never had.
func (s *Server) getOrigin(w http.ResponseWriter, r *http.Request) *wire.Error {
	recorderOf(w).ruled = true
	ids, err := wire.ParseOrigin(r.URL.RawQuery)
	if err != nil {
		return wire.Errorf(http.StatusBadRequest, "%v", err)
	}
	slices.Sort(ids)
	ids = slices.Compact(ids)
	ids = slices.DeleteFunc(ids, func(id event.ID) bool { return id == event.Beginning || id > s.log.Head() })
	readable, err := s.readableIDs(w, r, ids)
	if err != nil {
		return s.readProblem(r, err)
	}
	found, err := s.log.Origins(r.Context(), readable)
	if err != nil {
		return s.internalProblem(r, err)
	}
	origins := make([]wire.Origin, len(found))
	for i, o := range found {
		origins[i] = wire.Origin{ID: readable[i], Source: o.Source, Log: o.Log, Event: o.ID}
	}
	return writeJSON(w, map[string][]wire.Origin{"origins": origins})
}

// readableIDs returns those of the ids whose events the token of the request covers. Nobody can
// tell that of an event that was dropped.
func (s *Server) readableIDs(w http.ResponseWriter, r *http.Request, ids []event.ID) (readable []event.ID, err error) {
	if recorderOf(w).grant == nil {
		return ids, nil
	}
	note := filterReadable(w, func(ev *event.Event) error {
		readable = append(readable, ev.ID)
		return nil
	})
	for some := range slices.Chunk(ids, 8) { // values may be large
		evs, err := s.log.EventsByID(r.Context(), some)
		if err != nil {
			return nil, err
		}
		for i := range evs {
			_ = note(&evs[i]) // it has none
		}
	}
	return readable, nil
}

// refuseForged refuses an append of events about sources to a relay: nobody could tell them
// from those of the relay.
func (s *Server) refuseForged(drafts []event.Draft) *wire.Error {
	if s.cfg.Sources == nil {
		return nil
	}
	for i := range drafts {
		if drafts[i].User == sourcesUser {
			return wire.Errorf(http.StatusBadRequest, "events of %s are written by the server alone; %s", sourcesUser, wire.NothingAppended)
		}
	}
	return nil
}
