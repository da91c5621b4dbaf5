package oldrows

import (
	"context"
	"database/sql"
	"encoding/binary"
	"errors"
	"fmt"
	"math/rand/v2"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/rstream-dev/rstream/cache/internal/dbfile"
	"github.com/rstream-dev/rstream/cache/internal/pages"
	"github.com/rstream-dev/rstream/event"
	"github.com/rstream-dev/rstream/internal/pagetest"
	"github.com/rstream-dev/rstream/window"
)

const (
	testLog = "0123456789ABCDEF"
	schemas = 6 // that had rows
)

// A row is an event as earlier versions stored it.
type row struct {
	id, storage int64
	line        string
}

// madeRow returns the row of an event of a made-up log. It has a value of about size bytes.
func madeRow(id, storage int64, size int) row {
	d := event.Draft{User: "alice", Path: fmt.Sprint("posts/", storage), Type: event.Put,
		Key: fmt.Sprint(id), Value: []byte(`"` + strings.Repeat("x", size) + `"`)}
	ev := event.New(event.ID(id), event.Time(1e15+id), d, d.Hash())
	return row{id, storage, string(ev.Line())}
}

// madeRows returns rows of a made-up log with some gaps, whose lines have any length.
func madeRows(r *rand.Rand, n int, maxGap int64) (rows []row) {
	id := int64(0)
	for range n {
		size := r.IntN(200)
		switch r.IntN(200) {
		case 0:
			size = 5000
		case 1:
			size = 100_000
		}
		id += 1 + r.Int64N(maxGap)
		rows = append(rows, madeRow(id, 1+r.Int64N(7), size))
	}
	return rows
}

// An oldFile is a file of an earlier version.
type oldFile struct {
	path   string
	role   dbfile.Role
	rows   []row
	posted event.ID
}

// writeOld writes a file of a schema with the given rows, instead of those of the golden
// file that it is made of.
func writeOld(t testing.TB, schema int, role dbfile.Role, rows []row) (f oldFile) {
	t.Helper()
	name := fmt.Sprintf("%04d-%s.db", schema, strings.Replace(string(role), string(dbfile.Backup), string(dbfile.Server), 1))
	b, err := os.ReadFile(filepath.Join("../../../testdata/cache", name))
	if err != nil {
		t.Fatal(err)
	}
	f = oldFile{filepath.Join(t.TempDir(), name), role, rows, event.MaxID}
	if err := os.WriteFile(f.path, b, 0o600); err != nil {
		t.Fatal(err)
	}
	db, err := sql.Open("sqlite", f.path)
	if err != nil {
		t.Fatal(err)
	}
	defer db.Close()
	head := event.Beginning
	if len(rows) > 0 {
		head = event.ID(rows[len(rows)-1].id)
	}
	if role != dbfile.Client {
		f.posted = head / event.BlockSize * event.BlockSize
	}
	tx, err := db.Begin()
	if err == nil {
		err = errors.Join(f.fill(tx, head), tx.Commit())
	}
	if err != nil {
		t.Fatal(err)
	}
	return f
}

// fill writes the rows, as the earlier versions did.
func (f *oldFile) fill(tx *sql.Tx, head event.ID) error {
	if _, err := tx.Exec(`DELETE FROM event; DELETE FROM posting; UPDATE log SET next = ?, indexed = ?, role = ?`,
		int64(head)+1, int64(f.posted), string(f.role)); err != nil {
		return err
	}
	if f.role != dbfile.Client {
		if _, err := tx.Exec(`UPDATE window SET reached = ?, stop = ?`, int64(head), int64(head)); err != nil {
			return err
		}
	}
	offsets := map[pages.PostingKey][]byte{}
	for _, r := range f.rows {
		if _, err := tx.Exec(`INSERT INTO event (id, storage, line) VALUES (?, ?, ?)`, r.id, r.storage, r.line); err != nil {
			return err
		}
		if event.ID(r.id) <= f.posted {
			key := pages.PostingKey{Storage: r.storage, Block: event.ID(r.id).Block()}
			offsets[key] = binary.BigEndian.AppendUint16(offsets[key], uint16((r.id-1)%int64(event.BlockSize)))
		}
	}
	for key, b := range offsets {
		if _, err := tx.Exec(`INSERT INTO posting (storage, block, offsets) VALUES (?, ?, ?)`, key.Storage, int64(key.Block), b); err != nil {
			return err
		}
	}
	return nil
}

