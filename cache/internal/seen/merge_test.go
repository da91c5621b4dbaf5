package seen

import (
	"bytes"
	"context"
	"crypto/sha256"
	"database/sql"
	"errors"
	"fmt"
	"testing"

	"github.com/rstream-dev/rstream/cache/internal/dbfile"
	"github.com/rstream-dev/rstream/cache/internal/rows"
	"github.com/rstream-dev/rstream/event"
)

// twoRuns is a log with two runs of n hashes each, which are to be merged. They belong to no
// events.
func twoRuns(t *testing.T, n int) (x *Index, hashes []event.Hash) {
	t.Helper()
	bits := MergeBits
	MergeBits = 1
	f := mustOpenFile(t, t.TempDir()+"/log.db")
	t.Cleanup(func() { MergeBits = bits; f.Close() })
	x = mustOpenIndex(t, f)
	for i := range 2 {
		var evs []rows.OpenEvent
		for j := range n {
			ev := rows.OpenEvent{ID: event.ID(i*n + j + 1), Hash: sha256.Sum256(fmt.Append(nil, i, "/", j))}
			evs, hashes = append(evs, ev), append(hashes, ev.Hash)
		}
		if err := x.file.Update(context.Background(), func(tx *sql.Tx) error { return x.writeRun(tx, evs) }); err != nil {
			t.Fatal(err)
		}
	}
	return x, hashes
}

// mergeOn merges as much as n appends pay for.
func mergeOn(x *Index, n int) error {
	return x.file.Update(context.Background(), func(tx *sql.Tx) error { return x.MergeSome(tx, n) })
}

// Wherever a merge is left and gone on with, each hash is in one run, once.
func TestMergeGoesOn(t *testing.T) {
	const n = batchLen + 7
	for _, first := range []int{batchLen/3 + 1, 2*batchLen/3 + 1} {
		x, hashes := twoRuns(t, n)
		if err := mergeOn(x, first); err != nil {
			t.Fatal(err)
		}
		if len(x.memory.merges) != 1 {
			t.Fatalf("%d merges are going on", len(x.memory.merges))
		}
		for range 6 {
			if err := x.file.Update(context.Background(), func(tx *sql.Tx) (err error) {
				x.memory, err = x.loadMemory(tx) // as a process that was killed
				return err
			}); err != nil {
				t.Fatal(err)
			}
			if err := mergeOn(x, batchLen/3+1); err != nil {
				t.Fatal(err)
			}
		}
		if len(x.memory.merges) > 0 || len(x.memory.runs) != 1 || x.memory.runs[0].count != 2*n {
			t.Fatalf("after %d there are %d merges and %d runs", first, len(x.memory.merges), len(x.memory.runs))
		}
		checkRun(t, x, hashes)
	}
}

// checkRun checks that the one run of a log has these hashes, each once and in order.
func checkRun(t *testing.T, x *Index, hashes []event.Hash) {
	t.Helper()
	err := x.file.Update(context.Background(), func(tx *sql.Tx) error {
		r, n := x.memory.runs[0], 0
		var last []byte
		for i := range r.fences {
			entries, err := x.readPage(tx, r.pageID(i))
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
			if id, ok, err := x.Find(tx, &hashes[i]); err != nil || !ok || id != event.ID(i+1) {
				return fmt.Errorf("hash %d is of %s, %v, %w", i, id, ok, err)
			}
		}
		return nil
	})
	if err != nil {
		t.Error(err)
	}
}

// A run that has lost hashes is damaged: the log would take them again.
func TestMergeMissesLostHashes(t *testing.T) {
	x, _ := twoRuns(t, 2*batchLen)
	cut := fmt.Sprintf(`UPDATE slab SET hashes = CAST(substr(hashes, 1, %d) AS BLOB) WHERE id = (SELECT max(id) - 3 FROM slab)`, entryLen*(pageLen-1))
	if err := x.file.Update(context.Background(), func(tx *sql.Tx) error { _, err := tx.Exec(cut); return err }); err != nil {
		t.Fatal(err)
	}
	var err error
	for i := 0; i < 10 && err == nil; i++ {
		err = mergeOn(x, batchLen)
	}
	if !errors.Is(err, dbfile.ErrCorrupt) {
		t.Errorf("the merge = %v", err)
	}
}
