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

// A resolvedQuery is a query whose moments have become positions.
type resolvedQuery struct {
	topics  []event.Topic
	except  []event.Topic // left out, though of topics
	peerHas []*peerHas    // what the reader says that it has of each topic; nil if nothing
	stubs   bool          // what is known, or all if nothing is, comes as stubs
	sum     *wire.Sum     // of a stream's part that is compared with known

	notices bool        // all comes as notices of events
	head    event.Point // of the log, when the request was taken up
	from    event.Point
	to      event.Point // the end: until, or the head
	ends    bool        // until was given
	resume  bool        // from came as Last-Event-ID
}

// resolveQuery turns the moments of q into positions, once, against the head of this
// moment. Nothing is clamped: what cannot be answered whole is refused.
func (s *Server) resolveQuery(r *http.Request, q *wire.Query, form wire.Form) (resolvedQuery, *wire.Error) {
	st := resolvedQuery{topics: q.Topics, except: q.Except, stubs: q.Stubs, notices: q.Notices, head: s.log.HeadPoint()}
	if form == wire.Stream && q.Limit != nil {
		return st, wire.Errorf(http.StatusBadRequest, "limit: a stream has no pages; leave it out, or ask for %s", wire.NDJSON)
	}
	if form == wire.Stream && q.Stubs {
		return st, wire.Errorf(http.StatusBadRequest, "stubs: a stream has none; leave it out, or ask for %s", wire.NDJSON)
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
		st.peerHas = nil // the cursor says what the reader has
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
	// A stream's reader that comes back from the end it asked for is not wrong: see prepareStream.
	isDone := form == wire.Stream && st.resume && horizon <= st.to.ID && st.to.ID < st.from.ID
	if problem == nil && !isDone {
		problem = checkSpan(st.span(), horizon)
	}
	return st, problem
}

// uncancelled returns the context of a read of so little that it is not interrupted when the
// client of r leaves. What can be interrupted has a goroutine for it, and leaves behind in
// r's context that it was there: that is much beside a stream that waits.
func uncancelled(r *http.Request) context.Context { return context.WithoutCancel(r.Context()) }

// resolveEnds turns since, or what stands for it, and until into positions.
func (s *Server) resolveEnds(r *http.Request, q *wire.Query, horizon event.ID, st *resolvedQuery) (problem *wire.Error) {
	since := q.Since
	if cursor, ok, problem := lastEventID(r); problem != nil {
		return problem
	} else if ok {
		since, st.resume = event.At(cursor), true
	}
	if q.Last != nil && !st.resume {
		since = event.Now // until it is known
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

// lastEventID returns the cursor that a reader comes back with.
func lastEventID(r *http.Request) (c event.Cursor, ok bool, problem *wire.Error) {
	return cursorIn(r, wire.HeaderLastEventID)
}

// cursorIn reads a cursor from a header of a request; ok is false if there is none.
func cursorIn(r *http.Request, name string) (c event.Cursor, ok bool, problem *wire.Error) {
	values := r.Header.Values(name)
	if len(values) > 1 {
		return c, false, wire.Errorf(http.StatusBadRequest, "%s: stands %d times", name, len(values))
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

// span is what the stretch asks for, in positions.
func (st *resolvedQuery) span() window.Span { return window.Span{From: st.from.ID, To: st.to.ID} }

// checkSpan refuses a span that cannot be answered whole.
func checkSpan(span window.Span, horizon event.ID) *wire.Error {
	switch oldest := min(span.From, span.To); {
	case oldest < horizon:
		return gone(oldest, horizon)
	case span.From > span.To:
		return wire.Errorf(http.StatusBadRequest, "since %s lies after until %s", span.From, span.To)
	}
	return nil
}

// resolvePeerHas reads what the reader says that it has.
func (s *Server) resolvePeerHas(r *http.Request, q *wire.Query, st *resolvedQuery) *wire.Error {
	for i := range q.PeerHas {
		k, err := parsePeerHas(&q.PeerHas[i])
		if err != nil {
			return s.setProblem(r, err)
		}
		st.peerHas = append(st.peerHas, k)
	}
	return nil
}

// peerHasEvent reports whether the reader says that it has ev.
func (st *resolvedQuery) peerHasEvent(ev *event.Event) bool {
	for i, k := range st.peerHas {
		if k != nil && st.topics[i].Matches(ev.User, ev.Path) && k.seen(ev.Hash) {
			return true
		}
	}
	return false
}

// appendEvent appends ev as its reader wants it.
func (st *resolvedQuery) appendEvent(ev *event.Event, b []byte) []byte {
	switch {
	case st.notices:
		return ev.AppendNotice(b)
	case st.stubs && (st.peerHas == nil || st.peerHasEvent(ev)):
		return wire.AppendStub(ev, b)
	}
	return ev.AppendLine(b)
}

// appendWanted appends evs as their reader wants them, but for what is left out.
func (st *resolvedQuery) appendWanted(b []byte, evs []event.Event) []byte {
	for i := range evs {
		if !st.leavesOut(&evs[i]) {
			b = append(st.appendEvent(&evs[i], b), '\n')
		}
	}
	return b
}

// leavesOut reports whether ev is not to be sent, though it belongs to the topics.
func (st *resolvedQuery) leavesOut(ev *event.Event) bool {
	return !st.stubs && st.peerHasEvent(ev) || st.excepts(ev.User, ev.Path)
}

// excepts reports whether a storage is left out.
func (st *resolvedQuery) excepts(user, path string) bool {
	for _, t := range st.except {
		if t.Matches(user, path) {
			return true
		}
	}
	return false
}

// passes reports whether the reader wants each event of the topics, and all of it.
func (st *resolvedQuery) passes() bool {
	return len(st.except) == 0 && st.peerHas == nil && !st.stubs && !st.notices
}

// announce puts into the answer's headers what the request came to.
func (s *Server) announce(h http.Header, st *resolvedQuery, mediaType, cache string) {
	s.setPosition(h, wire.HeaderHead, st.head)
	s.setPosition(h, wire.HeaderFrom, st.from)
	s.setPosition(h, wire.HeaderTo, st.to)
	h.Set("Content-Type", mediaType)
	h.Set("Cache-Control", cache)
}

// announceSpan is announce for what is about a stretch of positions, and is not kept.
func (s *Server) announceSpan(w http.ResponseWriter, r *http.Request, head event.Point, span window.Span, mediaType string) *wire.Error {
	from, err := s.markedPoint(r.Context(), span.From, head)
	to, err2 := s.markedPoint(r.Context(), span.To, head)
	if err := errors.Join(err, err2); err != nil {
		return s.readProblem(r, err)
	}
	s.announce(w.Header(), &resolvedQuery{head: head, from: from, to: to}, mediaType, "no-store")
	return nil
}

// announceSum puts the sum of what has a filter into the answer's headers.
func announceSum(h http.Header, sum *wire.Sum) {
	h.Set(wire.HeaderCount, strconv.FormatUint(sum.Count, 10))
	h.Set(wire.HeaderDigest, sum.Digest.String())
}

func gone(at, oldest event.ID) *wire.Error {
	e := wire.Errorf(http.StatusGone, "history after %s is gone; the oldest position still served is %s", at, oldest)
	e.Oldest = &oldest
	return e
}

// readProblem is the answer to an error of reading.
func (s *Server) readProblem(r *http.Request, err error) *wire.Error {
	var hole *window.NotHeldError
	if errors.As(err, &hole) {
		return gone(hole.After, hole.Oldest)
	}
	return s.internalProblem(r, err)
}
