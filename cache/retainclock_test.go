package cache

import (
	"context"
	"path/filepath"
	"testing"
	"time"

	"github.com/rstream-dev/rstream/event"
	"github.com/rstream-dev/rstream/window"
)

// What retention's clock shows, in steps of time that passes and a wall clock that is
// ahead of it.
func TestRetainClock(t *testing.T) {
	const day = 24 * time.Hour
	far := 73 * 365 * day
	type step struct{ passes, ahead, want time.Duration } // want is since the start
	for name, steps := range map[string][]step{
		"as it should be":              {{0, 0, 0}, {time.Minute, 0, time.Minute}, {day, 0, day + time.Minute}},
		"corrected a little":           {{time.Minute, time.Second, time.Minute}, {time.Hour, 2 * time.Second, time.Hour + time.Minute + 2*time.Second}},
		"far ahead and back":           {{0, far, 0}, {time.Hour, far, time.Hour}, {day, far, day + time.Hour}, {time.Minute, 0, day + time.Hour + time.Minute}},
		"back and right again":         {{time.Minute, -far, time.Minute - far}, {time.Minute, 0, 2 * time.Minute}},
		"a day ahead for half an hour": {{time.Minute, day, time.Minute}, {30 * time.Minute, day, 31 * time.Minute}, {time.Hour, 0, 91 * time.Minute}},
		"a day that nobody saw pass":   {{time.Minute, day, time.Minute}, {time.Hour, day, time.Hour + time.Minute + day}, {time.Minute, day, time.Hour + 2*time.Minute + day}},
		"it is set all the time":       {{time.Minute, day, time.Minute}, {40 * time.Minute, 2 * day, 41 * time.Minute}, {40 * time.Minute, day, 81 * time.Minute}},
		"too long to be believed":      {{time.Minute, 31 * day, time.Minute}, {2 * time.Hour, 31 * day, 2*time.Hour + time.Minute}},
	} {
		t.Run(name, func(t *testing.T) {
			start := newClock().at
			var passed, ahead time.Duration
			c := newRetainClock(func() time.Time { return start.Add(passed + ahead) }, func() time.Duration { return passed }, event.TimeOf(start))
			for i, s := range steps {
				passed, ahead = passed+s.passes, s.ahead
				if got := c.now().Time().Sub(start); got != s.want {
					t.Errorf("step %d: %s since the start, want %s", i, got, s.want)
				}
			}
		})
	}
}

// A clock that jumps to 2099 and back destroys nothing, be it while the log is served or
// between; and what is old by then goes when its time has come.
func TestRetainWhileClockJumps(t *testing.T) {
	clock, passed := newClock(), time.Duration(0)
	path := filepath.Join(t.TempDir(), "log.db")
	var db *DB
	open := func() {
		db = mustOpen(t, path, Config{Role: Server, Now: clock.now})
		db.mono = func() time.Duration { return passed }
	}
	open()
	defer func() { db.Close() }()
	cfg := Retention{History: time.Hour, TTL: []TTL{{event.All, time.Hour}}}
	retain := func() {
		t.Helper()
		if err := db.RetainOnce(context.Background(), cfg); err != nil {
			t.Fatal(err)
		}
	}
	wait := func(d time.Duration) {
		clock.add(d)
		passed += d
	}
	mustAppend(t, db, drafts("alice", "x", "k", event.BlockSize)...)
	rs := mustAppend(t, db, draft("alice", "y", "k"))
	head := db.Head()
	retain()
	right := clock.now()
	for range 2 {
		clock.at = time.Date(2099, 1, 1, 0, 0, 0, 0, time.UTC)
		retain()
		if err := db.Close(); err != nil {
			t.Fatal(err)
		}
		open()
		retain()
		wait(time.Minute)
		retain()
		right = right.Add(time.Minute)
		clock.at = right
		retain()
	}
	if at, err := db.Horizon(context.Background()); at != 0 || err != nil || db.Head() != head {
		t.Fatalf("the horizon is %s, %v, the head %s", at, err, db.Head())
	}
	r, err := db.newRetainer(context.Background(), cfg)
	if err != nil {
		t.Fatal(err)
	}
	wait(time.Hour)
	if err := r.round(context.Background()); err != nil {
		t.Fatal(err)
	}
	if at, err := db.Horizon(context.Background()); at != event.BlockSize || err != nil {
		t.Errorf("the horizon is %s, %v", at, err)
	}
	ends := readAll(t, db, topics(t, "*"), window.Span{From: head, To: event.MaxID}, 10)
	if want := event.Expiry(&rs[0].Event); len(ends) != 2 || ends[1].Hash != want.Hash() {
		t.Errorf("ended were %v", ids(ends))
	}
}
