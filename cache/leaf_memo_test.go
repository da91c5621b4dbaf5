package cache

import (
	"bytes"
	"context"
	"math/rand/v2"
	"slices"
	"testing"

	"github.com/rstream-dev/rstream/event"
	"github.com/rstream-dev/rstream/internal/longtest"
	"github.com/rstream-dev/rstream/window"
)

// learnPage reads a page as a server does, and has the file learn from it.
func learnPage(t *testing.T, db *DB, topics []event.Topic, after, until event.ID, limit int) (next event.ID) {
	t.Helper()
	lines, next, err := db.AppendLines(context.Background(), nil, topics, after, until, limit)
	if err != nil {
		t.Fatal(err)
	}
	db.LearnLeaves(topics, window.Span{From: after, To: next}, lines)
	return next
}

// wholeBlocks returns the whole blocks of span.
func wholeBlocks(span window.Span) window.Span {
	return window.Span{From: (span.From + event.BlockSize - 1) / event.BlockSize * event.BlockSize, To: span.To / event.BlockSize * event.BlockSize}
}

// checkMemo checks all leaves that are remembered.
func checkMemo(t *testing.T, db *DB, seed uint64) (blocks int) {
	t.Helper()
	for topic, known := range db.leafMemo.topics {
		for _, span := range known.known {
			if wholeBlocks(span) != span {
				t.Fatalf("seed %d: %s is known in %s, which are no whole blocks", seed, topic, span)
			}
			blocks += blocksOf(span)
			leaves := map[uint64]window.Leaf{}
			db.leafMemo.addTo(leaves, topic, span)
			for b, leaf := range leaves {
				want := mustCheckedLeaves(t, db, topic, window.BlockSpan(b))
				if len(want) == 0 && leaf != (window.Leaf{Block: b}) || len(want) > 0 && leaf != want[0] {
					t.Fatalf("seed %d: the leaf of %s in block %d is %v, want %v", seed, topic, b, leaf, want)
				}
			}
			if len(leaves) != blocksOf(span) {
				t.Fatalf("seed %d: %d leaves are known in %s", seed, len(leaves), span)
			}
		}
	}
	return blocks
}

// Whichever pages are read, by however many readers, all leaves that are learned from them
// are right. A reader that reads all pages in order leaves no block out.
func TestLeavesAreLearned(t *testing.T) {
	seed := rand.Uint64()
	random := rand.New(rand.NewPCG(seed, 0))
	all := topics(t, "alice", "alice/posts", "bob", "*", "carol", "*/posts")
	for range longtest.Size(1, 3) {
		db, _ := bigLog(t)
		head := db.Head()
		type reading struct {
			topics []event.Topic
			from   event.ID
			at     event.ID
		}
		readers := make([]reading, 4)
		for i := range readers {
			r := &readers[i]
			for len(r.topics) == 0 || random.IntN(2) == 0 {
				r.topics = without(nil, append(r.topics, all[random.IntN(len(all))]))
			}
			if random.IntN(2) == 0 {
				r.from = event.ID(random.IntN(int(head)))
			}
			r.at = r.from
		}
		for left := len(readers); left > 0; {
			r := &readers[random.IntN(len(readers))]
			if r.at >= head {
				continue
			}
			if r.at = learnPage(t, db, r.topics, r.at, head, 1+random.IntN(3000)); r.at >= head {
				left--
			}
			if random.IntN(20) == 0 { // somebody reads something else
				learnPage(t, db, r.topics[:1], event.ID(random.IntN(int(head))), head, random.IntN(2000))
			}
		}
		checkMemo(t, db, seed)
		for _, r := range readers {
			for _, topic := range r.topics {
				if whole := wholeBlocks(window.Span{From: r.from, To: head}); whole.From < whole.To && !db.leafMemo.knows(topic, whole) {
					t.Fatalf("seed %d: %s was read from %s in order, and its leaves are not all known", seed, topic, r.from)
				}
			}
		}
		for _, topic := range all {
			span := window.Span{From: event.ID(random.IntN(int(head))), To: head}
			got, err := db.Leaves(context.Background(), topic, span)
			if want := mustCheckedLeaves(t, db, topic, span); err != nil || !slices.Equal(got, want) {
				t.Errorf("seed %d: Leaves(%s, %s) = %v, %v, want %v", seed, topic, span, got, err, want)
			}
		}
	}
}

