package cache

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"testing"

	"github.com/rstream-dev/rstream/event"
	"github.com/rstream-dev/rstream/window"
)

// Events imported into the copy of a restored log are carried over: up to the fork as
// candidates, except for impossible ones, and the rest by their hashes.
func TestMigrateImported(t *testing.T) {
	ctx := context.Background()
	setImportChunk(t, 3)
	old, db := openClient(t), openClient(t)
	var evs, foreign []event.Event
	for id := event.ID(1); id <= 20; id++ {
		evs = append(evs, madeEvent("alice", fmt.Sprint(id%2), id))
		foreign = append(foreign, forged(madeEvent("bob", "x", id)))
	}
	if _, err := old.Imports().AddCandidates(ctx, evs); err != nil {
		t.Fatal(err)
	}
	if _, err := old.Imports().AddForeign(ctx, foreign); err != nil {
		t.Fatal(err)
	}
	store(t, db, "alice", evs[0], forged(evs[1])) // the log has another event there
	for range 2 {                                 // a repetition changes nothing
		if damaged, err := db.MigrateImported(ctx, old, 15); err != nil || damaged {
			t.Fatal(damaged, err)
		}
	}
	whole := window.Span{To: event.MaxID}
	var got []event.ID
	for _, ev := range candidates(t, db, event.All, whole) {
		if string(ev.Line()) != string(evs[ev.ID-1].Line()) {
			t.Errorf("candidate %s has become %s", evs[ev.ID-1].Line(), ev.Line())
		}
		got = append(got, ev.ID)
	}
	if want := []event.ID{3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15}; !slices.Equal(got, want) {
		t.Errorf("candidates %v, want %v", got, want)
	}
	hashes := foreignHashes(t, db, event.All)
	for _, ev := range append(foreign, evs[15:]...) {
		if !slices.Contains(hashes, ev.Hash) {
			t.Errorf("%s is not known by its hash", ev.Line())
		}
	}
	if len(hashes) != 25 {
		t.Errorf("%d foreign events, want 25", len(hashes))
	}
}

// Imported events that are damaged are left out, and the others are carried over.
func TestMigrateDamagedImported(t *testing.T) {
	ctx := context.Background()
	setImportChunk(t, 2)
	for _, change := range []string{`UPDATE candidate SET line = substr(line, 2) WHERE id = 3`,
		`UPDATE candidate SET line = substr(line, 2) WHERE id = 18`,
		`UPDATE foreign_event SET line = substr(line, 2) WHERE hash = (SELECT min(hash) FROM foreign_event)`} {
		old, db := openClient(t), openClient(t)
		var evs, foreign []event.Event
		for id := event.ID(1); id <= 20; id++ {
			evs = append(evs, madeEvent("alice", "x", id))
			foreign = append(foreign, madeEvent("bob", "x", id))
		}
		_, err := old.Imports().AddCandidates(ctx, evs)
		if err == nil {
			_, err = old.Imports().AddForeign(ctx, foreign)
		}
		if err := errors.Join(err, rawExec(old, change)); err != nil {
			t.Fatal(err)
		}
		if damaged, err := db.MigrateImported(ctx, old, 15); err != nil || !damaged {
			t.Errorf("%s: damaged: %t, %v", change, damaged, err)
		}
		n := len(candidates(t, db, event.All, window.Span{To: event.MaxID})) + len(foreignHashes(t, db, event.All))
		if n != len(evs)+len(foreign)-1 {
			t.Errorf("%s: %d events were carried over", change, n)
		}
	}
}

// A draft is copied once, even if it was removed here since. Drafts queued later are copied, too.
func TestMigrateOutboxOnce(t *testing.T) {
	ctx := context.Background()
	old, db := openClient(t), openClient(t)
	queue := func(keys ...string) {
		t.Helper()
		for _, key := range keys {
			if _, err := old.Outbox().Queue(ctx, []event.Draft{draft("alice", "x", key)}); err != nil {
				t.Fatal(err)
			}
		}
	}
	check := func(what string, want ...string) {
		t.Helper()
		if err := db.MigrateOutbox(ctx, old); err != nil {
			t.Fatal(err)
		}
		queued, err := db.Outbox().List(ctx, 0, 10)
		var keys []string
		for i := range queued {
			keys = append(keys, queued[i].Key)
		}
		if err != nil || !slices.Equal(keys, want) {
			t.Errorf("%s: the outbox has %q, %v, want %q", what, keys, err, want)
		}
	}
	queue("a", "b")
	check("at first", "a", "b")
	if _, err := db.Outbox().Discard(ctx, []int64{1}); err != nil {
		t.Fatal(err)
	}
	check("after one was dropped", "b")
	queue("c")
	check("with one more", "b", "c")
	for _, want := range []bool{false, true} {
		if done, err := db.MigratedFrom(ctx, "SOMELOG"); done != want || err != nil {
			t.Errorf("migrated: %t, %v, want %t", done, err, want)
		}
		if err := db.SetMigrated(ctx, "SOMELOG"); err != nil {
			t.Fatal(err)
		}
	}
}
