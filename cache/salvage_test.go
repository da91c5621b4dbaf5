package cache

import (
	"bytes"
	"context"
	"database/sql"
	"encoding/binary"
	"errors"
	"fmt"
	"maps"
	"math/rand/v2"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"

	"github.com/rstream-dev/rstream/cache/internal/dbfile"
	"github.com/rstream-dev/rstream/event"
	"github.com/rstream-dev/rstream/internal/longtest"
	"github.com/rstream-dev/rstream/window"
)

// A wreck is a file that is about to be damaged.
type wreck struct {
	name     string
	role     Role
	log      string
	bytes    []byte
	lines    map[event.ID]string // of its events
	storages map[event.ID]event.Storage
	held     window.Spans
}

// wrecks are a server's file, which has sealed blocks, long lines, dropped events and a
// block that is not full, and a copy whose pages overlap.
var wrecks = sync.OnceValue(func() []*wreck {
	var t panicker
	dir, err := os.MkdirTemp("", "wreck")
	if err != nil {
		panic(err)
	}
	defer os.RemoveAll(dir)
	at := newClock()
	server := mustOpen(t, filepath.Join(dir, "log.db"), Config{Role: Server, Now: at.now})
	for i := range 30 {
		for j := range 7 {
			mustAppend(t, server, drafts([]string{"alice", "bob", "carol"}[j%3], fmt.Sprint("x/", j), fmt.Sprint(i, "-", j), 40)...)
		}
		long := draft("alice", "long", fmt.Sprint("long", i))
		long.Value = []byte(`"` + strings.Repeat(fmt.Sprint("long ", i), 900) + `"`)
		mustAppend(t, server, long)
		if i == 15 {
			if err := server.RetainOnce(context.Background(), Retention{MaxBytes: 1}); err != nil {
				panic(err)
			}
		}
	}
	mustSeal(t, server, event.All)
	evs := readAll(t, server, []event.Topic{event.All}, window.Span{From: mustHeld(t, server, event.All)[0].From, To: server.Head()}, 1000)
	copied := mustOpen(t, filepath.Join(dir, "copy.db"), Config{Role: Client, Log: server.Log(), Now: at.now})
	for _, name := range []string{"alice", "carol", "bob"} {
		topic := topics(t, name)[0]
		for from := mustHeld(t, server, event.All)[0].From; from < server.Head(); from += 500 {
			obtain(t, copied, topic, matching(evs, topic), window.Span{From: from, To: min(from+500, server.Head())})
		}
	}
	keep(t, copied, evs, event.All, server.Head())
	var ws []*wreck
	for _, db := range []*DB{server, copied} {
		w := &wreck{name: string(db.Role()), role: db.Role(), log: db.Log(), lines: map[event.ID]string{}, storages: map[event.ID]event.Storage{}}
		for _, ev := range mustStored(t, db) {
			parsed, err := event.ParseLine(ev.Line)
			if err != nil {
				panic(err)
			}
			w.lines[ev.ID], w.storages[ev.ID] = string(ev.Line), parsed.Storage()
		}
		w.held = mustHeld(t, db, topics(t, "alice", "bob", "carol")...)
		if err := db.Close(); err != nil {
			panic(err)
		}
		if w.bytes, err = os.ReadFile(db.Path()); err != nil {
			panic(err)
		}
		ws = append(ws, w)
	}
	return ws
})

// A panicker is a fataler outside of tests.
type panicker struct{}

func (panicker) Helper()                           {}
func (panicker) Fatalf(format string, args ...any) { panic(fmt.Sprintf(format, args...)) }

func matching(evs []event.Event, topic event.Topic) (some []event.Event) {
	for i := range evs {
		if topic.Matches(evs[i].User, evs[i].Path) {
			some = append(some, evs[i])
		}
	}
	return some
}

// salvaged checks that the events found in a file are its own, each once and in order, and
// returns those that are neither found nor reported as missing.
func (w *wreck) salvaged(t *testing.T, path string) (s *Salvage, silent []event.ID) {
	t.Helper()
	s, err := OpenSalvage(t.Context(), path, nil)
	if err != nil {
		t.Fatal(err)
	}
	defer s.Close()
	found, last := map[event.ID]bool{}, event.Beginning
	err = s.Each(func(line []byte) error {
		ev, err := event.ParseLine(line)
		if err != nil || ev.ID <= last || w.lines[ev.ID] != string(line) {
			t.Errorf("%s: after event %s comes %.100q, not %.100q, %v", w.name, last, line, w.lines[ev.ID], err)
		}
		last = max(last, ev.ID)
		found[ev.ID] = true
		return nil
	})
	if err != nil || len(found) != s.Events || s.Events > 0 && last != s.Last {
		t.Fatalf("%s: %d events up to %s, %v, not %d up to %s", w.name, len(found), last, err, s.Events, s.Last)
	}
	said := window.Union(append(s.Missing, s.Doubtful...)...)
	for id := range w.lines {
		if !found[id] && !said.Contains(spanOf(id)) {
			silent = append(silent, id)
		}
	}
	return s, silent
}

