package cache

import (
	"context"
	"path/filepath"
	"testing"
	"time"

	"github.com/rstream-dev/rstream/event"
	"github.com/rstream-dev/rstream/window"
)

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
