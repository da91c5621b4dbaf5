package client

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/rstream-dev/rstream/event"
	"github.com/rstream-dev/rstream/reconcile"
	"github.com/rstream-dev/rstream/window"
)

// A Range selects a part of a topic's history. The zero Range is all of it, up to the
// head at the time of the call.
type Range struct {
	Since event.Moment  // the zero Moment is the beginning
	Until *event.Moment // nil is the head
	Last  *int          // if not nil, begin this many events before the end, not at Since
}

// SyncOptions configure a Sync. The zero SyncOptions select all history up to the head,
// proven.
type SyncOptions struct {
	Range
	// At selects the window around a moment instead of the Range: the bounded range
	// that the server offers for it. Sync then also fetches the state at its beginning,
	// so that the state at each moment in it is known without a server. One window is
	// requested at a time; a moment in a window that was answered before needs no
	// request. The zero Moment is now.
	At *event.Moment
	// Unproven fetches the missing events without comparing anything with the server. A
	// Range with a Last is unproven, too.
	Unproven bool
	// Group names the topics that are synced with this one. It saves requests and
	// transactions, and is not used if OnNew is set, which would get the events of later
	// topics with those of this one, or together with At, Last or Unproven.
	Group *TopicGroup
	// OnNew is called with the events that were not held before, once they are stored, in
	// order within each window. It may be called without events. If it returns an error
	// the Sync ends. If nil, nothing is called.
	OnNew func([]event.Event) error
}

// A Comparison reports how a Sync determined the missing events.
type Comparison struct {
	Outcome string            // equal, pull, or the outcome of the negotiation
	Why     string            // the reason, in words
	Rounds  []reconcile.Round // of the negotiation, if there was one
	Asked   int               // events requested by hash
	Saved   int               // local events that were stored without fetching them
}

// A Synced reports the result of a Sync.
type Synced struct {
	Span    window.Span // the range that is held now
	Windows int         // the number of windows pulled for it
	Added   int         // events that were not held before
	Held    uint64      // events of the range that are held now, if it was proven or is gone from the server
	Members int         // events fetched for the state at its beginning, with At

	Imported int        // those of Added that had been imported
	Compared Comparison // how the missing events were determined, if it was proven
}

// Sync fetches the missing events of a range of topic's history. When it returns without
// an error, all of the range is held. Events held before are not requested. If another
// process is fetching events of the range, Sync waits for it.
func (c *Client) Sync(ctx context.Context, topic event.Topic, opts SyncOptions) (s Synced, err error) {
	if err = c.needCopy(); err != nil {
		return s, fmt.Errorf("sync %s: %w", topic, err)
	}
	doing := fmt.Sprintf("sync %s", topic)
	switch {
	case opts.At != nil:
		at := cmp.Or(*opts.At, event.Now)
		doing += fmt.Sprintf(" at %s", at)
		s, err = c.syncAround(ctx, topic, at, opts.OnNew)
	case opts.Unproven || opts.Last != nil:
		doing = fmt.Sprintf("fetch %s", topic)
		s, err = c.syncUnproven(ctx, topic, opts.Range, opts.OnNew)
	default:
		s, err = c.syncProven(ctx, topic, opts)
	}
	if err = causeIfEnded(ctx, err); err != nil {
		err = fmt.Errorf("%s: %w", doing, err)
	}
	return s, err
}

// syncProven makes a range held and proven.
func (c *Client) syncProven(ctx context.Context, topic event.Topic, opts SyncOptions) (Synced, error) {
	r, group := opts.Range, opts.Group
	if opts.OnNew != nil {
		group = nil
	}
	if sum, ok := c.provenBefore(ctx, group, topic, r); ok {
		c.newSealer(ctx, topic).endSealing(ctx, true)
		found, _ := group.pulled(topic)
		s := Synced{Span: sum.Span(), Held: sum.Count, Compared: Comparison(found)}
		return s, c.countSaved(ctx, topic, sum, group, &s)
	}
	if group != nil {
		group.r = r
	}
	var s Synced
	states := c.newSealer(ctx, topic)
	err := c.pullAndCompare(ctx, topic, r, group, &s, s.counting(states.wakeBefore(opts.OnNew)))
	states.endSealing(ctx, err == nil)
	return s, err
}