// Learned leaves are used: the digest of a log that was learned needs no event, not even of the
// block that has not ended.
func TestLearnedLeavesNeedNoEvents(t *testing.T) {
	db, _ := bigLog(t)
	alice := topics(t, "alice")
	all := window.Span{To: db.Head()}
	for at := event.Beginning; at < db.Head(); {
		at = learnPage(t, db, alice, at, db.Head(), 1000)
	}
	want := mustCheckedLeaves(t, db, alice[0], all)
	mustExec(t, db, `DELETE FROM page`)
	for range 2 {
		if got := mustLeaves(t, db, alice[0], all); !slices.Equal(got, want) || len(want) < 2 || all.To%event.BlockSize == 0 {
			t.Errorf("Leaves = %v, want %v", got, want)
		}
	}
}

// Leaves are written when they are many, and when the file is closed.
func TestLearnedLeavesAreSaved(t *testing.T) {
	defer func(unsaved, memo, open int) { maxUnsaved, maxMemo, maxOpen = unsaved, memo, open }(maxUnsaved, maxMemo, maxOpen)
	db, _ := bigLog(t)
	ts := topics(t, "alice", "bob", "*")
	whole := wholeBlocks(window.Span{To: db.Head()})
	read := func(topic event.Topic) {
		if _, err := db.Leaves(context.Background(), topic, whole); err != nil {
			t.Fatal(err)
		}
	}
	read(ts[0])
	if kept := keptLeaves(t, db); len(kept) > 0 {
		t.Errorf("kept are %q, want none yet", kept)
	}
	maxUnsaved = 2 * blocksOf(whole)
	read(ts[1])
	if kept := keptLeaves(t, db); len(kept) != maxUnsaved {
		t.Errorf("kept are %q, want %d", kept, maxUnsaved)
	}
	maxMemo, maxOpen = 1, 1 // much is forgotten
	for _, topic := range ts {
		for at := event.Beginning; at < db.Head(); {
			at = learnPage(t, db, []event.Topic{topic}, at, db.Head(), 1000)
		}
		learnPage(t, db, ts, 5, db.Head(), 1000)
	}
	if n := checkMemo(t, db, 0); n > maxMemo+2*blocksOf(whole) {
		t.Errorf("%d blocks are remembered", n)
	}
	read(ts[2])
	path := db.Path()
	if err := db.Close(); err != nil {
		t.Fatal(err)
	}
	db = mustOpen(t, path, Config{Role: Server})
	defer db.Close()
	if kept := keptLeaves(t, db); len(kept) < 3*blocksOf(whole) {
		t.Errorf("kept are %q after Close", kept)
	}
	checkKeptLeaves(t, db)
}

// A leaf that the horizon has passed before it was written is not written: nothing would drop it.
func TestNoLeavesBelowHorizon(t *testing.T) {
	db, _ := bigLog(t)
	if _, err := db.Leaves(context.Background(), event.All, window.Span{To: db.Head()}); err != nil {
		t.Fatal(err)
	}
	if err := db.history.MoveHorizon(context.Background(), event.BlockSize); err != nil {
		t.Fatal(err)
	}
	if err := db.RetainOnce(context.Background(), Retention{}); err != nil {
		t.Fatal(err)
	}
	path := db.Path()
	if err := db.Close(); err != nil {
		t.Fatal(err)
	}
	db = mustOpen(t, path, Config{})
	defer db.Close()
	if got, want := keptLeaves(t, db), []string{"* 1"}; !slices.Equal(got, want) {
		t.Errorf("kept are %q, want %q", got, want)
	}
}

// A line that is none makes no leaf.
func TestNoLeavesOfBadLines(t *testing.T) {
	db, _ := bigLog(t)
	lines, next, err := db.AppendLines(context.Background(), nil, topics(t, "*"), 0, db.Head(), 10_000)
	if err != nil || next < event.BlockSize {
		t.Fatal(next, err)
	}
	bad := bytes.Replace(lines, []byte(`"hash":"`), []byte(`"hash":"x`), 1)
	db.LearnLeaves(topics(t, "*"), window.Span{To: next}, bad)
	if n := checkMemo(t, db, 0); n > 0 {
		t.Errorf("%d leaves were made", n)
	}
}
