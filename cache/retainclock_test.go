package cache

import (
	"context"
	"errors"
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
