package cache

import (
	"context"
	"crypto/sha256"
	"database/sql"
	"encoding/binary"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"

	"pgregory.net/rapid"

	"github.com/rstream-dev/rstream/event"
	"github.com/rstream-dev/rstream/internal/longtest"
	"github.com/rstream-dev/rstream/window"
)

// A madeFile is the contents of a file that many tests begin with, and its events.
type madeFile struct {
	bytes []byte
	evs   []event.Event
}

// bigLogFile is a server's file that has filled two blocks and begun the third, with
// values that come, change and go.
var bigLogFile = sync.OnceValue(func() (f madeFile) {
	var ds []event.Draft
	for i := range 2*event.BlockSize + 300 {
		d := draft(modelUsers[i*7%3], modelPaths[i*5%len(modelPaths)], fmt.Sprint(i))
		if i%5 == 3 {
			d.Type, d.Value = event.Del, nil
		}
		if i > event.BlockSize && i%5 == 1 {
			d.Path = fmt.Sprintf("posts/%d", i%97)
		}
		ds = append(ds, d)
	}
	f.bytes = fileOf(Config{Role: Server}, func(db *DB) error {
		rs, err := db.Append(context.Background(), ds)
		for i := range rs {
			f.evs = append(f.evs, rs[i].Event)
		}
		return err
	})
	return f
})

// bigCopyFile is a client's file that holds all events of bigLogFile.
var bigCopyFile = sync.OnceValue(func() []byte {
	evs := bigLogFile().evs
	return fileOf(Config{Role: Client, Log: testLog}, func(db *DB) error {
		head := evs[len(evs)-1].ID
		l, _, err := db.Leases().Claim(context.Background(), []event.Topic{event.All}, window.Span{From: 0, To: head})
		if err != nil {
			return err
		}
		_, err = l.Apply(context.Background(), evs, head)
		return errors.Join(err, l.Commit(context.Background()))
	})
})

func fileOf(cfg Config, fill func(*DB) error) []byte {
	dir, err := os.MkdirTemp("", "rstream")
	if err != nil {
		panic(err)
	}
	defer os.RemoveAll(dir)
	path := filepath.Join(dir, "x.db")
	db, err := Open(context.Background(), path, cfg)
	if err != nil {
		panic(err)
	}
	if err := errors.Join(fill(db), db.Close()); err != nil {
		panic(err)
	}
	b, err := os.ReadFile(path)
	if err != nil {
		panic(err)
	}
	return b
}

func openBytes(t testing.TB, b []byte, cfg Config) *DB {
	t.Helper()
	path := filepath.Join(t.TempDir(), "x.db")
	if err := os.WriteFile(path, b, 0o600); err != nil {
		t.Fatal(err)
	}
	db := mustOpen(t, path, cfg)
	t.Cleanup(func() { db.Close() })
	return db
}

func bigLog(t testing.TB) (*DB, []event.Event) {
	t.Helper()
	f := bigLogFile()
	return openBytes(t, f.bytes, Config{Role: Server}), f.evs
}

func bigCopy(t testing.TB) (*DB, []event.Event) {
	t.Helper()
	return openBytes(t, bigCopyFile(), Config{Role: Client}), bigLogFile().evs
}

// obtain stores the missing part of span from evs.
func obtain(t fataler, db *DB, topic event.Topic, evs []event.Event, span window.Span) (held window.Spans) {
	t.Helper()
	for {
		l, _, err := db.Leases().Claim(context.Background(), []event.Topic{topic}, span)
		if err != nil {
			t.Fatalf("%v", err)
		}
		if l == nil {
			return held
		}
		part := l.Span()
		if _, err := l.Apply(context.Background(), among(evs, topic, part), part.To); err != nil {
			t.Fatalf("%v", err)
		}
		if err := l.Commit(context.Background()); err != nil {
			t.Fatalf("%v", err)
		}
		held = held.Add(part)
	}
}

func among(evs []event.Event, topic event.Topic, span window.Span) (some []event.Event) {
	for i := range evs {
		if ev := &evs[i]; span.From < ev.ID && ev.ID <= span.To && topic.Matches(ev.User, ev.Path) {
			some = append(some, *ev)
		}
	}
	return some
}

