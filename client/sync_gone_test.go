package client

import (
	"errors"
	"testing"
	"time"

	"github.com/rstream-dev/rstream/cache"
	"github.com/rstream-dev/rstream/event"
	"github.com/rstream-dev/rstream/window"
)

// History that is gone from the server is no gap for those who hold it, whether or not the range is
// compared.
func TestSyncGoneAndHeld(t *testing.T) {
	f := newFixture(t)
	f.putSome(steady(), event.BlockSize+500)
	topic := mustTopic(t, "alice/posts")
	c := newTestClient(t, f.newCache(), hasty(f.http.URL))
	if _, err := c.Sync(t.Context(), topic, SyncOptions{}); err != nil {
		t.Fatal(err)
	}
	if err := f.db.RetainOnce(t.Context(), cache.Retention{MaxBytes: 1}); err != nil {
		t.Fatal(err)
	}
	f.putSome(steady(), 10)
	whole := window.Span{To: f.db.Head()}
	for _, unproven := range []bool{true, false} {
		s, err := c.Sync(t.Context(), topic, SyncOptions{Unproven: unproven})
		if err != nil || unproven && s.Span != whole {
			t.Errorf("unproven %t: %+v, %v", unproven, s, err)
		}
	}
	at := c.momentAt(10)
	for _, unproven := range []bool{true, false} {
		s, err := c.Sync(t.Context(), topic, SyncOptions{Range: Range{Until: &at}, Unproven: unproven})
		if want := (window.Span{To: 10}); err != nil || s.Span != want {
			t.Errorf("until 10, unproven %t: %+v, %v", unproven, s, err)
		}
	}
	for _, unproven := range []bool{true, false} {
		s, err := c.Sync(t.Context(), topic, SyncOptions{Range: Range{Until: &at}, Unproven: unproven})
		if held := (s.Held > 0); err != nil || held == unproven {
			t.Errorf("unproven %t: %d events are held, %v", unproven, s.Held, err)
		}
	}
	stranger := newTestClient(t, f.newCache(), hasty(f.http.URL))
	if _, err := stranger.Sync(t.Context(), topic, SyncOptions{Unproven: true}); !errors.As(err, new(*GapError)) {
		t.Errorf("of one who holds nothing: %v", err)
	}
}

// A tail yields the events held before a gap, and the gap begins after them.
func TestTailBeforeGap(t *testing.T) {
	f := newFixture(t)
	f.putSome(steady(), event.BlockSize+500)
	topic := mustTopic(t, "*")
	c := newTestClient(t, f.newCache(), hasty(f.http.URL))
	until := event.At(event.CursorOf(1000, f.db.Log()))
	if _, err := c.Sync(t.Context(), topic, SyncOptions{Range: Range{Until: &until}}); err != nil {
		t.Fatal(err)
	}
	held, err := c.store.Held(t.Context(), topic)
	if err != nil || len(held) != 1 {
		t.Fatalf("held: %v, %v", held, err)
	}
	if err := f.db.RetainOnce(t.Context(), cache.Retention{MaxBytes: 1}); err != nil {
		t.Fatal(err)
	}
	var got []event.ID
	var last error
	since := event.At(event.CursorOf(10, f.db.Log()))
	for b, err := range c.Batches(t.Context(), []event.Topic{topic}, TailOptions{Range: Range{Since: since}, UntilLive: true}) {
		if last = err; err != nil {
			break
		}
		for i := range b.Events {
			got = append(got, b.Events[i].ID)
		}
		if b.Live {
			t.Error("it is live before a gap")
		}
	}
	var gone *GapError
	if !errors.As(last, &gone) || *gone != (GapError{held[0].To, event.BlockSize}) {
		t.Errorf("it ends with %v, held up to %s", last, held[0].To)
	}
	if len(got) != int(held[0].To)-10 || got[0] != 11 || got[len(got)-1] != held[0].To {
		t.Errorf("%d events, want all after 10 up to %s", len(got), held[0].To)
	}
	if _, err := c.Sync(t.Context(), topic, SyncOptions{}); !errors.As(err, &gone) || gone.After != held[0].To {
		t.Errorf("sync: %v", err)
	}
}

// It is none either if the range begins or ends at a time, whether the copy knows that the time is in
// the history that is gone or only the server does.
func TestSyncGoneAndHeldByTime(t *testing.T) {
	f := newFixture(t)
	f.put("carol/x", 3) // and nothing later
	first, err := f.db.PositionAt(t.Context(), event.TimeOf(time.Now()))
	if err != nil || first != 3 {
		t.Fatal(first, err)
	}
	f.put("alice/posts", 5)
	f.putSome(steady(), event.BlockSize+500)
	var evs []event.Event
	if evs, _, err = f.db.Read(t.Context(), []event.Topic{event.All}, 0, 8, 8); err != nil {
		t.Fatal(err)
	}
	c := newTestClient(t, f.newCache(), hasty(f.http.URL))
	alice, carol := mustTopic(t, "alice/posts"), mustTopic(t, "carol")
	for _, topic := range []event.Topic{alice, carol} {
		if _, err := c.Sync(t.Context(), topic, SyncOptions{}); err != nil {
			t.Fatal(err)
		}
	}
	if err := f.db.RetainOnce(t.Context(), cache.Retention{MaxBytes: 1}); err != nil {
		t.Fatal(err)
	}
	for _, end := range []struct {
		topic event.Topic
		at    event.ID
		held  uint64
	}{{alice, 8, 5}, {carol, 3, 3}} {
		at := event.AtTime(evs[end.at-1].Time)
		for _, unproven := range []bool{true, false} {
			s, err := c.Sync(t.Context(), end.topic, SyncOptions{Range: Range{Until: &at}, Unproven: unproven})
			if want := (window.Span{To: end.at}); err != nil || s.Span != want || !unproven && s.Held != end.held {
				t.Errorf("%s until the time of %s, unproven %t: %+v, %v", end.topic, end.at, unproven, s, err)
			}
			if s, err = c.Sync(t.Context(), end.topic, SyncOptions{Range: Range{Since: at}, Unproven: unproven}); err != nil {
				t.Errorf("%s since the time of %s, unproven %t: %+v, %v", end.topic, end.at, unproven, s, err)
			}
		}
		n := uint64(0)
		for _, err := range c.Tail(t.Context(), end.topic, TailOptions{Range: Range{Until: &at}}) {
			if n++; err != nil {
				t.Fatal(err)
			}
		}
		if n != end.held {
			t.Errorf("a tail of %s until the time of %s has %d events, want %d", end.topic, end.at, n, end.held)
		}
	}
	stranger, at := newTestClient(t, f.newCache(), hasty(f.http.URL)), event.AtTime(evs[2].Time)
	_, err = stranger.Sync(t.Context(), carol, SyncOptions{Range: Range{Since: c.momentAt(event.BlockSize), Until: &at}})
	if err == nil || errors.As(err, new(*GapError)) {
		t.Errorf("an end before the beginning is %v", err)
	}
}
