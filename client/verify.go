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

// A Finding is a window whose events are not those of the server.
type Finding struct {
	Topic    event.Topic
	Span     window.Span
	Held     uint64 // events here
	Server   uint64 // events there
	Repaired bool   // it was fetched again, and is now equal

	theirs window.Digest
}

// Verified says what Verify has looked at.
type Verified struct {
	Windows int          // blocks that were compared
	Events  uint64       // events that the server has in them
	Older   window.Spans // held, but older than what the server still has: no difference
	Found   []Finding
}

// Verify compares what is held of topic with the server, reading every event again.
// With repair it fetches the windows that differ again and puts them in the place
// of what is stored, touching nothing else. What differs even then stays a Finding
// that is not repaired.
func (c *Client) Verify(ctx context.Context, topic event.Topic, repair bool) (v Verified, err error) {
	if err := c.needCopy(); err != nil {
		return v, fmt.Errorf("verify %s: %w", topic, err)
	}
	info, err := c.Info(ctx)
	if err != nil {
		return v, fmt.Errorf("verify %s: %w", topic, err)
	}
	held, err := c.store.Held(ctx, topic)
	if err != nil {
		return v, storeError(err)
	}
	v.Older = held.Intersect(window.Spans{{From: event.Beginning, To: info.Horizon.ID}})
	for _, span := range held.Intersect(window.Spans{{From: info.Horizon.ID, To: event.MaxID}}) {
		if err := c.verifyLeft(ctx, topic, span, repair, &v); err != nil {
			return v, fmt.Errorf("verify %s: %w", topic, err)
		}
	}
	return v, nil
}

// verifyLeft verifies what the server still has of a span: its horizon may move
// meanwhile.
func (c *Client) verifyLeft(ctx context.Context, topic event.Topic, span window.Span, repair bool, v *Verified) error {
	for !span.Empty() {
		all := *v
		err := c.verifySpan(ctx, topic, span, repair, &all)
		var gone *GapError
		if !errors.As(err, &gone) || gone.Oldest <= span.From {
			*v = all
			return err
		}
		older := window.Span{From: span.From, To: min(gone.Oldest, span.To)}
		v.Older = v.Older.Add(older)
		span.From = older.To
	}
	return nil
}

func (c *Client) verifySpan(ctx context.Context, topic event.Topic, span window.Span, repair bool, v *Verified) error {
	theirs, err := c.windowsOf(ctx, topic, span)
	if err != nil {
		return err
	}
	removals, err := c.store.Removals(ctx)
	if err != nil {
		return storeError(err)
	}
	ours, err := c.store.CheckedLeaves(ctx, topic, span)
	if err != nil {
		return storeError(err)
	}
	found := compare(topic, span, ours, theirs, v)
	for _, equal := range spansOf(found).Gaps(span) {
		if err := c.store.Prove(ctx, topic, equal, removals, 0); !isNoted(err) {
			return storeError(err)
		}
	}
	for i := range found {
		if err := c.verifyFound(ctx, &found[i], repair); err != nil {
			return err
		}
	}
	v.Found = append(v.Found, found...)
	return nil
}

// isNoted reports whether a store has noted what a comparison found, or need not: it was
// overtaken by a removal, or the file may only be read.
func isNoted(err error) bool {
	return err == nil || errors.Is(err, cache.ErrLost) || errors.Is(err, cache.ErrReadOnly)
}

// verifyFound remembers that a window differs, until it is proven, and repairs it.
func (c *Client) verifyFound(ctx context.Context, f *Finding, repair bool) error {
	if _, err := c.store.Doubt(ctx, f.Topic, f.Span, f.theirs); !isNoted(err) {
		return storeError(err)
	}
	if !repair {
		return nil
	}
	equal, err := c.mend(ctx, f.Topic, f.Span)
	f.Repaired = equal
	return err
}

