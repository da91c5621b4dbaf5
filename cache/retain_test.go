package cache

import (
	"context"
	"database/sql"
	"errors"
	"fmt"
	"math/rand/v2"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/rstream-dev/rstream/cache/internal/retention"
	"github.com/rstream-dev/rstream/cache/internal/seen"
	"github.com/rstream-dev/rstream/cache/internal/snapshot"
	"github.com/rstream-dev/rstream/event"
	"github.com/rstream-dev/rstream/internal/longtest"
	"github.com/rstream-dev/rstream/window"
)

// retainChild drops as much as it may of a log whose clock is far ahead, and appends in the
// meantime. It prints each step.
func retainChild(path string) error {
	ctx := context.Background()
	seen.HashSpan, seen.MergeBits = 2*event.BlockSize, 1
	db, err := Open(ctx, path, Config{Role: Server})
	if err != nil {
		return err
	}
	defer db.Close()
	r, err := db.newRetainer(ctx, Retention{History: time.Nanosecond})
	if err != nil {
		return err
	}
	r.TrustWall() // the appended events are old now
	retention.StepTime = 500 * time.Microsecond
	steps := 0
	r.Throttle = func(context.Context, time.Duration) error {
		if steps++; steps%8 != 0 {
			return nil
		}
		rs, err := db.Append(ctx, retainedDrafts(os.Getenv(childKeys), steps))
		for i := range rs {
			os.Stdout.Write(append(rs[i].AppendLine(nil), '\n'))
		}
		return err
	}
	for {
		if err := errors.Join(r.Round(ctx), r.Throttle(ctx, 0)); err != nil {
			return err
		}
	}
}

// retainedDrafts returns appends of values that are set, changed and deleted.
func retainedDrafts(keys string, n int) (ds []event.Draft) {
	for i := range 100 {
		d := draft(modelUsers[i%len(modelUsers)], modelPaths[(n+i)%len(modelPaths)], fmt.Sprint(keys, n, " ", i))
		switch {
		case i%10 == 0:
			d.Path = fmt.Sprint("once/", keys, n, i)
		case i%7 == 0:
			d.Type, d.Value = event.Del, nil
		}
		ds = append(ds, d)
	}
	return ds
}

// If retention is killed at any point, the log is right at its horizon and above, knows
// every event that was ever appended, and the next process completes the interrupted work.
func TestKilledRetention(t *testing.T) {
	longtest.Require(t)
	path := filepath.Join(t.TempDir(), "log.db")
	if err := os.WriteFile(path, retainStartFile().bytes, 0o600); err != nil {
		t.Fatal(err)
	}
	all := slices.Clone(retainStartFile().evs)
	for round := range *killRounds / 2 {
		c := startChild(t, "retain", path, fmt.Sprint("round", round, " "))
		c.killAfter(t, 100*(1+rand.IntN(30)), func(line string) {
			if ev, err := event.ParseLine([]byte(line)); err == nil { // otherwise the kill cut it
				all = append(all, ev)
			}
		})
		all = checkKilledRetention(t, path, all, round%2 == 0)
	}
}

// checkKilledRetention returns all events that were ever appended: the acknowledged ones and
// those written when the process was killed.
func checkKilledRetention(t *testing.T, path string, all []event.Event, finish bool) []event.Event {
	t.Helper()
	db := mustOpen(t, path, Config{Role: Server})
	defer db.Close()
	integrity(t, db)
	acked := all[len(all)-1].ID
	all = append(all, readAll(t, db, topics(t, "*"), window.Span{From: acked, To: event.MaxID}, 5000)...)
	horizon, err := db.Horizon(context.Background())
	if err != nil || db.Head() != all[len(all)-1].ID {
		t.Fatalf("the head is %s, %v, want %s", db.Head(), err, all[len(all)-1].ID)
	}
	c := retainCheck{t, db, all, horizon}
	check := func() {
		for _, topic := range topics(t, "*", "alice", "*/posts/1$", "bob/once", "*/once") {
			c.state(topic, horizon)
			c.state(topic, db.Head())
			c.above(topic, window.Span{From: horizon, To: db.Head()})
		}
		c.below()
		c.time(max(horizon, 1))
	}
	check()
	if finish {
		if err := db.Retain(context.Background(), Retention{}); err != nil { // it only completes interrupted work
			t.Fatal(err)
		}
		check()
		c.left()
	}
	checkLookUp(t, db, all)
	t.Logf("%d events, horizon %s", len(all), horizon)
	return all
}

