package cache

import (
	"context"
	"fmt"
	"strings"
	"testing"

	"github.com/rstream-dev/rstream/event"
	"github.com/rstream-dev/rstream/internal/longtest"
)

// After most of a log is dropped, it takes at most twice the size of the remaining lines,
// whether they are adjacent or one to a page. Its hashes stay and are not counted.
func TestRetainedSize(t *testing.T) {
	blocks := longtest.Size(2, 3)
	for _, c := range []struct {
		name string
		path func(i int) string
	}{
		{"together", func(i int) string { return fmt.Sprint("p/", i*7919%(event.BlockSize/10)) }},
		{"apart", func(i int) string {
			if i%10 == 3 {
				return fmt.Sprint("once/", i)
			}
			return fmt.Sprint("p/", i%7)
		}},
	} {
		db := openServer(t)
		for from := 0; from < blocks*event.BlockSize; from += 2048 {
			var ds []event.Draft
			for i := from; i < from+2048; i++ {
				d := draft("alice", c.path(i), fmt.Sprint(i))
				d.Value = []byte(`"` + strings.Repeat("x", 50+i%50) + `"`)
				ds = append(ds, d)
			}
			mustAppend(t, db, ds...)
		}
		if err := db.RetainOnce(context.Background(), Retention{MaxBytes: 1}); err != nil {
			t.Fatal(err)
		}
		lines := 0
		for _, line := range mustState(t, db, event.All, db.Head()) {
			lines += len(line) + 1
		}
		var size int
		err := db.file.Read.QueryRow(`SELECT sum(pgsize) FROM dbstat WHERE name IN ('page', 'page_stretch', 'page_posting')`).Scan(&size)
		if err != nil {
			t.Fatal(err)
		}
		if size > 2*lines {
			t.Errorf("%s: %d bytes of lines take %d", c.name, lines, size)
		}
	}
}

// If hashes and the state alone are larger than the file may be, some history stays, however often
// retention looks, and that is said once.
func TestRetainedHistoryStays(t *testing.T) {
	const maxBytes = 4 << 20 // a block of events takes almost a quarter
	db := openServer(t)
	add := func(blocks int) {
		for range 2 * blocks {
			var ds []event.Draft
			for i := range event.BlockSize / 2 {
				ds = append(ds, draft("alice", fmt.Sprint("p/", i%7), fmt.Sprint(db.Head(), " ", i)))
			}
			mustAppend(t, db, ds...)
		}
	}
	said := 0
	cfg := Retention{MaxBytes: maxBytes, Outgrown: func() { said++ }}
	add(20) // their hashes take more than three quarters
	for round := range 3 {
		if err := db.RetainOnce(context.Background(), cfg); err != nil {
			t.Fatal(err)
		}
		horizon, err := db.Horizon(t.Context())
		if err != nil {
			t.Fatal(err)
		}
		if kept := (db.Head() - horizon) / event.BlockSize; kept != 1 {
			t.Errorf("round %d: %d blocks are kept", round, kept)
		}
		add(1)
	}
	if said != 3 { // each call of RetainOnce is one of its own
		t.Errorf("said %d times, want 3", said)
	}
}

// TestRetainUnevenBlocks: how much history there is does not depend on which blocks are large: with small
// events first and last, the large ones between them go.
func TestRetainUnevenBlocks(t *testing.T) {
	db := openServer(t)
	for _, size := range []int{1, 4000, 4000, 1, 1} {
		for range 2 {
			var ds []event.Draft
			for i := range event.BlockSize / 2 {
				d := draft("alice", fmt.Sprint("p/", i%7), fmt.Sprint(db.Head(), " ", i))
				d.Value = []byte(`"` + strings.Repeat("x", size) + `"`)
				ds = append(ds, d)
			}
			mustAppend(t, db, ds...)
		}
	}
	before, err := db.file.Size(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	said := 0
	cfg := Retention{MaxBytes: before.Used() / 2, Outgrown: func() { said++ }}
	if err := db.RetainOnce(t.Context(), cfg); err != nil {
		t.Fatal(err)
	}
	if after, err := db.file.Size(t.Context()); err != nil || after.Used() > cfg.MaxBytes || said > 0 {
		t.Errorf("%d bytes are used of %d, before %d, %v; said %d times", after.Used(), cfg.MaxBytes, before.Used(), err, said)
	}
}

// TestRetainOutgrownByBlocks: blocks that are each larger than the share of history go, and that the file
// stays too large is said.
func TestRetainOutgrownByBlocks(t *testing.T) {
	db := openServer(t)
	for range 10 {
		mustAppend(t, db, drafts("alice", "p", fmt.Sprint(db.Head()), int(event.BlockSize)/2)...)
	}
	said := 0
	cfg := Retention{MaxBytes: 100_000, Outgrown: func() { said++ }}
	if err := db.RetainOnce(t.Context(), cfg); err != nil {
		t.Fatal(err)
	}
	if size, err := db.file.Size(t.Context()); err != nil || size.Used() <= cfg.MaxBytes || said != 1 {
		t.Errorf("%d bytes are used, %v; said %d times", size.Used(), err, said)
	}
}
