package cache

import (
	"bytes"
	"context"
	"database/sql"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/rstream-dev/rstream/cache/internal/seen"
	"github.com/rstream-dev/rstream/event"
	"github.com/rstream-dev/rstream/internal/pagetest"
	"github.com/rstream-dev/rstream/internal/testfile"
	"github.com/rstream-dev/rstream/window"
)

const testLog = "0123456789ABCDEF"

// A testing.TB or a *rapid.T.
type fataler interface {
	Helper()
	Fatalf(format string, args ...any)
}

// A clock shows the time that the test sets.
type clock struct {
	mu sync.Mutex
	at time.Time
}

func newClock() *clock { return &clock{at: time.Date(2026, 11, 20, 10, 0, 0, 0, time.UTC)} }

func (c *clock) now() time.Time {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.at
}

func (c *clock) add(d time.Duration) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.at = c.at.Add(d)
}

// newFiles are templates of the files that Open creates.
var newFiles = map[Role]*testfile.Template{
	Server: testfile.New(func(path string) (string, error) { return makeFile(path, Config{Role: Server}) }),
	Client: testfile.New(func(path string) (string, error) { return makeFile(path, Config{Role: Client, Log: testLog}) }),
}

func makeFile(path string, cfg Config) (log string, err error) {
	db, err := Open(context.Background(), path, cfg)
	if err != nil {
		return "", err
	}
	return db.Log(), db.Close()
}

// mustOpen opens a file. A missing file is first copied from a template.
func mustOpen(t fataler, path string, cfg Config) *DB {
	t.Helper()
	if newFile := newFiles[cfg.Role]; newFile != nil && (cfg.Role == Server || cfg.Log != "") && !strings.HasPrefix(path, "file:") {
		if err := newFile.WriteNew(path, cfg.Log); err != nil {
			t.Fatalf("%v", err)
		}
	}
	db, err := Open(context.Background(), path, cfg)
	if err != nil {
		t.Fatalf("%v", err)
	}
	return db
}

func openServer(t testing.TB) *DB {
	t.Helper()
	db := mustOpen(t, filepath.Join(t.TempDir(), "log.db"), Config{Role: Server})
	t.Cleanup(func() { db.Close() })
	return db
}

func openClient(t testing.TB) *DB {
	t.Helper()
	db := mustOpen(t, filepath.Join(t.TempDir(), "copy.db"), Config{Role: Client, Log: testLog})
	t.Cleanup(func() { db.Close() })
	return db
}

func topics(t fataler, names ...string) (ts []event.Topic) {
	t.Helper()
	for _, name := range names {
		topic, err := event.ParseTopic(name)
		if err != nil {
			t.Fatalf("%v", err)
		}
		ts = append(ts, topic)
	}
	return ts
}

func draft(user, path, key string) event.Draft {
	return event.Draft{User: user, Path: path, Type: event.Put, Key: key, Value: []byte(`{"n":1}`)}
}

// drafts returns n new drafts of a storage.
func drafts(user, path, key string, n int) (ds []event.Draft) {
	for i := range n {
		ds = append(ds, draft(user, path, fmt.Sprintf("%s-%d", key, i)))
	}
	return ds
}

func mustAppend(t fataler, db *DB, ds ...event.Draft) []event.Receipt {
	t.Helper()
	rs, err := db.Append(context.Background(), ds)
	if err != nil {
		t.Fatalf("%v", err)
	}
	if len(rs) != len(ds) {
		t.Fatalf("%d drafts have %d receipts", len(ds), len(rs))
	}
	return rs
}

// madeEvent returns event id of a made-up log. It is always the same.
func madeEvent(user, path string, id event.ID) event.Event {
	d := draft(user, path, fmt.Sprint(id))
	return event.New(id, event.TimeOf(newClock().at)+event.Time(id), d, d.Hash())
}

// readAll returns the events of a span, read limit at a time.
func readAll(t fataler, db *DB, ts []event.Topic, span window.Span, limit int) (evs []event.Event) {
	t.Helper()
	for at := span.From; at < span.To; {
		some, next, err := db.Read(context.Background(), ts, at, span.To, limit)
		if err != nil {
			t.Fatalf("%v", err)
		}
		if len(some) > limit || next < at || next > span.To {
			t.Fatalf("Read after %s with limit %d gives %d events up to %s", at, limit, len(some), next)
		}
		checkLines(t, db, ts, window.Span{From: at, To: next}, limit, some)
		for i := range some {
			if some[i].ID <= at || some[i].ID > next {
				t.Fatalf("Read of %s-%s gives event %s", at, next, some[i].ID)
			}
			at = some[i].ID
		}
		evs = append(evs, some...)
		if next == at && len(some) == 0 {
			return evs
		}
		at = next
	}
	return evs
}

