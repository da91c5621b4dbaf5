package seen

import (
	"context"
	"crypto/sha256"
	"database/sql"
	"encoding/binary"
	"fmt"
	"math/rand/v2"
	"testing"

	"github.com/rstream-dev/rstream/cache/internal/dbfile"
	"github.com/rstream-dev/rstream/cache/internal/rows"
	"github.com/rstream-dev/rstream/event"
)

func mustOpenFile(t *testing.T, path string) *dbfile.File {
	t.Helper()
	f, err := dbfile.Open(context.Background(), path, dbfile.Options{Role: dbfile.Server})
	if err != nil {
		t.Fatal(err)
	}
	return f
}

func mustOpenIndex(t *testing.T, f *dbfile.File) *Index {
	t.Helper()
	x, err := Open(context.Background(), f, rows.New(f))
	if err != nil {
		t.Fatal(err)
	}
	return x
}

// checkHashes checks that a file knows the hashes of evs and no others, and the index, if
// it is open, too.
func checkHashes(t *testing.T, f *dbfile.File, x *Index, evs []rows.OpenEvent) {
	t.Helper()
	hashes := []event.Hash{sha256.Sum256(nil), {}, {255}}
	for i := range evs {
		hashes = append(hashes, evs[i].Hash)
	}
	err := f.Update(context.Background(), func(tx *sql.Tx) error {
		ids, err := LookUp(tx, hashes)
		if err != nil {
			return err
		}
		if len(ids) != len(evs) {
			t.Fatalf("%d hashes are known, want %d", len(ids), len(evs))
		}
		for i := range evs {
			if ids[evs[i].Hash] != evs[i].ID {
				t.Fatalf("event %s is %s by its hash", evs[i].ID, ids[evs[i].Hash])
			}
			if x == nil {
				continue
			}
			if id, ok, err := x.Find(tx, &evs[i].Hash); err != nil || !ok || id != evs[i].ID {
				t.Fatalf("hash %d is event %s, %v, %v", i, id, ok, err)
			}
		}
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
}

// What earlier versions kept becomes a run in steps that may be cut after each.
func TestConvertInSteps(t *testing.T) {
	before := convertBatches
	convertBatches = 1
	defer func() { convertBatches = before }()
	path := t.TempDir() + "/log.db"
	f := mustOpenFile(t, path)
	var evs []rows.OpenEvent
	err := f.Update(context.Background(), func(tx *sql.Tx) error {
		for i := range 3*batchLen + 7 {
			ev := rows.OpenEvent{ID: event.ID(i + 1), Hash: sha256.Sum256(fmt.Append(nil, i))}
			if _, err := tx.Exec(`INSERT INTO taken (hash, id) VALUES (?, ?)`, ev.Hash[:], int64(ev.ID)); err != nil {
				return err
			}
			evs = append(evs, ev)
		}
		return giveSalt(tx)
	})
	if err != nil {
		t.Fatal(err)
	}
	for range 3 {
		x := Index{file: f, tables: rows.New(f)}
		err := f.Update(context.Background(), func(tx *sql.Tx) error {
			_, err := x.convertSome(tx)
			return err
		})
		if err != nil {
			t.Fatal(err)
		}
		checkHashes(t, f, nil, evs)
		if err := f.Close(); err != nil {
			t.Fatal(err)
		}
		f = mustOpenFile(t, path)
	}
	defer func() { f.Close() }()
	x := mustOpenIndex(t, f)
	if runs := x.memory.runs; len(runs) != 1 || runs[0].count != int64(len(evs)) || runs[0].level != 0 {
		t.Errorf("the runs are %v", runs)
	}
	checkHashes(t, f, x, evs)
}

// Authors choose hashes: many that begin alike cost time, never an answer.
func TestCrowdedHashes(t *testing.T) {
	f := mustOpenFile(t, t.TempDir()+"/log.db")
	defer f.Close()
	x := mustOpenIndex(t, f)
	var evs []rows.OpenEvent
	for i := range 5 * pageLen {
		var h event.Hash
		binary.BigEndian.PutUint64(h[:], 1<<63+uint64(i/(3*pageLen)))
		binary.BigEndian.PutUint64(h[24:], uint64(i))
		evs = append(evs, rows.OpenEvent{ID: event.ID(i + 1), Hash: h})
	}
	rand.Shuffle(len(evs), func(i, j int) { evs[i], evs[j] = evs[j], evs[i] })
	err := f.Update(context.Background(), func(tx *sql.Tx) error { return x.writeRun(tx, evs) })
	if err != nil {
		t.Fatal(err)
	}
	checkHashes(t, f, x, evs)
}
