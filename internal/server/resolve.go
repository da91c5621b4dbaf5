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

// A stretch is a query whose moments have become positions.
type stretch struct {
	topics []event.Topic
	except []event.Topic // left out, though of topics
	known  []*known      // what the reader says that it has of each topic; nil if nothing
	stubs  bool          // what is known, or all if nothing is, comes as stubs
	sum    *wire.Sum     // of a stream's part that is compared with known

	notices bool     // all comes as notices of events
	head    event.ID // of the log, when the request was taken up
	from    event.ID
	to      event.ID // the end: until, or the head
	ends    bool     // until was given
	resume  bool     // from came as Last-Event-ID
}

// resolve turns the moments of q into positions, once, against the head of this
// moment. Nothing is clamped: what cannot be answered whole is refused.
func (s *Server) resolve(r *http.Request, q *wire.Query, form wire.Form) (stretch, *wire.Error) {
	st := stretch{topics: q.Topics, except: q.Except, stubs: q.Stubs, notices: q.Notices, head: s.log.Head()}
	if form == wire.Stream && q.Limit != nil {
		return st, wire.Errorf(http.StatusBadRequest, "limit: a stream has no pages; leave it out, or ask for %s", wire.NDJSON)
	}
	if form == wire.Stream && q.Stubs {
		return st, wire.Errorf(http.StatusBadRequest, "stubs: a stream has none; leave it out, or ask for %s", wire.NDJSON)
	}
	if problem := s.resolveKnown(r, q, &st); problem != nil {
		return st, problem
	}
	horizon, err := s.log.Horizon(brief(r))
	if err != nil {
		return st, s.failure(r, err)
	}
	problem := s.resolveEnds(r, q, &st)
	if form == wire.Stream && st.resume {
		st.known = nil // the cursor says what the reader has
	}
	if problem == nil && q.Last != nil && !st.resume && st.to >= horizon {
		if st.from, err = s.log.BeforeLast(r.Context(), q.Topics, *q.Last, horizon, st.to); err != nil {
			return st, s.readProblem(r, err)
		}
	}
	if problem == nil {
		problem = st.check(horizon, form)
	}
	return st, problem
}

// brief returns the context of a read of so little that it is not interrupted when the
// client of r leaves. What can be interrupted has a goroutine for it, and leaves behind in
// r's context that it was there: that is much beside a stream that waits.
func brief(r *http.Request) context.Context { return context.WithoutCancel(r.Context()) }

// resolveEnds turns since, or what stands for it, and until into positions.
func (s *Server) resolveEnds(r *http.Request, q *wire.Query, st *stretch) (problem *wire.Error) {
	since := q.Since
	if cursor, ok, problem := lastEventID(r); problem != nil {
		return problem
	} else if ok {
		since, st.resume = event.At(cursor), true
	}
	if q.Last != nil && !st.resume {
		since = event.Now // until it is known
	}
	if st.from, problem = s.position(r, since, st.head); problem != nil {
		return problem
	}
	st.to = st.head
	if q.Until != nil {
		st.ends = true
		st.to, problem = s.position(r, *q.Until, st.head)
	}
	return problem
}

// lastEventID returns the cursor that a reader comes back with.
func lastEventID(r *http.Request) (c event.Cursor, ok bool, problem *wire.Error) {
	values := r.Header.Values(wire.HeaderLastEventID)
	if len(values) > 1 {
		return c, false, wire.Errorf(http.StatusBadRequest, "%s: stands %d times", wire.HeaderLastEventID, len(values))
	}
	if len(values) == 0 || values[0] == "" {
		return c, false, nil
	}
	c, err := event.ParseCursor(values[0])
	if err != nil {
		return c, false, wire.Errorf(http.StatusBadRequest, "%s: %v", wire.HeaderLastEventID, err)
	}
	return c, true, nil
}

