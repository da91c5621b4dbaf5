package client

import (
	"context"
	"errors"
	"fmt"
	"iter"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"github.com/rstream-dev/rstream/event"
	"github.com/rstream-dev/rstream/internal/hub"
	"github.com/rstream-dev/rstream/window"
)

// TailOptions configure a tail. The zero TailOptions return all history and then follow
// live.
type TailOptions struct {
	Range
	// UntilLive ends the tail at the head at the time of the call. A Range with an Until
	// ends it there; if that is in the future, by the clock of this machine, the tail
	// follows live until then.
	UntilLive bool
}

// A Batch is a piece of a tail.
type Batch struct {
	Events   []*event.Event // in order of their ids; valid until the next batch
	From     event.ID       // the batch has all events of the topics after here, up to Position; zero within a state
	Position event.ID       // all events of the topics up to here have been returned; zero within a state
	Live     bool           // all history has been returned
	State    bool           // the events are part of a state; its last batch has a Position and no events
}

// Tail returns the events of topic, each once and in order: those of the range, then
// new ones as they happen, until the range ends, ctx ends or there is a permanent error.
// An error is the last value. A lost connection is not an error, see Config.OnRetry.
func (c *Client) Tail(ctx context.Context, topic event.Topic, opts TailOptions) iter.Seq2[*event.Event, error] {
	return func(yield func(*event.Event, error) bool) {
		for b, err := range c.Batches(ctx, []event.Topic{topic}, opts) {
			if err != nil {
				yield(nil, err)
				return
			}
			for _, ev := range b.Events {
				if !yield(ev, nil) {
					return
				}
			}
		}
	}
}

// Batches is Tail for several topics, with events that arrive together in one Batch. A
// Batch has no events if only the position has moved.
func (c *Client) Batches(ctx context.Context, topics []event.Topic, opts TailOptions) iter.Seq2[Batch, error] {
	if opts.Until != nil {
		if end, ok := opts.Until.FutureTime(time.Now()); ok {
			return c.batchesUntil(ctx, topics, opts, end)
		}
	}
	return c.batches(ctx, topics, opts)
}

// batchesUntil follows topics until a time in the future. Then it yields the remaining events up
// to that time, as a tail of the past does.
func (c *Client) batchesUntil(ctx context.Context, topics []event.Topic, opts TailOptions, end event.Time) iter.Seq2[Batch, error] {
	return func(yield func(Batch, error) bool) {
		over, err := c.followUntil(ctx, topics, &opts, end, func(b Batch) bool { return yield(b, nil) })
		if err == nil && !over {
			over, err = c.boundRest(ctx, topics, &opts, end)
		}
		switch {
		case err != nil:
			yield(Batch{}, err)
		case !over:
			c.batches(ctx, topics, opts)(yield)
		}
	}
}

// followUntil follows live until a time, and sets opts to continue from there. It reports whether
// the tail is over before.
func (c *Client) followUntil(ctx context.Context, topics []event.Topic, opts *TailOptions, end event.Time, yield func(Batch) bool) (over bool, err error) {
	opts.Until = nil
	continueAt := func(at event.ID) { opts.Since, opts.Last = c.momentAt(at), nil }
	// An age or a number of events would mean something else later. An error comes again below.
	if span, err := c.resolveRange(ctx, widest(topics), opts.Range); err == nil {
		continueAt(span.From)
	}
	live, cancel := context.WithDeadlineCause(ctx, end.Time(), errUntil)
	defer cancel()
	for b, err := range c.batches(live, topics, *opts) {
		if errors.Is(err, errUntil) {
			break
		}
		if err != nil {
			return false, err
		}
		over = b.cutAfter(end)
		if !yield(b) || over {
			return true, nil
		}
		continueAt(b.Position)
	}
	return false, nil
}

// boundRest sets the end of opts to the position at a time, and reports whether the tail is past
// it: a server whose clock is ahead has moved its position on, without an event of the topics.
func (c *Client) boundRest(ctx context.Context, topics []event.Topic, opts *TailOptions, end event.Time) (over bool, err error) {
	until, none := event.AtTime(end), 0
	span, err := c.resolveRange(ctx, widest(topics), Range{Until: &until, Last: &none})
	if err != nil {
		return false, fmt.Errorf("tail %s: %w", topicNames(topics), err)
	}
	until = c.momentAt(span.To)
	opts.Until = &until
	at, _ := opts.Since.Cursor()
	return span.To <= at.ID, nil
}

