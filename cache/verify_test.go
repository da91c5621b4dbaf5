package cache

import (
	"bytes"
	"context"
	"database/sql"
	"maps"
	"slices"
	"testing"

	"pgregory.net/rapid"

	"github.com/rstream-dev/rstream/event"
	"github.com/rstream-dev/rstream/internal/pagetest"
	"github.com/rstream-dev/rstream/window"
)

// A damage changes one stored event.
type damage func(t *rapid.T, tx *sql.Tx, ev *event.Event) error

var damages = map[string]damage{
	"byte": func(t *rapid.T, tx *sql.Tx, ev *event.Event) error {
		line := slices.Clone(ev.Line())
		line[rapid.IntRange(0, len(line)-1).Draw(t, "at")] ^= byte(rapid.IntRange(1, 255).Draw(t, "flip"))
		return pagetest.SetLine(tx, ev.ID, line)
	},
	"cut": func(t *rapid.T, tx *sql.Tx, ev *event.Event) error {
		n := rapid.IntRange(0, len(ev.Line())-1).Draw(t, "length")
		return pagetest.SetLine(tx, ev.ID, slices.Clone(ev.Line()[:n]))
	},
	"other event": func(t *rapid.T, tx *sql.Tx, ev *event.Event) error {
		d := ev.Draft
		d.Key = "other"
		other := event.New(ev.ID, ev.Time, d, d.Hash())
		return pagetest.SetLine(tx, ev.ID, other.Line())
	},
	"other time": func(t *rapid.T, tx *sql.Tx, ev *event.Event) error {
		other := event.New(ev.ID, ev.Time+1, ev.Draft, ev.Hash)
		return pagetest.SetLine(tx, ev.ID, other.Line())
	},
	"deleted": func(t *rapid.T, tx *sql.Tx, ev *event.Event) error {
		return pagetest.Remove(tx, ev.ID)
	},
	"moved": func(t *rapid.T, tx *sql.Tx, ev *event.Event) error {
		return pagetest.Edit(tx, ev.ID, func(ev *pagetest.Event) { ev.ID += 10 * event.BlockSize })
	},
	"no storage": func(t *rapid.T, tx *sql.Tx, ev *event.Event) error {
		return pagetest.Edit(tx, ev.ID, func(ev *pagetest.Event) { ev.Storage = 1 << 40 })
	},
	"other storage": func(t *rapid.T, tx *sql.Tx, ev *event.Event) error {
		return pagetest.Edit(tx, ev.ID, func(ev *pagetest.Event) { ev.Storage = ev.Storage%2 + 1 })
	},
	"not posted": func(t *rapid.T, tx *sql.Tx, ev *event.Event) error {
		return pagetest.Unpost(tx, ev.ID)
	},
}

// smallCopy returns a client's file that holds all of a log that crosses the edge
// of a block.
func smallCopy(t *testing.T) (*DB, window.Span) {
	t.Helper()
	db, span := openClient(t), window.Span{From: clientFirst, To: clientLast}
	obtain(t, db, event.All, clientLog, span)
	return db, span
}

// Any change of a stored event changes the leaf of its block and no other, causes no error,
// and is repaired by Replace.
func TestCheckedLeavesFindsDamage(t *testing.T) {
	alone(t)
	db, span := smallCopy(t)
	kinds := slices.Sorted(maps.Keys(damages))
	rapid.Check(t, func(t *rapid.T) {
		ev := rapid.SampledFrom(clientLog).Draw(t, "event")
		what := rapid.SampledFrom(kinds).Draw(t, "damage")
		if err := db.file.Update(context.Background(), func(tx *sql.Tx) error { return damages[what](t, tx, &ev) }); err != nil {
			t.Fatalf("%v", err)
		}
		for _, topic := range []event.Topic{event.All, event.Exactly(ev.Storage())} {
			want := slowLeaves(among(clientLog, topic, span))
			got := mustCheckedLeaves(t, db, topic, span)
			if sameBlock(got, want, ev.ID.Block()) {
				t.Fatalf("%s of event %s is not seen in %s", what, ev.ID, topic)
			}
			if other := 1 - ev.ID.Block(); !sameBlock(got, want, other) {
				t.Fatalf("%s of event %s is seen in block %d", what, ev.ID, other)
			}
		}
		block := window.BlockSpan(ev.ID.Block()).Intersect(span)
		mend(t, db, event.All, block)
		checkMended(t, db, span)
	})
}

// sameBlock reports whether a block's leaf, which may be missing, is the same.
func sameBlock(a, b []window.Leaf, block uint64) bool {
	of := func(leaves []window.Leaf) window.Leaf {
		i := slices.IndexFunc(leaves, func(l window.Leaf) bool { return l.Block == block })
		if i < 0 {
			return window.Leaf{}
		}
		return leaves[i]
	}
	return of(a) == of(b)
}

func mend(t fataler, db *DB, topic event.Topic, span window.Span) {
	t.Helper()
	if err := db.Replace(context.Background(), topic, span, among(clientLog, topic, span)); err != nil {
		t.Fatalf("%v", err)
	}
}

