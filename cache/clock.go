package cache

import (
	"context"
	"time"

	"github.com/rstream-dev/rstream/event"
)

// ClockNews says that the wall clock cannot be right, or was not. One of its members is
// not zero.
type ClockNews struct {
	// Jumped is how much more time the wall clock has shown to pass than has
	// passed: it was set, or the machine slept.
	Jumped time.Duration
	// Ahead is how far the log's last event lies ahead of the wall clock. Times
	// never go back, so new events get that time until the clock reaches it.
	Ahead time.Duration
}

const (
	// clockSlack is how far clocks may be apart before it is told.
	clockSlack = time.Minute
	clockTick  = 10 * time.Second
)

// A clockWatch compares the wall clock with the time that passes and with the last
// event.
type clockWatch struct {
	wall  func() time.Time
	mono  func() time.Duration
	lead  event.Time // of the wall clock over mono, when it was last looked at
	ahead bool       // it was told that the last event is
}

func newClockWatch(wall func() time.Time, mono func() time.Duration) *clockWatch {
	return &clockWatch{wall: wall, mono: mono, lead: event.TimeOf(wall()) - event.Time(mono().Microseconds())}
}

// look tells each jump once, and once that the last event is ahead, until it is no
// longer.
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

// WatchClock calls tell when the wall clock jumps ahead and when the log is ahead of
// it, each time once, until ctx ends.
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

// Clock returns how far the log's last event is ahead of the wall clock, 0 if it is
// not, and how often WatchClock has seen the clock jump ahead.
func (db *DB) Clock() (ahead time.Duration, jumps int64) {
	ahead = duration(event.Time(db.lastTime.Load()) - event.TimeOf(db.file.Now()))
	return max(ahead, 0), db.clockJumps.Load()
}

// loadTime reads the time of the log's last event.
func (db *DB) loadTime(ctx context.Context) error {
	var last int64
	if err := db.file.ViewRow(ctx, `SELECT time FROM log`, nil, &last); err != nil {
		return err
	}
	db.lastTime.Store(last)
	return nil
}