// write writes the file with other bytes.
func (w *wreck) write(t *testing.T, b []byte) (path string) {
	t.Helper()
	path = filepath.Join(t.TempDir(), w.name+".db")
	if err := os.WriteFile(path, b, 0o600); err != nil {
		t.Fatal(err)
	}
	return path
}

// A sound file is salvaged completely, and nothing is written to it or next to it.
func TestSalvageSound(t *testing.T) {
	for _, w := range wrecks() {
		path := w.write(t, w.bytes)
		before := folderFiles(t, filepath.Dir(path))
		s, silent := w.salvaged(t, path)
		if s.Events != len(w.lines) || len(s.Missing)+len(s.Doubtful)+len(s.Notes)+len(silent) > 0 || s.Log != w.log || s.Role != w.role {
			t.Errorf("%s: %d events of %d, log %s, missing %v, doubtful %v, notes %q", w.name, s.Events, len(w.lines), s.Log, s.Missing, s.Doubtful, s.Notes)
		}
		if after := folderFiles(t, filepath.Dir(path)); len(after) != 1 || after[filepath.Base(path)] != before[filepath.Base(path)] {
			t.Errorf("%s: the folder has changed: %d files", w.name, len(after))
		}
	}
}

// salvagedLines returns the notes about a file and its salvaged lines.
func salvagedLines(t *testing.T, path string) (*Salvage, string) {
	t.Helper()
	s, err := OpenSalvage(t.Context(), path, nil)
	if err != nil {
		t.Fatal(err)
	}
	defer s.Close()
	var lines bytes.Buffer
	if err := s.Each(func(line []byte) error { lines.Write(append(line, '\n')); return nil }); err != nil {
		t.Error(err)
	}
	return s, lines.String()
}

// The files of all schemas are salvaged completely.
func TestSalvageSchemas(t *testing.T) {
	paths, err := filepath.Glob(filepath.Join(goldenDir, "*.db"))
	if err != nil || len(paths) < 10 {
		t.Fatalf("%d files, %v", len(paths), err)
	}
	for _, path := range paths {
		name := filepath.Base(path)
		s, got := salvagedLines(t, goldenCopy(t, name))
		if len(s.Missing)+len(s.Notes) > 0 {
			t.Errorf("%s: missing %v, notes %q", name, s.Missing, s.Notes)
		}
		db := mustOpen(t, upgradedGolden(t, name), Config{})
		var want bytes.Buffer
		for _, ev := range mustStored(t, db) {
			want.Write(append(ev.Line, '\n'))
		}
		db.Close()
		if got != want.String() || want.Len() == 0 {
			t.Errorf("%s: found\n%s\nwant\n%s", name, got, &want)
		}
	}
}

// A file whose header is lost is salvaged completely, whatever the size of its pages.
func TestSalvageWithoutHeader(t *testing.T) {
	paths, err := filepath.Glob(filepath.Join(goldenDir, "*-grown.db"))
	if err != nil || len(paths) < 10 {
		t.Fatalf("%d files, %v", len(paths), err)
	}
	// Rows that fill a page, and those that take two, which may be every other one.
	for _, name := range []string{"0009-server.db", "0010-server.db"} {
		for _, length := range []int{3900, 7000, 7900} {
			for _, first := range []int{0, 1} {
				path := upgradedGolden(t, name)
				db := mustOpen(t, path, Config{Role: Server, Log: testLog})
				mustAppend(t, db, drafts("alice", "first", "k", first*200)...)
				for i := range 100 {
					d := draft("alice", "long", fmt.Sprint(i))
					d.Value = []byte(`"` + strings.Repeat("l", length) + `"`)
					mustAppend(t, db, d)
				}
				if err := db.Close(); err != nil {
					t.Fatal(err)
				}
				paths = append(paths, path)
			}
		}
	}
	for _, path := range paths {
		if filepath.Dir(path) == goldenDir {
			path = goldenCopy(t, filepath.Base(path))
		}
		_, want := salvagedLines(t, path)
		b, err := os.ReadFile(path)
		if err != nil {
			t.Fatal(err)
		}
		for _, damage := range []func(){func() { clear(b[:100]) }, func() { fillRandom(rand.New(rand.NewPCG(1, 2)), b[:100]) }} {
			damage()
			if err := os.WriteFile(path, b, 0o600); err != nil {
				t.Fatal(err)
			}
			if _, got := salvagedLines(t, path); got != want || want == "" {
				t.Errorf("%s: %d bytes of lines, want %d", filepath.Base(path), len(got), len(want))
			}
		}
	}
}

