package client

import (
	"net/http"
	"sync/atomic"
	"testing"
	"testing/synctest"

	"github.com/rstream-dev/rstream/event"
)

// The next page is fetched while one is stored.
func TestPagesAhead(t *testing.T) {
	noLeaks(t)
	f := newFixture(t)
	f.put("alice/posts/1", 300)
	var pages atomic.Int64
	f.through(func(h http.Handler) http.Handler {
		return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			if r.FormValue("limit") == "100" {
				pages.Add(1)
			}
			h.ServeHTTP(w, r)
		})
	})
	var order []event.ID
	s, err := syncNew(t.Context(), newTestClient(t, f.newCache(), hasty(f.http.URL)), mustTopic(t, "alice"), Range{}, func(evs []event.Event) error {
		eventually(t, "that the other pages are asked for", func() bool { return pages.Load() == 3 })
		for i := range evs {
			order = append(order, evs[i].ID)
		}
		return nil
	})
	if err != nil || s.Added != 300 || len(order) != 300 {
		t.Fatalf("sync = %+v, %v, and %d events were shown", s, err, len(order))
	}
	for i, id := range order {
		if id != event.ID(i+1) {
			t.Fatalf("event %d was shown as number %d", id, i+1)
		}
	}
}

// The pages fetched ahead never exceed the limit in bytes by more than one page.
func TestPagesAheadAreBounded(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		in, n := newInbox(), 0
		go func() {
			for ; n < 10; n++ {
				in.putPage(page{events: make([]event.Event, 3), next: event.Point{ID: event.ID(3 * (n + 1))}, size: maxAhead/2 + 1})
			}
			in.endSteps(nil)
		}()
		for taken := 0; taken < 30; {
			synctest.Wait()
			if most := taken/3 + 2; n > most {
				t.Fatalf("%d pages are there, %d of them taken, want at most 2 more", n, taken/3)
			}
			evs, at, err := in.takeSteps()
			if taken += len(evs); err != nil || at.ID != event.ID(taken) {
				t.Fatalf("take = %d events up to %v, %v", len(evs), at, err)
			}
		}
		in.dropSteps()
	})
}
