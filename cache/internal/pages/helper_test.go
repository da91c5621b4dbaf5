package pages

import (
	"bytes"
	"context"
	"database/sql"
	"errors"
	"fmt"
	"strconv"
	"strings"
	"testing"

	"github.com/rstream-dev/rstream/cache/internal/dbfile"
	"github.com/rstream-dev/rstream/event"
	"github.com/rstream-dev/rstream/internal/testfile"
	"github.com/rstream-dev/rstream/window"
)

// A handle is an opening of a file and its tables.
type handle struct {
	file *dbfile.File
	*Tables
}

func openHandle(tb testing.TB, path string) *handle {
	tb.Helper()
	f, err := dbfile.Open(context.Background(), path, dbfile.Options{Role: dbfile.Client, Log: testLog})
	if err != nil {
		tb.Fatal(err)
	}
	tb.Cleanup(func() { f.Close() })
	h := &handle{f, New(f)}
	f.OnRollback = h.ForgetPage
	return h
}

const testLog = "0123456789ABCDEF"

// newFile is the template of the files that openTables opens.
var newFile = testfile.New(func(path string) (log string, err error) {
	f, err := dbfile.Open(context.Background(), path, dbfile.Options{Role: dbfile.Client, Log: testLog})
	if err != nil {
		return "", err
	}
	return testLog, f.Close()
})

// openTables opens a new file.
func openTables(tb testing.TB) *handle {
	tb.Helper()
	path := tb.TempDir() + "/pages.db"
	if err := newFile.Write(path, testLog); err != nil {
		tb.Fatal(err)
	}
	return openHandle(tb, path)
}

// openSmaller opens a new file with pages of 4,096 bytes, as earlier versions created it.
func openSmaller(tb testing.TB) *handle {
	tb.Helper()
	path := tb.TempDir() + "/smaller.db"
	pool, err := sql.Open("sqlite", "file:"+openTables(tb).file.Path)
	if err != nil {
		tb.Fatal(err)
	}
	pool.SetMaxOpenConns(1) // the pragma is for one connection
	_, err = pool.Exec(`PRAGMA page_size=4096; VACUUM INTO ?`, path)
	if err := errors.Join(err, pool.Close()); err != nil {
		tb.Fatal(err)
	}
	h := openHandle(tb, path)
	if size := h.file.PageSize(); size != 4096 {
		tb.Fatalf("pages of %d bytes", size)
	}
	return h
}

// clear removes everything.
func (h *handle) clear(t fataler) {
	t.Helper()
	h.update(t, func(tx *sql.Tx) error {
		_, err := tx.Exec(`DELETE FROM page; DELETE FROM page_posting`)
		return err
	})
	h.ForgetPage()
}

// A fataler is a test of either kind.
type fataler interface {
	Helper()
	Fatal(...any)
	Fatalf(string, ...any)
}

func (h *handle) update(t fataler, fn func(tx *sql.Tx) error) {
	t.Helper()
	if err := h.file.Update(context.Background(), fn); err != nil {
		t.Fatal(err)
	}
}

func (h *handle) view(t fataler, fn func(tx *sql.Tx) error) {
	t.Helper()
	if err := h.file.View(context.Background(), fn); err != nil {
		t.Fatal(err)
	}
}

// mustStore stores events in one transaction and returns those that were held.
func (h *handle) mustStore(t fataler, evs []event.Event, storages []int64) (held []int) {
	t.Helper()
	h.update(t, func(tx *sql.Tx) (err error) {
		_, held, err = h.Store(tx, evs, storages)
		return err
	})
	return held
}

func (h *handle) mustAppend(t fataler, evs []event.Event, storages []int64) {
	t.Helper()
	h.update(t, func(tx *sql.Tx) error { _, err := h.Append(tx, evs, storages); return err })
}

// madeEvent returns an event whose value has so many bytes.
func madeEvent(id event.ID, storage int64, size int) event.Event {
	d := event.Draft{User: "alice", Path: "posts/" + strconv.FormatInt(storage, 10), Type: event.Put,
		Key: strconv.FormatUint(uint64(id), 36), Value: []byte(`"` + strings.Repeat("x", size) + `"`)}
	return event.New(id, event.Time(1e15+int64(id)), d, d.Hash())
}

// madeEvents returns events with ids from first on, step apart, of storages 1 to n in
// turn.
func madeEvents(first, step event.ID, count int, n int64, size int) (evs []event.Event, storages []int64) {
	for i := range count {
		storage := int64(i)%n + 1
		evs = append(evs, madeEvent(first+event.ID(i)*step, storage, size))
		storages = append(storages, storage)
	}
	return evs, storages
}

// scanLines returns what a scan finds.
func scanLines(tx *sql.Tx, q Query) (lines []Line, err error) {
	err = Scan(context.Background(), tx, q, func(l Line) error { lines = append(lines, l); return nil })
	return lines, err
}

// mustScan checks that a scan finds exactly evs.
func (h *handle) mustScan(t fataler, span window.Span, evs []event.Event) {
	t.Helper()
	h.view(t, func(tx *sql.Tx) error {
		lines, err := scanLines(tx, Query{Span: span})
		if err != nil {
			return err
		}
		if len(lines) != len(evs) {
			return fmt.Errorf("%s has %d lines, want %d", span, len(lines), len(evs))
		}
		for i := range lines {
			if lines[i].ID != evs[i].ID || !bytes.Equal(lines[i].Text, evs[i].Line()) {
				return fmt.Errorf("line %d is %.80q, want %.80q", i, lines[i].Text, evs[i].Line())
			}
		}
		return scanAgain(tx, Query{Span: span, Reuse: true}, lines)
	})
}

// scanAgain checks that a scan which uses memory again finds the same lines.
func scanAgain(tx *sql.Tx, q Query, lines []Line) error {
	n := 0
	err := Scan(context.Background(), tx, q, func(l Line) error {
		if n >= len(lines) || l.ID != lines[n].ID || l.Storage != lines[n].Storage || !bytes.Equal(l.Text, lines[n].Text) {
			return fmt.Errorf("line %d is %.80q where memory is used again", n, l.Text)
		}
		n++
		return nil
	})
	if err == nil && n != len(lines) {
		err = fmt.Errorf("%d lines where memory is used again, want %d", n, len(lines))
	}
	return err
}

// mustCheck checks that a file is sound.
func (h *handle) mustCheck(t fataler, s Scope) {
	t.Helper()
	h.view(t, func(tx *sql.Tx) error {
		return Check(context.Background(), tx, s, func(e *DamageError) error { return e })
	})
}

var everything = window.Span{To: event.MaxID}

var allPosted = Scope{Posted: event.MaxID}

// number returns the only number of a query.
func (h *handle) number(t fataler, query string, args ...any) (n int) {
	t.Helper()
	h.view(t, func(tx *sql.Tx) error { return tx.QueryRow(query, args...).Scan(&n) })
	return n
}