// A disk that is full in the middle of a step leaves a log that is right and continues when
// there is room.
func TestRetainOnFullDisk(t *testing.T) {
	longtest.Require(t)
	start := retainStartFile()
	db := openBytes(t, start.bytes, Config{Role: Server})
	ctx := context.Background()
	r, err := db.newRetainer(ctx, Retention{History: time.Nanosecond})
	if err != nil {
		t.Fatal(err)
	}
	r.Throttle = func(context.Context, time.Duration) error { return nil }
	// There are no pages for the hashes of the first block.
	limit := func(pages string) {
		t.Helper()
		if err := db.file.Update(ctx, func(tx *sql.Tx) error { _, err := tx.Exec(`PRAGMA max_page_count = ` + pages); return err }); err != nil {
			t.Fatal(err)
		}
	}
	limit("1") // the present number of pages
	if err := r.Round(ctx); !errors.Is(err, ErrFull) {
		t.Fatalf("with a full disk: %v", err)
	}
	c := retainCheck{t, db, start.evs, 3 * event.BlockSize}
	c.horizonIs()
	c.state(event.All, c.horizon)
	c.state(event.All, db.Head())
	checkLookUp(t, db, start.evs)
	limit("1000000")
	if err := r.Round(ctx); err != nil {
		t.Fatal(err)
	}
	c.left()
	c.state(event.All, c.horizon)
	checkLookUp(t, db, start.evs)
	integrity(t, db)
}

// fatDrafts returns n appends of 500 bytes each to some storages.
func fatDrafts(key string, n int) (ds []event.Draft) {
	value := []byte(`"` + strings.Repeat("x", 500) + `"`)
	for i := range n {
		d := draft("alice", fmt.Sprint("fat/", i%50), fmt.Sprint(key, i))
		d.Value = value
		ds = append(ds, d)
	}
	return ds
}

// A log with a size limit drops no more than it must, and its file becomes smaller.
func TestRetainMaxBytes(t *testing.T) {
	longtest.Require(t)
	db := openServer(t)
	ctx := context.Background()
	var all []event.Event
	for i := range 3 {
		for _, r := range mustAppend(t, db, fatDrafts(fmt.Sprint(i), event.BlockSize)...) {
			all = append(all, r.Event)
		}
	}
	before, err := db.file.Size(ctx)
	if err != nil {
		t.Fatal(err)
	}
	cfg := Retention{MaxBytes: before.Used() * 11 / 20}
	r, err := db.newRetainer(ctx, cfg)
	if err != nil {
		t.Fatal(err)
	}
	r.Throttle = func(context.Context, time.Duration) error { return nil }
	if err := r.Round(ctx); err != nil {
		t.Fatal(err)
	}
	c := retainCheck{t, db, all, 2 * event.BlockSize}
	c.horizonIs()
	c.left()
	c.state(event.All, c.horizon)
	c.state(event.All, db.Head())
	c.above(event.All, window.Span{From: c.horizon, To: db.Head()})
	checkLookUp(t, db, all)
	integrity(t, db)
	if err := db.Close(); err != nil {
		t.Fatal(err)
	}
	if info, err := os.Stat(db.Path()); err != nil || info.Size() > cfg.MaxBytes || info.Size() < cfg.MaxBytes/2 {
		t.Errorf("the file has %d bytes, %v, of %d", info.Size(), err, cfg.MaxBytes)
	}
}

