package main

import (
	"cmp"
	"context"
	"errors"
	"iter"

	"github.com/rstream-dev/rstream/event"
	"github.com/rstream-dev/rstream/internal/deliver"
	"github.com/rstream-dev/rstream/window"
)

// errConsumed ends the reading of a source whose consumer ends.
var errConsumed = errors.New("the consumer ends")

// consumerBatches returns the batches of the source for a consumer. What the file no longer has
// ends it.
func (s *sourceSession) consumerBatches(p *sourcePrinter) batchesFunc {
	return func(ctx context.Context, after event.ID) iter.Seq2[deliver.Batch, error] {
		return func(yield func(deliver.Batch, error) bool) {
			p.at = after
			p.give = func(b deliver.Batch) error {
				if !yield(b, nil) {
					return errConsumed
				}
				return nil
			}
			var err error
			if !p.bounds.isOver {
				err = s.start(ctx)
			}
			if err == nil {
				err = s.printAll(ctx, p)
			}
			if err != nil && !errors.Is(err, errConsumed) {
				yield(deliver.Batch{}, err)
			}
		}
	}
}

// giveEvents gives events to a consumer, up to a position. done reports that the rest is not
// wanted.
func (p *sourcePrinter) giveEvents(evs []event.Event, next event.ID) (done bool, err error) {
	b := deliver.Batch{Position: next}
	for i := range evs {
		ev := &evs[i]
		if p.bounds.isAfter(ev) {
			b.Position, done = ev.ID-1, true
			break
		}
		if p.isGap(ev) {
			p.gaps++
			if err := p.a.noteSourceGap(ev); err != nil {
				return false, err
			}
			continue
		}
		b.Events = append(b.Events, ev)
	}
	p.at = b.Position
	return done, p.give(b)
}

// consumeSource is consume for a source.
func (o *tailOptions) consumeSource(ctx context.Context, c *consumption, s *sourceSession, p *sourcePrinter) error {
	c.batches = s.consumerBatches(p)
	lost := false
	c.dropped = func(d deliver.Dropped) (oldest event.ID, ok bool) {
		oldest, ok = c.noteDropped(d)
		lost = lost || ok
		return oldest, ok
	}
	c.hasGaps = func() bool { return lost || p.gaps > 0 }
	return cmp.Or(o.consume(ctx, c), p.gapStatus())
}

// noteDropped reports the events of a storage that were not done until the file no longer had
// them: one path that fails for long is no reason to end the others.
func (c *consumption) noteDropped(d deliver.Dropped) (oldest event.ID, ok bool) {
	notHeld := (*window.NotHeldError)(nil)
	if !errors.As(d.Err, &notHeld) || !notHeld.Some {
		return 0, false
	}
	are := "may be"
	if d.Unfinished {
		are = "are"
	}
	c.a.note("history of %s from %s to %s is no longer in %s; its unfinished events %s lost", d.Storage, positionName(notHeld.After), notHeld.Oldest, c.db.Path(), are)
	return notHeld.Oldest, true
}
