package cache

import (
	"context"
	"fmt"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/rstream-dev/rstream/cache/internal/retention"
	"github.com/rstream-dev/rstream/cache/internal/snapshot"
	"github.com/rstream-dev/rstream/event"
	"github.com/rstream-dev/rstream/window"
)

// A time between two windows resolves to no known position, from either side.
func TestStateTimeInHole(t *testing.T) {
	db := openClient(t)
	for _, span := range []window.Span{{From: 0, To: 10}, {From: 20, To: 30}} {
		l := mustClaim(t, db, "alice", span.From, span.To)
		mustApply(t, l, span.To, madeEvent("alice", "x", span.From+1), madeEvent("alice", "y", span.To-1))
		mustDo(t, l.Commit)
	}
	at := func(id event.ID) event.Time { return madeEvent("alice", "x", id).Time }
	for _, c := range []struct {
		time event.Time
		want event.ID
		ok   bool
	}{{at(1), 1, true}, {at(5), 1, true}, {at(9), 9, false}, {at(15), 9, false}, {at(21) - 1, 9, false}, {at(21), 21, true}, {at(25), 21, true}} {
		got, ok, err := db.Snapshots().StateTime(context.Background(), topics(t, "alice")[0], c.time)
		if err != nil || ok != c.ok || got != c.want {
			t.Errorf("StateTime(%s) = %s, %v, %v, want %s, %v", c.time, got, ok, err, c.want, c.ok)
		}
	}
}

// The state at a position does not change when the horizon reaches it and a DEL there is
// dropped, whether the type of the DEL was known before or not.
func TestStateWhileHorizonComes(t *testing.T) {
	t.Run("known", func(t *testing.T) { testStateWhileHorizonComes(t, 0, 1, 10, 7) })
	// The DEL is found by its posting, and its line would be read with the second megabyte.
	t.Run("unknown", func(t *testing.T) { testStateWhileHorizonComes(t, 500, 500, 400, 3500) })
}

func testStateWhileHorizonComes(t *testing.T, few, chunk, values, length int) {
	setState(t)
	snapshot.FewStorages, snapshot.LinesBytes = few, 0
	setStorageChunk(t, chunk)
	db := openServer(t)
	ds := drafts("alice", "changes", "k", event.BlockSize-values-1)
	for i := range values {
		d := draft("bob", fmt.Sprintf("%04d", i), "k")
		d.Value = []byte(`"` + strings.Repeat("x", length) + `"`)
		ds = append(ds, d)
	}
	end := draft("bob", fmt.Sprintf("%04d", values-1), "end")
	end.Type, end.Value = event.Del, nil
	ds = append(ds, end)
	rs := mustAppend(t, db, append(ds, drafts("alice", "changes", "later", 10)...)...)
	evs := make([]event.Event, len(rs))
	for i := range rs {
		evs[i] = rs[i].Event
	}
	const at = event.BlockSize
	want := fold(evs, event.All, at)
	var got []string
	err := db.State(context.Background(), event.All, at, func(ev *event.Event) error {
		if got = append(got, string(ev.Line())); len(got) > 1 {
			return nil
		}
		return db.RetainOnce(context.Background(), Retention{MaxBytes: 1})
	})
	if horizon, herr := db.Horizon(context.Background()); horizon != at || herr != nil {
		t.Fatalf("the horizon is %s, %v", horizon, herr)
	}
	if err != nil || !slices.Equal(got, want) {
		t.Errorf("the state is %d events, %v, want %d", len(got), err, len(want))
	}
	checkState(t, db, evs, event.All, at)
}

// The positions of times do not move when the events around the horizon are dropped.
func TestTimesAcrossHorizon(t *testing.T) {
	alone(t)
	db, ctx, clock := openServer(t), context.Background(), newClock()
	db.file.Now = clock.now
	mustAppend(t, db, draft("alice", "stays", "k"))
	clock.add(time.Hour)
	mustAppend(t, db, drafts("alice", "changes", "k", event.BlockSize-2)...)
	clock.add(time.Hour)
	end := draft("alice", "changes", "last of the block")
	end.Type, end.Value = event.Del, nil // which is dropped with its block
	mustAppend(t, db, end)
	last := clock.now()
	clock.add(time.Hour)
	mustAppend(t, db, drafts("alice", "changes", "later", 5)...)
	times := []time.Time{last, last.Add(time.Minute), clock.now().Add(-1), clock.now()}
	position := func(at time.Time) event.ID {
		id, err := db.PositionAt(ctx, event.TimeOf(at))
		if err != nil {
			t.Fatal(err)
		}
		return id
	}
	var before []event.ID
	for _, at := range times {
		before = append(before, position(at))
	}
	if want := []event.ID{event.BlockSize, event.BlockSize, event.BlockSize, event.BlockSize + 5}; !slices.Equal(before, want) {
		t.Fatalf("the positions are %v, want %v", before, want)
	}
	r, err := db.newRetainer(ctx, Retention{})
	if err != nil {
		t.Fatal(err)
	}
	r.Throttle = retention.NoThrottle
	if err := db.history.MoveHorizon(ctx, event.BlockSize); err != nil {
		t.Fatal(err)
	}
	check := func(when string) {
		t.Helper()
		for i, at := range times {
			if got := position(at); got != before[i] {
				t.Errorf("%s, %s is position %s, want %s", when, at, got, before[i])
			}
		}
		if got, ok, err := db.TimeAt(ctx, event.BlockSize); got != event.TimeOf(last) || !ok || err != nil {
			t.Errorf("%s, the horizon is of %s, %v, %v, want %s", when, got, ok, err, last)
		}
	}
	check("before anything is dropped")
	// The next append hides that the last event of the block is gone.
	if err := r.Round(ctx); err != nil {
		t.Fatal(err)
	}
	clock.add(time.Hour)
	mustAppend(t, db, drafts("alice", "changes", "filling", event.BlockSize)...)
	if err := r.Round(ctx); err != nil {
		t.Fatal(err)
	}
	check("afterwards")
}

