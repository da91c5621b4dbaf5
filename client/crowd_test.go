package client

import (
	"context"
	"errors"
	"math/rand/v2"
	"path/filepath"
	"slices"
	"sync"
	"testing"

	"github.com/rstream-dev/rstream/cache"
	"github.com/rstream-dev/rstream/event"
	"github.com/rstream-dev/rstream/internal/longtest"
	"github.com/rstream-dev/rstream/window"
)

// Concurrent syncs, cancellations, forgets and repairs of overlapping topics of one file
// never hold or prove an event that the log does not have, and never keep a false leaf.
func TestLeavesAmongOthers(t *testing.T) {
	f := newFixture(t)
	storages := []string{"alice/posts/1", "alice/x", "bob/posts", "bob/y"}
	for i := range 3 * 11 {
		f.put(storages[i%len(storages)], 300) // a part of a third block
	}
	topics := []event.Topic{event.All, mustTopic(t, "alice"), mustTopic(t, "alice/posts"), mustTopic(t, "*/posts"), mustTopic(t, "bob")}
	path := filepath.Join(t.TempDir(), "copy.db")
	var dbs []*cache.DB
	for range 3 {
		dbs = append(dbs, f.openCache(path, nil))
	}
	seed := rand.Uint64()
	for round := range longtest.Scale(1, 5, 40) {
		var all sync.WaitGroup
		for i, db := range dbs {
			random := rand.New(rand.NewPCG(seed, uint64(100*round+i)))
			cfg := hasty(f.http.URL)
			cfg.PageLimit = 1 + random.IntN(3000)
			c, err := New(db, cfg)
			if err != nil {
				t.Fatal(err)
			}
			all.Go(func() {
				defer c.Close()
				for range 3 {
					if err := oneOf(t.Context(), c, db, topics[random.IntN(len(topics))], random); err != nil {
						t.Errorf("seed %d: %v", seed, err)
					}
				}
			})
		}
		all.Wait()
		for _, topic := range topics {
			checkAll(t, f, dbs[0], topic)
		}
		if t.Failed() {
			t.Fatalf("seed %d, round %d", seed, round)
		}
	}
}

// A forgetting store forgets some of alice before it makes leaves for the nth time.
type forgetting struct {
	dbStore
	t       *testing.T
	n       int
	touched bool // it compares before it pulls
	calls   int
}

func (s *forgetting) Untouched(ctx context.Context, topic event.Topic) (bool, error) {
	untouched, err := s.DB.Untouched(ctx, topic)
	return untouched && !s.touched, err
}

func (s *forgetting) Leaves(ctx context.Context, topic event.Topic, span window.Span) ([]window.Leaf, error) {
	if s.calls++; s.calls == s.n {
		if n, err := s.Forget(ctx, topic, 50); n != 50 || err != nil {
			s.t.Errorf("forget: %d events, %v", n, err)
		}
	}
	return s.DB.Leaves(ctx, topic, span)
}

// Events that are forgotten while they are being synced are fetched once more. This is not
// a mismatch.
func TestForgottenWhileSyncing(t *testing.T) {
	f := newFixture(t)
	f.put("alice/posts/1", 300)
	for _, touched := range []bool{false, true} {
		store := &forgetting{dbStore: storeOf(f.newCache()), t: t, n: 1, touched: touched}
		if touched {
			store.n = 2
		}
		s, err := newTestClient(t, store, hasty(f.http.URL)).Sync(t.Context(), mustTopic(t, "alice"), SyncOptions{})
		synced(t, f, store.DB, s, err)
		if s.Added != 350 || store.calls <= store.n {
			t.Errorf("touched %v: %d events were added; leaves were made %d times", touched, s.Added, store.calls)
		}
	}
}

// oneOf does one thing with a topic.
func oneOf(ctx context.Context, c *Client, db *cache.DB, topic event.Topic, random *rand.Rand) error {
	switch random.IntN(8) {
	case 0, 1:
		before := event.MaxID
		if random.IntN(2) == 0 {
			before = event.ID(random.IntN(3 * event.BlockSize))
		}
		_, err := db.Forget(ctx, topic, before)
		if errors.Is(err, cache.ErrInUse) || errors.As(err, new(*cache.HeldAsError)) {
			return nil
		}
		return err
	case 2:
		err := c.refetchRange(ctx, topic, window.Span{From: event.ID(random.IntN(event.BlockSize)), To: event.ID(event.BlockSize + random.IntN(event.BlockSize))})
		return err
	case 3:
		ctx, cancel := context.WithCancel(ctx)
		defer cancel()
		_, err := syncNew(ctx, c, topic, Range{}, func([]event.Event) error {
			if random.IntN(2) == 0 {
				cancel()
			}
			return nil
		})
		if errors.Is(err, context.Canceled) {
			return nil
		}
		return err
	}
	_, err := c.Sync(ctx, topic, SyncOptions{})
	return err
}

// checkAll compares a file's events and leaves of a topic with the log.
func checkAll(t *testing.T, f *fixture, db *cache.DB, topic event.Topic) {
	t.Helper()
	spans, err := db.Held(t.Context(), topic)
	if err != nil {
		t.Fatal(err)
	}
	for _, span := range spans.Intersect(window.Spans{{To: f.db.Head()}}) {
		want, err := f.db.CheckedLeaves(t.Context(), topic, span)
		got, err2 := db.CheckedLeaves(t.Context(), topic, span)
		kept, err3 := db.Leaves(t.Context(), topic, span)
		if err := errors.Join(err, err2, err3); err != nil {
			t.Fatal(err)
		}
		if !slices.Equal(got, want) || !slices.Equal(kept, want) {
			t.Errorf("%s in %s: the file has %v, its leaves say %v, the log has %v", topic, span, got, kept, want)
		}
	}
}
