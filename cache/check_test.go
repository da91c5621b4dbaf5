package cache

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/rstream-dev/rstream/cache/internal/dbfile"
	"github.com/rstream-dev/rstream/event"
	"github.com/rstream-dev/rstream/internal/longtest"
	"github.com/rstream-dev/rstream/internal/pagetest"
	"github.com/rstream-dev/rstream/window"
)

// someEvent returns an event in the middle.
func (w *wreck) someEvent() event.ID { return slices.Sorted(maps.Keys(w.lines))[len(w.lines)/2] }

func faultsOf(t *testing.T, db *DB) (s Soundness, faults []Fault) {
	t.Helper()
	s, err := db.CheckContents(context.Background(), func(f Fault) error { faults = append(faults, f); return nil })
	if err != nil {
		t.Fatal(err)
	}
	return s, faults
}

// A sound file has no faults, whatever its history.
func TestCheckContentsSound(t *testing.T) {
	for _, w := range wrecks() {
		db := mustOpen(t, w.write(t, w.bytes), Config{})
		defer db.Close()
		mustLeaves(t, db, topics(t, "alice")[0], w.held[0])
		s, faults := faultsOf(t, db)
		if len(faults) > 0 || s.Events < len(w.lines) || s.Pages == 0 || s.Postings == 0 {
			t.Errorf("%s: %+v, faults %+v", w.name, s, faults)
		}
		if s.Digests == 0 || w.role == Client && s.States == 0 {
			t.Errorf("%s: %+v", w.name, s)
		}
	}
	paths, err := filepath.Glob(filepath.Join(goldenDir, "*.db"))
	if err != nil || len(paths) == 0 {
		t.Fatalf("%d files, %v", len(paths), err)
	}
	for _, path := range paths[longtest.Size(len(paths)-4, 0):] { // by default, the last versions
		name := filepath.Base(path)
		db := mustOpen(t, upgradedGolden(t, name), Config{})
		if s, faults := faultsOf(t, db); len(faults) > 0 || s.Events == 0 {
			t.Errorf("%s: %+v, faults %+v", name, s, faults)
		}
		db.Close()
	}
}

// Each damage is found, with the events and the storages that it affects.
func TestCheckContents(t *testing.T) {
	server, copied := wrecks()[0], wrecks()[1]
	exec := func(query string, args ...any) func(*DB, event.ID) error {
		return func(db *DB, _ event.ID) error { return rawExec(db, query, args...) }
	}
	for _, test := range []struct {
		what   string
		w      *wreck
		damage func(db *DB, id event.ID) error
		kinds  []FaultKind
		named  bool // the storage of the event is
	}{
		{"a flipped bit", server, func(db *DB, id event.ID) error {
			return edit(db, func(tx pagetest.DB) error { return pagetest.Flip(tx, id, 100) })
		}, []FaultKind{FaultPage}, true},
		{"a flipped bit", copied, func(db *DB, id event.ID) error {
			return edit(db, func(tx pagetest.DB) error { return pagetest.Flip(tx, id, 100) })
		}, []FaultKind{FaultPage}, true},
		{"a damaged index", copied, exec(`UPDATE page SET entries = CAST(x'00' || substr(entries, 2) AS BLOB)`), []FaultKind{FaultPage}, true},
		{"a wrong line", server, func(db *DB, id event.ID) error {
			return edit(db, func(tx pagetest.DB) error { return pagetest.SetLine(tx, id, []byte(`{"id":"no"}`)) })
		}, []FaultKind{FaultPage}, true},
		{"a missing event", server, func(db *DB, id event.ID) error {
			return edit(db, func(tx pagetest.DB) error { return pagetest.Remove(tx, id) })
		}, []FaultKind{FaultPage, FaultPosting, FaultMissing}, false},
		{"a missing page", copied, exec(`DELETE FROM page WHERE key = (SELECT key FROM page ORDER BY key LIMIT 1 OFFSET 5)`), []FaultKind{FaultPosting}, false},
		{"a missing posting", copied, func(db *DB, id event.ID) error {
			return edit(db, func(tx pagetest.DB) error { return pagetest.Unpost(tx, id) })
		}, []FaultKind{FaultPage}, true},
		{"a damaged posting", copied, exec(`UPDATE page_posting SET count = count + 1`), []FaultKind{FaultPage, FaultPosting}, true},
		{"another name", server, exec(`UPDATE storage SET path = path || 'x'`), []FaultKind{FaultPage, FaultDigest}, false},
		{"a kept state", copied, exec(`UPDATE part SET members = CAST(substr(members, 2) AS BLOB)`), []FaultKind{FaultState}, false},
		{"a digest", server, exec(`UPDATE leaf SET count = count + 1`), []FaultKind{FaultDigest}, false},
		{"a window", copied, exec(`UPDATE window SET start = start + 1`), []FaultKind{FaultRow}, false},
		{"the row of the log", server, exec(`UPDATE log SET next = next + 1`), []FaultKind{FaultRow}, false},
	} {
		what := fmt.Sprintf("%s of the %s's file", test.what, test.w.name)
		db := mustOpen(t, test.w.write(t, test.w.bytes), Config{})
		mustLeaves(t, db, topics(t, "alice")[0], test.w.held[0])
		id := test.w.someEvent()
		if err := test.damage(db, id); err != nil {
			t.Fatal(err)
		}
		_, faults := faultsOf(t, db)
		ev, err := event.ParseLine([]byte(test.w.lines[id]))
		if err != nil {
			t.Fatal(err)
		}
		named := false
		for _, f := range faults {
			if !slices.Contains(test.kinds, f.Kind) {
				t.Errorf("%s: %+v", what, f)
			}
			named = named || f.Span.Contains(spanOf(id)) && slices.Contains(f.Storages, ev.Storage())
		}
		if len(faults) == 0 || test.named && !named {
			t.Errorf("%s: faults %+v, of event %s and %v", what, faults, id, ev.Storage())
		}
		db.Close()
	}
}

