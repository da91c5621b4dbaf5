package client

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"iter"
	"time"

	"github.com/rstream-dev/rstream/cache"
	"github.com/rstream-dev/rstream/event"
	"github.com/rstream-dev/rstream/window"
)

// StateAt makes the state of topic at a moment known here and returns its position. The
// zero Moment is now.
//
// It fetches at most the window around the moment and the state at the beginning of that
// window, and only the missing parts of these. If nothing is missing it makes no request.
func (c *Client) StateAt(ctx context.Context, topic event.Topic, at event.Moment) (event.ID, error) {
	at = cmp.Or(at, event.Now)
	id, err := c.ensureStateAt(ctx, topic, at)
	if err != nil {
		return 0, fmt.Errorf("state of %s at %s: %w", topic, at, err)
	}
	return id, nil
}

func (c *Client) ensureStateAt(ctx context.Context, topic event.Topic, at event.Moment) (event.ID, error) {
	if err := c.needCopy(); err != nil {
		return 0, err
	}
	id, ok, err := c.heldState(ctx, topic, at)
	if err != nil || ok {
		return id, storeError(err)
	}
	// Resolve now, or a time, to a position once; all further requests use the position.
	span, err := c.resolveRange(ctx, []event.Topic{topic}, Range{Since: at})
	if err != nil {
		return 0, err
	}
	for {
		known, err := c.knownState(ctx, topic, span.From)
		if err != nil || known {
			return span.From, storeError(err)
		}
		if err := c.fetchState(ctx, topic, span.From); err != nil {
			return 0, err
		}
	}
}

// heldState returns the position of a moment, if its state is certainly known here.
func (c *Client) heldState(ctx context.Context, topic event.Topic, at event.Moment) (id event.ID, ok bool, err error) {
	if at.IsNow() {
		return 0, false, nil // only a server knows
	}
	sure := true
	cursor, err := at.Resolve(time.Now(), event.Cursor{ID: event.MaxID}, func(t event.Time) (id event.ID, err error) {
		id, sure, err = c.store.StateTime(ctx, topic, t)
		return id, err
	})
	if err != nil || !sure || !cursor.Of(c.store.Log()) {
		return 0, false, err
	}
	ok, err = c.knownState(ctx, topic, cursor.ID)
	return cursor.ID, ok, err
}

func (c *Client) knownState(ctx context.Context, topic event.Topic, at event.ID) (bool, error) {
	_, err := c.store.StateFrom(ctx, topic, at)
	var hole *window.NotHeldError
	if errors.As(err, &hole) {
		return false, nil
	}
	return err == nil, err
}

// nearEnough is the largest gap, in ids, that is fetched instead of being bridged by a
// snapshot.
const nearEnough = 2 * event.BlockSize

// fetchState fetches one missing part of a state: the window, or the gap between it and
// the held window before it, or the snapshot at its beginning.
func (c *Client) fetchState(ctx context.Context, topic event.Topic, at event.ID) error {
	held, err := c.store.Held(ctx, topic)
	if err != nil {
		return storeError(err)
	}
	before := event.Beginning // the end of the held window before
	for _, span := range held {
		if span.From <= at && at <= span.To {
			return c.fetchBefore(ctx, topic, before, span.From, at)
		}
		if span.To < at {
			before = span.To
		}
	}
	s, err := c.syncWindow(ctx, topic, c.momentAt(at), nil)
	if err == nil && s.Span.Empty() {
		_, err = c.ensureState(ctx, topic, at, at) // the server's history begins there
	}
	return err
}

// fetchBefore fetches the missing part of a state in a held window that begins at from:
// a short gap after position before, if the state is known there, or else the snapshot.
func (c *Client) fetchBefore(ctx context.Context, topic event.Topic, before, from, at event.ID) error {
	known := false
	if before > event.Beginning && from-before <= nearEnough {
		var err error
		if known, err = c.knownState(ctx, topic, before); err != nil {
			return storeError(err)
		}
	}
	if !known {
		_, err := c.ensureState(ctx, topic, from, at)
		return err
	}
	until := c.momentAt(from)
	_, err := c.Sync(ctx, topic, SyncOptions{Range: Range{Since: c.momentAt(before), Until: &until}})
	var gone *GapError
	if errors.As(err, &gone) {
		_, err = c.ensureState(ctx, topic, from, at)
	}
	return err
}

