package cache

import (
	"context"
	"errors"
	"fmt"
	"path/filepath"
	"testing"
	"time"

	"github.com/rstream-dev/rstream/cache/internal/retention"
	"github.com/rstream-dev/rstream/event"
	"github.com/rstream-dev/rstream/internal/longtest"
	"github.com/rstream-dev/rstream/window"
)

// An agedLog is a log whose values expire after a while, by clocks of the test.
type agedLog struct {
	*testing.T
	path   string
	wall   *clock
	passed time.Duration // by the monotonic clock
	db     *DB
	cfg    Retention
	value  event.Event
}

// newAgedLog returns a log with a value that expires after an age.
func newAgedLog(t *testing.T, age time.Duration) *agedLog {
	l := &agedLog{T: t, path: filepath.Join(t.TempDir(), "log.db"), wall: newClock(), cfg: Retention{TTL: []TTL{{event.All, age}}}}
	l.open()
	t.Cleanup(func() { l.db.Close() })
	l.value = mustAppend(t, l.db, draft("alice", "x", "k"))[0].Event
	return l
}

// open opens the log in what stands for a new process.
func (l *agedLog) open() {
	l.db = mustOpen(l, l.path, Config{Role: Server, Now: l.wall.now})
	l.db.mono = func() time.Duration { return l.passed }
}

func (l *agedLog) wait(d time.Duration) {
	l.wall.add(d)
	l.passed += d
}

func (l *agedLog) retainer() *retention.Retainer {
	l.Helper()
	r, err := l.db.newRetainer(l.Context(), l.cfg)
	if err != nil {
		l.Fatal(err)
	}
	return r
}

func (l *agedLog) round(r *retention.Retainer) {
	l.Helper()
	if err := r.RunOnce(l.Context()); err != nil {
		l.Fatal(err)
	}
}

func (l *agedLog) expired() bool { return l.db.Head() > l.value.ID }

// On a server that is killed again and again, before a value is old, the value expires all
// the same: at most a tenth of its age late for each time.
func TestExpiryOfKilledServer(t *testing.T) {
	for _, age := range []time.Duration{20 * time.Second, 10 * time.Minute, time.Hour} {
		t.Run(age.String(), func(t *testing.T) {
			l := newAgedLog(t, age)
			lives, life := 0, min(age/4, 5*time.Minute)
			late := time.Duration(0)
			for ; !l.expired(); lives++ {
				if lives > 0 {
					kill(l.db)
					l.open()
					late += min(age/10, time.Minute)
				}
				if l.passed > age+late {
					t.Fatalf("it has not expired after %s and %d kills", l.passed, lives)
				}
				r := l.retainer()
				for lived := time.Duration(0); lived < life && !l.expired(); lived += life / 10 {
					l.wait(life / 10)
					l.round(r)
				}
			}
			if l.passed < age || late == 0 {
				t.Errorf("it has expired after %s, and was killed %d times", l.passed, lives-1)
			}
		})
	}
}

// A server that ends by itself loses no time at all.
func TestExpiryOfEndedServer(t *testing.T) {
	const age = time.Minute
	l := newAgedLog(t, age)
	lives := longtest.Size(12, 60)
	for range lives {
		r := l.retainer()
		l.round(r) // it begins
		l.wait(age / time.Duration(lives))
		if l.expired() {
			t.Fatalf("it has expired after %s", l.passed)
		}
		ended, cancel := context.WithCancel(t.Context())
		cancel()
		if err := r.Run(ended); !errors.Is(err, context.Canceled) {
			t.Fatal(err)
		}
		if err := l.db.Close(); err != nil {
			t.Fatal(err)
		}
		l.open()
	}
	if l.round(l.retainer()); !l.expired() {
		t.Errorf("it has not expired after %s", l.passed)
	}
}