// After each transaction that drops a part of a block, the states at the horizon and above
// are right. In particular, no value reappears because its DEL was dropped first.
func TestStateWhileBlockIsDropped(t *testing.T) {
	alone(t)
	setState(t)
	db, ctx := openServer(t), context.Background()
	step, most := retention.StepTime, retention.MaxDropPages
	retention.StepTime, retention.MaxDropPages = 0, 4
	t.Cleanup(func() { retention.StepTime, retention.MaxDropPages = step, most })
	paths := strings.Fields("a b c d e f g h i j")
	var ds []event.Draft
	put := func(names []string, key string, del bool) {
		for _, path := range names {
			d := draft("bob", path, key)
			if del {
				d.Type, d.Value = event.Del, nil
			}
			ds = append(ds, d)
		}
	}
	put(paths, "first", false)
	ds = append(ds, drafts("alice", "fill", "k", event.BlockSize-18)...)
	put(paths[:5], "end", true)
	put(paths[2:4], "again", false)
	put(paths[3:4], "again", true)
	put(paths[5:], "later", false)
	evs := make([]event.Event, 0, len(ds))
	for _, r := range mustAppend(t, db, ds...) {
		evs = append(evs, r.Event)
	}
	r, err := db.newRetainer(ctx, Retention{})
	if err != nil {
		t.Fatal(err)
	}
	const horizon = event.BlockSize
	steps := 0
	r.Throttle = func(context.Context, time.Duration) error {
		steps++
		for _, snapshot.FewStorages = range []int{0, 256} { // events that are scanned, and those that postings name
			checkState(t, db, evs, topics(t, "bob")[0], horizon)
		}
		return nil
	}
	if err := db.history.MoveHorizon(ctx, horizon); err != nil {
		t.Fatal(err)
	}
	if err := r.Round(ctx); err != nil {
		t.Fatal(err)
	}
	if steps < 20 {
		t.Errorf("it took %d transactions", steps)
	}
	checkState(t, db, evs, event.All, horizon)
}

// The horizon never passes the last posting: events below it are found by postings.
func TestHorizonStaysBehindPostings(t *testing.T) {
	db := openServer(t)
	mustAppend(t, db, drafts("alice", "x", "k", 10)...)
	if err := db.history.MoveHorizon(context.Background(), 5); err != nil {
		t.Fatal(err)
	}
	if at, err := db.Horizon(context.Background()); at != event.Beginning || err != nil {
		t.Errorf("the horizon is %s, %v", at, err)
	}
}

// A server knows the horizon without its file, and reads the file after a transaction that may
// or may not have moved it.
func TestHorizonInMemory(t *testing.T) {
	db, ctx := openServer(t), context.Background()
	mustAppend(t, db, drafts("alice", "x", "k", 2*event.BlockSize+1)...)
	check := func(want event.ID, known bool) {
		t.Helper()
		span, err := db.logWindow(ctx)
		if err != nil || span.From != want {
			t.Errorf("in the file the horizon is %s, %v, want %s", span.From, err, want)
		}
		if at, ok := db.tables.Horizon.Get(); ok != known || ok && at != want {
			t.Errorf("in memory it is %s, %v, want %s, %v", at, ok, want, known)
		}
		if at, err := db.Horizon(ctx); err != nil || at != want {
			t.Errorf("Horizon = %s, %v, want %s", at, err, want)
		}
	}
	check(event.Beginning, true)
	mustDo(t, func(ctx context.Context) error { return db.history.MoveHorizon(ctx, event.BlockSize) })
	check(event.BlockSize, true)
	mustExec(t, db, `CREATE TRIGGER fail BEFORE UPDATE OF horizon ON log BEGIN SELECT raise(ABORT, 'no'); END`)
	if err := db.history.MoveHorizon(ctx, 2*event.BlockSize); err == nil {
		t.Error("MoveHorizon has moved the horizon")
	}
	check(event.BlockSize, false)
	mustExec(t, db, `DROP TRIGGER fail`)
	mustDo(t, func(ctx context.Context) error { return db.history.MoveHorizon(ctx, 2*event.BlockSize) })
	check(2*event.BlockSize, true)
}