// ensureState makes the state known at position from, where a held window begins, and
// returns how many members it fetched. If history up to there is gone from the server, it
// uses the oldest position that the server still has, unless that is after until.
func (c *Client) ensureState(ctx context.Context, topic event.Topic, from, until event.ID) (members int, err error) {
	for {
		known, err := c.knownState(ctx, topic, from)
		if err != nil || known {
			return members, storeError(err)
		}
		n, err := c.keepSnapshot(ctx, topic, from)
		members += n
		var gone *GapError
		if errors.As(err, &gone) && from < gone.Oldest && gone.Oldest <= until {
			from, err = gone.Oldest, nil
		}
		if err != nil {
			return members, err
		}
	}
}

// keepSnapshot fetches the state at a position and stores it. If another process is doing
// so it only waits a little, and the caller checks again.
func (c *Client) keepSnapshot(ctx context.Context, topic event.Topic, at event.ID) (members int, err error) {
	w, busy, err := c.store.KeepSnapshot(ctx, topic, at)
	if err != nil {
		return 0, storeError(err)
	}
	if busy {
		return 0, waitFor(ctx, busyPause)
	}
	members, err = c.fillSnapshot(ctx, w, topic, at)
	if err != nil {
		err = joinErrors(err, c.abandonWork(ctx, w.Abort))
	}
	if errors.Is(err, cache.ErrLost) {
		return members, nil // we were so slow that another process has taken over
	}
	return members, err
}

func (c *Client) fillSnapshot(ctx context.Context, w *cache.SnapshotWriter, topic event.Topic, at event.ID) (members int, err error) {
	for ev, err := range c.readSnapshot(ctx, topic, at, w.Marked) {
		if err == nil {
			err = storeError(w.Add(ctx, ev))
		}
		if err != nil {
			return members, err
		}
		members++
	}
	return members, storeError(w.Finish(ctx))
}

// abandonWork calls how to give up unfinished work, even if ctx was cancelled.
func (c *Client) abandonWork(ctx context.Context, how func(context.Context) error) error {
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), releaseTime)
	defer cancel()
	return storeError(how(ctx))
}

// State returns the state of topic at a moment: the event that set the value of each
// storage, in order of users and paths. The zero Moment is now. State fetches missing
// parts first, see StateAt. An error is the last value.
func (c *Client) State(ctx context.Context, topic event.Topic, at event.Moment) iter.Seq2[*event.Event, error] {
	return func(yield func(*event.Event, error) bool) {
		id, err := c.StateAt(ctx, topic, at)
		if err == nil {
			_, err = c.eachOfState(ctx, topic, id, func(ev *event.Event) bool { return yield(ev, nil) })
		}
		if err != nil {
			yield(nil, err)
		}
	}
}

// eachOfState calls yield with the events of a known state until it returns false. whole
// reports whether it never did.
func (c *Client) eachOfState(ctx context.Context, topic event.Topic, at event.ID, yield func(*event.Event) bool) (whole bool, err error) {
	whole = true
	err = c.store.State(ctx, topic, at, func(ev *event.Event) error {
		if whole = yield(ev); !whole {
			return cache.ErrStop
		}
		return nil
	})
	return whole, err
}

// Follow returns the state of topic as of now, in batches with State set, and then each
// change as it happens, once and in order. No change between the two is missed, and no
// event of the state comes again. It ends as Tail does.
//
// Of the batches of the state, only the last has a Position, and it has no events: a program
// that resumes at a Position has handled the whole state.
func (c *Client) Follow(ctx context.Context, topic event.Topic) iter.Seq2[Batch, error] {
	return func(yield func(Batch, error) bool) {
		// Take the position first, then the state: events appended meanwhile follow.
		at, err := c.StateAt(ctx, topic, event.Now)
		whole := true
		if err == nil {
			whole, err = c.eachOfState(ctx, topic, at, func(ev *event.Event) bool {
				return yield(Batch{Events: []*event.Event{ev}, State: true}, nil)
			})
		}
		if err != nil {
			yield(Batch{}, err)
			return
		}
		if !whole || !yield(Batch{Position: at, State: true}, nil) {
			return
		}
		c.Batches(ctx, []event.Topic{topic}, TailOptions{Range: Range{Since: c.momentAt(at)}})(yield)
	}
}