// A part that SQLite cannot read is a fault, and the rest is checked.
func TestCheckContentsStructure(t *testing.T) {
	w := wrecks()[0]
	at := bytes.Index(w.bytes, []byte(w.lines[w.someEvent()])) / dbfile.PageSize * dbfile.PageSize
	b := bytes.Clone(w.bytes)
	clear(b[at:][:dbfile.PageSize])
	db := mustOpen(t, w.write(t, b), Config{})
	defer db.Close()
	s, faults := faultsOf(t, db)
	kinds := map[FaultKind]int{}
	for _, f := range faults {
		kinds[f.Kind]++
	}
	if kinds[FaultStructure] == 0 || kinds[FaultPage] == 0 || s.Events < len(w.lines)-300 {
		t.Errorf("%+v, faults %+v", s, faults)
	}
}

// A page whose key comes before that of the page before it does not lead the check back to
// pages that it has read.
func TestCheckContentsOrder(t *testing.T) {
	path := filepath.Join(t.TempDir(), "log.db")
	db := mustOpen(t, path, Config{Role: Server})
	var ds []event.Draft
	for i := range 300 {
		text := fmt.Sprintf("%7800d", i)
		ds = append(ds, event.Draft{User: "alice", Path: "x", Type: event.Put, Key: "k", Value: []byte(`"` + text + `"`)})
	}
	mustAppend(t, db, ds...)
	db.Close()
	b, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	w := &wreck{bytes: b}
	structure := make([]bool, len(b))
	for _, s := range spotsOf(t, w, "page")["page"] {
		structure[s.At] = !s.Column
	}
	found := false
	for at := range len(b) - 1 {
		if found && !longtest.Enabled() {
			break
		}
		// Page 256 is the last of a step. In its key, two bytes, one bit makes 0 of 256.
		if !structure[at] || !structure[at+1] || b[at] != 0x82 || b[at+1] != 0 {
			continue
		}
		bad := bytes.Clone(b)
		bad[at] ^= 2
		db := mustOpen(t, w.write(t, bad), Config{})
		ctx, stop := context.WithTimeout(t.Context(), 20*time.Second)
		kinds := map[FaultKind]int{}
		if _, err := db.CheckContents(ctx, func(f Fault) error { kinds[f.Kind]++; return nil }); err != nil {
			t.Errorf("byte %d: %v", at, err)
		}
		found = found || kinds[FaultPage] == 1
		if kinds[FaultStructure] == 0 {
			t.Errorf("byte %d: faults %v", at, kinds)
		}
		stop()
		db.Close()
	}
	if !found {
		t.Error("no flipped bit is in the key of page 256")
	}
}

