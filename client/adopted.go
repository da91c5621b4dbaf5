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

// An Adopted reports the result of Adopt.
type Adopted struct {
	Events  int // events carried over
	Windows int // windows that matched the server
	Refused int // windows that did not match, or are damaged in old, and must be fetched
	Hidden  int // windows of topics that the server does not have, or does not let this client read
}

// Adopt carries over events from old, a copy of the log that the server's log was
// restored from. Parted is the position where the two logs diverge. Each window is
// compared with the server up to there and taken only if it matches. Nothing below the
// server's horizon is taken, because it cannot be compared, nor of a topic that the server
// does not let the client read, or, being a mirror, does not have, nor what is damaged in old.
// A token that is not accepted is an error. After an error, a repetition goes on.
func (c *Client) Adopt(ctx context.Context, old *cache.DB, parted event.ID) (a Adopted, err error) {
	if err := c.needCopy(); err != nil {
		return a, err
	}
	info, err := c.Info(ctx)
	if err != nil {
		return a, err
	}
	windows, err := old.Windows(ctx)
	if err != nil {
		return a, storeError(err)
	}
	for _, w := range window.NewSet(windows...).Merged() {
		span := w.Held().Intersect(window.Span{From: info.Horizon.ID, To: parted})
		if span.Empty() {
			continue
		}
		err := c.copyVerified(ctx, old, w.Topic, span, &a)
		var status *StatusError
		switch {
		case errors.As(err, &status) && status.isOfTopic():
			a.Hidden++
		case errors.Is(err, errOldDamaged):
			a.Refused++
		case err != nil:
			return a, fmt.Errorf("carry over %s %s: %w", w.Topic, span, err)
		}
	}
	return a, nil
}

// errOldDamaged means that a window of the old copy is damaged.
var errOldDamaged = errors.New("the old copy is damaged")

// oldError returns an error of the old copy.
func oldError(err error) error {
	if errors.Is(err, cache.ErrCorrupt) {
		err = fmt.Errorf("%w: %w", errOldDamaged, err)
	}
	return storeError(err)
}

func (c *Client) copyVerified(ctx context.Context, old *cache.DB, topic event.Topic, span window.Span, a *Adopted) error {
	until := c.momentAt(span.To)
	sum, err := c.requestSum(ctx, topic, Range{Since: c.momentAt(span.From), Until: &until})
	if err != nil {
		return err
	}
	leaves, err := old.CheckedLeaves(ctx, topic, span)
	if err != nil {
		return oldError(err)
	}
	if digest, count := window.DigestOf(leaves); digest != sum.Digest || count != sum.Count {
		a.Refused++
		return nil
	}
	if err := c.copyFrom(ctx, old, topic, sum, a); err != nil {
		return err
	}
	a.Windows++
	return nil
}

// copyFrom copies the events of a range from another copy.
func (c *Client) copyFrom(ctx context.Context, old *cache.DB, topic event.Topic, sum wire.Window, a *Adopted) error {
	for {
		lease, busy, err := c.store.Claim(ctx, []event.Topic{topic}, sum.Span())
		if err != nil {
			return storeError(err)
		}
		if busy {
			if err := waitFor(ctx, busyPause); err != nil {
				return err
			}
			continue
		}
		if lease == nil {
			break
		}
		lease.Copying()
		lease.Marked(sum.To.Point())
		for !lease.Span().Empty() {
			evs, next, err := old.Read(ctx, []event.Topic{topic}, lease.Reached(), lease.Span().To, c.cfg.PageLimit)
			if err != nil {
				return joinErrors(oldError(err), storeError(lease.Release(ctx)))
			}
			added, err := lease.Apply(ctx, evs, next)
			if err != nil {
				return storeError(err)
			}
			a.Events += len(added)
		}
		if err := lease.Commit(ctx); err != nil {
			return storeError(err)
		}
	}
	_, _, err := c.proveRange(ctx, topic, sum)
	return err
}
