package deliver

import (
	"context"
	"encoding/json"
	"slices"
	"time"

	"github.com/rstream-dev/rstream/cache"
	"github.com/rstream-dev/rstream/event"
)

// stepDue reports whether a step is to be stored now.
func (c *consumer) stepDue(now time.Time) bool {
	switch {
	case c.stepping:
		return false
	case len(c.beginning) > 0:
		return true
	case !c.acked.IsZero() && now.Sub(c.acked) >= groupTime,
		len(c.dirty) > 0 && now.Sub(c.saved) >= groupTime,
		!c.moved.IsZero() && now.Sub(c.moved) >= positionLag:
		return true
	}
	return now.Sub(c.saved) >= renewTime
}

// step begins to store a step.
func (c *consumer) step(ctx context.Context, now time.Time) {
	s, status := c.makeStep(now)
	c.stepping = true
	ctx = context.WithoutCancel(ctx)
	c.running.Go(func() {
		err := c.cfg.Store.Step(ctx, s)
		if err == nil {
			c.report(status)
		}
		c.stepped <- err
	})
}

func (c *consumer) report(s Status) {
	if c.cfg.OnStatus != nil {
		c.cfg.OnStatus(s)
	}
}

// makeStep returns a step to where the consumer is. Until the next one, it is in sent.
func (c *consumer) makeStep(now time.Time) (*cache.ConsumerStep, Status) {
	s := c.pending
	c.pending = cache.ConsumerStep{}
	for l := range c.dirty {
		row := l.row()
		if c.lanes[l.storage] != l {
			row = nil
		}
		if row == nil {
			s.Unblock = append(s.Unblock, l.storage)
		} else {
			s.Block = append(s.Block, *row)
		}
		l.stored = row
	}
	clear(c.dirty)
	s.Position = c.position
	open := make([]openEvent, 0, len(c.open))
	for l := range c.open {
		if l.unfinished() {
			open = append(open, openEvent{l.first, max(l.begun, l.careful)})
		}
	}
	s.Oldest = c.oldest()
	underWay := min(c.sentN+c.begunN, c.cfg.Workers*c.cfg.Batch)
	status := Status{Done: c.done, Failed: c.failed, UnderWay: underWay, Waiting: c.rows, Rate: c.meter.rate(now, c.done), At: now, Position: c.position}
	s.State, _ = json.Marshal(storedState{stateVersion, c.done, c.failed, underWay, status.Rate, now.UnixMicro(), encodeOpen(open)}) // numbers: it does not fail
	c.acked, c.moved, c.saved = time.Time{}, time.Time{}, now
	c.sent = &s
	return &s, status
}

// oldest returns the first unfinished event, or a position before it; zero if there is none.
func (c *consumer) oldest() (oldest event.ID) {
	for _, l := range c.lanes {
		if l.unfinished() && (oldest == 0 || l.first < oldest) {
			oldest = l.first
		}
	}
	return oldest
}

// takeStepped takes the result of a step. What an unsuccessful one would have stored is
// left to the last one.
func (c *consumer) takeStepped(err error) {
	c.stepping = false
	if err != nil {
		c.pending.Bury = slices.Concat(c.sent.Bury, c.pending.Bury)
		c.pending.Return = slices.Concat(c.sent.Return, c.pending.Return)
		c.pending.Remove = slices.Concat(c.sent.Remove, c.pending.Remove)
		c.pending.Unblock = slices.Concat(c.sent.Unblock, c.pending.Unblock)
		for _, l := range c.lanes {
			if l.stored != nil || l.behind {
				l.stored = &cache.BlockedStorage{}
				c.dirty[l] = struct{}{}
			}
		}
		c.fail(err)
	}
	for _, l := range c.beginning {
		l.phase = begun
		c.begun.push(l)
	}
	c.beginning = nil
}
