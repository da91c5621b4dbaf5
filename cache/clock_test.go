package cache

import (
	"context"
	"fmt"
	"path/filepath"
	"slices"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/rstream-dev/rstream/event"
)

// A jumpingClock is a wall clock that can be set.
type jumpingClock struct {
	mu  sync.Mutex
	set time.Duration
}

func (c *jumpingClock) now() time.Time {
	c.mu.Lock()
	defer c.mu.Unlock()
	return time.Now().Add(c.set)
}

func (c *jumpingClock) jump(d time.Duration) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.set += d
}

func TestClockWatch(t *testing.T) {
	const hour = time.Hour
	for name, c := range map[string]struct {
		jump []time.Duration // of the wall clock, ten seconds apart
		last time.Duration   // the last event's time, against the first look
		want []string
	}{
		"even":               {make([]time.Duration, 9), 0, nil},
		"slow drift":         {slices.Repeat([]time.Duration{clockSlack / 2}, 9), 0, nil},
		"one jump":           {[]time.Duration{0, hour, 0, 0}, 0, []string{"jumped 1h0m0s"}},
		"two jumps":          {[]time.Duration{hour, 0, 2 * hour}, 0, []string{"jumped 1h0m0s", "jumped 2h0m0s"}},
		"there and back":     {[]time.Duration{hour, -hour, 0}, 0, []string{"jumped 1h0m0s"}},
		"back":               {[]time.Duration{-hour, 0}, 0, []string{"ahead 59m50s"}},
		"back and there":     {[]time.Duration{-hour, 0, hour}, 0, []string{"ahead 59m50s", "jumped 1h0m0s"}},
		"the log is ahead":   {make([]time.Duration, 9), hour, []string{"ahead 1h0m0s"}},
		"it is reached":      {[]time.Duration{0, hour, -hour}, hour, []string{"ahead 1h0m0s", "jumped 1h0m0s", "ahead 59m30s"}},
		"a second of a jump": {[]time.Duration{clockSlack}, 0, nil},
	} {
		t.Run(name, func(t *testing.T) {
			wall, mono := time.Date(2026, 11, 28, 12, 0, 0, 0, time.UTC), time.Duration(0)
			watch := newClockWatch(func() time.Time { return wall }, func() time.Duration { return mono })
			last := event.TimeOf(wall.Add(c.last))
			var got []string
			tell := func(n ClockNews) {
				if n.Jumped > 0 {
					got = append(got, fmt.Sprint("jumped ", n.Jumped))
				} else {
					got = append(got, fmt.Sprint("ahead ", n.Ahead))
				}
			}
			watch.look(last, tell)
			for _, jump := range c.jump {
				wall, mono = wall.Add(10*time.Second+jump), mono+10*time.Second
				watch.look(last, tell)
			}
			if !slices.Equal(got, c.want) {
				t.Errorf("told were %q, want %q", got, c.want)
			}
		})
	}
}

// A log reports how far its clock is ahead: events stamped by a clock that ran ahead keep
// the log ahead, and each jump counts once.
func TestWatchClock(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var clock jumpingClock
		db := mustOpen(t, filepath.Join(t.TempDir(), "x.db"), Config{Role: Server, Now: clock.now})
		defer db.Close()
		mustAppend(t, db, draft("alice", "x", "1"))
		ctx, stop := context.WithCancel(context.Background())
		news := make(chan ClockNews, 10)
		done := make(chan struct{})
		go func() {
			defer close(done)
			db.WatchClock(ctx, func(n ClockNews) { news <- n })
		}()
		const years = 70 * 365 * 24 * time.Hour
		check := func(what string, jumps int64, want ...ClockNews) {
			t.Helper()
			time.Sleep(2 * clockTick) // of the bubble's clock
			synctest.Wait()
			for _, w := range want {
				select {
				case got := <-news:
					if got.Jumped.Round(clockSlack) != w.Jumped || got.Ahead.Round(clockSlack) != w.Ahead {
						t.Errorf("%s: told is %v, want %v", what, got, w)
					}
				default:
					t.Errorf("%s: nothing is told", what)
				}
			}
			if len(news) > 0 {
				t.Errorf("%s: told is also %v", what, <-news)
			}
			if _, n := db.Clock(); n != jumps {
				t.Errorf("%s: %d jumps, want %d", what, n, jumps)
			}
		}
		check("at first", 0)
		clock.jump(years)
		check("after a jump", 1, ClockNews{Jumped: years})
		mustAppend(t, db, draft("alice", "x", "2"))
		clock.jump(-years)
		check("back again", 1, ClockNews{Ahead: years})
		if ahead, _ := db.Clock(); ahead.Round(clockSlack) != years {
			t.Errorf("the log is ahead by %s", ahead)
		}
		rs := mustAppend(t, db, draft("alice", "x", "3"))
		if rs[0].Time.Time().Year() < 2060 {
			t.Errorf("the time went back to %s", rs[0].Time)
		}
		check("later", 1)
		stop()
		<-done
	})
}
