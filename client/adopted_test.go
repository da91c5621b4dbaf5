package client

import (
	"net/http"
	"sync/atomic"
	"testing"

	"github.com/rstream-dev/rstream/cache"
	"github.com/rstream-dev/rstream/event"
	"github.com/rstream-dev/rstream/internal/wire"
)

// A topic that the client may no longer read, or that the server does not have, keeps no other from
// being carried over. A token that has expired is an error: with the next one the rest follows.
func TestAdoptHidden(t *testing.T) {
	f := newFixture(t)
	f.put("alice/x", 10)
	f.put("bob/x", 10)
	f.put("carol/x", 10)
	old := f.newCache()
	c := newTestClient(t, old, hasty(f.http.URL))
	for _, topic := range []string{"alice", "bob", "carol"} {
		if _, err := c.Sync(t.Context(), mustTopic(t, topic), SyncOptions{}); err != nil {
			t.Fatal(err)
		}
	}
	parted := f.db.Head()
	f.stop()
	db, err := cache.Open(t.Context(), f.path, cache.Config{Role: cache.Server, AsNewLog: true})
	if err == nil {
		err = db.Close()
	}
	if err != nil {
		t.Fatal(err)
	}
	f.start()
	var refusal atomic.Int64 // its status
	var ofToken atomic.Bool  // the token is refused, and not the topic
	on, _ := refuseTopics(f, func(w http.ResponseWriter, topic event.Topic) {
		w.Header().Set(wire.HeaderLog, f.db.Log())
		e := wire.Errorf(int(refusal.Load()), "not %s", topic)
		if !ofToken.Load() {
			e.Topic = &topic
		}
		e.Write(w)
	}, "bob")
	on.Store(true)
	var next *Client
	for i, status := range []int{http.StatusUnauthorized, http.StatusUnauthorized, http.StatusMisdirectedRequest, http.StatusForbidden} {
		refusal.Store(int64(status))
		ofToken.Store(i == 0)
		next = newTestClient(t, f.newCache(), hasty(f.http.URL))
		a, err := next.Adopt(t.Context(), old, parted)
		if i == 0 {
			if statusOf(err) != status {
				t.Errorf("%d: %+v, %v", status, a, err)
			}
			continue
		}
		if want := (Adopted{Events: 20, Windows: 2, Hidden: 1}); err != nil || a != want {
			t.Errorf("%d: %+v, %v, want %+v", status, a, err, want)
		}
	}
	on.Store(false)
	a, err := next.Adopt(t.Context(), old, parted)
	if want := (Adopted{Events: 10, Windows: 3}); err != nil || a != want {
		t.Errorf("again: %+v, %v, want %+v", a, err, want)
	}
}
