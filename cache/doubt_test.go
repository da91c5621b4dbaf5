package cache

import (
	"errors"
	"fmt"
	"path/filepath"
	"slices"
	"testing"

	"pgregory.net/rapid"

	"github.com/rstream-dev/rstream/cache/internal/snapshot"
	"github.com/rstream-dev/rstream/event"
	"github.com/rstream-dev/rstream/window"
)

// An about is an event number that a doubt about a topic concerns.
type about struct {
	topic event.Topic
	id    event.ID
}

// An event stays in doubt until a proof of its topic, or of a wider one, covers it or until it
// is forgotten, and none is proven and in doubt at once. The test compares event by event.
func TestDoubtModel(t *testing.T) {
	const last = 12
	all := topics(t, "*", "alice", "alice/posts", "bob")
	n := 0
	rapid.Check(t, func(rt *rapid.T) {
		n++
		path := filepath.Join(t.TempDir(), fmt.Sprint(n, ".db"))
		db := mustOpen(t, path, Config{Role: Client, Log: testLog})
		defer func() { db.Close() }()
		ctx := t.Context()
		store(t, db, "*", madeEvent("alice", "posts/1", 3), madeEvent("bob", "x", 5), madeEvent("alice", "y", last))
		doubts := map[about]bool{}
		span := func() window.Span {
			from := rapid.Uint64Range(0, last-1).Draw(rt, "from")
			return window.Span{From: event.ID(from), To: event.ID(rapid.Uint64Range(from+1, last).Draw(rt, "to"))}
		}
		for range rapid.IntRange(1, 12).Draw(rt, "steps") {
			topic, s := rapid.SampledFrom(all).Draw(rt, "topic"), span()
			switch rapid.IntRange(0, 3).Draw(rt, "step") {
			case 0, 1:
				differs, err := db.Doubt(ctx, topic, s, window.Digest{1})
				if err != nil || !differs {
					rt.Fatalf("Doubt = %v, %v", differs, err)
				}
				for id := s.From + 1; id <= s.To; id++ {
					doubts[about{topic, id}] = true
				}
			case 2:
				removals, err := db.Removals(ctx)
				if err == nil {
					err = db.Prove(ctx, topic, s, removals, 0)
				}
				if err != nil {
					rt.Fatal(err)
				}
				for a := range doubts {
					if topic.Contains(a.topic) && s.From < a.id && a.id <= s.To {
						delete(doubts, a)
					}
				}
			case 3: // killed and opened again
				if err := db.Close(); err != nil {
					rt.Fatal(err)
				}
				db = mustOpen(t, path, Config{Role: Client, Log: testLog})
			}
			checkDoubts(rt, db, doubts, all, last)
		}
	})
}

func checkDoubts(rt *rapid.T, db *DB, doubts map[about]bool, all []event.Topic, last event.ID) {
	windows, err := db.Windows(rt.Context())
	if err != nil {
		rt.Fatal(err)
	}
	for _, topic := range all {
		doubted, err := db.Doubted(rt.Context(), topic)
		if err != nil {
			rt.Fatal(err)
		}
		proven := window.Set(windows).Proven(topic)
		for id := event.ID(1); id <= last; id++ {
			in := window.Span{From: id - 1, To: id}
			want := false
			for a := range doubts {
				want = want || a.id == id && a.topic.Overlaps(topic)
			}
			if doubts[about{topic, id}] && proven.Contains(in) {
				rt.Fatalf("event %d of %s is in doubt and proven", id, topic)
			}
			if want = want && !proven.Contains(in); doubted.Contains(in) != want {
				rt.Fatalf("of %s is in doubt %v: event %d should be %v, proven is %v", topic, doubted, id, want, proven)
			}
		}
	}
}

// A span that has become equal in the meantime is not in doubt.
func TestDoubtOfWhatIsEqual(t *testing.T) {
	db := openClient(t)
	store(t, db, "alice", madeEvent("alice", "x", 3))
	topic, span := topics(t, "alice")[0], window.Span{To: 5}
	leaves, err := db.Leaves(t.Context(), topic, span)
	if err != nil {
		t.Fatal(err)
	}
	digest, _ := window.DigestOf(leaves)
	differs, err := db.Doubt(t.Context(), topic, span, digest)
	if doubts, failed := db.Doubts(t.Context()); differs || err != nil || len(doubts) > 0 || failed != nil {
		t.Errorf("differs %v, %v; in doubt %v, %v", differs, err, doubts, failed)
	}
	// A span that is not held is not in doubt either.
	if _, err := db.Doubt(t.Context(), topic, window.Span{From: 1, To: 4000}, window.Digest{}); err != nil {
		t.Fatal(err)
	}
	doubts, err := db.Doubts(t.Context())
	if want := []Doubt{{topic, window.Span{From: 1, To: 3}}}; err != nil || !slices.Equal(doubts, want) {
		t.Errorf("in doubt %v, %v, want %v", doubts, err, want)
	}
	if _, err := db.Forget(t.Context(), topic, event.MaxID); err != nil {
		t.Fatal(err)
	}
	if doubts, err := db.Doubts(t.Context()); err != nil || len(doubts) > 0 {
		t.Errorf("forgotten, but in doubt %v, %v", doubts, err)
	}
}

