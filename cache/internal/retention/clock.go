package retention

import (
	"context"
	"database/sql"
	"errors"
	"time"

	"github.com/rstream-dev/rstream/cache/internal/dbfile"
	"github.com/rstream-dev/rstream/cache/internal/rows"
	"github.com/rstream-dev/rstream/event"
	"github.com/rstream-dev/rstream/window"
)

// A clock decides what is old. Removals are final, so the clock never runs ahead of the
// wall clock, nor of the time that has passed while the log was served: a wall clock that
// jumps ahead and back destroys nothing.
//
// Time that passed unobserved, while the log was not served or the machine slept, is
// indistinguishable from a jump. It counts once the wall clock has been steady for
// trustTime, if it is no longer than trustMost. Before that, the events of the log show that
// time passed, as long as no two of them are further apart than that: a log that was served
// without retention has only these.
type clock struct {
	wall func() time.Time
	mono func() time.Duration

	known event.Time    // up to which the events of the log show that time passed
	tick  event.Time    // the last time shown, apart from the wall clock
	seen  time.Duration // mono at tick
	even  time.Duration // mono since which the wall clock is steady
	ahead event.Time    // the wall clock's lead over mono
}

const (
	trustTime = time.Hour
	trustMost = 30 * 24 * time.Hour
	// trustSlack is how far a steady wall clock may be corrected at once.
	trustSlack = 10 * time.Second
)

// newClock returns a clock that continues from tick.
func newClock(wall func() time.Time, mono func() time.Duration, tick event.Time) *clock {
	c := &clock{wall: wall, mono: mono, tick: tick, seen: mono()}
	c.even, c.ahead = c.seen, c.lead()
	return c
}

// lead returns how far the wall clock is ahead of the monotonic one.
func (c *clock) lead() event.Time { return event.TimeOf(c.wall()) - micros(c.mono()) }

// now returns the time. It must be called regularly.
func (c *clock) now() event.Time {
	now, wall, lead := c.mono(), event.TimeOf(c.wall()), c.lead()
	if max(lead-c.ahead, c.ahead-lead) > micros(trustSlack) {
		c.even = now
	}
	c.ahead = lead
	c.tick += micros(now - c.seen)
	c.seen = now
	if wall > c.tick && wall-max(c.tick, c.known) <= micros(trustMost) && now-c.even >= trustTime {
		c.tick = wall
	}
	return min(wall, c.tick)
}

// setToWall sets the clock to the wall clock, on an operator's responsibility.
func (c *clock) setToWall() { c.tick = event.TimeOf(c.wall()) }

func micros(d time.Duration) event.Time { return event.Time(d.Microseconds()) }

// loadClock returns retention's clock as it was left or, before the first retention, set
// to the time of the last append.
func (h *History) loadClock(ctx context.Context) (*clock, error) {
	var tick, last event.Time
	if err := h.file.ViewLog(ctx, `tick, time`, &tick, &last); err != nil {
		return nil, err
	}
	if tick == 0 {
		tick = last
	}
	if tick == 0 {
		tick = event.TimeOf(h.file.Now())
	}
	c := newClock(h.file.Now, h.mono, tick)
	var err error
	c.known, err = h.knownTime(ctx, tick, event.TimeOf(h.file.Now()))
	return c, err
}

// knownTime returns the time of the last event of the log to which there is, from a time on, no
// gap of more than trustMost between the events, or that of one after wall. Damage and dropped
// events are gaps.
func (h *History) knownTime(ctx context.Context, known, wall event.Time) (event.Time, error) {
	for known < wall {
		var next event.Time
		err := h.file.View(ctx, func(tx *sql.Tx) error {
			at, err := rows.PositionAt(ctx, tx, known+micros(trustMost))
			if err == nil || errors.Is(err, dbfile.ErrCorrupt) {
				next, _, _, err = h.tables.LastAt(ctx, tx, at)
			}
			return err
		})
		var dropped *window.NotHeldError
		if err != nil && !errors.As(err, &dropped) && !errors.Is(err, dbfile.ErrCorrupt) {
			return known, err
		}
		if next <= known {
			break
		}
		known = next
	}
	return known, nil
}

// keepTick makes the clock's time durable.
func (h *History) keepTick(ctx context.Context, c *clock) error {
	return h.file.Update(ctx, func(tx *sql.Tx) error { return h.file.UpdateLog(tx, setTick, int64(c.tick)) })
}
