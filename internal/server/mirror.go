package server

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"net/url"
	"strconv"

	"github.com/rstream-dev/rstream/event"
	"github.com/rstream-dev/rstream/internal/wire"
	"github.com/rstream-dev/rstream/window"
)

// A Mirror follows the server of a log into the log that is served, and passes appends on to
// it.
type Mirror interface {
	// Append passes drafts on, with the credentials of a caller, which a mirror of another
	// server needs there. A node of a cluster is a server of the log, and needs none. Append
	// returns once the log has them, or after a while without.
	Append(ctx context.Context, from wire.Caller, drafts []event.Draft) ([]event.Receipt, error)
	// Await waits for a while until the log has reached a position of a reader, if the
	// other server has it. An error is the response to the reader.
	Await(ctx context.Context, at event.ID) error
	// Advanced is called when the log has grown.
	Advanced()
	// Follows reports whether the log has the history of a topic. If it does not have all, marks
	// of positions may be unknown, and Has reports whether a mark is right. An error of Has is the
	// response to the reader.
	Follows(topic event.Topic) bool
	Has(ctx context.Context, at event.Point) (bool, error)
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
	problem := s.awaitPosition(w, r, s.newestCursor(r, wire.HeaderHeld, wire.HeaderLastEventID))
	if problem != nil && problem.Status == http.StatusServiceUnavailable && beginsWithState(r) && s.newestCursor(r, wire.HeaderHeld) <= s.log.Head() {
		return nil
	}
	return problem
}

// beginsWithState reports whether a request is for a stream that takes a cursor which the log does not
// have for none, and begins with a state then. An error would end an EventSource for good.
func beginsWithState(r *http.Request) bool {
	path := routeOf(rawPath(r))
	form, ok := wire.NegotiateForm(r.Header.Values("Accept"))
	return ok && form == wire.Stream && (path == "/snapshot" || path == wire.PathRoom)
}

// awaitSpan is awaitCursors for the positions in the body of a request. The greatest id stands for the
// head.
func (s *Server) awaitSpan(w http.ResponseWriter, r *http.Request, span window.Span) *wire.Error {
	if span.To == event.MaxID {
		span.To = span.From
	}
	return s.awaitPosition(w, r, max(span.From, span.To))
}

func (s *Server) awaitPosition(w http.ResponseWriter, r *http.Request, newest event.ID) *wire.Error {
	if s.cfg.Mirror == nil || newest <= s.log.Head() {
		return nil
	}
	err := s.cfg.Mirror.Await(r.Context(), newest)
	s.setPosition(w.Header(), wire.HeaderHead, s.log.HeadPoint())
	return s.mirrorProblem(w, r, err)
}

// newestCursor returns the newest position of this log in some headers and the parameters of a
// request. What is wrong with them is found later.
func (s *Server) newestCursor(r *http.Request, headers ...string) (newest event.ID) {
	for _, name := range headers {
		if c, ok := wire.CursorIn(r.Header, name); ok && c.Of(s.log.Log()) {
			newest = max(newest, c.ID)
		}
	}
	if r.URL.RawQuery == "" {
		return newest
	}
	return max(newest, s.newestParam(r.URL.RawQuery))
}

// newestParam is newestCursor for the parameters of a form.
func (s *Server) newestParam(form string) (newest event.ID) {
	params, err := url.ParseQuery(form)
	if err != nil {
		return newest
	}
	for _, name := range []string{"since", "until", "at"} {
		if m, err := event.ParseMoment(params.Get(name)); err == nil {
			if c, ok := m.Cursor(); ok && c.Of(s.log.Log()) {
				newest = max(newest, c.ID)
			}
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
	ctx, cancel := context.WithCancelCause(r.Context())
	defer cancel(nil)
	defer context.AfterFunc(s.passing, func() { cancel(context.Cause(s.passing)) })()
	receipts, err := s.cfg.Mirror.Append(ctx, from, drafts)
	if head := s.log.Head(); err == nil {
		for i := range receipts {
			if id := receipts[i].ID; id > head && s.cfg.Mirror.Follows(event.Exactly(drafts[i].Storage())) {
				w.Header().Set(wire.HeaderBehind, strconv.FormatUint(uint64(id-head), 10))
			}
		}
	}
	return receipts, err
}

// isPart reports whether the log has some topics only of the log that it mirrors.
func (s *Server) isPart() bool { return s.cfg.Mirror != nil && !s.cfg.Mirror.Follows(event.All) }

// hasTopics refuses a read of topics that the mirror does not have: it cannot tell their history
// from an empty one.
func (s *Server) hasTopics(topics []event.Topic) *wire.Error {
	if s.cfg.Mirror == nil {
		return nil
	}
	for _, t := range topics {
		if !s.cfg.Mirror.Follows(t) {
			problem := s.misdirected("the topic " + t.String())
			problem.Topic = &t
			return problem
		}
	}
	return nil
}

// hasHashes refuses to look for events by hash that a mirror of some topics does not have: they
// may be of other ones. Those that the token of the request does not cover count as such: a guess
// of an event's contents must not be answered.
func (s *Server) hasHashes(w http.ResponseWriter, r *http.Request, hashes []event.Hash) *wire.Error {
	if !s.isPart() {
		return nil
	}
	missing := map[event.Hash]bool{}
	for i := range hashes {
		missing[hashes[i]] = true
	}
	found := filterReadable(w, func(ev *event.Event) error { delete(missing, ev.Hash); return nil })
	err := s.log.ByHash(r.Context(), hashes, found)
	switch {
	case err != nil:
		return s.readProblem(r, err)
	case len(missing) > 0:
		return s.misdirected(fmt.Sprintf("%d of %d events", len(missing), len(hashes)))
	}
	return nil
}

// misdirected returns the response to a request for what the mirror does not have.
func (s *Server) misdirected(what string) *wire.Error {
	if s.cfg.Cluster != nil {
		return wire.Errorf(http.StatusMisdirectedRequest, "a node of a cluster does not have %s", what)
	}
	return wire.Errorf(http.StatusMisdirectedRequest, "a mirror does not have %s; ask the server of the log, %s", what, s.cfg.Mirror.Report().Upstream)
}

// knowsMark returns a position with the mark of a reader's cursor, if only the upstream can tell
// that it is right.
func (s *Server) knowsMark(ctx context.Context, p event.Point, mark event.Mark) (known event.Point, ok bool, err error) {
	if p.Mark != 0 || mark == 0 || p.ID == event.Beginning || !s.isPart() {
		return p, p.Mark.Agrees(mark), nil
	}
	ok, err = s.cfg.Mirror.Has(ctx, event.Point{ID: p.ID, Mark: mark})
	if ok {
		p.Mark = mark
	}
	return p, ok, err
}

// notMirrored wraps a handler of what a mirror does not have: another server of the log has
// it.
func (s *Server) notMirrored(h handler) handler {
	if s.cfg.Mirror == nil {
		return h
	}
	return func(_ http.ResponseWriter, r *http.Request) *wire.Error {
		return s.misdirected(r.URL.Path)
	}
}
