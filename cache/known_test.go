package cache

import (
	"context"
	"crypto/sha256"
	"database/sql"
	"fmt"
	"math/rand/v2"
	"testing"

	"github.com/rstream-dev/rstream/cache/internal/seen"
	"github.com/rstream-dev/rstream/event"
	"github.com/rstream-dev/rstream/internal/longtest"
	"github.com/rstream-dev/rstream/internal/testfile"
)

// checkLookUp checks that the log knows the hashes of evs and no others.
func checkLookUp(t fataler, db *DB, evs []event.Event) {
	t.Helper()
	hashes := []event.Hash{sha256.Sum256(nil), {}, {255}}
	for i := range evs {
		hashes = append(hashes, evs[i].Hash)
	}
	err := db.file.View(context.Background(), func(tx *sql.Tx) error {
		ids, err := seen.LookUp(tx, hashes)
		if err != nil {
			return err
		}
		for i := range evs {
			if ids[evs[i].Hash] != evs[i].ID {
				t.Fatalf("event %s is %s by its hash", evs[i].ID, ids[evs[i].Hash])
			}
		}
		if len(ids) != len(evs) {
			t.Fatalf("%d hashes are known, want %d", len(ids), len(evs))
		}
		return nil
	})
	if err != nil {
		t.Fatalf("%v", err)
	}
}

// countRuns counts the runs of hashes for which a condition holds.
func countRuns(t *testing.T, db *DB, where string) (n int) {
	t.Helper()
	if err := db.file.ViewRow(context.Background(), `SELECT count(*) FROM run WHERE `+where, nil, &n); err != nil {
		t.Fatal(err)
	}
	return n
}

// A log never appends an event twice, however often it is killed and whichever COMMIT fails
// while its runs are merged.
func TestKnownForEver(t *testing.T) {
	alone(t)
	setHashSpan(t, event.BlockSize)
	path := t.TempDir() + "/log.db"
	db := mustOpen(t, path, Config{Role: Server})
	defer func() { db.Close() }()
	var all []event.Event
	merged := false
	blocks := 3
	if longtest.Enabled() {
		blocks = 7
	}
	for round := 0; len(all) < blocks*event.BlockSize; round++ {
		switch rand.IntN(4) {
		case 0:
			kill(db)
			db = mustOpen(t, path, Config{Role: Server})
		case 1:
			failCommit(db, rand.IntN(2) == 0)
			db.Append(context.Background(), drafts("bob", "lost", fmt.Sprint(round), 500))
			if n := int(db.Head()); n > len(all) {
				for _, r := range mustAppend(t, db, drafts("bob", "lost", fmt.Sprint(round), 500)...) {
					all = append(all, r.Event)
				}
			}
		}
		for _, r := range mustAppend(t, db, drafts("alice", "x", fmt.Sprint(round), 1+rand.IntN(3000))...) {
			if r.Duplicate || r.ID != event.ID(len(all)+1) {
				t.Fatalf("event %d is %s, known %v", len(all)+1, r.ID, r.Duplicate)
			}
			all = append(all, r.Event)
		}
		merged = merged || countRuns(t, db, `target IS NOT NULL`) > 0
		checkKnownAgain(t, db, all, 20)
	}
	if n := countRuns(t, db, `TRUE`); !merged || n > 12 {
		t.Errorf("merged: %v; there are %d runs", merged, n)
	}
	checkKnownAgain(t, db, all, 1000)
	checkLookUp(t, db, all)
	integrity(t, db)
}

// checkKnownAgain appends some events again.
func checkKnownAgain(t *testing.T, db *DB, all []event.Event, n int) {
	t.Helper()
	var ds []event.Draft
	var want []event.ID
	for range n {
		ev := all[rand.IntN(len(all))]
		ds, want = append(ds, ev.Draft), append(want, ev.ID)
	}
	for i, r := range mustAppend(t, db, ds...) {
		if !r.Duplicate || r.ID != want[i] {
			t.Fatalf("event %s again is %s, known %v", want[i], r.ID, r.Duplicate)
		}
	}
}

// makeOld gives a file the schema of the time before runs.
func makeOld(t *testing.T, db *DB, evs []event.Event) {
	t.Helper()
	err := db.file.Update(context.Background(), func(tx *sql.Tx) error {
		if _, err := tx.Exec(`DELETE FROM run; DELETE FROM guard; DELETE FROM slab; UPDATE log SET hashed = next - 1, salt = 0`); err != nil {
			return err
		}
		if err := testfile.SumLog(tx); err != nil {
			return err
		}
		for i := range evs {
			if _, err := tx.Exec(`INSERT INTO taken (hash, id) VALUES (?, ?)`, evs[i].Hash[:], int64(evs[i].ID)); err != nil {
				return err
			}
		}
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
}

// An old file becomes a new one when it is opened.
func TestConvertTaken(t *testing.T) {
	longtest.Require(t)
	setHashSpan(t, event.BlockSize)
	path := t.TempDir() + "/log.db"
	db := mustOpen(t, path, Config{Role: Server})
	var all []event.Event
	for _, r := range mustAppend(t, db, drafts("alice", "x", "k", 5000)...) {
		all = append(all, r.Event)
	}
	makeOld(t, db, all)
	kill(db)
	db = mustOpen(t, path, Config{Role: Server})
	defer db.Close()
	if n := countRuns(t, db, `TRUE`); n != 1 {
		t.Errorf("there are %d runs", n)
	}
	checkKnownAgain(t, db, all, 500)
	checkLookUp(t, db, all)
	for _, r := range mustAppend(t, db, drafts("alice", "x", "l", 2*event.BlockSize)...) {
		all = append(all, r.Event)
	}
	checkKnownAgain(t, db, all, 500)
	checkLookUp(t, db, all)
}