// errUntil is the cause of a context that ends at the end of a range.
var errUntil = errors.New("the range is over")

// cutAfter removes the events after a time, and reports whether there were any.
func (b *Batch) cutAfter(end event.Time) bool {
	i := slices.IndexFunc(b.Events, func(ev *event.Event) bool { return ev.Time > end })
	if i < 0 {
		return false
	}
	b.Events, b.Position, b.Live = b.Events[:i], b.Events[i].ID-1, true
	return true
}

func (c *Client) batches(ctx context.Context, topics []event.Topic, opts TailOptions) iter.Seq2[Batch, error] {
	return func(yield func(Batch, error) bool) {
		ctx, cancel := context.WithCancelCause(ctx)
		t := tail{c: c, topics: widest(topics), cancel: cancel}
		more := true
		err := t.yieldAll(ctx, opts, func(b Batch) bool {
			more = yield(b, nil)
			return more
		})
		if err != nil && more {
			yield(Batch{}, fmt.Errorf("tail %s: %w", topicNames(topics), err))
		}
	}
}

// widest returns topics without those contained in others, whose events would be
// requested twice.
func widest(topics []event.Topic) (wide []event.Topic) {
	for _, t := range topics {
		covered := slices.ContainsFunc(wide, func(w event.Topic) bool { return w.Contains(t) })
		if !covered {
			wide = append(slices.DeleteFunc(wide, t.Contains), t)
		}
	}
	return wide
}

// topicNames lists topics for an error, the first few of many.
func topicNames(topics []event.Topic) string {
	const few = 3
	var list []string
	for _, t := range topics[:min(few, len(topics))] {
		list = append(list, t.String())
	}
	if more := len(topics) - few; more > 0 {
		list = append(list, fmt.Sprintf("and %d more", more))
	}
	return strings.Join(list, ", ")
}

// A tail is one call of Batches.
type tail struct {
	c      *Client
	topics []event.Topic
	cancel context.CancelCauseFunc
	hub    *hub.Hub
	end    func() event.ID // the events up to there are held, or are being pulled
	filler sync.WaitGroup

	pulling atomic.Bool          // the filler is at work
	lost    *window.NotHeldError // what was pulled again last
}

// yieldAll resolves the range, starts fetching the missing events and yields events from the
// cache as they are held. It returns nil when the tail is over or yield returns false.
func (t *tail) yieldAll(ctx context.Context, opts TailOptions, yield func(Batch) bool) error {
	if err := t.c.needCopy(); err != nil {
		return err
	}
	defer t.filler.Wait()
	defer t.cancel(nil)
	span, err := t.c.resolveHeld(ctx, t.topics, opts.Range)
	if err != nil && !span.Empty() {
		return t.yieldBefore(ctx, span, err, yield)
	}
	if err != nil {
		return err
	}
	if opts.UntilLive || opts.Until != nil {
		return t.yieldBounded(ctx, span, yield)
	}
	return t.yieldEndless(ctx, span, yield)
}

// yieldBefore yields the events that are held before a gap, and then returns the error that says so.
func (t *tail) yieldBefore(ctx context.Context, held window.Span, gap error, yield func(Batch) bool) error {
	over := false
	err := t.yieldBounded(ctx, held, func(b Batch) bool {
		b.Live = false
		over = !yield(b)
		return !over
	})
	if err != nil || over {
		return err
	}
	return gap
}

// yieldBounded yields the events of a range that ends.
func (t *tail) yieldBounded(ctx context.Context, span window.Span, yield func(Batch) bool) error {
	t.hub, t.end = hub.New(t, span.To, hub.Config{}), func() event.ID { return span.To }
	t.startPulling(ctx, span)
	sub := t.hub.Subscribe(t.topics, span.From)
	defer sub.Close()
	for at := span.From; at < span.To; {
		b, err := t.nextBatch(ctx, func() (hub.Batch, error) { return sub.Next(ctx) })
		if err != nil {
			return orCause(ctx, err)
		}
		from := at
		at = b.Position
		if !yield(Batch{Events: b.Events, From: from, Position: at, Live: at >= span.To}) {
			return nil
		}
	}
	return nil
}