// Whatever is damaged, the events found are right, and the others are reported as missing or
// a note says that this cannot be known.
func TestSalvageDamaged(t *testing.T) {
	seed := rand.Uint64()
	t.Logf("seed %d", seed)
	random := rand.New(rand.NewPCG(seed, 0))
	damages := map[string]func(b []byte) []byte{
		"a bit": func(b []byte) []byte { b[random.IntN(len(b))] ^= 1 << random.IntN(8); return b },
		"a page": func(b []byte) []byte {
			fillRandom(random, b[dbfile.PageSize*random.IntN(len(b)/dbfile.PageSize):][:dbfile.PageSize])
			return b
		},
		"a zero page": func(b []byte) []byte {
			clear(b[dbfile.PageSize*random.IntN(len(b)/dbfile.PageSize):][:dbfile.PageSize])
			return b
		},
		"ten pages": func(b []byte) []byte {
			fillRandom(random, b[random.IntN(len(b)-10*dbfile.PageSize):][:10*dbfile.PageSize])
			return b
		},
		"the header": func(b []byte) []byte { fillRandom(random, b[:100]); return b },
		"page 1":     func(b []byte) []byte { fillRandom(random, b[:dbfile.PageSize]); return b },
		"cut":        func(b []byte) []byte { return b[:len(b)/2+random.IntN(len(b)/2)] },
		"hundred bits": func(b []byte) []byte {
			for range 100 {
				b[random.IntN(len(b))] ^= 1 << random.IntN(8)
			}
			return b
		},
		"all inner pages": func(b []byte) []byte {
			for at := dbfile.PageSize; at < len(b); at += dbfile.PageSize {
				if b[at] == 2 || b[at] == 5 {
					clear(b[at:][:dbfile.PageSize])
				}
			}
			return b
		},
	}
	first := random.IntN(2)
	for i, w := range wrecks() {
		for j, name := range slices.Sorted(maps.Keys(damages)) {
			if !longtest.Enabled() && (first+i+j)%2 == 0 { // by default, each damages one file
				continue
			}
			damage := damages[name]
			most := 0
			for range longtest.Scale(1, 2, 6) {
				s, silent := w.salvaged(t, w.write(t, damage(bytes.Clone(w.bytes))))
				if len(silent) > 0 && len(s.Notes) == 0 {
					t.Errorf("%s, %s: events %v are left out in silence", w.name, name, silent)
				}
				most = max(most, s.Events)
			}
			if most == 0 {
				t.Errorf("%s, %s: no event was found", w.name, name)
			}
			t.Logf("%s, %s: up to %d events of %d", w.name, name, most, len(w.lines))
		}
	}
}

func fillRandom(random *rand.Rand, b []byte) {
	for i := range b {
		b[i] = byte(random.Uint32())
	}
}