// slowLeaves computes leaves literally by their definition.
func slowLeaves(evs []event.Event) (leaves []window.Leaf) {
	byBlock := map[uint64][]byte{}
	for i := range evs {
		b := byBlock[evs[i].ID.Block()]
		b = binary.BigEndian.AppendUint64(b, uint64(evs[i].ID))
		b = binary.BigEndian.AppendUint64(b, uint64(evs[i].Time))
		byBlock[evs[i].ID.Block()] = append(b, evs[i].Hash[:]...)
	}
	for block, b := range byBlock {
		leaves = append(leaves, window.Leaf{Block: block, Count: uint32(len(b) / 48), Sum: sha256.Sum256(b)})
	}
	slices.SortFunc(leaves, func(a, b window.Leaf) int { return int(a.Block) - int(b.Block) })
	return leaves
}

func mustLeaves(t fataler, db *DB, topic event.Topic, span window.Span) []window.Leaf {
	t.Helper()
	leaves, err := db.Leaves(context.Background(), topic, span)
	if err == nil {
		err = db.saveLeaves(context.Background(), true)
	}
	if err != nil {
		t.Fatalf("%v", err)
	}
	return leaves
}

func mustCheckedLeaves(t fataler, db *DB, topic event.Topic, span window.Span) []window.Leaf {
	t.Helper()
	leaves, err := db.CheckedLeaves(context.Background(), topic, span)
	if err != nil {
		t.Fatalf("%v", err)
	}
	return leaves
}

// keptLeaves returns "topic block" of each kept leaf.
func keptLeaves(t fataler, db *DB) (kept []string) {
	t.Helper()
	rows, err := db.file.Read.Query(`SELECT topic || ' ' || block FROM leaf ORDER BY topic, block`)
	if err != nil {
		t.Fatalf("%v", err)
	}
	defer rows.Close()
	for rows.Next() {
		var name string
		if err := rows.Scan(&name); err != nil {
			t.Fatalf("%v", err)
		}
		kept = append(kept, name)
	}
	if err := rows.Err(); err != nil {
		t.Fatalf("%v", err)
	}
	return kept
}

func drawSpan(t *rapid.T, head event.ID) window.Span {
	position := rapid.Custom(func(t *rapid.T) event.ID {
		near := rapid.SampledFrom([]event.ID{0, event.BlockSize, 2 * event.BlockSize, head, head / 3}).Draw(t, "near")
		return event.ID(min(max(int64(near)+rapid.Int64Range(-2, 2).Draw(t, "off"), 0), int64(head)))
	})
	a, b := position.Draw(t, "from"), position.Draw(t, "to")
	return window.Span{From: min(a, b), To: max(a, b)}
}

// Leaves match the events, cold and warm, in a log and in its copy, whole and assembled from
// parts.
func TestLeavesAgainstEvents(t *testing.T) {
	alone(t)
	server, evs := bigLog(t)
	client, _ := bigCopy(t)
	rapid.Check(t, func(t *rapid.T) {
		topic := topics(t, rapid.SampledFrom(modelTopics).Draw(t, "topic"))[0]
		span := drawSpan(t, server.Head())
		want := slowLeaves(among(evs, topic, span))
		for _, db := range []*DB{server, client} {
			if rapid.Bool().Draw(t, "cold") {
				if err := rawExec(db, `DELETE FROM leaf`); err != nil {
					t.Fatalf("%v", err)
				}
			}
			for range 2 {
				if got := mustLeaves(t, db, topic, span); !slices.Equal(got, want) {
					t.Fatalf("Leaves(%s, %s) = %v, want %v", topic, span, got, want)
				}
			}
			if got := mustCheckedLeaves(t, db, topic, span); !slices.Equal(got, want) {
				t.Fatalf("CheckedLeaves(%s, %s) = %v, want %v", topic, span, got, want)
			}
			for _, name := range keptLeaves(t, db) {
				if !strings.HasSuffix(name, " 0") && !strings.HasSuffix(name, " 1") {
					t.Fatalf("the leaf %q is kept, though its block is open", name)
				}
			}
		}
	})
}

