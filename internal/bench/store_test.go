package bench

import (
	"bytes"
	"os"
	"path/filepath"
	"slices"
	"testing"

	"github.com/rstream-dev/rstream/event"
)

// The limits of storage store every line.
func TestStoreLimits(t *testing.T) {
	evs := Input{User: "bench"}.Events(25)
	dir := t.TempDir()
	took, err := RawInserts(t.Context(), dir, evs, 10)
	if err != nil || took <= 0 {
		t.Fatalf("RawInserts: %s, %v", took, err)
	}
	if took, err = FileWrites(dir, evs, 10); err != nil || took <= 0 {
		t.Fatalf("FileWrites: %s, %v", took, err)
	}
	got, err := os.ReadFile(filepath.Join(dir, "plain.jsonl"))
	if err != nil {
		t.Fatal(err)
	}
	var want []byte
	for i := range evs {
		want = append(append(want, evs[i].Line()...), '\n')
	}
	if !bytes.Equal(got, want) {
		t.Errorf("the file has %d bytes, want these %d", len(got), len(want))
	}
}

// Reads at random find the rows that there are, and no others.
func TestRandomReads(t *testing.T) {
	db, err := openRaw(t.Context(), t.TempDir())
	if err != nil {
		t.Fatal(err)
	}
	defer db.Close()
	if err := insertRaw(t.Context(), db, Input{User: "bench"}.Events(2500)); err != nil {
		t.Fatal(err)
	}
	ids := make([]event.ID, 2500)
	for i := range ids {
		ids[i] = event.ID(1 + i*7919%2500)
	}
	if took, err := RandomReads(t.Context(), db, ids); err != nil || took <= 0 {
		t.Errorf("RandomReads: %s, %v", took, err)
	}
	if _, err := RandomReads(t.Context(), db, slices.Concat(ids, []event.ID{2501})); err == nil {
		t.Error("RandomReads of a missing row: no error")
	}
}
