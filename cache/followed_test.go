package cache

import (
	"errors"
	"testing"

	"github.com/rstream-dev/rstream/event"
	"github.com/rstream-dev/rstream/window"
)

// Forget moves the start of followed topics to its end, or to the end of their held events.
// Only FollowSince moves it back. Topics that are not followed have none.
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

// A copy of a log that was restored starts its topics where the copy before did, but not after the
// position at which the logs parted. Those that it follows already start where they did.
func TestMigrateFollowed(t *testing.T) {
	old, db := openClient(t), openClient(t)
	list := topics(t, "alice", "bob", "carol", "dave")
	for _, topic := range list {
		obtain(t, old, topic, clientLog, window.Span{From: 0, To: 20})
	}
	if err := errors.Join(old.Remember(t.Context(), list, ""), db.Remember(t.Context(), list[2:3], "")); err != nil {
		t.Fatal(err)
	}
	for i, before := range []event.ID{7, 18, 9} {
		if _, err := old.Forget(t.Context(), list[i], before); err != nil {
			t.Fatal(err)
		}
	}
	if damaged, err := db.MigrateCursors(t.Context(), old, 15); err != nil || damaged != nil {
		t.Fatal(damaged, err)
	}
	for i, want := range []event.ID{7, 15, 0, 0} {
		if got, err := db.FollowedSince(t.Context(), list[i]); err != nil || got != want {
			t.Errorf("%s starts at %s, %v, want %s", list[i], got, err, want)
		}
	}
	if got, err := db.Followed(t.Context()); err != nil || len(got) != len(list) {
		t.Errorf("followed are %s, %v", got, err)
	}
}
