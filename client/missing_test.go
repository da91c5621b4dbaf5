package client

import (
	"errors"
	"testing"

	"github.com/rstream-dev/rstream/event"
)

// The oldest missing event is the first one after what is held of its topic, whatever is held
// of others.
func TestOldestMissing(t *testing.T) {
	f := newFixture(t)
	f.put("alice/x", 5)
	f.put("bob/y", 3)
	db := f.newCache()
	c := newTestClient(t, db, hasty(f.http.URL))
	alice, bob, carol := mustTopic(t, "alice"), mustTopic(t, "bob"), mustTopic(t, "carol")
	want := func(id event.ID, topics ...event.Topic) {
		t.Helper()
		ev, err := c.OldestMissing(t.Context(), topics...)
		got := event.Beginning
		if ev != nil {
			got = ev.ID
		}
		if err != nil || got != id {
			t.Errorf("missing of %v is %s, %v, want %s", topics, got, err, id)
		}
	}
	want(0)
	want(1, alice)
	want(6, bob)
	want(1, bob, alice)
	want(0, carol)
	for _, topic := range []event.Topic{alice, carol} {
		if _, err := c.Sync(t.Context(), topic, SyncOptions{}); err != nil {
			t.Fatal(err)
		}
	}
	want(0, alice)
	want(6, alice, bob)
	want(0, carol)
	f.put("bob/y", 5000)
	want(0, alice, carol)
	f.put("carol/z", 1)
	f.put("alice/x", 1)
	want(5009, alice, carol, mustTopic(t, "alice/x"))
	want(5010, alice, mustTopic(t, "alice/x$"))
	if n, err := db.Count(t.Context()); err != nil || n.Events != 5 {
		t.Errorf("the copy has %d events, %v", n.Events, err)
	}
	if _, err := newTestClient(t, nil, hasty(f.http.URL)).OldestMissing(t.Context(), alice); !errors.Is(err, ErrNoCopy) {
		t.Errorf("without a copy: %v", err)
	}
}