// The file may be written while it is checked.
func TestCheckContentsWritten(t *testing.T) {
	ctx, cancel := context.WithCancel(context.Background())
	db := mustOpen(t, wrecks()[0].write(t, wrecks()[0].bytes), Config{Role: Server})
	defer db.Close()
	done := make(chan error)
	var rounds atomic.Int64
	go func() {
		for i := 0; ; i++ {
			_, err := db.Append(ctx, drafts("alice", fmt.Sprint("x/", i%9), fmt.Sprint("more", i), 300))
			rounds.Add(1)
			if err == nil && i%8 == 7 {
				err = db.RetainOnce(ctx, Retention{MaxBytes: 1})
			}
			if err != nil {
				done <- err
				return
			}
		}
	}()
	for rounds.Load() < int64(longtest.Size(4, 200)) {
		if _, faults := faultsOf(t, db); len(faults) > 0 {
			t.Errorf("faults %+v", faults)
		}
	}
	cancel()
	if err := <-done; !errors.Is(err, context.Canceled) {
		t.Error(err)
	}
}

// Rows of tables that only some files have are checked, too.
func TestCheckContentsLaterTables(t *testing.T) {
	m := newPartMirroring(t, "alice")
	mustAppend(t, m.log, append(drafts("alice", "x", "k", 3), draft("bob", "y", "k"))...)
	m.followPart(t)
	log := openServer(t)
	move := sourceMove("", "a")
	move.Seen, move.Until, move.Foreign, move.Log = []byte("seen"), 1, []string{"a1", "a2"}, "other"
	if _, err := log.AppendFrom(t.Context(), move, drafts("alice", "x", "k", 2)); err != nil {
		t.Fatal(err)
	}
	copied := openClient(t)
	mustStep(t, holdConsumer(t, copied), &ConsumerStep{Position: 4, Oldest: 1, Block: []BlockedStorage{{event.Storage{User: "alice", Path: "x"}, 1, 2, 77, ""}}})
	for db, tables := range map[*DB][]string{
		m.mirror: {"mirror1"},
		log:      {"source1_state", "source1_seen", "source1_origin"},
		copied:   {"consumer1", "consumer1_blocked"},
	} {
		if _, faults := faultsOf(t, db); len(faults) > 0 {
			t.Errorf("before: %+v", faults)
		}
		for _, table := range tables {
			mustExec(t, db, `UPDATE `+table+` SET sum = sum + 1`)
			_, faults := faultsOf(t, db)
			if len(faults) != 1 || faults[0].Kind != FaultRow || !strings.Contains(faults[0].Text, "rows of the table "+table+" ") {
				t.Errorf("%s: %+v", table, faults)
			}
			mustExec(t, db, `UPDATE `+table+` SET sum = sum - 1`)
		}
	}
}

// Kept leaves below the horizon are of events that may have been dropped. They are no damage.
func TestCheckContentsBelowHorizon(t *testing.T) {
	ctx := context.Background()
	db, _ := bigLog(t)
	mustLeaves(t, db, event.All, window.Span{To: db.Head()})
	if err := db.history.MoveHorizon(ctx, event.BlockSize); err != nil {
		t.Fatal(err)
	}
	r, err := db.newRetainer(ctx, Retention{})
	if err != nil {
		t.Fatal(err)
	}
	killed := errors.New("killed")
	r.Throttle = func(context.Context, time.Duration) error { return killed }
	wantError(t, "Round", r.Round(ctx), killed)
	if n := len(mustStored(t, db)); n >= int(db.Head()) {
		t.Fatalf("%d events of %s are left", n, db.Head())
	}
	check := func(digests int) {
		t.Helper()
		if s, faults := faultsOf(t, db); len(faults) > 0 || s.Digests != digests {
			t.Errorf("%+v, faults %+v, want %d digests", s, faults, digests)
		}
	}
	check(1)
	mustExec(t, db, `UPDATE leaf SET count = count + 1`)
	if _, faults := faultsOf(t, db); len(faults) != 1 || faults[0].Kind != FaultDigest || faults[0].Span != window.BlockSpan(1) {
		t.Errorf("faults of damaged digests: %+v", faults)
	}
}