// Merge adds the missing events of a held span, so that readers, digests and states have
// them, and changes nothing else.
func TestMerge(t *testing.T) {
	db := openClient(t)
	ctx := t.Context()
	topic := topics(t, "alice")[0]
	evs := []event.Event{madeEvent("alice", "x", 1), madeEvent("alice", "y", 2), madeEvent("alice", "x", 4)}
	store(t, db, "alice", evs[1], madeEvent("alice", "z", 8))
	if _, err := db.Leaves(ctx, topic, window.Span{To: 8}); err != nil {
		t.Fatal(err)
	}
	added, err := db.Merge(ctx, topic, window.Span{To: 5}, evs)
	if err != nil || len(added) != 2 || added[0].ID != 1 || added[1].ID != 4 {
		t.Fatalf("added %v, %v", added, err)
	}
	checkIDs(t, "alice", readAll(t, db, topics(t, "alice"), window.Span{To: 8}, 10), []event.ID{1, 2, 4, 8})
	checkIDs(t, "alice/x", readAll(t, db, topics(t, "alice/x"), window.Span{To: 8}, 10), []event.ID{1, 4})
	checkState(t, db, []event.Event{evs[2], evs[1], madeEvent("alice", "z", 8)}, topic, 8)

	before, err := db.Removals(ctx)
	if err != nil {
		t.Fatal(err)
	}
	if added, err = db.Merge(ctx, topic, window.Span{To: 5}, evs); err != nil || len(added) > 0 {
		t.Errorf("again: added %v, %v", added, err)
	}
	if after, err := db.Removals(ctx); err != nil || after != before {
		t.Errorf("%d removals have become %d, %v", before, after, err)
	}
	other := madeEvent("alice", "other", 2)
	var conflict *ConflictError
	if _, err = db.Merge(ctx, topic, window.Span{To: 5}, []event.Event{other}); !errors.As(err, &conflict) {
		t.Errorf("Merge = %v, want a conflict", err)
	}
	for _, bad := range [][]event.Event{{evs[2], evs[0]}, {madeEvent("bob", "x", 3)}, {madeEvent("alice", "x", 6)}} {
		if _, err = db.Merge(ctx, topic, window.Span{To: 5}, bad); err == nil {
			t.Errorf("Merge takes %v", bad)
		}
	}
	integrity(t, db)
}

// A state that was sealed over a span in doubt is dropped, and none is sealed again while the
// doubt lasts.
func TestDoubtDropsSealedStates(t *testing.T) {
	defer func(span event.ID) { snapshot.SealSpan = span }(snapshot.SealSpan)
	snapshot.SealSpan = 1
	db := openClient(t)
	ctx := t.Context()
	var evs []event.Event
	for id := event.ID(1); id <= 600; id++ {
		evs = append(evs, madeEvent("alice", fmt.Sprint(id), id))
	}
	l := mustClaim(t, db, "*", 0, event.BlockSize)
	mustApply(t, l, event.BlockSize, evs...)
	if err := l.Commit(ctx); err != nil {
		t.Fatal(err)
	}
	sealed := func() (n int) {
		if err := db.Snapshots().SealStates(ctx, event.All); err != nil {
			t.Fatal(err)
		}
		if err := db.file.Read.QueryRow(`SELECT count(*) FROM snapshot WHERE whole AND form = 'ids'`).Scan(&n); err != nil {
			t.Fatal(err)
		}
		return n
	}
	if n := sealed(); n == 0 {
		t.Fatal("no state is sealed")
	}
	if _, err := db.Doubt(ctx, event.All, window.Span{From: 10, To: 20}, window.Digest{}); err != nil {
		t.Fatal(err)
	}
	if n := sealed(); n != 0 {
		t.Errorf("%d states are sealed over a doubt", n)
	}
	removals, err := db.Removals(ctx)
	if err == nil {
		err = db.Prove(ctx, event.All, window.Span{To: event.BlockSize}, removals, 0)
	}
	if err != nil {
		t.Fatal(err)
	}
	if n := sealed(); n == 0 {
		t.Error("no state is sealed after the proof")
	}
}