// position turns a moment into a position of this log.
func (s *Server) position(r *http.Request, m event.Moment, head event.ID) (event.ID, *wire.Error) {
	if m.IsNow() {
		return head, nil
	}
	if t, ok := m.Time(s.cfg.Now()); ok {
		at, err := s.log.PositionAt(r.Context(), t)
		if err != nil {
			return 0, s.failure(r, err)
		}
		return min(at, head), nil // an event after head has been committed meanwhile
	}
	c, _ := m.Cursor()
	if !c.Of(s.log.Log()) {
		return 0, s.conflict(head, "cursor %s belongs to another log; this one is %s", c, s.log.Log())
	}
	if c.ID > head {
		return 0, s.conflict(head, "cursor %s is ahead of this log, whose head is %s: it belongs to another log, or this one was set back", c, head)
	}
	return c.ID, nil
}

// check refuses a stretch that cannot be answered whole. A stream's reader that
// comes back from the end it asked for is not wrong: see stream.
func (st *stretch) check(horizon event.ID, form wire.Form) *wire.Error {
	switch {
	case st.to < horizon:
		return gone(min(st.from, st.to), horizon)
	case st.from < horizon:
		return gone(st.from, horizon)
	case st.from > st.to && !(st.resume && form == wire.Stream):
		return wire.Errorf(http.StatusBadRequest, "since %s lies after until %s", st.from, st.to)
	}
	return nil
}

// resolveKnown reads what the reader says that it has.
func (s *Server) resolveKnown(r *http.Request, q *wire.Query, st *stretch) *wire.Error {
	for i := range q.Known {
		k, err := readKnown(&q.Known[i])
		if err != nil {
			return s.setProblem(r, err)
		}
		st.known = append(st.known, k)
	}
	return nil
}

// isKnown reports whether the reader says that it has ev.
func (st *stretch) isKnown(ev *event.Event) bool {
	for i, k := range st.known {
		if k != nil && st.topics[i].Matches(ev.User, ev.Path) && k.seen(ev.Hash) {
			return true
		}
	}
	return false
}

// appendEvent appends ev as its reader wants it.
func (st *stretch) appendEvent(ev *event.Event, b []byte) []byte {
	switch {
	case st.notices:
		return ev.AppendNotice(b)
	case st.stubs && (st.known == nil || st.isKnown(ev)):
		return wire.AppendStub(ev, b)
	}
	return ev.AppendLine(b)
}

// skim reads what a line of appendLines begins with, if it is no stub.
func (st *stretch) skim(line []byte) (event.ID, event.Type, error) {
	if st.notices {
		return event.SkimNotice(line)
	}
	s, err := event.Skim(line)
	return s.ID, s.Type, err
}

// appendLines appends evs as their reader wants them, but for what is left out.
func (st *stretch) appendLines(b []byte, evs []event.Event) []byte {
	for i := range evs {
		if !st.leavesOut(&evs[i]) {
			b = append(st.appendEvent(&evs[i], b), '\n')
		}
	}
	return b
}

// leavesOut reports whether ev is not to be sent, though it belongs to the topics.
func (st *stretch) leavesOut(ev *event.Event) bool {
	return !st.stubs && st.isKnown(ev) || st.excepts(ev.User, ev.Path)
}

// excepts reports whether a storage is left out.
func (st *stretch) excepts(user, path string) bool {
	for _, t := range st.except {
		if t.Matches(user, path) {
			return true
		}
	}
	return false
}

// passes reports whether the reader wants each event of the topics, and all of it.
func (st *stretch) passes() bool {
	return len(st.except) == 0 && st.known == nil && !st.stubs && !st.notices
}

// announce puts into the answer's headers what the request came to.
func (st *stretch) announce(h http.Header, mediaType, cache string) {
	h.Set(wire.HeaderHead, st.head.String())
	h.Set(wire.HeaderFrom, st.from.String())
	h.Set(wire.HeaderTo, st.to.String())
	h.Set("Content-Type", mediaType)
	h.Set("Cache-Control", cache)
}

// announceSum puts the sum of what has a filter into the answer's headers.
func announceSum(h http.Header, sum *wire.Sum) {
	h.Set(wire.HeaderCount, strconv.FormatUint(sum.Count, 10))
	h.Set(wire.HeaderDigest, sum.Digest.String())
}

func (s *Server) conflict(head event.ID, format string, args ...any) *wire.Error {
	e := wire.Errorf(http.StatusConflict, format, args...)
	e.Log, e.Head = s.log.Log(), &head
	return e
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
	return s.failure(r, err)
}
