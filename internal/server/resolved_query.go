package server

import (
	"context"
	"errors"
	"net/http"
	"strconv"

	"github.com/rstream-dev/rstream/event"
	"github.com/rstream-dev/rstream/internal/wire"
	"github.com/rstream-dev/rstream/window"
)

// A resolvedQuery is a query with its moments resolved to positions.
type resolvedQuery struct {
	topics  []event.Topic
	except  []event.Topic // topics to leave out
	peerHas []*peerHas    // the events of each topic that the reader has; nil if not given
	stubs   bool          // send known events (all, if peerHas is nil) as stubs
	sum     *wire.Sum     // of the part of a stream that is compared with peerHas

	notices bool        // send all events as notices
	head    event.Point // of the log at the start of the request
	from    event.Point
	to      event.Point // the end: until, or the head
	ends    bool        // until was given
	resume  bool        // from is the Last-Event-ID

	withState bool // send the state at from first
}

// resolveQuery resolves the moments of q to positions, once, with the current head. It never clamps
// a range: it refuses one that the log does not have as a whole.
func (s *Server) resolveQuery(r *http.Request, q *wire.Query, form wire.Form) (resolvedQuery, *wire.Error) {
	st := resolvedQuery{topics: q.Topics, except: q.Except, stubs: q.Stubs, notices: q.Notices, head: s.log.HeadPoint()}
	if form == wire.Stream && q.Limit != nil {
		return st, wire.Errorf(http.StatusBadRequest, "limit: a stream has no pages; leave it out, or request %s", wire.NDJSON)
	}
	if form == wire.Stream && q.Stubs {
		return st, wire.Errorf(http.StatusBadRequest, "stubs: a stream has no stubs; leave it out, or request %s", wire.NDJSON)
	}
	if problem := s.resolvePeerHas(r, q, &st); problem != nil {
		return st, problem
	}
	horizon, err := s.log.Horizon(uncancelled(r))
	if err != nil {
		return st, s.internalProblem(r, err)
	}
	problem := s.resolveEnds(r, q, horizon, &st)
	if form == wire.Stream && st.resume {
		st.peerHas = nil // the reader has everything up to the cursor
	}
	if problem == nil && q.Last != nil && !st.resume && st.to.ID >= horizon {
		from, err := s.log.BeforeLast(r.Context(), q.Topics, *q.Last, horizon, st.to.ID)
		if err == nil {
			st.from, err = s.markedPoint(uncancelled(r), from, st.head)
		}
		if err != nil {
			return st, s.readProblem(r, err)
		}
	}
	// A stream that resumes at its own end is not an error: see prepareStream.
	isDone := form == wire.Stream && st.resume && horizon <= st.to.ID && st.to.ID < st.from.ID
	if problem == nil && !isDone {
		problem = checkSpan(st.span(), horizon)
	}
	return st, problem
}

// uncancelled returns a context for a short read, which is not cancelled when the client of r
// leaves. A read that can be cancelled needs a goroutine and leaves state in the request
// context, which is costly for idle streams.
func uncancelled(r *http.Request) context.Context { return context.WithoutCancel(r.Context()) }

// resolveEnds resolves since, Last-Event-ID or last, and until to positions.
func (s *Server) resolveEnds(r *http.Request, q *wire.Query, horizon event.ID, st *resolvedQuery) (problem *wire.Error) {
	since := q.Since
	if cursor, ok, problem := lastEventID(r); problem != nil {
		return problem
	} else if ok {
		since, st.resume = event.At(cursor), true
	}
	if q.Last != nil && !st.resume {
		since = event.Now // resolveQuery sets it
	}
	if st.from, problem = s.resolveMoment(r, since, horizon, st.head); problem != nil {
		return problem
	}
	st.to = st.head
	if q.Until != nil {
		st.ends = true
		st.to, problem = s.resolveMoment(r, *q.Until, horizon, st.head)
	}
	return problem
}

// lastEventID returns the cursor with which a reader resumes.
func lastEventID(r *http.Request) (c event.Cursor, ok bool, problem *wire.Error) {
	return cursorIn(r, wire.HeaderLastEventID)
}

// cursorIn parses a cursor in a header of a request. ok is false if the header is missing.
func cursorIn(r *http.Request, name string) (c event.Cursor, ok bool, problem *wire.Error) {
	values := r.Header.Values(name)
	if len(values) > 1 {
		return c, false, wire.Errorf(http.StatusBadRequest, "%s is given %d times", name, len(values))
	}
	if len(values) == 0 || values[0] == "" {
		return c, false, nil
	}
	c, err := event.ParseCursor(values[0])
	if err != nil {
		return c, false, wire.Errorf(http.StatusBadRequest, "%s: %v", name, err)
	}
	return c, true, nil
}

