package client

import (
	"context"
	"errors"
	"net/http"
	"sync/atomic"
	"testing"

	"github.com/rstream-dev/rstream/event"
)

// A sealCounter is a store that fails to keep states. It counts the calls and how many of
// them have returned.
type sealCounter struct {
	dbStore
	begun, ended atomic.Int64
	last         event.ID // the end of the held range at the last call
}

func (s *sealCounter) SealStates(ctx context.Context, topic event.Topic) error {
	s.begun.Add(1)
	defer s.ended.Add(1)
	held, err := s.DB.Held(ctx, topic)
	if err == nil && len(held) > 0 {
		s.last = held[0].To
	}
	return errors.New("no states today")
}

// States are stored while events are fetched, and finally for all of them. If that fails
// the sync still succeeds, and it does not continue after a sync that has failed.
func TestStatesAreKeptBesideASync(t *testing.T) {
	noLeaks(t)
	f := newFixture(t)
	f.put("alice/posts/1", 500)
	store := &sealCounter{dbStore: storeOf(f.newCache())}
	c := newTestClient(t, store.DB, hasty(f.http.URL))
	c.store = store
	stored, requests := make(chan struct{}), atomic.Int64{} // pages that arrive together are stored together
	f.through(func(h http.Handler) http.Handler {
		return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			if r.URL.Path == "/events" && r.URL.Query().Get("limit") != "0" && requests.Add(1) > 1 {
				<-stored
			}
			h.ServeHTTP(w, r)
		})
	})
	why, pages := errors.New("enough"), 0
	_, err := syncNew(t.Context(), c, mustTopic(t, "alice"), Range{}, func([]event.Event) error {
		if pages++; pages == 2 {
			return why
		}
		close(stored)
		eventually(t, "that states are kept", func() bool { return store.ended.Load() > 0 })
		return nil
	})
	if !errors.Is(err, why) || store.begun.Load() != store.ended.Load() {
		t.Fatalf("sync = %v, and states were to be kept %d times, of which %d have ended", err, store.begun.Load(), store.ended.Load())
	}
	if _, err := c.Sync(t.Context(), mustTopic(t, "alice"), SyncOptions{}); err != nil || store.last != f.db.Head() {
		t.Errorf("sync = %v, and the states are kept up to %s, want %s", err, store.last, f.db.Head())
	}
}