// pullAndCompare is syncProven without its end.
func (c *Client) pullAndCompare(ctx context.Context, topic event.Topic, r Range, group *TopicGroup, s *Synced, fresh func([]event.Event) error) error {
	if err := c.pullUntouched(ctx, topic, r, group, s, fresh); err != nil {
		return err
	}
	for {
		sum, from, err := c.requestSumBy(ctx, topic, r)
		gap, err := c.heldGap(ctx, []event.Topic{topic}, r, err)
		span, within, err := c.endIn(ctx, r, gap, err)
		if !within && err == nil && !gap.Empty() {
			r.Since = c.momentAt(gap.To)
			if group != nil {
				group.r = r
			}
			sum, from, err = c.requestSumBy(ctx, topic, r)
			span, within, err = c.endBefore(ctx, r, gap, err)
		}
		if within {
			s.Span = span
			return c.countHeld(ctx, topic, s)
		}
		if err != nil {
			return err
		}
		s.Span = sum.Span()
		if err = c.ensureProven(ctx, topic, sum, from, group, s, fresh); !c.overrules(from, err) {
			return err
		}
	}
}

// overrules reports whether a range is to be compared with another server, because err, of the
// comparison with from, shows that this one is wrong.
func (c *Client) overrules(from string, err error) bool {
	// In a mismatch, its own events do not make the digest of its own answer.
	return errors.Is(err, errOverruled) || errors.As(err, new(*MismatchError)) && c.setAside(from, err)
}

// pullUntouched pulls a range of a topic of which the copy has nothing: the server makes its
// digest from the events that it sends, so a comparison before would have it read all of them
// twice.
func (c *Client) pullUntouched(ctx context.Context, topic event.Topic, r Range, group *TopicGroup, s *Synced, fresh func([]event.Event) error) error {
	untouched, err := c.store.Untouched(ctx, topic)
	if err != nil || !untouched {
		return storeError(err)
	}
	topics := []event.Topic{topic}
	span, err := c.resolveRange(ctx, topics, r)
	if err != nil {
		return err
	}
	p := SyncProgress{Topic: topic, Span: span}
	if topic == event.All { // the ids of a log have no holes
		p.Total = uint64(span.To - span.From)
	}
	fresh = c.reporting(p, fresh)
	if err := c.pullGroup(ctx, group, topic, span, s, fresh); err != nil {
		return err
	}
	return c.pullMissing(ctx, topics, span, s, fresh)
}

// syncUnproven makes a range held and compares nothing.
func (c *Client) syncUnproven(ctx context.Context, topic event.Topic, r Range, fresh func([]event.Event) error) (Synced, error) {
	topics := []event.Topic{topic}
	span, err := c.resolveHeld(ctx, topics, r)
	if err != nil {
		return Synced{}, err
	}
	s := Synced{Span: span}
	return s, c.pullMissing(ctx, topics, span, &s, s.counting(fresh))
}

// syncAround makes the window around a moment held, and the state at its beginning known.
func (c *Client) syncAround(ctx context.Context, topic event.Topic, at event.Moment, fresh func([]event.Event) error) (Synced, error) {
	s, err := c.syncWindow(ctx, topic, at, fresh)
	if err == nil {
		s.Members, err = c.ensureState(ctx, topic, s.Span.From, s.Span.To)
	}
	return s, err
}

// syncWindow makes the window around a moment held.
func (c *Client) syncWindow(ctx context.Context, topic event.Topic, at event.Moment, fresh func([]event.Event) error) (Synced, error) {
	var s Synced
	for again := false; ; {
		a, err := c.windowAt(ctx, topic, at, again)
		if err != nil {
			return s, err
		}
		s.Span = a.w.Span()
		err = c.ensureProven(ctx, topic, a.w, a.from, nil, &s, s.counting(fresh))
		// The server of an answer that another process was given is not known.
		unknown := errors.As(err, new(*MismatchError)) && a.from == "" && !again && len(c.cfg.Servers) > 1
		if again = true; !unknown && !c.overrules(a.from, err) {
			return s, err
		}
	}
}