// span returns the range of the query.
func (st *resolvedQuery) span() window.Span { return window.Span{From: st.from.ID, To: st.to.ID} }

// checkSpan refuses a span that the log does not have as a whole.
func checkSpan(span window.Span, horizon event.ID) *wire.Error {
	switch oldest := min(span.From, span.To); {
	case oldest < horizon:
		return goneError(oldest, horizon)
	case span.From > span.To:
		return wire.Errorf(http.StatusBadRequest, "since %s is after until %s", span.From, span.To)
	}
	return nil
}

// resolvePeerHas parses the filters and hashes of the reader's events.
func (s *Server) resolvePeerHas(r *http.Request, q *wire.Query, st *resolvedQuery) *wire.Error {
	for i := range q.PeerHas {
		k, err := newPeerHas(&q.PeerHas[i])
		if err != nil {
			return s.setProblem(r, err)
		}
		st.peerHas = append(st.peerHas, k)
	}
	return nil
}

// peerHasEvent reports whether the reader may have ev, according to its filters and hashes.
func (st *resolvedQuery) peerHasEvent(ev *event.Event) bool {
	for i, k := range st.peerHas {
		if k != nil && st.topics[i].Matches(ev.User, ev.Path) && k.seen(ev.Hash) {
			return true
		}
	}
	return false
}

// appendEvent appends ev in the form that the reader requested.
func (st *resolvedQuery) appendEvent(ev *event.Event, b []byte) []byte {
	switch {
	case st.notices:
		return ev.AppendNotice(b)
	case st.stubs && (st.peerHas == nil || st.peerHasEvent(ev)):
		return wire.AppendStub(ev, b)
	}
	return ev.AppendLine(b)
}

// appendWanted appends evs as lines in the form that the reader requested, except those to
// leave out.
func (st *resolvedQuery) appendWanted(b []byte, evs []event.Event) []byte {
	for i := range evs {
		if !st.leavesOut(&evs[i]) {
			b = append(st.appendEvent(&evs[i], b), '\n')
		}
	}
	return b
}

// leavesOut reports whether ev must not be sent, although it belongs to the topics.
func (st *resolvedQuery) leavesOut(ev *event.Event) bool {
	return !st.stubs && st.peerHasEvent(ev) || st.excepts(ev.User, ev.Path)
}

// excepts reports whether a storage belongs to an excepted topic.
func (st *resolvedQuery) excepts(user, path string) bool {
	for _, t := range st.except {
		if t.Matches(user, path) {
			return true
		}
	}
	return false
}

// passes reports whether the reader requested whole lines of all events of the topics.
func (st *resolvedQuery) passes() bool {
	return len(st.except) == 0 && st.peerHas == nil && !st.stubs && !st.notices
}

// announce sets the headers of the resolved range and of the form of the response.
func (s *Server) announce(h http.Header, st *resolvedQuery, mediaType, cache string) {
	s.setPosition(h, wire.HeaderHead, st.head)
	s.setPosition(h, wire.HeaderFrom, st.from)
	s.setPosition(h, wire.HeaderTo, st.to)
	h.Set("Content-Type", mediaType)
	h.Set("Cache-Control", cache)
}

// announceSpan is announce for a range of positions without marks, and forbids caching.
func (s *Server) announceSpan(w http.ResponseWriter, r *http.Request, head event.Point, span window.Span, mediaType string) *wire.Error {
	from, err := s.markedPoint(r.Context(), span.From, head)
	to, err2 := s.markedPoint(r.Context(), span.To, head)
	if err := errors.Join(err, err2); err != nil {
		return s.readProblem(r, err)
	}
	s.announce(w.Header(), &resolvedQuery{head: head, from: from, to: to}, mediaType, "no-store")
	return nil
}

// announceSum sets the headers of the sum of a range with filters.
func announceSum(h http.Header, sum *wire.Sum) {
	h.Set(wire.HeaderCount, strconv.FormatUint(sum.Count, 10))
	h.Set(wire.HeaderDigest, sum.Digest.String())
}

func goneError(at, oldest event.ID) *wire.Error {
	e := wire.Errorf(http.StatusGone, "history after %s was dropped; the oldest position still served is %s", at, oldest)
	e.Oldest = &oldest
	return e
}

// readProblem returns the response to an error of a read.
func (s *Server) readProblem(r *http.Request, err error) *wire.Error {
	var hole *window.NotHeldError
	if errors.As(err, &hole) {
		return goneError(hole.After, hole.Oldest)
	}
	return s.internalProblem(r, err)
}