// open opens the file, which moves what is left of its rows.
func (f *oldFile) open(report func(dbfile.Progress)) (*dbfile.File, error) {
	role := f.role
	if role == dbfile.Backup {
		role = ""
	}
	return dbfile.Open(context.Background(), f.path, dbfile.Options{Role: role, Log: testLog, CheckEvents: Check, MoveEvents: Move, Progress: report})
}

// check opens the file and checks that it is sound, but for the given events, and that it
// has all rows.
func (f *oldFile) check(t testing.TB, damaged ...int64) {
	t.Helper()
	file, err := f.open(nil)
	if err != nil {
		t.Fatal(err)
	}
	defer file.Close()
	if has, err := file.HasOldEvents(context.Background()); has || err != nil {
		t.Errorf("it has old events: %v, %v", has, err)
	}
	if has, err := file.HasOldPostings(context.Background()); has || err != nil {
		t.Errorf("it has old postings: %v, %v", has, err)
	}
	if size, err := file.Size(context.Background()); err != nil || size.Free > 0 {
		t.Errorf("%d pages are free, %v", size.Free, err)
	}
	var bad []int64
	err = file.View(context.Background(), func(tx *sql.Tx) error {
		err := pages.Check(context.Background(), tx, pages.Scope{Posted: f.posted}, func(e *pages.DamageError) error {
			bad = append(bad, int64(e.ID))
			return nil
		})
		return errors.Join(err, f.checkRows(tx, damaged), checkSQLite(tx))
	})
	if err != nil {
		t.Error(err)
	}
	if !slices.Equal(bad, damaged) {
		t.Errorf("damaged are %v, want %v", bad, damaged)
	}
}

// checkRows checks that a scan finds all rows, or those up to the first damaged one.
func (f *oldFile) checkRows(tx *sql.Tx, damaged []int64) error {
	n := 0
	err := pages.Scan(context.Background(), tx, pages.Query{Span: window.Span{To: event.MaxID}}, func(l pages.Line) error {
		if n == len(f.rows) {
			return fmt.Errorf("event %d is one too many", l.ID)
		}
		if got := (row{int64(l.ID), l.Storage, string(l.Text)}); got != f.rows[n] {
			return fmt.Errorf("event %d is %.200v, want %.200v", l.ID, got, f.rows[n])
		}
		n++
		return nil
	})
	if err == nil && n != len(f.rows) {
		err = fmt.Errorf("%d events, want %d", n, len(f.rows))
	}
	if errors.Is(err, dbfile.ErrCorrupt) && len(damaged) > 0 {
		return nil
	}
	return err
}

// split gives the postings of the upgraded file the form that they had up to schema 8, and
// returns the events that they name.
func (f *oldFile) split(t testing.TB) (posted []pagetest.Posted) {
	t.Helper()
	f.edit(t, func(db pagetest.DB) (err error) {
		if posted, err = pagetest.ListPosted(db); err != nil {
			return err
		}
		return pagetest.SplitPostings(db)
	})
	return posted
}

// edit changes the file, which is not open.
func (f *oldFile) edit(t testing.TB, change func(db pagetest.DB) error) {
	t.Helper()
	db, err := sql.Open("sqlite", f.path)
	if err != nil {
		t.Fatal(err)
	}
	defer db.Close()
	tx, err := db.Begin()
	if err == nil {
		err = errors.Join(change(tx), tx.Commit())
	}
	if err == nil {
		_, err = db.Exec(`PRAGMA incremental_vacuum; PRAGMA wal_checkpoint(TRUNCATE)`)
	}
	if err != nil {
		t.Fatal(err)
	}
}

func checkSQLite(tx *sql.Tx) error {
	var text string
	err := tx.QueryRow(`PRAGMA integrity_check(1)`).Scan(&text)
	if err == nil && text != "ok" {
		err = errors.New(text)
	}
	return err
}

// setStep has steps move few events, for the time of a test.
func setStep(t testing.TB, events, bytes int) {
	oldEvents, oldBytes := stepEvents, stepBytes
	stepEvents, stepBytes = events, bytes
	t.Cleanup(func() { stepEvents, stepBytes = oldEvents, oldBytes })
}

// setJoinStep has steps join few postings, for the time of a test.
func setJoinStep(t testing.TB, blocks, postings int) {
	oldBlocks, oldPostings := stepBlocks, stepPostings
	stepBlocks, stepPostings = blocks, postings
	t.Cleanup(func() { stepBlocks, stepPostings = oldBlocks, oldPostings })
}

// newRand returns random numbers, whose seed is printed.
func newRand(t testing.TB) *rand.Rand {
	seed := rand.Uint64()
	t.Logf("seed %d", seed)
	return rand.New(rand.NewPCG(seed, 0))
}
