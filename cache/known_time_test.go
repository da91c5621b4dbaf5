package cache

import (
	"context"
	"testing"

	"github.com/rstream-dev/rstream/event"
	"github.com/rstream-dev/rstream/window"
)

// The time of a position is known where something is held, or where a server has named it. In
// a gap, the last stored event says nothing.
func TestKnownTime(t *testing.T) {
	ctx := context.Background()
	db := openClient(t)
	early, late := madeEvent("alice", "x", 3), madeEvent("alice", "x", 70)
	fetch := func(span window.Span, ev event.Event) {
		t.Helper()
		l, _, err := db.Leases().Claim(ctx, topics(t, "alice"), span)
		if err != nil {
			t.Fatal(err)
		}
		if _, err := l.Apply(ctx, []event.Event{ev}, span.To); err != nil {
			t.Fatal(err)
		}
		if err := l.Commit(ctx); err != nil {
			t.Fatal(err)
		}
	}
	fetch(window.Span{From: 1, To: 4}, early)
	want := func(at event.ID, of *event.Event) {
		t.Helper()
		got, ok, err := db.KnownTime(ctx, at)
		if err != nil || ok != (of != nil) || ok && got != of.Time {
			t.Errorf("time at %s: %s, %v, %v", at, got, ok, err)
		}
	}
	want(0, nil)
	want(1, nil)
	want(2, nil) // held, but nothing comes before it
	want(3, &early)
	want(4, &early)
	want(5, nil)
	fetch(window.Span{From: 60, To: 70}, late)
	want(60, nil)
	want(61, nil) // the last event is from before the gap
	want(70, &late)
	want(71, nil)
	if err := db.NoteTimes(ctx, map[event.ID]event.Time{60: early.Time + 50}); err != nil {
		t.Fatal(err)
	}
	named := event.Event{Time: early.Time + 50}
	want(60, &named)
	want(61, nil)

	log := openServer(t)
	mustAppend(t, log, drafts("alice", "x", "k", 3)...)
	evs := storedIn(t, log)
	for at, of := range map[event.ID]*event.Event{0: nil, 1: &evs[0], 3: &evs[2], 9: &evs[2]} {
		if got, ok, err := log.KnownTime(ctx, at); err != nil || ok != (of != nil) || ok && got != of.Time {
			t.Errorf("time of a log at %s: %s, %v, %v", at, got, ok, err)
		}
	}
}

// A damaged time of a position is not known, even if a sound one is before it.
func TestKnownTimeDamaged(t *testing.T) {
	ctx, db := context.Background(), openClient(t)
	ev := madeEvent("alice", "x", 1)
	store(t, db, "alice", ev)
	mustClaim(t, db, "alice", 10, 20)
	if err := db.NoteTimes(ctx, map[event.ID]event.Time{10: ev.Time + 10, 20: ev.Time + 20}); err != nil {
		t.Fatal(err)
	}
	if at, ok, err := db.KnownTime(ctx, 20); at != ev.Time+20 || !ok || err != nil {
		t.Fatalf("the time is %s, %v, %v", at, ok, err)
	}
	mustExec(t, db, `UPDATE bound SET time = time + 1 WHERE at = 20`)
	if at, ok, err := db.KnownTime(ctx, 20); ok || err != nil {
		t.Errorf("the time of a damaged row is known: %s, %v", at, err)
	}
}
