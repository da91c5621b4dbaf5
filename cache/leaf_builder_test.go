package cache

import (
	"context"
	"database/sql"
	"math/rand/v2"
	"slices"
	"testing"

	"github.com/rstream-dev/rstream/event"
	"github.com/rstream-dev/rstream/window"
)

// applySome has a lease store the next events of evs, up to n ids further.
func applySome(ctx context.Context, l *Lease, evs []event.Event, n event.ID) error {
	part := window.Span{From: l.Reached(), To: min(l.Reached()+n, l.Span().To)}
	_, err := l.Apply(ctx, among(evs, l.topics[0], part), part.To)
	return err
}

// A lease keeps the leaves of the blocks that it fills, however it is cut, and whatever
// else is stored there, unless some of the topic was stored before.
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

// What a lease has not stored itself, what was removed behind it and what was rolled
// back make no leaf that says something else than the file.
func TestLeasesKeepNoFalseLeaves(t *testing.T) {
	_, evs := bigLog(t)
	seed := rand.Uint64()
	random := rand.New(rand.NewPCG(seed, 0))
	for range 5 {
		db := openClient(t)
		topic := topics(t, "alice", "alice/posts", "*")[random.IntN(3)]
		own := slices.Clone(among(evs, topic, window.Span{From: 0, To: 2*event.BlockSize + 300}))
		l, _, err := db.Leases().Claim(context.Background(), []event.Topic{topic}, window.Span{From: event.ID(random.IntN(2)), To: 2*event.BlockSize + 100})
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
			case 0: // somebody else has stored it, or what the server does not send
				err = db.file.Update(context.Background(), func(tx *sql.Tx) error {
					_, err := db.insertEvents(tx, []event.Event{ev})
					return err
				})
				if random.IntN(2) == 0 {
					own = slices.DeleteFunc(own, func(o event.Event) bool { return o.ID == ev.ID })
				}
			case 1:
				err = db.Replace(context.Background(), topic, window.Span{From: ev.ID - 1, To: ev.ID}, nil)
			case 2: // all that a transaction does is undone
				mustExec(t, db, `CREATE TRIGGER fail BEFORE UPDATE OF fetched ON log BEGIN SELECT raise(ABORT, 'no'); END`)
				from := l.Reached()
				if applySome(context.Background(), l, own, event.BlockSize) == nil && len(among(own, topic, window.Span{From: from, To: l.Reached()})) > 0 {
					t.Fatalf("seed %d: Apply has no error", seed)
				}
				mustExec(t, db, `DROP TRIGGER fail`)
			}
			if err == nil {
				err = applySome(context.Background(), l, own, event.ID(1+random.IntN(3000)))
			}
			if err != nil {
				t.Fatalf("seed %d: %v", seed, err)
			}
		}
		checkKeptLeaves(t, db)
	}
}