// checkLines checks that AppendLines gives the same events as Read, up to where it stops.
func checkLines(t fataler, db *DB, ts []event.Topic, span window.Span, limit int, evs []event.Event) {
	t.Helper()
	got, next, err := db.AppendLines(context.Background(), []byte("before\n"), ts, span.From, span.To, limit)
	if err != nil || next > span.To || next == span.From && span.From < span.To {
		t.Fatalf("AppendLines of %s-%s ends at %s, %v", span.From, span.To, next, err)
	}
	want := []byte("before\n")
	for i := range evs {
		if evs[i].ID <= next {
			want = append(append(want, evs[i].Line()...), '\n')
		}
	}
	if !bytes.Equal(got, want) {
		t.Fatalf("AppendLines of %s-%s gives\n%s\nwant\n%s", span.From, next, got, want)
	}
}

func ids(evs []event.Event) (out []event.ID) {
	for i := range evs {
		out = append(out, evs[i].ID)
	}
	return out
}

func checkIDs(t fataler, what string, got []event.Event, want []event.ID) {
	t.Helper()
	if !slices.Equal(ids(got), want) {
		t.Fatalf("%s: events %v, want %v", what, ids(got), want)
	}
}

func integrity(t fataler, db *DB) {
	t.Helper()
	var text string
	if err := db.file.Read.QueryRow(`PRAGMA integrity_check`).Scan(&text); err != nil || text != "ok" {
		t.Fatalf("integrity_check: %s, %v", text, err)
	}
}

func mustHeld(t fataler, db *DB, ts ...event.Topic) window.Spans {
	t.Helper()
	held, err := db.Held(context.Background(), ts...)
	if err != nil {
		t.Fatalf("%v", err)
	}
	return held
}

func wantError(t fataler, what string, err, want error) {
	t.Helper()
	if !errors.Is(err, want) {
		t.Fatalf("%s: %v, want %v", what, err, want)
	}
}

// rawExec changes a file without the methods of DB.
func rawExec(db *DB, statements string, args ...any) error {
	return db.file.Update(context.Background(), func(tx *sql.Tx) error {
		_, err := tx.Exec(statements, args...)
		return err
	})
}

// changeLog changes the row of the log without the methods of DB.
func changeLog(db *DB, set string, args ...any) error {
	return db.file.Update(context.Background(), func(tx *sql.Tx) error {
		if _, err := tx.Exec(`UPDATE log SET `+set, args...); err != nil {
			return err
		}
		return testfile.SumLog(tx)
	})
}

// edit changes stored events without the methods of DB.
func edit(db *DB, change func(tx pagetest.DB) error) error {
	return db.file.Update(context.Background(), func(tx *sql.Tx) error { return change(tx) })
}

// mustStored returns the events that are stored, whatever windows say.
func mustStored(t fataler, db *DB) []pagetest.Event {
	t.Helper()
	evs, err := pagetest.List(db.file.Read)
	if err != nil {
		t.Fatalf("%v", err)
	}
	return evs
}

// kill abandons db as a killed process would: nothing is released.
func kill(db *DB) {
	db.file.Abandon()
	if db.closing != nil {
		close(db.closing)
	}
	db.closeOnce.Do(func() {})
}

// folderFiles returns the bytes of every file in a folder.
func folderFiles(t testing.TB, dir string) map[string]string {
	t.Helper()
	files := map[string]string{}
	entries, err := os.ReadDir(dir)
	if err != nil {
		t.Fatal(err)
	}
	for _, e := range entries {
		if b, err := os.ReadFile(filepath.Join(dir, e.Name())); err == nil {
			files[e.Name()] = string(b)
		}
	}
	return files
}

// setHashSpan makes each run of hashes cover n events, and merges runs two by two, until the
// test ends.
func setHashSpan(t testing.TB, n event.ID) {
	t.Helper()
	span, bits := seen.HashSpan, seen.MergeBits
	seen.HashSpan, seen.MergeBits = n, 1
	t.Cleanup(func() { seen.HashSpan, seen.MergeBits = span, bits })
}
