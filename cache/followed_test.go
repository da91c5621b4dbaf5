package cache

import (
	"testing"

	"github.com/rstream-dev/rstream/event"
	"github.com/rstream-dev/rstream/window"
)

// Forget says where the topics that it shortens start from then on: where it ends, or what was held of
// them. Only FollowSince takes that back, and nothing says it of topics that are not followed.
func TestFollowedSince(t *testing.T) {
	db := openClient(t)
	names := topics(t, "alice", "alice/x", "bob")
	alice, part, other := names[0], names[1], names[2]
	obtain(t, db, alice, clientLog, window.Span{From: 0, To: 20})
	if err := db.Remember(t.Context(), []event.Topic{alice, other}, ""); err != nil {
		t.Fatal(err)
	}
	want := func(topic event.Topic, at event.ID) {
		t.Helper()
		if got, err := db.FollowedSince(t.Context(), topic); err != nil || got != at {
			t.Errorf("%s starts at %s, %v, want %s", topic, got, err, at)
		}
	}
	want(alice, 0)
	for _, step := range []struct{ before, alice event.ID }{{7, 7}, {5, 7}, {event.MaxID - 1, 20}} {
		if _, err := db.Forget(t.Context(), event.All, step.before); err != nil {
			t.Fatal(err)
		}
		want(alice, step.alice)
		want(part, 0)
		want(other, 0)
	}
	for _, since := range []event.ID{22, 9, 12} {
		if err := db.FollowSince(t.Context(), alice, since); err != nil {
			t.Fatal(err)
		}
	}
	want(alice, 9)
	if _, err := db.Forget(t.Context(), alice, event.MaxID); err != nil {
		t.Fatal(err)
	}
	if err := db.Remember(t.Context(), []event.Topic{alice}, ""); err != nil {
		t.Fatal(err)
	}
	want(alice, 0)
}
