package cache

import (
	"context"
	"crypto/sha256"
	"database/sql"
	"encoding/binary"
	"fmt"
	"math/rand/v2"
	"slices"
	"testing"

	"github.com/rstream-dev/rstream/cache/internal/rows"
	"github.com/rstream-dev/rstream/event"
)

// checkLookUp checks that the log knows the hashes of evs, those of its own, and no
// others.
func checkLookUp(t fataler, db *DB, evs []event.Event) {
	t.Helper()
	hashes := []event.Hash{sha256.Sum256(nil), {}, {255}}
	for i := range evs {
		hashes = append(hashes, evs[i].Hash)
	}
	err := db.file.View(context.Background(), func(tx *sql.Tx) error {
		ids, err := db.lookUpHashes(tx, hashes)
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

// However often a log is killed and whichever COMMIT fails, while its runs are merged,
// it never takes an append again.
func TestKnownForEver(t *testing.T) {
	setHashSpan(t, event.BlockSize)
	path := t.TempDir() + "/log.db"
	db := mustOpen(t, path, Config{Role: Server})
	defer func() { db.Close() }()
	var all []event.Event
	merged := false
	blocks := 3
	if *long {
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
			if r.Known || r.ID != event.ID(len(all)+1) {
				t.Fatalf("event %d is %s, known %v", len(all)+1, r.ID, r.Known)
			}
			all = append(all, r.Event)
		}
		merged = merged || len(db.known.merges) > 0
		checkKnownAgain(t, db, all, 20)
	}
	if n := len(db.known.runs); !merged || n > 12 {
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
		if !r.Known || r.ID != want[i] {
			t.Fatalf("event %s again is %s, known %v", want[i], r.ID, r.Known)
		}
	}
}

// makeOld gives a file the form that it had before there were runs.
func makeOld(t *testing.T, db *DB, evs []event.Event) {
	t.Helper()
	err := db.file.Update(context.Background(), func(tx *sql.Tx) error {
		if _, err := tx.Exec(`DELETE FROM run; DELETE FROM guard; DELETE FROM slab; UPDATE log SET hashed = next - 1, salt = 0`); err != nil {
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

// An old file becomes a new one in steps, and is killed after each.
func TestConvertTaken(t *testing.T) {
	onlyLong(t)
	setHashSpan(t, event.BlockSize)
	before := convertGroups
	convertGroups = 1
	defer func() { convertGroups = before }()
	path := t.TempDir() + "/log.db"
	db := mustOpen(t, path, Config{Role: Server})
	var all []event.Event
	for _, r := range mustAppend(t, db, drafts("alice", "x", "k", 3*groupLen+7)...) {
		all = append(all, r.Event)
	}
	makeOld(t, db, all)
	kill(db)
	for range 3 {
		db = mustOpen(t, path, Config{}) // does not convert
		if err := db.file.Update(context.Background(), giveSalt); err != nil {
			t.Fatal(err)
		}
		err := db.file.Update(context.Background(), func(tx *sql.Tx) error {
			_, err := db.convertSome(tx)
			return err
		})
		if err != nil {
			t.Fatal(err)
		}
		checkLookUp(t, db, all)
		kill(db)
	}
	db = mustOpen(t, path, Config{Role: Server})
	defer db.Close()
	if len(db.known.runs) != 1 || db.known.runs[0].count != int64(len(all)) || db.known.runs[0].level != 0 {
		t.Errorf("the runs are %v", db.known.runs)
	}
	checkKnownAgain(t, db, all, 500)
	checkLookUp(t, db, all)
	for _, r := range mustAppend(t, db, drafts("alice", "x", "l", 2*event.BlockSize)...) {
		all = append(all, r.Event)
	}
	checkKnownAgain(t, db, all, 500)
	checkLookUp(t, db, all)
}

// Authors choose hashes: many that begin alike cost time, never an answer.
func TestCrowdedHashes(t *testing.T) {
	db := openServer(t)
	var evs []rows.OpenEvent
	var wanted []event.Event
	for i := range 5 * slabLen {
		var h event.Hash
		binary.BigEndian.PutUint64(h[:], 1<<63+uint64(i/(3*slabLen)))
		binary.BigEndian.PutUint64(h[24:], uint64(i))
		evs = append(evs, rows.OpenEvent{ID: event.ID(i + 1), Hash: h})
		wanted = append(wanted, event.Event{ID: event.ID(i + 1), Hash: h})
	}
	rand.Shuffle(len(evs), func(i, j int) { evs[i], evs[j] = evs[j], evs[i] })
	err := db.file.Update(context.Background(), func(tx *sql.Tx) error {
		if err := db.writeRun(tx, evs); err != nil {
			return err
		}
		for i := range wanted {
			id, ok, err := db.find(tx, &wanted[i].Hash)
			if err != nil || !ok || id != wanted[i].ID {
				t.Errorf("hash %d is event %s, %v, %v", i, id, ok, err)
			}
		}
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	checkLookUp(t, db, wanted)
}

func TestLastFence(t *testing.T) {
	for range 200 {
		fences := make([]uint64, rand.IntN(40))
		for i := range fences {
			fences[i] = rand.Uint64N(20)
		}
		slices.Sort(fences)
		x, want := rand.Uint64N(22), -1
		for i, f := range fences {
			if f <= x {
				want = i
			}
		}
		if got := lastFence(fences, x); got != want {
			t.Fatalf("lastFence(%v, %d) = %d, want %d", fences, x, got, want)
		}
	}
}

func TestFilter(t *testing.T) {
	const n = 20_000
	f := newFilter(n, 7)
	hash := func(i int) (h event.Hash) { return sha256.Sum256(fmt.Append(nil, i)) }
	var evs []rows.OpenEvent
	for i := range n {
		evs = append(evs, rows.OpenEvent{Hash: hash(i)})
	}
	var g group
	for _, ev := range sortedByHash(evs) {
		if g = g.appendEntry(ev.Hash[:], 0); g.full() || len(g) == n*entryLen {
			if err := f.addLines(g, f.appendLines(nil, g)); err != nil {
				t.Fatal(err)
			}
			g = g[:0]
		}
	}
	if err := f.addLines(g, f.appendLines(nil, g)); err != nil {
		t.Fatal(err)
	}
	wrong := 0
	for i := range 2 * n {
		h := hash(i)
		may := f.mayHave(&h, mix(&h, f.salt))
		if i < n && !may {
			t.Fatalf("hash %d seems not to be there", i)
		}
		if i >= n && may {
			wrong++
		}
	}
	if wrong > n/200 {
		t.Errorf("%d of %d hashes seem to be there", wrong, n)
	}
}