// Only leaves that cannot change any more are kept: those of complete, held blocks.
func TestLeavesAreKeptWhenFinal(t *testing.T) {
	all, evs := bigLog(t)
	db := openClient(t)
	ts := topics(t, "alice", "alice/posts", strings.Repeat("x", 128)+"/"+strings.Repeat("y", 200))
	alice, posts, long := ts[0], ts[1], ts[2]
	whole := window.Span{From: 0, To: 2 * event.BlockSize}
	obtain(t, db, alice, evs, window.Span{From: 10, To: whole.To})
	mustLeaves(t, db, posts, whole)
	mustLeaves(t, db, event.All, whole)
	mustLeaves(t, db, alice, window.Span{From: event.BlockSize + 1, To: whole.To})
	if got, want := keptLeaves(t, db), []string{"alice 1", "alice/posts 1"}; !slices.Equal(got, want) {
		t.Errorf("kept are %q, want %q", got, want)
	}
	obtain(t, db, event.All, evs, whole)
	mustLeaves(t, db, posts, whole)
	mustLeaves(t, db, long, whole)
	if got, want := keptLeaves(t, db), []string{"alice 1", "alice/posts 0", "alice/posts 1"}; !slices.Equal(got, want) {
		t.Errorf("kept are %q, want %q", got, want)
	}
	mustLeaves(t, all, posts, window.Span{From: 0, To: all.Head()})
	mustAppend(t, all, drafts("alice", "posts", "more", event.BlockSize)...)
	mustLeaves(t, all, posts, window.Span{From: 0, To: all.Head()})
	if got, want := keptLeaves(t, all), []string{"alice/posts 0", "alice/posts 1", "alice/posts 2"}; !slices.Equal(got, want) {
		t.Errorf("kept are %q, want %q", got, want)
	}
}

func TestLeavesAreBounded(t *testing.T) {
	longtest.Require(t)
	defer func(n int) { maxLeaves = n }(maxLeaves)
	maxLeaves = 3
	at := newClock()
	db := openBytes(t, bigCopyFile(), Config{Role: Client, Now: at.now})
	mustExec(t, db, `DELETE FROM leaf`) // which the pull kept, by another clock
	whole := window.Span{From: 0, To: 2 * event.BlockSize}
	for _, name := range []string{"alice", "bob", "*/posts", "nobody"} {
		mustLeaves(t, db, topics(t, name)[0], whole)
		at.add(1e9)
	}
	if got, want := keptLeaves(t, db), []string{"nobody 0", "nobody 1"}; !slices.Equal(got, want) {
		t.Errorf("kept are %q, want %q", got, want)
	}
}

// A leaf that was computed before events were removed is not kept.
func TestLeavesOfRemovedEventsAreNotKept(t *testing.T) {
	db, evs := bigCopy(t)
	mustExec(t, db, `DELETE FROM leaf`)
	whole := window.Span{From: 0, To: event.BlockSize}
	ts := topics(t, "alice", "alice/posts", "*/posts", "bob")
	for _, topic := range ts {
		mustLeaves(t, db, topic, whole)
	}
	c := leafChunk{db: db, topic: event.All, span: whole}
	if err := db.file.View(context.Background(), func(tx *sql.Tx) error { return c.readLeaves(context.Background(), tx) }); err != nil {
		t.Fatal(err)
	}
	if len(c.fresh) != 1 {
		t.Fatalf("%d leaves are to be kept, want 1", len(c.fresh))
	}
	if err := db.Replace(context.Background(), ts[1], whole, among(evs, ts[1], whole)); err != nil {
		t.Fatal(err)
	}
	if err := c.keepLeaves(context.Background()); err != nil {
		t.Fatal(err)
	}
	if got, want := keptLeaves(t, db), []string{"bob 0"}; !slices.Equal(got, want) {
		t.Errorf("kept are %q, want %q", got, want)
	}
}