func spansOf(found []Finding) window.Spans {
	spans := make([]window.Span, len(found))
	for i := range found {
		spans[i] = found[i].Span
	}
	return window.Union(spans...)
}

// windowsOf asks for the windows of a stretch, block by block.
func (c *Client) windowsOf(ctx context.Context, topic event.Topic, span window.Span) (theirs []wire.Window, err error) {
	until := c.at(span.To)
	for at := span.From; at < span.To; {
		q := wire.WindowQuery{Topic: topic, Since: c.at(at), Until: &until}
		var list wire.WindowList
		if err := c.ask(ctx, &q, &list); err != nil {
			return nil, err
		}
		if list.From.ID != at || list.To.ID != span.To || list.Next.ID <= at || list.Next.ID > span.To {
			return nil, &ProtocolError{c.base(), fmt.Sprintf("was asked about %s-%s and answered %s-%s up to %s", at, span.To, list.From.ID, list.To.ID, list.Next.ID)}
		}
		theirs, at = append(theirs, list.Windows...), list.Next.ID
	}
	return theirs, nil
}

// compare returns the blocks in which the two sides differ.
func compare(topic event.Topic, span window.Span, ours []window.Leaf, theirs []wire.Window, v *Verified) (found []Finding) {
	for len(ours) > 0 || len(theirs) > 0 {
		var f Finding
		nothing, _ := window.DigestOf(nil)
		mine, yours := nothing, nothing
		switch {
		case len(theirs) == 0 || len(ours) > 0 && ours[0].Block < theirs[0].To.ID.Block():
			f.Span, ours = ownBlock(&ours[0], &mine, &f.Held), ours[1:]
		case len(ours) == 0 || theirs[0].To.ID.Block() < ours[0].Block:
			f.Span, yours, f.Server, theirs = theirs[0].Span(), theirs[0].Digest, theirs[0].Count, theirs[1:]
		default:
			f.Span, ours = ownBlock(&ours[0], &mine, &f.Held), ours[1:]
			yours, f.Server, theirs = theirs[0].Digest, theirs[0].Count, theirs[1:]
		}
		v.Windows++
		v.Events += f.Server
		if mine != yours || f.Held != f.Server {
			f.Topic, f.Span, f.theirs = topic, f.Span.Intersect(span), yours
			found = append(found, f)
		}
	}
	return found
}

func ownBlock(l *window.Leaf, d *window.Digest, n *uint64) window.Span {
	*d, *n = window.DigestOf([]window.Leaf{*l})
	return window.BlockSpan(l.Block)
}

// maxRepairs is how often a window is fetched again that differs still.
const maxRepairs = 3

// mend repairs a stretch and reports whether it is equal then.
func (c *Client) mend(ctx context.Context, topic event.Topic, span window.Span) (equal bool, err error) {
	for range maxRepairs {
		if err := c.repair(ctx, topic, span); err != nil {
			return false, err
		}
		until := c.at(span.To)
		sum, err := c.sum(ctx, topic, Range{Since: c.at(span.From), Until: &until})
		if err != nil {
			return false, err
		}
		removals, err := c.store.Removals(ctx)
		if err != nil {
			return false, storeError(err)
		}
		leaves, err := c.store.CheckedLeaves(ctx, topic, span)
		if err != nil {
			return false, storeError(err)
		}
		if digest, count := window.DigestOf(leaves); digest == sum.Digest && count == sum.Count {
			err := c.store.Prove(ctx, topic, span, removals, sum.To.Mark)
			if !errors.Is(err, cache.ErrLost) {
				return err == nil, storeError(err)
			}
		}
	}
	return false, nil
}

// repair fetches a stretch again and replaces what is stored of it, page by page.
func (c *Client) repair(ctx context.Context, topic event.Topic, span window.Span) error {
	return c.eachPage(ctx, topic, span, func(part window.Span, evs []event.Event) error {
		return c.store.Replace(ctx, topic, part, evs)
	})
}
