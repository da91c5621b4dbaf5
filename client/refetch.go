package client

import (
	"context"
	"errors"
	"fmt"

	"github.com/rstream-dev/rstream/cache"
	"github.com/rstream-dev/rstream/event"
	"github.com/rstream-dev/rstream/internal/wire"
	"github.com/rstream-dev/rstream/window"
)

// fetchAgain finds the blocks of a held range that differ from the server, marks them as
// in doubt, fetches each once more and tries to prove the range. from, if not "", is the server
// that has sent sum.
//
// It adds missing events. It removes and replaces none: the server may be the side that is wrong.
// If there are several servers, they say which of them is wrong, and events that were not proven
// are replaced. The servers that have sent the wrong ones, or fewer, are set aside. If from is one
// of them, the error is errOverruled.
func (c *Client) fetchAgain(ctx context.Context, topic event.Topic, sum wire.Window, from string, fresh func([]event.Event) error) (ok bool, held uint64, err error) {
	ctx = preferServer(ctx, from)
	d, theirs, err := c.listBlocks(ctx, topic, sum.Span(), from)
	if err != nil {
		return false, 0, err
	}
	ours, err := c.storedLeaves(ctx, topic, sum.Span())
	if err != nil {
		return false, 0, storeError(err)
	}
	found := differingBlocks(topic, sum.Span(), ours, theirs, &Verified{})
	if d != nil {
		if err := d.findWrong(ctx, found); err != nil {
			return false, 0, err
		}
		if d.wrong[from] != nil {
			return false, 0, errOverruled
		}
		if d.lists[from] == nil { // it does not send its events
			d = nil
		}
	}
	var different []Finding
	for _, f := range found {
		differs, err := c.store.Doubt(ctx, topic, f.Span, f.theirs)
		if err != nil {
			return false, 0, storeError(err)
		}
		if differs {
			different = append(different, f)
		}
	}
	var left []Finding
	for _, f := range different {
		replaced, err := d.replaceBlock(ctx, &f, fresh)
		if err != nil {
			return false, 0, err
		}
		if !replaced {
			left = append(left, f)
		}
	}
	again := c.refetchFrom(from, topic, spansOf(left))
	lacked, err := c.mergeBlocks(preferServer(ctx, again), topic, spansOf(left), fresh)
	if err != nil {
		return false, 0, err
	}
	if ok, held, err = c.proveRange(ctx, topic, sum); ok && from != "" {
		c.accuseShort(topic, lacked, again)
	}
	return ok, held, err
}

// listBlocks returns the windows of a range, one for each block, and, if there are several
// servers, the dispute about it.
func (c *Client) listBlocks(ctx context.Context, topic event.Topic, span window.Span, from string) (*dispute, []wire.Window, error) {
	if from != "" && len(c.cfg.Servers) > 1 {
		d, err := c.newDispute(ctx, topic, span, from)
		if err != nil || d != nil {
			return d, d.listOf(), err
		}
	}
	theirs, err := c.windowsOf(ctx, topic, span)
	return nil, theirs, err
}

// mergeBlocks fetches blocks once more and adds the missing events. It returns some of these.
func (c *Client) mergeBlocks(ctx context.Context, topic event.Topic, blocks window.Spans, fresh func([]event.Event) error) (lacked []placedItem, err error) {
	for _, span := range blocks {
		err := c.eachPart(ctx, topic, span, func(part window.Span, evs []event.Event) error {
			added, err := c.store.Merge(ctx, topic, part, evs)
			for i := range added[:min(len(added), event.BlockSize-len(lacked))] {
				lacked = append(lacked, placedItemOf(&added[i]))
			}
			if err == nil && len(added) > 0 {
				err = fresh(added)
			}
			return err
		})
		if err != nil && !errors.As(err, new(*cache.ConflictError)) {
			return nil, err
		}
	}
	return lacked, nil
}

// accuseShort sets aside the servers that have sent a range without the events that from has sent
// of it.
func (c *Client) accuseShort(topic event.Topic, lacked []placedItem, from string) {
	for _, base := range c.sendersAt(lacked, from) {
		c.setAside(base, &ProtocolError{base, fmt.Sprintf("sent fewer events of %s in %s than %s", topic, spanOfEvent(lacked[0].ID), hostOf(from))})
	}
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
			only, _ := onlyOf(ctx)
			left := only != "" && errors.Is(err, errOvertaken)
			if p.next.ID > at.From && !permanent(err) && !left {
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