// yieldEndless yields history and then follows live from the head. History is pulled, not
// followed: other processes can wait for a pulled window, and pulling leaves out events
// held within it. The cursor itself skips events held beyond the head.
func (t *tail) yieldEndless(ctx context.Context, span window.Span, yield func(Batch) bool) (err error) {
	f := &follower{topics: t.topics, fail: t.cancel}
	at, err := t.c.live.addFollower(ctx, f, span.To)
	if err != nil {
		return orCause(ctx, err)
	}
	defer func() { err = joinErrors(err, t.c.live.releaseFollower(f)) }()
	t.hub, t.end = t.c.hub, t.c.live.reachedPosition
	t.startPulling(ctx, window.Span{From: span.From, To: at})
	sub := t.hub.SubscribeTo(t, t.topics, span.From)
	defer sub.Close()
	for from := span.From; ; {
		b, err := t.nextBatch(ctx, func() (hub.Batch, error) { return nextOrQuiet(ctx, sub) })
		if err != nil {
			return orCause(ctx, err)
		}
		// The hub calls a reader live once it has reached the cursor, which may be far
		// from the head.
		if !yield(Batch{Events: b.Events, From: from, Position: b.Position, Live: b.Position >= span.To}) {
			return nil
		}
		from = b.Position
	}
}

// nextBatch returns what next returns. If events were removed before the tail has read them, it
// pulls them again: they were forgotten, or the window in which they were held is damaged.
func (t *tail) nextBatch(ctx context.Context, next func() (hub.Batch, error)) (hub.Batch, error) {
	for {
		b, err := next()
		var lost *window.NotHeldError
		if !errors.As(err, &lost) || t.lost != nil && t.lost.After == lost.After { // it was pulled in vain
			return b, err
		}
		t.lost = lost
		t.startPulling(ctx, window.Span{From: lost.After, To: t.end()})
	}
}

// Read implements hub.Source. If the next events are not held yet, it returns nothing, because
// another goroutine is about to fetch them. If none is, Read returns a *window.NotHeldError.
func (t *tail) Read(ctx context.Context, topics []event.Topic, after, until event.ID, limit int) ([]event.Event, event.ID, error) {
	coming := t.pulling.Load() || after >= t.end() // before the store is read, since they may come meanwhile
	evs, next, err := t.c.store.Read(ctx, topics, after, until, limit)
	var hole *window.NotHeldError
	switch missing := errors.As(err, &hole); {
	case missing && coming:
		return nil, after, nil
	case missing || err != nil || next > after || coming:
		return evs, next, err
	}
	return nil, after, &window.NotHeldError{After: after} // after the end of a window
}

// quietTime is the longest silence of a tail. Then its reader gets a batch with only a
// position, so that a durable position keeps up on a quiet topic and stays held.
const quietTime = 15 * time.Second

// nextOrQuiet returns the next batch of sub, or one without events after quietTime.
func nextOrQuiet(ctx context.Context, sub *hub.Subscription) (hub.Batch, error) {
	waiting, cancel := context.WithTimeout(ctx, quietTime)
	defer cancel()
	b, err := sub.Next(waiting)
	if err != nil && ctx.Err() == nil && errors.Is(err, context.DeadlineExceeded) {
		return hub.Batch{Position: sub.Position()}, nil
	}
	return b, err
}

// startPulling fetches the missing events of span in another goroutine than the one
// that yields them. If that fails, the tail fails.
func (t *tail) startPulling(ctx context.Context, span window.Span) {
	if span.Empty() {
		return
	}
	t.pulling.Store(true)
	t.filler.Go(func() {
		for _, topic := range t.topics {
			err := t.c.pullMissing(ctx, []event.Topic{topic}, span, &Synced{}, func([]event.Event) error {
				t.hub.Advance(event.Beginning)
				return nil
			})
			if err != nil {
				t.cancel(err)
				return
			}
			t.hub.Advance(event.Beginning)
		}
		t.pulling.Store(false)
		t.hub.Advance(event.Beginning) // a reader that has found a hole looks again
	})
}