// serve serves the log for a while, without retention if cfg keeps everything, and ends.
func (l *agedLog) serve(cfg Retention, d time.Duration) {
	l.Helper()
	l.cfg = cfg
	ctx, cancel := context.WithCancel(l.Context())
	defer cancel()
	r := l.retainer()
	if cfg.None() {
		if err := r.Run(ctx); err != nil {
			l.Fatal(err)
		}
		l.wait(d)
	} else {
		l.round(r)
		l.wait(d)
		cancel()
		if err := r.Run(ctx); !errors.Is(err, context.Canceled) {
			l.Fatal(err)
		}
	}
	if err := l.db.Close(); err != nil {
		l.Fatal(err)
	}
	l.open()
}

// The age of values counts from the first round of a log that was served without retention for
// long, and until then had none.
func TestRetentionAddedLater(t *testing.T) {
	const day = 24 * time.Hour
	l := newAgedLog(t, day)
	cfg := l.cfg
	l.serve(Retention{}, 58*day)
	l.serve(Retention{}, day)
	fresh := mustAppend(t, l.db, draft("alice", "fresh", "k"))[0].Event
	l.cfg = cfg
	r := l.retainer()
	l.round(r)
	if head := l.db.Head(); head != fresh.ID+1 {
		t.Errorf("the head is %s after a round, want the DEL of the first value at %s", head, fresh.ID+1)
	}
	l.wait(day)
	l.round(r)
	if head := l.db.Head(); head != fresh.ID+2 {
		t.Errorf("the head is %s a day later, want the DEL of the second value at %s", head, fresh.ID+2)
	}
}

// If retention had not run for long while the log took events, the wall clock counts after an
// hour. It does not if more than thirty days without an event are among that time: they may be
// a jump.
func TestRetentionAfterLongBreak(t *testing.T) {
	const day = 24 * time.Hour
	for name, c := range map[string]struct {
		without []time.Duration // between appends
		counts  bool
	}{
		"an event every ten days": {[]time.Duration{10 * day, 10 * day, 10 * day, 10 * day, 10 * day, 10 * day}, true},
		"an event after a month":  {[]time.Duration{30 * day, 20 * day}, true},
		"none in the last month":  {[]time.Duration{20 * day, 20 * day, 31 * day}, false},
		"none in the first month": {[]time.Duration{31 * day, day, day}, false},
		"a jump":                  {[]time.Duration{day, 73 * 365 * day, time.Minute}, false},
	} {
		t.Run(name, func(t *testing.T) {
			l := newAgedLog(t, day)
			cfg := l.cfg
			l.serve(Retention{History: 1000 * day}, day/2)
			for i, d := range c.without {
				if i > 0 {
					mustAppend(t, l.db, draft("alice", fmt.Sprint("y/", i), "k"))
				}
				l.serve(Retention{}, d)
			}
			before := l.db.Head()
			l.cfg = cfg
			r := l.retainer()
			l.round(r)
			l.wait(59 * time.Minute)
			l.round(r)
			if head := l.db.Head(); head != before {
				t.Errorf("after less than an hour, the head is %s, want %s", head, before)
			}
			l.wait(time.Minute)
			l.round(r)
			if expired := l.db.Head() > before; expired != c.counts {
				t.Errorf("values have expired after an hour: %v, want %v", expired, c.counts)
			}
		})
	}
}

// Compaction without a rule tells the log the date, too.
func TestCompactKeepsClock(t *testing.T) {
	const day = 24 * time.Hour
	l := newAgedLog(t, day)
	cfg := l.cfg
	l.serve(cfg, time.Minute)
	l.wait(100 * day)
	if err := l.db.compact(t.Context(), Retention{}); err != nil {
		t.Fatal(err)
	}
	l.cfg = cfg
	if l.round(l.retainer()); !l.expired() {
		t.Error("a value of a hundred days ago has not expired")
	}
}

// A clock that jumps to 2099 and back destroys nothing, whether the log is served at that
// time or not, and old events are dropped when they have really expired.
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
	if err := r.Round(context.Background()); err != nil {
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
