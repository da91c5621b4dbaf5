package cache

import (
	"bytes"
	"context"
	"crypto/sha256"
	"database/sql"
	"fmt"
	"testing"

	"github.com/rstream-dev/rstream/cache/internal/rows"
	"github.com/rstream-dev/rstream/event"
)

// twoRuns is a log with two runs of n hashes each, which are to be merged. They belong to no
// events.
func twoRuns(t *testing.T, n int) (db *DB, hashes []event.Hash) {
	t.Helper()
	setHashSpan(t, event.BlockSize)
	db = openServer(t)
	for i := range 2 {
		var evs []rows.OpenEvent
		for j := range n {
			ev := rows.OpenEvent{ID: event.ID(i*n + j + 1), Hash: sha256.Sum256(fmt.Append(nil, i, "/", j))}
			evs, hashes = append(evs, ev), append(hashes, ev.Hash)
		}
		if err := db.file.Update(context.Background(), func(tx *sql.Tx) error { return db.writeRun(tx, evs) }); err != nil {
			t.Fatal(err)
		}
	}
	return db, hashes
}

// mergeOn merges as much as n appends pay for.
func mergeOn(db *DB, n int) error {
	return db.file.Update(context.Background(), func(tx *sql.Tx) error { return db.mergeSome(tx, n) })
}

// Wherever a merge is left and gone on with, each hash is in one run, once.
func TestMergeGoesOn(t *testing.T) {
	const n = groupLen + 7
	for _, first := range []int{groupLen/3 + 1, 2*groupLen/3 + 1} {
		db, hashes := twoRuns(t, n)
		if err := mergeOn(db, first); err != nil {
			t.Fatal(err)
		}
		if len(db.known.merges) != 1 {
			t.Fatalf("%d merges are going on", len(db.known.merges))
		}
		for range 6 {
			if err := db.file.Update(context.Background(), func(tx *sql.Tx) (err error) {
				db.known, err = db.loadKnown(tx) // as a process that was killed
				return err
			}); err != nil {
				t.Fatal(err)
			}
			if err := mergeOn(db, groupLen/3+1); err != nil {
				t.Fatal(err)
			}
		}
		if len(db.known.merges) > 0 || len(db.known.runs) != 1 || db.known.runs[0].count != 2*n {
			t.Fatalf("after %d there are %d merges and %d runs", first, len(db.known.merges), len(db.known.runs))
		}
		checkRun(t, db, hashes)
	}
}

// checkRun checks that the one run of a log has these hashes, each once and in order.
func checkRun(t *testing.T, db *DB, hashes []event.Hash) {
	t.Helper()
	err := db.file.Update(context.Background(), func(tx *sql.Tx) error {
		r, n := db.known.runs[0], 0
		var last []byte
		for i := range r.fences {
			entries, err := db.readSlab(tx, r.slabID(i))
			if err != nil {
				return err
			}
			for ; len(entries) > 0; entries = entries[entryLen:] {
				if bytes.Compare(entries[:entryLen], last) <= 0 {
					return fmt.Errorf("entry %d does not follow the one before", n)
				}
				last = entries[:entryLen]
				n++
			}
		}
		if n != len(hashes) {
			return fmt.Errorf("there are %d entries, want %d", n, len(hashes))
		}
		for i := range hashes {
			if id, ok, err := db.find(tx, &hashes[i]); err != nil || !ok || id != event.ID(i+1) {
				return fmt.Errorf("hash %d is of %s, %v, %w", i, id, ok, err)
			}
		}
		return nil
	})
	if err != nil {
		t.Error(err)
	}
}

// A run that has lost hashes is damaged: what it has taken would be taken again.
func TestMergeMissesLostHashes(t *testing.T) {
	db, _ := twoRuns(t, 2*groupLen)
	cut := fmt.Sprintf(`UPDATE slab SET hashes = CAST(substr(hashes, 1, %d) AS BLOB) WHERE id = (SELECT max(id) - 3 FROM slab)`, entryLen*(slabLen-1))
	if err := rawExec(db, cut); err != nil {
		t.Fatal(err)
	}
	var err error
	for i := 0; i < 10 && err == nil; i++ {
		err = mergeOn(db, groupLen)
	}
	wantError(t, "the merge", err, ErrCorrupt)
}

// The horizon never passes what has postings: what is below it is found by them.
func TestHorizonStaysBehindPostings(t *testing.T) {
	db := openServer(t)
	mustAppend(t, db, drafts("alice", "x", "k", 10)...)
	if err := db.moveHorizon(context.Background(), 5); err != nil {
		t.Fatal(err)
	}
	if at, err := db.Horizon(context.Background()); at != event.Beginning || err != nil {
		t.Errorf("the horizon is %s, %v", at, err)
	}
}
