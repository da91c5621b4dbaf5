package client

import (
	"cmp"
	"context"
	"errors"
	"fmt"

	"github.com/rstream-dev/rstream/event"
	"github.com/rstream-dev/rstream/reconcile"
	"github.com/rstream-dev/rstream/window"
)

// A Range says which part of a topic's history is meant. The zero Range is all of
// it, up to the head at the time of asking.
type Range struct {
	Since event.Moment  // the zero Moment is the beginning
	Until *event.Moment // nil is the head
	Last  *int          // begin so that this many events follow; instead of Since
}

// SyncOptions say what a Sync makes held, and how. The zero SyncOptions are all history
// up to the head, proven.
type SyncOptions struct {
	Range
	// At asks for the window around a moment instead of the Range: the bounded stretch
	// that the server offers for it. The state where that begins is made known, too, so that
	// from then on the state at each moment in it is known without a server. One such window is
	// pending at a time; a moment in one that was answered before asks nothing. The zero
	// Moment is now.
	At *event.Moment
	// Unproven compares nothing with the server: what is missing is fetched, and that is
	// all. A Range with a Last is unproven, too.
	Unproven bool
	// OnNew is called with the events that were not held before, once they are stored, in
	// order within each window. It may be called with none. An error of it ends the Sync.
	// If nil, nothing is called.
	OnNew func([]event.Event) error
}

// A Comparison says how a Sync found out what was missing.
type Comparison struct {
	Outcome string            // equal, pull, or what ended the negotiation
	Why     string            // the same in words
	Rounds  []reconcile.Round // of the negotiation, if there was one
	Asked   int               // events that were asked for by their hashes
	Saved   int               // events that were here, and were placed without being fetched
}

// A Synced says what a Sync has come to.
type Synced struct {
	Span    window.Span // the stretch that is held now
	Windows int         // how many windows were pulled for it
	Added   int         // events that were not held before
	Held    uint64      // events of the stretch that are held now, if it was proven
	Members int         // events that were fetched of the state where it begins, with At

	Imported int        // of those added, the ones that had come by file
	Compared Comparison // how it was found out what was missing, if it was proven
}

// Sync fetches what is missing of a stretch of topic's history. When it returns
// without an error, all of the stretch is held. What was held before is not asked
// for; what another process is fetching is waited for.
func (c *Client) Sync(ctx context.Context, topic event.Topic, opts SyncOptions) (s Synced, err error) {
	if err = c.needCopy(); err != nil {
		return s, fmt.Errorf("sync %s: %w", topic, err)
	}
	switch {
	case opts.At != nil:
		at := cmp.Or(*opts.At, event.Now)
		s, err = c.syncAround(ctx, topic, at, opts.OnNew)
		if err != nil {
			err = fmt.Errorf("sync %s at %s: %w", topic, at, err)
		}
	case opts.Unproven || opts.Last != nil:
		s, err = c.syncUnproven(ctx, topic, opts.Range, opts.OnNew)
		if err != nil {
			err = fmt.Errorf("fetch %s: %w", topic, err)
		}
	default:
		s, err = c.syncProven(ctx, topic, opts.Range, opts.OnNew)
		if err != nil {
			err = fmt.Errorf("sync %s: %w", topic, err)
		}
	}
	return s, err
}

// syncProven makes a stretch held that has the digest which the server tells.
func (c *Client) syncProven(ctx context.Context, topic event.Topic, r Range, fresh func([]event.Event) error) (Synced, error) {
	sum, err := c.sum(ctx, topic, r)
	if gap, ok := c.heldGap(ctx, []event.Topic{topic}, r, err); ok {
		r.Since = c.at(gap.To)
		sum, err = c.sum(ctx, topic, r)
	}
	if err != nil {
		return Synced{}, err
	}
	s := Synced{Span: sum.Span()}
	states := c.newSealer(ctx, topic)
	err = c.ensureProven(ctx, topic, sum, &s, s.counting(states.beside(fresh)))
	states.end(ctx, err == nil)
	return s, err
}

// syncUnproven makes a stretch held and compares nothing.
func (c *Client) syncUnproven(ctx context.Context, topic event.Topic, r Range, fresh func([]event.Event) error) (Synced, error) {
	span, err := c.resolve(ctx, []event.Topic{topic}, r)
	if err != nil {
		return Synced{}, err
	}
	s := Synced{Span: span}
	return s, c.pullMissing(ctx, []event.Topic{topic}, span, &s, s.counting(fresh))
}

// syncAround makes the window around a moment held, and the state where it begins.
func (c *Client) syncAround(ctx context.Context, topic event.Topic, at event.Moment, fresh func([]event.Event) error) (Synced, error) {
	s, err := c.syncWindow(ctx, topic, at, fresh)
	if err == nil {
		s.Members, err = c.ensureState(ctx, topic, s.Span.From, s.Span.To)
	}
	return s, err
}

// syncWindow makes the window around a moment held.
func (c *Client) syncWindow(ctx context.Context, topic event.Topic, at event.Moment, fresh func([]event.Event) error) (Synced, error) {
	w, err := c.windowAt(ctx, topic, at)
	if err != nil {
		return Synced{}, err
	}
	s := Synced{Span: w.Span()}
	return s, c.ensureProven(ctx, topic, w, &s, s.counting(fresh))
}

// heldGap returns the stretch that err says is gone from the server, if all of it is
// held here: then nothing is missing.
func (c *Client) heldGap(ctx context.Context, topics []event.Topic, r Range, err error) (gap window.Span, ok bool) {
	var gone *GapError
	since, fixed := r.Since.Cursor()
	if !errors.As(err, &gone) || !fixed || r.Last != nil {
		return gap, false
	}
	gap = window.Span{From: since.ID, To: gone.Oldest}
	held, err := c.store.Held(ctx, topics...)
	return gap, err == nil && !gap.Empty() && held.Contains(gap)
}