// checkMended checks that every event is stored and found by each topic, and that the index
// equals that of a new file.
func checkMended(t fataler, db *DB, span window.Span) {
	t.Helper()
	for _, name := range clientTopics {
		topic := topics(t, name)[0]
		want := among(clientLog, topic, span)
		if got := mustCheckedLeaves(t, db, topic, span); !slices.Equal(got, slowLeaves(want)) {
			t.Fatalf("the leaves of %s are still %v", topic, got)
		}
		if got := mustLeaves(t, db, topic, span); !slices.Equal(got, slowLeaves(want)) {
			t.Fatalf("the kept leaves of %s are %v", topic, got)
		}
		checkIDs(t, name, readAll(t, db, []event.Topic{topic}, span, 1000), ids(want))
	}
	checkPostings(t, db)
}

// checkPostings checks that the postings name each stored event once, and no other.
func checkPostings(t fataler, db *DB) {
	t.Helper()
	stored, posted := map[[2]int64]int{}, map[[2]int64]int{}
	for _, ev := range mustStored(t, db) {
		stored[[2]int64{ev.Storage, int64(ev.ID)}]++
	}
	all, err := pagetest.ListPosted(db.file.Read)
	if err != nil {
		t.Fatalf("%v", err)
	}
	for _, p := range all {
		posted[[2]int64{p.Storage, int64(p.ID)}]++
	}
	for key := range stored {
		if posted[key] != 1 && key[1] <= int64(clientLast) {
			t.Fatalf("event %d of storage %d is posted %d times", key[1], key[0], posted[key])
		}
	}
	for key := range posted {
		if stored[key] == 0 {
			t.Fatalf("event %d of storage %d is posted and not there", key[1], key[0])
		}
	}
}

// An extra event is also found and removed, whether the log does not have it or has it at
// another position.
func TestReplaceRemoves(t *testing.T) {
	db, span := smallCopy(t)
	extra := madeEvent("alice", "posts/1", clientLast)
	moved := madeEvent("bob", "new", clientLast-1)
	if err := db.file.Update(context.Background(), func(tx *sql.Tx) error {
		_, err := db.insertEvents(tx, []event.Event{moved, extra})
		return err
	}); err != nil {
		t.Fatal(err)
	}
	want := slowLeaves(clientLog)
	if got := mustCheckedLeaves(t, db, event.All, span); slices.Equal(got, want) {
		t.Error("events too many are not seen")
	}
	mend(t, db, event.All, window.BlockSpan(extra.ID.Block()).Intersect(span))
	checkMended(t, db, span)
}

// Events outside the span and of other topics are not changed.
func TestReplaceTouchesNothingElse(t *testing.T) {
	db, span := smallCopy(t)
	alice := topics(t, "alice/posts")[0]
	mustLeaves(t, db, alice, window.BlockSpan(0))
	part := window.Span{From: event.BlockSize - 10, To: event.BlockSize + 10}
	var gone []event.ID
	for _, ev := range among(clientLog, alice, part) {
		gone = append(gone, ev.ID)
	}
	if err := db.Replace(context.Background(), alice, part, nil); err != nil {
		t.Fatal(err)
	}
	var want []event.ID
	for i := range clientLog {
		if !slices.Contains(gone, clientLog[i].ID) {
			want = append(want, clientLog[i].ID)
		}
	}
	if len(gone) == 0 {
		t.Fatal("this test tests nothing")
	}
	checkIDs(t, "all", readAll(t, db, []event.Topic{event.All}, span, 1000), want)
	checkPostings(t, db)
	mend(t, db, alice, part)
	checkMended(t, db, span)
}

func TestReplaceRefuses(t *testing.T) {
	db, span := smallCopy(t)
	alice := topics(t, "alice")[0]
	evs := among(clientLog, alice, span)
	bob := among(clientLog, topics(t, "bob")[0], span)
	for what, bad := range map[string][]event.Event{
		"another topic": {evs[0], bob[len(bob)-1]},
		"before":        {madeEvent("alice", "p", span.From)},
		"behind":        {madeEvent("alice", "p", span.To+1)},
		"no order":      {evs[1], evs[0]},
		"twice":         {evs[0], evs[0]},
	} {
		if err := db.Replace(context.Background(), alice, span, bad); err == nil {
			t.Errorf("%s: is taken", what)
		}
	}
	checkMended(t, db, span)
	wantError(t, "a log", openServer(t).Replace(context.Background(), alice, span, nil), ErrRole)
}

// A server's file is checked in the same way; its open block has no postings.
func TestCheckedLeavesOfLog(t *testing.T) {
	db, evs := bigLog(t)
	span := window.Span{From: 0, To: db.Head()}
	if err := edit(db, func(tx pagetest.DB) error {
		_, err := pagetest.EditEach(tx, func(ev *pagetest.Event) bool {
			if ev.ID != 7 && ev.ID != 8400 {
				return false
			}
			ev.Line = bytes.Replace(ev.Line, []byte(`"key":"`), []byte(`"key":"x`), 1)
			return true
		})
		return err
	}); err != nil {
		t.Fatal(err)
	}
	got, want := mustCheckedLeaves(t, db, event.All, span), slowLeaves(evs)
	if sameBlock(got, want, 0) || !sameBlock(got, want, 1) || sameBlock(got, want, 2) {
		t.Errorf("the leaves are %v", got)
	}
	if err := db.Check(context.Background()); err != nil {
		t.Error(err)
	}
}
