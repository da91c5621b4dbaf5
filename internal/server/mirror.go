package server

import (
	"context"
	"errors"
	"net/http"
	"net/url"
	"strconv"

	"github.com/rstream-dev/rstream/event"
	"github.com/rstream-dev/rstream/internal/wire"
)

// A Mirror follows the server of a log into the log that is served, and passes appends on to
// it.
type Mirror interface {
	// Append passes drafts on, with the credentials of a caller. It returns once
	// the log has them, or after a while without.
	Append(ctx context.Context, from wire.Caller, drafts []event.Draft) ([]event.Receipt, error)
	// Await waits for a while until the log has reached a position of a reader, if the
	// other server has it. An error is the response to the reader.
	Await(ctx context.Context, at event.ID) error
	// Advanced is called when the log has grown.
	Advanced()
	// Ready returns the reason for which new readers should go elsewhere, or nil.
	Ready() error
	// Report returns how the mirror is.
	Report() wire.Mirror
}

// publisher returns the function that learns of commits.
func (s *Server) publisher() func(evs []event.Event, head event.ID) {
	if s.cfg.Mirror == nil {
		return s.hub.Publish
	}
	return func(evs []event.Event, head event.ID) {
		s.hub.Publish(evs, head)
		s.cfg.Mirror.Advanced()
	}
}

// awaitCursors lets a mirror catch up with a reader that comes from another server of the log:
// a cursor above the head is usually a moment ahead of it, and not of another log.
func (s *Server) awaitCursors(w http.ResponseWriter, r *http.Request) *wire.Error {
	if s.cfg.Mirror == nil {
		return nil
	}
	newest := s.newestCursor(r)
	if newest <= s.log.Head() {
		return nil
	}
	err := s.cfg.Mirror.Await(r.Context(), newest)
	s.setPosition(w.Header(), wire.HeaderHead, s.log.HeadPoint())
	return s.mirrorProblem(w, r, err)
}

// newestCursor returns the newest position of this log in the headers and the parameters of a
// request. What is wrong with them is found later.
func (s *Server) newestCursor(r *http.Request) (newest event.ID) {
	note := func(c event.Cursor, ok bool) {
		if ok && c.Of(s.log.Log()) {
			newest = max(newest, c.ID)
		}
	}
	for _, name := range []string{wire.HeaderHeld, wire.HeaderLastEventID} {
		note(wire.CursorIn(r.Header, name))
	}
	if r.URL.RawQuery == "" {
		return newest
	}
	params, err := url.ParseQuery(r.URL.RawQuery)
	if err != nil {
		return newest
	}
	for _, name := range []string{"since", "until", "at"} {
		if m, err := event.ParseMoment(params.Get(name)); err == nil {
			note(m.Cursor())
		}
	}
	return newest
}

// mirrorProblem returns the response to an error of the mirror, or nil.
func (s *Server) mirrorProblem(w http.ResponseWriter, r *http.Request, err error) *wire.Error {
	if err == nil {
		return nil
	}
	var problem *wire.Error
	if !errors.As(err, &problem) {
		return s.internalProblem(r, err)
	}
	switch problem.Status { // of the other server, for the token of the caller
	case http.StatusUnauthorized:
		w.Header().Set("WWW-Authenticate", challenge)
	case http.StatusForbidden:
		w.Header().Set("WWW-Authenticate", challenge+`, error="insufficient_scope"`)
	}
	return problem
}

// passOn passes an append on to the server that assigns the ids. The credentials are those of
// the request: a mirror lends its own to nobody.
func (s *Server) passOn(w http.ResponseWriter, r *http.Request, drafts []event.Draft) ([]event.Receipt, error) {
	from := wire.Caller{Authorization: r.Header.Get("Authorization"), Via: r.Header.Get(wire.HeaderVia)}
	if rec := recorderOf(w); rec.byCookie {
		token, _ := s.cookieToken(r) // admit has read it, too
		from.Authorization = "Bearer " + token
	}
	receipts, err := s.cfg.Mirror.Append(r.Context(), from, drafts)
	if head := s.log.Head(); err == nil {
		for i := range receipts {
			if id := receipts[i].ID; id > head {
				w.Header().Set(wire.HeaderBehind, strconv.FormatUint(uint64(id-head), 10))
			}
		}
	}
	return receipts, err
}

// notMirrored wraps a handler of what a mirror does not have: another server of the log has
// it.
func (s *Server) notMirrored(h handler) handler {
	if s.cfg.Mirror == nil {
		return h
	}
	return func(_ http.ResponseWriter, r *http.Request) *wire.Error {
		return wire.Errorf(http.StatusMisdirectedRequest, "a mirror does not have %s; ask the server of the log, %s", r.URL.Path, s.cfg.Mirror.Report().Upstream)
	}
}