// A log that cannot drop any more is not changed.
func TestRetainMaxBytesOfState(t *testing.T) {
	db := openServer(t)
	ctx := context.Background()
	mustAppend(t, db, fatDrafts("k", event.BlockSize+10)...)
	r, err := db.newRetainer(ctx, Retention{MaxBytes: 1})
	if err != nil {
		t.Fatal(err)
	}
	if err := r.Round(ctx); err != nil {
		t.Fatal(err)
	}
	if at, err := db.Horizon(ctx); at != event.BlockSize || err != nil {
		t.Errorf("the horizon is %s, %v", at, err)
	}
}

// A value that is renewed while retention looks at it stays: the commit decides.
func TestExpireDecidesInTheCommit(t *testing.T) {
	clock := newClock()
	db := mustOpen(t, filepath.Join(t.TempDir(), "log.db"), Config{Role: Server, Now: clock.now})
	defer db.Close()
	ctx := context.Background()
	rs := mustAppend(t, db, draft("alice", "old", "k"), draft("alice", "renewed", "k"), draft("alice", "ended", "k"))
	var old []retention.Expiry
	err := db.file.Update(ctx, func(tx *sql.Tx) error {
		for i := range rs {
			ev := &rs[i].Event
			storage, err := db.tables.StorageID(tx, ev.User, ev.Path)
			if err != nil {
				return err
			}
			end := event.Expiry(ev)
			old = append(old, retention.Expiry{Storage: storage, ID: ev.ID, Draft: end, Hash: end.Hash()})
		}
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	mustAppend(t, db, draft("alice", "renewed", "k2"), event.Draft{User: "alice", Path: "ended", Type: event.Del, Key: "k"})
	head := db.Head()
	for range 2 { // the second time there is nothing left to do
		if err := (endsValues{db: db}).Expire(ctx, old, []event.Topic{event.All}, head); err != nil {
			t.Fatal(err)
		}
	}
	got := readAll(t, db, topics(t, "*"), window.Span{From: head, To: event.MaxID}, 10)
	want := event.Expiry(&rs[0].Event)
	if len(got) != 1 || got[0].Hash != want.Hash() || got[0].Time < rs[0].Time {
		t.Errorf("appended were %v", got)
	}
	if state := mustState(t, db, event.All, db.Head()); len(state) != 1 || !strings.Contains(state[0], "renewed") {
		t.Errorf("the state is %v", state)
	}
	// Setting the same value again repeats the first append: it stays expired.
	if again := mustAppend(t, db, rs[0].Draft); !again[0].Duplicate {
		t.Error("the value came to life again")
	}
}

// All states below a horizon are dropped except the last, from which those above it are
// folded, even if some of its members are gone by then.
func TestRetainKeepsOneState(t *testing.T) {
	setState(t)
	snapshot.FewStorages = 0
	start := retainStartFile()
	db := openBytes(t, start.bytes, Config{Role: Server})
	ctx := context.Background()
	if err := db.Snapshots().SealStates(ctx, event.All); err != nil {
		t.Fatal(err)
	}
	sealed := snapshotsOf(t, db)
	r, err := db.newRetainer(ctx, Retention{})
	if err != nil {
		t.Fatal(err)
	}
	r.Throttle = func(context.Context, time.Duration) error { return nil }
	horizon := event.ID(2 * event.BlockSize)
	// The last state before the horizon lies a block before it.
	if err := rawExec(db, `DELETE FROM snapshot WHERE at >= ?; DELETE FROM part WHERE snapshot NOT IN (SELECT id FROM snapshot)`, horizon); err != nil {
		t.Fatal(err)
	}
	if err := db.history.MoveHorizon(ctx, horizon); err != nil {
		t.Fatal(err)
	}
	if err := r.Round(ctx); err != nil {
		t.Fatal(err)
	}
	if from, err := db.Snapshots().StateFrom(ctx, event.All, horizon); from != event.BlockSize || err != nil {
		t.Errorf("the state at the horizon begins with that at %s, %v, of %v", from, err, sealed)
	}
	c := retainCheck{t, db, start.evs, horizon}
	c.left()
	c.state(event.All, horizon)
	c.state(event.All, db.Head())
	if err := db.Snapshots().SealStates(ctx, event.All); err != nil {
		t.Fatal(err)
	}
	var at, count int
	if err := db.file.Read.QueryRow(`SELECT at, count FROM snapshot ORDER BY at DESC`).Scan(&at, &count); err != nil {
		t.Fatal(err)
	}
	if want := len(fold(start.evs, event.All, event.ID(at))); at != 3*event.BlockSize || count != want {
		t.Errorf("the state at %d has %d members, want %d", at, count, want)
	}
	if err := db.history.MoveHorizon(ctx, event.ID(at)); err != nil {
		t.Fatal(err)
	}
	if err := r.Round(ctx); err != nil {
		t.Fatal(err)
	}
	if got := snapshotsOf(t, db); len(got) != 1 || got[0] != event.ID(at) {
		t.Errorf("kept are the states at %v", got)
	}
	var parts int
	if err := db.file.Read.QueryRow(`SELECT count(*) FROM part WHERE snapshot NOT IN (SELECT id FROM snapshot)`).Scan(&parts); err != nil || parts > 0 {
		t.Errorf("%d parts belong to no state, %v", parts, err)
	}
	c.horizon = event.ID(at)
	c.state(event.All, db.Head())
}

// snapshotsOf returns the positions of the kept states.
func snapshotsOf(t *testing.T, db *DB) (at []event.ID) {
	t.Helper()
	err := db.file.View(context.Background(), func(tx *sql.Tx) error {
		rows, err := tx.Query(`SELECT at FROM snapshot ORDER BY at`)
		if err != nil {
			return err
		}
		defer rows.Close()
		for rows.Next() {
			var one event.ID
			if err := rows.Scan(&one); err != nil {
				return err
			}
			at = append(at, one)
		}
		return rows.Err()
	})
	if err != nil {
		t.Fatal(err)
	}
	return at
}

// A log that has dropped the event at a position knows no time there, not even that of the
// remaining event before it, and `last` begins at its horizon.
func TestBelowHorizonWhileAsked(t *testing.T) {
	db, ctx := openServer(t), context.Background()
	clock := newClock()
	db.file.Now = clock.now
	mustAppend(t, db, draft("alice", "stays", "k"))
	clock.add(1e9)
	mustAppend(t, db, drafts("alice", "changes", "k", 2*event.BlockSize)...)
	const horizon = 2 * event.BlockSize
	if err := db.RetainOnce(ctx, Retention{MaxBytes: 1}); err != nil {
		t.Fatal(err)
	}
	for _, at := range []event.ID{1, 2, horizon - 1} {
		_, _, err := db.TimeAt(ctx, at)
		wantNotHeld(t, err, window.NotHeldError{After: at, Oldest: horizon, Some: true})
	}
	if got, ok, err := db.TimeAt(ctx, horizon); got != event.TimeOf(clock.now()) || !ok || err != nil {
		t.Errorf("TimeAt the horizon: %s, %v, %v", got, ok, err)
	}
	// The caller has seen the horizon before it moved.
	for _, c := range []struct{ until, want event.ID }{{db.Head(), horizon}, {horizon, horizon}, {horizon - 1, horizon - 1}} {
		if at, err := db.BeforeLast(ctx, topics(t, "*"), 100, event.BlockSize, c.until); at != c.want || err != nil {
			t.Errorf("BeforeLast up to %s = %s, %v, want %s", c.until, at, err, c.want)
		}
	}
}
