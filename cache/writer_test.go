package cache

import (
	"context"
	"database/sql"
	"math/rand/v2"
	"slices"
	"testing"

	"github.com/rstream-dev/rstream/event"
)

// Events are inserted many at a time. Held events among them are not changed, wherever they
// are, and all others are stored and found once.
func TestEventsAmongHeldOnes(t *testing.T) {
	seed := rand.Uint64()
	random := rand.New(rand.NewPCG(seed, 0))
	for range 5 {
		db := openClient(t)
		n := 1 + random.IntN(4*64)
		var all, held []event.Event
		for id := range event.ID(n) {
			ev := madeEvent("alice", [...]string{"a", "b", "c"}[random.IntN(3)], event.BlockSize-event.ID(n)/2+id)
			if all = append(all, ev); random.IntN(n) < n/16 {
				held = append(held, ev)
			}
		}
		for _, evs := range [][]event.Event{held, all} {
			var added []event.Event
			if err := db.file.Update(context.Background(), func(tx *sql.Tx) (err error) {
				added, err = db.insertEvents(tx, evs)
				return err
			}); err != nil {
				t.Fatalf("seed %d: %v", seed, err)
			}
			want := slices.DeleteFunc(ids(evs), func(id event.ID) bool {
				return len(evs) > len(held) && slices.Contains(ids(held), id)
			})
			checkIDs(t, "added", added, want)
		}
		checkPostings(t, db)
		var stored []event.ID
		if err := db.file.View(context.Background(), func(tx *sql.Tx) (err error) {
			stored, err = idsOf(context.Background(), tx, topics(t, "alice"), 0, 4*event.BlockSize)
			return err
		}); err != nil || !slices.Equal(stored, ids(all)) {
			t.Fatalf("seed %d: stored are %v, want %v; %v", seed, stored, ids(all), err)
		}
	}
}
