package cache

import (
	"context"
	"database/sql"
	"fmt"
	"math/rand/v2"
	"slices"
	"testing"

	"github.com/rstream-dev/rstream/event"
	"github.com/rstream-dev/rstream/internal/longtest"
	"github.com/rstream-dev/rstream/window"
)

// applySome stores the next events of evs, up to n ids further, with a lease.
func applySome(ctx context.Context, l *Lease, evs []event.Event, n event.ID) error {
	part := window.Span{From: l.Reached(), To: min(l.Reached()+n, l.Span().To)}
	_, err := l.Apply(ctx, amongAny(evs, l.topics, part), part.To)
	return err
}

// amongAny returns the events of evs in span that match one of topics.
func amongAny(evs []event.Event, topics []event.Topic, span window.Span) (some []event.Event) {
	for i := range evs {
		if len(slices.DeleteFunc(slices.Clone(topics), func(t event.Topic) bool { return len(among(evs[i:i+1], t, span)) == 0 })) > 0 {
			some = append(some, evs[i])
		}
	}
	return some
}

// A lease of several topics keeps the leaves of each, whether it counts their events one by
// one or together.
func TestLeasesOfSeveralTopicsKeepLeaves(t *testing.T) {
	_, evs := bigLog(t)
	seed := rand.Uint64()
	random := rand.New(rand.NewPCG(seed, 0))
	for _, names := range [][]string{{"alice", "bob"}, {"alice/posts", "bob", "alice", "carol", "dave"}} {
		db := openClient(t)
		l, _, err := db.Leases().Claim(context.Background(), topics(t, names...), window.Span{From: 0, To: 2*event.BlockSize + 100})
		if err != nil {
			t.Fatal(err)
		}
		for !l.Span().Empty() {
			if err := applySome(context.Background(), l, evs, event.ID(1+random.IntN(3000))); err != nil {
				t.Fatalf("seed %d: %v", seed, err)
			}
		}
		if err := l.Commit(context.Background()); err != nil {
			t.Fatal(err)
		}
		var want []string
		for _, topic := range topics(t, names...) {
			for b := range uint64(2) {
				if len(among(evs, topic, window.BlockSpan(b))) > 0 {
					want = append(want, fmt.Sprintf("%s %d", topic, b))
				}
			}
		}
		slices.Sort(want)
		if got := keptLeaves(t, db); !slices.Equal(got, want) || len(want) < 4 {
			t.Errorf("seed %d: kept are %q, want %q", seed, got, want)
		}
		checkKeptLeaves(t, db)
	}
}

// A lease keeps the leaves of the blocks that it fills, however its events are divided and
// whatever else is stored there, unless some events of the topic were stored before.
func TestLeasesKeepLeaves(t *testing.T) {
	_, evs := bigLog(t)
	db := openClient(t)
	seed := rand.Uint64()
	random := rand.New(rand.NewPCG(seed, 0))
	for _, topic := range topics(t, "alice", "bob", "*") {
		l, _, err := db.Leases().Claim(context.Background(), []event.Topic{topic}, window.Span{From: 0, To: 2*event.BlockSize + 100})
		if err != nil {
			t.Fatal(err)
		}
		for !l.Span().Empty() {
			if err := applySome(context.Background(), l, evs, event.ID(1+random.IntN(3000))); err != nil {
				t.Fatalf("seed %d: %v", seed, err)
			}
		}
		if err := l.Commit(context.Background()); err != nil {
			t.Fatal(err)
		}
	}
	if got, want := keptLeaves(t, db), []string{"alice 0", "alice 1", "bob 0", "bob 1"}; !slices.Equal(got, want) {
		t.Errorf("seed %d: kept are %q, want %q", seed, got, want)
	}
	checkKeptLeaves(t, db)
}

// checkKeptLeaves checks that each kept leaf matches the stored events.
func checkKeptLeaves(t fataler, db *DB) {
	t.Helper()
	for _, topic := range topics(t, "alice", "alice/posts", "bob", "*") {
		var kept map[uint64]window.Leaf
		if err := db.file.View(context.Background(), func(tx *sql.Tx) (err error) {
			kept, err = loadLeaves(tx, topic, window.Span{From: 0, To: 4 * event.BlockSize})
			return err
		}); err != nil {
			t.Fatalf("%v", err)
		}
		for block, leaf := range kept {
			if got := mustCheckedLeaves(t, db, topic, window.BlockSpan(block)); len(got) != 1 || got[0] != leaf {
				t.Fatalf("the kept leaf of %s in block %d says %d events; stored are %v", topic, block, leaf.Count, got)
			}
		}
	}
}

func mustExec(t fataler, db *DB, query string, args ...any) {
	t.Helper()
	if err := rawExec(db, query, args...); err != nil {
		t.Fatalf("%v", err)
	}
}

// No leaf differs from the stored events because another process stored some of them, because
// some were removed, or because a transaction was rolled back.
func TestLeasesKeepNoFalseLeaves(t *testing.T) {
	_, evs := bigLog(t)
	seed := rand.Uint64()
	random := rand.New(rand.NewPCG(seed, 0))
	sets := [][]string{{"alice"}, {"alice/posts"}, {"*"}, {"alice", "bob"}, {"alice/posts", "alice", "bob", "carol", "dave"}}
	first := random.IntN(len(sets)) // by default, half of the sets take turns
	for i := range longtest.Size(3, len(sets)+1) {
		db := openClient(t)
		all := topics(t, sets[(first+i)%len(sets)]...)
		topic := all[random.IntN(min(2, len(all)))]
		own := slices.Clone(amongAny(evs, all, window.Span{From: 0, To: 2*event.BlockSize + 300}))
		l, _, err := db.Leases().Claim(context.Background(), all, window.Span{From: event.ID(random.IntN(2)), To: 2*event.BlockSize + 100})
		if err != nil {
			t.Fatal(err)
		}
		for !l.Span().Empty() {
			block := window.BlockSpan((l.Reached() + 1).Block())
			near := among(own, topic, block)
			if len(near) == 0 {
				break
			}
			ev := near[random.IntN(len(near))]
			switch random.IntN(6) {
			case 0: // another process stored it, or an event that the server does not send
				err = db.file.Update(context.Background(), func(tx *sql.Tx) error {
					_, err := db.insertEvents(tx, []event.Event{ev})
					return err
				})
				if random.IntN(2) == 0 {
					own = slices.DeleteFunc(own, func(o event.Event) bool { return o.ID == ev.ID })
				}
			case 1:
				err = db.Replace(context.Background(), topic, window.Span{From: ev.ID - 1, To: ev.ID}, nil)
			case 2: // a transaction is rolled back
				mustExec(t, db, `CREATE TRIGGER fail BEFORE UPDATE OF fetched ON log BEGIN SELECT raise(ABORT, 'no'); END`)
				from := l.Reached()
				if applySome(context.Background(), l, own, event.BlockSize) == nil && len(amongAny(own, all, window.Span{From: from, To: l.Reached()})) > 0 {
					t.Fatalf("seed %d: Apply has no error", seed)
				}
				mustExec(t, db, `DROP TRIGGER fail`)
			}
			if err == nil && !l.Span().Empty() { // an Apply without events may have reached the end
				err = applySome(context.Background(), l, own, event.ID(1+random.IntN(3000)))
			}
			if err != nil {
				t.Fatalf("seed %d: %v", seed, err)
			}
		}
		checkKeptLeaves(t, db)
	}
}
