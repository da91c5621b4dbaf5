package cache

import (
	"context"
	"time"

	"github.com/rstream-dev/rstream/event"
)

// ClockNews reports that the wall clock is, or was, wrong. One of its fields is not zero.
type ClockNews struct {
	// Jumped is by how much the wall clock has advanced more than real time: it was set,
	// or the machine slept.
	Jumped time.Duration
	// Ahead is how far the log's last event is ahead of the wall clock. Times never go
	// back, so new events get that time until the clock reaches it.
	Ahead time.Duration
}

const (
	// clockSlack is the difference between clocks that is reported.
	clockSlack = time.Minute
	clockTick  = 10 * time.Second
)

// A clockWatch compares the wall clock with monotonic time and with the time of the last
// event.
type clockWatch struct {
	wall  func() time.Time
	mono  func() time.Duration
	lead  event.Time // of the wall clock over mono, at the last look
	ahead bool       // it was reported that the last event is ahead
}

func newClockWatch(wall func() time.Time, mono func() time.Duration) *clockWatch {
	return &clockWatch{wall: wall, mono: mono, lead: event.TimeOf(wall()) - event.Time(mono().Microseconds())}
}

// look reports each jump once, and once that the last event is ahead, until it no longer
// is.
func (c *clockWatch) look(last event.Time, tell func(ClockNews)) {
	now := event.TimeOf(c.wall())
	lead := now - event.Time(c.mono().Microseconds())
	if jumped := duration(lead - c.lead); jumped > clockSlack {
		tell(ClockNews{Jumped: jumped})
	}
	c.lead = lead
	ahead := duration(last - now)
	if ahead > clockSlack && !c.ahead {
		tell(ClockNews{Ahead: ahead})
	}
	c.ahead = ahead > clockSlack
}

func duration(t event.Time) time.Duration { return time.Duration(t) * time.Microsecond }

// WatchClock calls tell when the wall clock jumps ahead and when the log is ahead of it,
// once for each time, until ctx ends.
func (db *DB) WatchClock(ctx context.Context, tell func(ClockNews)) {
	watch := newClockWatch(db.file.Now, db.mono)
	tick := time.NewTicker(clockTick)
	defer tick.Stop()
	for {
		watch.look(event.Time(db.lastTime.Load()), func(news ClockNews) {
			if news.Jumped > 0 {
				db.clockJumps.Add(1)
			}
			tell(news)
		})
		select {
		case <-tick.C:
		case <-ctx.Done():
			return
		}
	}
}

// Clock returns how far the log's last event is ahead of the wall clock, 0 if it is not,
// and how often WatchClock has seen the clock jump ahead.
func (db *DB) Clock() (ahead time.Duration, jumps int64) {
	ahead = duration(event.Time(db.lastTime.Load()) - event.TimeOf(db.file.Now()))
	return max(ahead, 0), db.clockJumps.Load()
}

// loadTime reads the time of the log's last event.
func (db *DB) loadTime(ctx context.Context) error {
	var last int64
	if err := db.file.ViewLog(ctx, `time`, &last); err != nil {
		return err
	}
	db.lastTime.Store(last)
	return nil
}
