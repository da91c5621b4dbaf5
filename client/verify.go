package client

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"slices"

	"github.com/rstream-dev/rstream/cache"
	"github.com/rstream-dev/rstream/event"
	"github.com/rstream-dev/rstream/internal/wire"
	"github.com/rstream-dev/rstream/window"
)

// A Finding is a window whose events differ from the server's.
type Finding struct {
	Topic    event.Topic
	Span     window.Span
	Held     uint64 // events in the copy
	Server   uint64 // events on the server
	Repaired bool   // the window was fetched again and is equal now

	mine   window.Digest
	theirs window.Digest
}

// ours returns what the copy has in the window.
func (f *Finding) ours() blockSum { return blockSum{f.mine, f.Held} }

// A Verified reports the result of Verify.
type Verified struct {
	Compared window.Spans // held ranges that were compared, with or without events
	Windows  int          // blocks in them that have events
	Events   uint64       // events of the server in them
	Older    window.Spans // held ranges below the server's horizon, which cannot be compared
	Found    []Finding    // windows that differ
}

// Verify compares the held events of topic with the server, reading every event again.
// With repair, it fetches the windows that differ again and replaces their stored events,
// touching nothing else. A window that differs even then is a Finding that is not
// Repaired.
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

// verifyLeft verifies the part of a span that the server still has. The horizon may move
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
	ours, err := c.checkedLeaves(ctx, topic, span, theirs)
	if err != nil {
		return storeError(err)
	}
	found := differingBlocks(topic, span, ours, theirs, v)
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
	v.Compared = v.Compared.Add(span)
	return nil
}

// comparedBlocks is how many blocks are read between two reports of progress. It is a
// variable for the tests.
var comparedBlocks uint64 = 16

// checkedLeaves reads every event of a range, and reports how far it is.
func (c *Client) checkedLeaves(ctx context.Context, topic event.Topic, span window.Span, theirs []wire.Window) (ours []window.Leaf, err error) {
	p := SyncProgress{Topic: topic, Span: span, Reached: span.From}
	for i := range theirs {
		p.Total += theirs[i].Count
	}
	for at := span.From; at < span.To; at = p.Reached {
		c.cfg.OnProgress(p)
		p.Reached = comparedEnd(at, span.To, theirs)
		some, err := c.store.CheckedLeaves(ctx, topic, window.Span{From: at, To: p.Reached})
		if err != nil {
			return nil, err
		}
		for i := range some {
			p.Done += uint64(some[i].Count)
		}
		ours = append(ours, some...)
	}
	c.cfg.OnProgress(p)
	return ours, nil
}

// comparedEnd returns the end of the part of a range up to end that is read after position at. Ids
// of a server may be anything: where it has no events, the part goes on to its next ones.
func comparedEnd(at, end event.ID, theirs []wire.Window) event.ID {
	part := window.BlockSpan(uint64(at)/event.BlockSize + comparedBlocks - 1).To
	next, _ := slices.BinarySearchFunc(theirs, at, func(w wire.Window, at event.ID) int { return cmp.Compare(w.To.ID, at+1) })
	if next == len(theirs) {
		return end
	}
	return min(end, max(part, theirs[next].From.ID))
}

// isNoted reports whether a store has recorded the result of a comparison, or need not: a
// removal has overtaken it, or the file is read-only.
func isNoted(err error) bool {
	return err == nil || errors.Is(err, cache.ErrLost) || errors.Is(err, cache.ErrReadOnly)
}

// verifyFound marks a window as in doubt until it is proven and, with repair, repairs it.
func (c *Client) verifyFound(ctx context.Context, f *Finding, repair bool) error {
	if _, err := c.store.Doubt(ctx, f.Topic, f.Span, f.theirs); !isNoted(err) {
		return storeError(err)
	}
	if !repair {
		return nil
	}
	equal, err := c.repairUntilEqual(ctx, f.Topic, f.Span)
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

// windowsOf requests the windows of a range, one for each block.
func (c *Client) windowsOf(ctx context.Context, topic event.Topic, span window.Span) (theirs []wire.Window, err error) {
	until := c.momentAt(span.To)
	for at := span.From; at < span.To; {
		q := wire.WindowQuery{Topic: topic, Since: c.momentAt(at), Until: &until}
		list, _, err := requestWindows(ctx, c, &q, func(base string, list *wire.WindowList) error {
			if list.From.ID != at || list.To.ID != span.To || list.Next.ID <= at || list.Next.ID > span.To {
				return &ProtocolError{base, fmt.Sprintf("was asked about %s-%s and answered %s-%s up to %s", at, span.To, list.From.ID, list.To.ID, list.Next.ID)}
			}
			return nil
		})
		if err != nil {
			return nil, err
		}
		theirs, at = append(theirs, list.Windows...), list.Next.ID
	}
	return theirs, nil
}

// differingBlocks returns the blocks in which the two sides differ.
func differingBlocks(topic event.Topic, span window.Span, ours []window.Leaf, theirs []wire.Window, v *Verified) (found []Finding) {
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
			f.Topic, f.Span, f.mine, f.theirs = topic, f.Span.Intersect(span), mine, yours
			found = append(found, f)
		}
	}
	return found
}

func ownBlock(l *window.Leaf, d *window.Digest, n *uint64) window.Span {
	*d, *n = window.DigestOf([]window.Leaf{*l})
	return window.BlockSpan(l.Block)
}

// maxRepairs is how many times a window that still differs is fetched again.
const maxRepairs = 3

// repairUntilEqual repairs a range and reports whether it is then equal to the server's.
func (c *Client) repairUntilEqual(ctx context.Context, topic event.Topic, span window.Span) (equal bool, err error) {
	for range maxRepairs {
		if err := c.refetchRange(ctx, topic, span); err != nil {
			return false, err
		}
		until := c.momentAt(span.To)
		sum, err := c.requestSum(ctx, topic, Range{Since: c.momentAt(span.From), Until: &until})
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
			err := c.store.Prove(ctx, topic, span, removals, c.markOf(sum))
			if !errors.Is(err, cache.ErrLost) {
				return err == nil, storeError(err)
			}
		}
	}
	return false, nil
}

// refetchRange fetches a range again and replaces its stored events, page by page.
func (c *Client) refetchRange(ctx context.Context, topic event.Topic, span window.Span) error {
	return c.eachPart(ctx, topic, span, func(part window.Span, evs []event.Event) error {
		return c.store.Replace(ctx, topic, part, evs)
	})
}