// A log reports nothing below its horizon.
func TestLeavesBelowHorizon(t *testing.T) {
	db, _ := bigLog(t)
	if err := changeLog(db, `horizon = ?`, event.BlockSize); err != nil {
		t.Fatal(err)
	}
	_, err := db.Leaves(context.Background(), event.All, window.Span{From: event.BlockSize - 1, To: db.Head()})
	wantNotHeld(t, err, window.NotHeldError{After: event.BlockSize - 1, Oldest: event.BlockSize, Some: true})
	if n := len(mustLeaves(t, db, event.All, window.Span{From: event.BlockSize, To: db.Head()})); n != 2 {
		t.Errorf("%d leaves, want 2", n)
	}
}

func TestProve(t *testing.T) {
	evs := bigLogFile().evs
	alice := topics(t, "alice")[0]
	span := window.Span{From: 0, To: 300}
	db := openClient(t)
	obtain(t, db, alice, evs, window.Span{From: 0, To: 200})
	obtain(t, db, event.All, evs, window.Span{From: 150, To: 300})
	before, err := db.Removals(context.Background())
	if err != nil {
		t.Fatal(err)
	}
	if err := db.Prove(context.Background(), alice, span, before, 0); err != nil {
		t.Fatal(err)
	}
	want := []window.Window{
		{Topic: alice, State: window.Committed, From: 0, To: 300, Reached: 300, Proven: true},
		{Topic: event.All, State: window.Committed, From: 150, To: 300, Reached: 300},
	}
	if got := mustWindows(t, db); !slices.Equal(got, want) {
		t.Errorf("the windows are %v, want %v", got, want)
	}
	// A proof of the whole proves its parts.
	for _, part := range topics(t, "alice", "alice/posts") {
		if err := db.Prove(context.Background(), part, window.Span{From: 5, To: 250}, before, 0); err != nil {
			t.Fatal(err)
		}
	}
	if got := mustWindows(t, db); !slices.Equal(got, want) {
		t.Errorf("the windows have become %v", got)
	}
	if err := db.Replace(context.Background(), alice, window.Span{From: 0, To: 1}, among(evs, alice, window.Span{From: 0, To: 1})); err != nil {
		t.Fatal(err)
	}
	wantError(t, "Prove after events were removed", db.Prove(context.Background(), event.All, span, before, 0), ErrLost)
	wantError(t, "Prove on a log", openServer(t).Prove(context.Background(), alice, span, 0, 0), ErrRole)
}

func TestTimeAt(t *testing.T) {
	db, evs := bigLog(t)
	for _, at := range []event.ID{1, 5000, db.Head()} {
		if got, ok, err := db.TimeAt(context.Background(), at); err != nil || !ok || got != evs[at-1].Time {
			t.Errorf("TimeAt(%d) = %s, %v, %v, want %s", at, got, ok, err, evs[at-1].Time)
		}
	}
	if _, ok, err := db.TimeAt(context.Background(), 0); ok || err != nil {
		t.Errorf("TimeAt(0) = %v, %v, want none", ok, err)
	}
}

func mustWindows(t fataler, db *DB) []window.Window {
	t.Helper()
	ws, err := db.Windows(context.Background())
	if err != nil {
		t.Fatalf("%v", err)
	}
	return ws
}

func wantNotHeld(t fataler, err error, want window.NotHeldError) {
	t.Helper()
	var e *window.NotHeldError
	if !errors.As(err, &e) || *e != want {
		t.Fatalf("%v, want %v", err, &want)
	}
}

// The leaves of several topics are those of their events, each of which counts once.
func TestUnionLeaves(t *testing.T) {
	db, evs := bigLog(t)
	some := topics(t, modelUsers[0], modelUsers[1], modelUsers[1]+"/"+modelPaths[0])
	for _, span := range []window.Span{{From: 0, To: db.Head()}, {From: 100, To: event.BlockSize + 50}, {From: 7, To: 8}} {
		var l window.Leafer
		for _, ev := range evs {
			if span.From < ev.ID && ev.ID <= span.To && (ev.User == modelUsers[0] || ev.User == modelUsers[1]) {
				l.Add(ev.ID, ev.Time, ev.Hash)
			}
		}
		got, err := db.UnionLeaves(t.Context(), some, span)
		if want := l.Leaves(); err != nil || !slices.Equal(got, want) {
			t.Errorf("in %s there are %d leaves, %v, want %d, or they differ", span, len(got), err, len(want))
		}
	}
}
