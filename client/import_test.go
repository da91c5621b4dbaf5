package client

import (
	"fmt"
	"math/rand/v2"
	"slices"
	"testing"

	"github.com/rstream-dev/rstream/cache"
	"github.com/rstream-dev/rstream/client/internal/imports"
	"github.com/rstream-dev/rstream/event"
	"github.com/rstream-dev/rstream/internal/longtest"
	"github.com/rstream-dev/rstream/window"
)

// fileOf returns the topic's events in the log, as a file brings them.
func (f *fixture) fileOf(topic string) (evs []event.Event) {
	for _, ev := range f.truth(topic, "", "") {
		parsed, err := event.ParseLine([]byte(ev.line))
		if err != nil {
			f.t.Fatal(err)
		}
		evs = append(evs, parsed)
	}
	return evs
}

func importAll(t testing.TB, db *cache.DB, evs []event.Event) {
	t.Helper()
	for part := range slices.Chunk(evs, 1000) {
		if _, err := db.Imports().AddCandidates(t.Context(), part); err != nil {
			t.Fatal(err)
		}
	}
}

// forged is an event under ev's id that the log does not have.
func forged(ev event.Event) event.Event {
	d := ev.Draft
	d.Key += " forged"
	return event.New(ev.ID, ev.Time, d, d.Hash())
}

// A complete file costs one request. For any other, only the events that it lacks are
// fetched.
func TestSyncOfImported(t *testing.T) {
	longtest.Require(t)
	const half = 100 // events of alice in a block
	f := newFixture(t)
	for range 3 {
		f.put("alice/x", half)
		f.put("bob/y", event.BlockSize-half)
	}
	file := f.fileOf("alice")
	wrong := slices.Clone(file)
	wrong[0] = forged(wrong[0])
	for _, tt := range []struct {
		name              string
		file              []event.Event
		more              int
		fetched, imported int
		requests          int64
	}{
		{"complete", file, 0, 0, len(file), 1},
		{"outgrown", file, 7, 7, len(file), 3},
		{"the last blocks", file[half:], 0, half, len(file) - half, 4},
		{"with holes", slices.Concat(file[:half], file[2*half:]), 0, half, 2 * half, 4},
		{"wrong", wrong, 0, 1, len(file) - 1, 5},
		{"none", nil, 0, len(file), 0, 2},
	} {
		t.Run(tt.name, func(t *testing.T) {
			db := f.newCache()
			c := newTestClient(t, db, Config{Servers: []string{f.http.URL}, PageLimit: 10_000})
			importAll(t, db, tt.file)
			f.put("alice/x", tt.more)
			var fresh []string
			s, err := syncNew(t.Context(), c, mustTopic(t, "alice"), Range{}, func(evs []event.Event) error {
				for i := range evs {
					fresh = append(fresh, string(evs[i].Line()))
				}
				return nil
			})
			if err != nil {
				t.Fatal(err)
			}
			truth := f.truth("alice", "", "")
			sameEvents(t, tt.name, held(t, db, mustTopic(t, "alice"), s), truth)
			if fetched := int(c.Stats().Events); fetched != tt.fetched+len(truth)-len(file)-tt.more || s.Imported != tt.imported || s.Added != len(truth) {
				t.Errorf("%d events were fetched, %+v; want %d fetched, %d imported", fetched, s, tt.fetched, tt.imported)
			}
			if n := c.Stats().Requests; n > tt.requests+1 {
				t.Errorf("%d requests, want %d", n, tt.requests)
			}
			slices.Sort(fresh)
			if len(slices.Compact(fresh)) != len(truth) {
				t.Errorf("%d events were shown as new, want %d", len(fresh), len(truth))
			}
			if left, err := db.Imports().CandidateSpan(t.Context(), event.All, window.Span{To: event.MaxID}); err != nil || !left.Empty() {
				t.Errorf("candidates are left in %s, %v", left, err)
			}
			if v, err := c.Verify(t.Context(), mustTopic(t, "alice"), false); err != nil || len(v.Found) > 0 {
				t.Errorf("Verify = %+v, %v", v, err)
			}
		})
	}
}

// Imports and syncs in any order never make an event held that the log does not have.
func TestSyncOfAnyImport(t *testing.T) {
	longtest.Require(t)
	f := newFixture(t)
	for i := range 60 {
		f.put(fmt.Sprintf("%s/%d", []string{"alice", "bob"}[i%2], i%5), 1)
	}
	file := f.fileOf("*")
	seed := rand.Uint64()
	t.Logf("seed %d", seed)
	rng := rand.New(rand.NewPCG(seed, 0))
	for range longtest.Scale(3, 24, 100) {
		db := f.newCache()
		c := newTestClient(t, db, hasty(f.http.URL))
		for range 3 {
			var some []event.Event
			for _, ev := range file {
				switch rng.IntN(8) {
				case 0:
				case 1:
					some = append(some, forged(ev))
				default:
					some = append(some, ev)
				}
			}
			_, _ = db.Imports().AddCandidates(t.Context(), some) // refused if it differs from a held event
			topic := mustTopic(t, []string{"alice", "bob/1", "*", "*/2"}[rng.IntN(4)])
			s, err := c.Sync(t.Context(), topic, SyncOptions{})
			if err != nil {
				t.Fatal(err)
			}
			sameEvents(t, topic.String(), held(t, db, topic, s), f.truth(topic.String(), "", ""))
		}
	}
}

// A plan counts on the events that narrower topics hold. If one of these is forgotten before the
// window is claimed, its events are fetched: the window never has a hole.
func TestPlanAfterForget(t *testing.T) {
	f := newFixture(t)
	f.put("alice/x", 30)
	f.put("bob/y", 30)
	db := f.newCache()
	c, ctx := newTestClient(t, db, hasty(f.http.URL)), t.Context()
	if _, err := c.Sync(ctx, mustTopic(t, "alice"), SyncOptions{}); err != nil {
		t.Fatal(err)
	}
	importAll(t, db, f.fileOf("bob")[:20])
	sum, err := c.requestSum(ctx, event.All, Range{Since: event.FromBeginning})
	if err != nil {
		t.Fatal(err)
	}
	var found imports.Comparison
	plan, err := c.importer().Compare(ctx, event.All, sum, 30, &found)
	if err != nil || plan == nil {
		t.Fatalf("Compare = %v, %v: %s", plan, err, found.Why)
	}
	if _, err := db.Forget(ctx, mustTopic(t, "alice"), event.MaxID); err != nil {
		t.Fatal(err)
	}
	var s Synced
	if err := c.pullPlanned(ctx, []event.Topic{event.All}, sum.Span(), plan, &s, s.counting(nil)); err != nil {
		t.Fatal(err)
	}
	sameEvents(t, "everything", held(t, db, event.All, Synced{Span: sum.Span()}), f.truth("*", "", ""))
}