// Events that are only in the write-ahead log are found, including those after a damaged
// frame, which SQLite drops. Without the log, the rest is found.
func TestSalvageLog(t *testing.T) {
	db := openServer(t)
	var want []event.ID
	for i := range 20 {
		for _, r := range mustAppend(t, db, drafts("alice", "x", fmt.Sprint(i), 30)...) {
			want = append(want, r.ID)
		}
	}
	w := &wreck{name: "log", lines: map[event.ID]string{}}
	for _, ev := range mustStored(t, db) {
		w.lines[ev.ID] = string(ev.Line)
	}
	main, err := os.ReadFile(db.Path())
	if err != nil {
		t.Fatal(err)
	}
	log, err := os.ReadFile(db.Path() + "-wal")
	if err != nil {
		t.Fatal(err)
	}
	salvage := func(log []byte) *Salvage {
		path := w.write(t, main)
		if err := os.WriteFile(path+"-wal", log, 0o600); err != nil {
			t.Fatal(err)
		}
		s, silent := w.salvaged(t, path)
		if len(silent) > 0 && len(s.Notes) == 0 && len(log) > 0 {
			t.Errorf("events %v are left out in silence", silent)
		}
		return s
	}
	if s := salvage(log); s.Events != len(want) || len(s.Notes) > 0 {
		t.Errorf("%d events of %d, notes %q", s.Events, len(want), s.Notes)
	}
	salvage(nil)
	seed := rand.Uint64()
	t.Logf("seed %d", seed)
	random := rand.New(rand.NewPCG(seed, 0))
	least := len(want)
	for range longtest.Scale(10, 100, 300) {
		bad := bytes.Clone(log)
		bad[random.IntN(len(bad))] ^= 1 << random.IntN(8)
		least = min(least, salvage(bad).Events)
	}
	if least < len(want)-40 {
		t.Errorf("after one flipped bit of the log, %d events of %d are found", least, len(want))
	}
	salts := bytes.Clone(log)
	binary.BigEndian.PutUint64(salts[16:], 1)
	if s := salvage(salts); s.Events != len(want) || len(s.Notes) == 0 {
		t.Errorf("without the salts of its header: %d events of %d, notes %q", s.Events, len(want), s.Notes)
	}
}

// The search of a file ends with its context.
func TestSalvageStops(t *testing.T) {
	path := filepath.Join(t.TempDir(), "log.db")
	if err := mustOpen(t, path, Config{Role: Server}).Close(); err != nil {
		t.Fatal(err)
	}
	stopped := errors.New("stopped")
	ctx, cancel := context.WithCancelCause(t.Context())
	s, err := OpenSalvage(ctx, path, func(Progress) { cancel(stopped) })
	if err == nil {
		s.Close()
	}
	if !errors.Is(err, stopped) {
		t.Errorf("its error is %v", err)
	}
}

// A file that has become shorter in its write-ahead log has pages of dropped events at its end.
// They are not found.
func TestSalvageShorter(t *testing.T) {
	ctx := context.Background()
	db := openServer(t)
	for i := range 10 {
		ds := drafts("alice", "x", fmt.Sprint("k", i), int(event.BlockSize)/2)
		mustAppend(t, db, append(ds, draft("bob", fmt.Sprint(i), "k"))...)
	}
	mustDo(t, db.file.Checkpoint)
	err := db.file.View(ctx, func(tx *sql.Tx) error { // a reader, so that the file stays as it is
		var n int
		if err := tx.QueryRow(`SELECT count(*) FROM page`).Scan(&n); err != nil {
			return err
		}
		return db.RetainOnce(ctx, Retention{MaxBytes: 1})
	})
	if err != nil {
		t.Fatal(err)
	}
	w := &wreck{name: "shorter", lines: map[event.ID]string{}}
	for _, ev := range mustStored(t, db) {
		w.lines[ev.ID] = string(ev.Line)
	}
	size, err := db.file.Size(ctx)
	if err != nil {
		t.Fatal(err)
	}
	main, err := os.ReadFile(db.Path())
	if err != nil || int64(len(main)) <= size.Bytes() {
		t.Fatalf("the file has %d bytes, and should have more than %d, %v", len(main), size.Bytes(), err)
	}
	log, err := os.ReadFile(db.Path() + "-wal")
	if err != nil {
		t.Fatal(err)
	}
	path := w.write(t, main)
	if err := os.WriteFile(path+"-wal", log, 0o600); err != nil {
		t.Fatal(err)
	}
	if s, silent := w.salvaged(t, path); len(silent) > 0 || s.Events != len(w.lines) || len(s.Notes) > 0 {
		t.Errorf("%d events of %d, notes %q, left out in silence are %v", s.Events, len(w.lines), s.Notes, silent)
	}
}

func TestSalvageNothing(t *testing.T) {
	path := filepath.Join(t.TempDir(), "no.db")
	if _, err := OpenSalvage(t.Context(), path, nil); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("of no file: %v", err)
	}
	for _, text := range []string{"", "no database", strings.Repeat("no database", 1000)} {
		if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
		s, err := OpenSalvage(t.Context(), path, nil)
		if err != nil || s.Events != 0 || len(s.Notes) == 0 {
			t.Errorf("of %.20q: %+v, %v", text, s, err)
		}
		if err == nil {
			s.Close()
		}
	}
	if _, err := OpenSalvage(t.Context(), t.TempDir(), nil); err == nil {
		t.Error("a folder is salvaged")
	}
}