// resolveHeld is resolveRange for a range whose beginning may be gone from the server: then it begins
// with what is held here. If that does not reach to where the server's history begins, the error is a
// *GapError, and span is what is held before it.
func (c *Client) resolveHeld(ctx context.Context, topics []event.Topic, r Range) (span window.Span, err error) {
	span, err = c.resolveRange(ctx, topics, r)
	if err == nil {
		return span, nil
	}
	gap, err := c.heldGap(ctx, topics, r, err)
	within, ok, err := c.endIn(ctx, r, gap, err)
	if ok {
		return within, nil
	}
	if err != nil {
		return gap, err
	}
	r.Since = c.momentAt(gap.To)
	span, err = c.resolveRange(ctx, topics, r)
	if within, ok, err = c.endBefore(ctx, r, gap, err); ok {
		return within, nil
	}
	if err != nil {
		return window.Span{}, err
	}
	span.From = gap.From
	return span, nil
}

// endIn returns the range up to r.Until if that certainly lies in a gap that is held. Otherwise it
// returns err, or the error that kept it from finding out.
func (c *Client) endIn(ctx context.Context, r Range, gap window.Span, err error) (span window.Span, within bool, _ error) {
	if r.Until == nil || gap.Empty() {
		return span, false, err
	}
	until, failed := c.heldMoment(ctx, *r.Until)
	if failed != nil {
		return span, false, failed
	}
	if until.To > gap.To {
		return span, false, err
	}
	return window.Span{From: gap.From, To: max(gap.From, until.From)}, true, nil
}

// endBefore is endIn after a server has been asked for the rest of a range, after a gap that is
// held, and err is its answer. It may be that the end, a time, lies in the gap.
func (c *Client) endBefore(ctx context.Context, r Range, gap window.Span, err error) (span window.Span, within bool, _ error) {
	var gone *StatusError
	if r.Until == nil || !errors.As(err, &gone) || gone.oldest == nil || *gone.oldest > gap.To {
		return span, false, err
	}
	until, failed := c.heldMoment(ctx, *r.Until)
	if failed != nil {
		return span, false, failed
	}
	return window.Span{From: gap.From, To: min(max(gap.From, until.From), gap.To)}, true, nil
}

// heldMoment returns the positions that a moment can have, as far as the copy knows. No event between
// them is stored.
func (c *Client) heldMoment(ctx context.Context, m event.Moment) (can window.Span, err error) {
	if at, fixed := m.Cursor(); fixed {
		return window.Span{From: at.ID, To: at.ID}, nil
	}
	t, ok := m.Time(time.Now())
	if !ok { // it is now
		return window.Span{From: event.MaxID, To: event.MaxID}, nil
	}
	can, err = c.store.PositionsAt(ctx, t)
	return can, orCause(ctx, storeError(err))
}

// countHeld counts the held events of the range in s.
func (c *Client) countHeld(ctx context.Context, topic event.Topic, s *Synced) error {
	leaves, err := c.store.Leaves(ctx, topic, s.Span)
	_, s.Held = window.DigestOf(leaves)
	return storeError(err)
}

// heldGap returns the range that is gone from the server according to err, as far as it is held
// here from its beginning. If that is all of it, nothing is missing, and the error is nil. Otherwise the
// error is that of the rest, or the one that kept it from finding out.
func (c *Client) heldGap(ctx context.Context, topics []event.Topic, r Range, err error) (window.Span, error) {
	var gone *GapError
	if !errors.As(err, &gone) || r.Last != nil {
		return window.Span{}, err
	}
	since, failed := c.heldMoment(ctx, r.Since)
	if failed != nil {
		return window.Span{}, failed
	}
	gap := window.Span{From: since.From, To: gone.Oldest}
	held, failed := c.store.Held(ctx, topics...)
	switch end := min(held.EndAfter(gap.From), gap.To); {
	case failed != nil:
		return window.Span{}, orCause(ctx, storeError(failed))
	case gap.Empty() || end == gap.From:
		return window.Span{}, err
	case end < gap.To:
		return window.Span{From: gap.From, To: end}, &GapError{end, gone.Oldest}
	}
	return gap, nil
}
