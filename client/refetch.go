package client

import (
	"context"
	"errors"

	"github.com/rstream-dev/rstream/cache"
	"github.com/rstream-dev/rstream/event"
	"github.com/rstream-dev/rstream/internal/wire"
	"github.com/rstream-dev/rstream/window"
)

// fetchAgain finds the blocks of a held range that differ from the server, marks them as
// in doubt, fetches each once more and tries to prove the range. It adds missing events
// and never removes or replaces one: the server may be the side that is wrong. from, if not
// "", is the server that has sent sum. If the events of one server complete the range, those
// that have sent fewer before are set aside.
func (c *Client) fetchAgain(ctx context.Context, topic event.Topic, sum wire.Window, from string, fresh func([]event.Event) error) (ok bool, held uint64, err error) {
	ctx = preferServer(ctx, from)
	theirs, err := c.windowsOf(ctx, topic, sum.Span())
	if err != nil {
		return false, 0, err
	}
	ours, err := c.storedLeaves(ctx, topic, sum.Span())
	if err != nil {
		return false, 0, storeError(err)
	}
	var different []Finding
	for _, f := range differingBlocks(topic, sum.Span(), ours, theirs, &Verified{}) {
		differs, err := c.store.Doubt(ctx, topic, f.Span, f.theirs)
		if err != nil {
			return false, 0, storeError(err)
		}
		if differs {
			different = append(different, f)
		}
	}
	again := c.refetchFrom(from, topic, spansOf(different))
	ctx = preferServer(ctx, again)
	for _, span := range spansOf(different) {
		err := c.eachPart(ctx, topic, span, func(part window.Span, evs []event.Event) error {
			added, err := c.store.Merge(ctx, topic, part, evs)
			if err == nil && len(added) > 0 {
				err = fresh(added)
			}
			return err
		})
		if err != nil && !errors.As(err, new(*cache.ConflictError)) {
			return false, 0, err
		}
	}
	ok, held, err = c.proveRange(ctx, topic, sum)
	if ok && len(different) > 0 {
		c.accuseSuppliers(topic, spansOf(different), again)
	}
	return ok, held, err
}

// storedLeaves returns the leaves of the stored events. A range in doubt may have
// damage that only reading every event again can show.
func (c *Client) storedLeaves(ctx context.Context, topic event.Topic, span window.Span) ([]window.Leaf, error) {
	doubted, err := c.store.Doubted(ctx, topic)
	switch {
	case err != nil:
		return nil, err
	case len(doubted.Intersect(window.Spans{span})) > 0:
		return c.store.CheckedLeaves(ctx, topic, span)
	}
	return c.store.Leaves(ctx, topic, span)
}

// eachPart fetches a range page by page, even the parts that are held.
func (c *Client) eachPart(ctx context.Context, topic event.Topic, span window.Span, fn func(part window.Span, evs []event.Event) error) error {
	for at := span; !at.Empty(); {
		var p page
		err := c.tryServers(ctx, func(ctx context.Context) (err error) {
			p, err = c.readPage(c.requestPage(ctx, []event.Topic{topic}, nil, at))
			if p.next.ID > at.From && !permanent(err) {
				return nil // the events before a cut are whole
			}
			return err
		})
		if err != nil {
			return err
		}
		if err := fn(window.Span{From: at.From, To: p.next.ID}, p.events); err != nil {
			return storeError(err)
		}
		at.From = p.next.ID
	}
	return nil
}
