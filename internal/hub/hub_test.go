package hub

import (
	"context"
	"errors"
	"slices"
	"testing"
	"testing/synctest"
	"time"

	"github.com/rstream-dev/rstream/event"
)

// publish commits n events of a/p to l and tells h.
func publish(l *log, h *Hub, n int) {
	evs := make([]event.Event, n)
	for i := range evs {
		evs[i] = newEvent(l.end+1+event.ID(i), "a", "p")
	}
	h.Publish(evs, l.add(evs...))
}

// next wants Next to return these ids and this position, live or not.
func next(t *testing.T, s *Subscription, want []event.ID, pos event.ID, live bool) {
	t.Helper()
	b, err := s.Next(t.Context())
	if err != nil {
		t.Fatalf("Next: %v", err)
	}
	if !slices.Equal(ids(b.Events), want) || b.Position != pos || b.Live != live {
		t.Fatalf("Next = %v up to %d, live %t, want %v up to %d, live %t", ids(b.Events), b.Position, b.Live, want, pos, live)
	}
}

func TestHistoryThenLive(t *testing.T) {
	l := &log{}
	h := New(l, 0, Config{Chunk: 2})
	publish(l, h, 3)
	s := h.Subscribe(topics(t, "a"), 0)
	defer s.Close()
	next(t, s, []event.ID{1, 2}, 2, false)
	publish(l, h, 2)
	next(t, s, []event.ID{3}, 3, true)
	next(t, s, []event.ID{4, 5}, 5, true)
}

// History ends where the log ended when the reader joined, even if its queue has overflowed
// since.
func TestLiveInSpiteOfOverflow(t *testing.T) {
	l := &log{}
	h := New(l, 0, Config{Queue: 1, Chunk: 2})
	publish(l, h, 3)
	s := h.Subscribe(topics(t, "a"), 0)
	defer s.Close()
	next(t, s, []event.ID{1, 2}, 2, false)
	publish(l, h, 1)
	publish(l, h, 1)
	next(t, s, []event.ID{3}, 3, true)
	publish(l, h, 1)
	next(t, s, []event.ID{4, 5}, 5, false)
	next(t, s, []event.ID{6}, 6, true)
}

// The caller of Publish keeps its slice, the caller of Next does not.
func TestNothingIsKeptAlive(t *testing.T) {
	l := &log{}
	h := New(l, 0, Config{})
	s := h.Subscribe(topics(t, "a"), 0)
	defer s.Close()
	next(t, s, nil, 0, true)
	evs := []event.Event{newEvent(1, "a", "p")}
	h.Publish(evs, 1)
	evs[0] = newEvent(2, "b", "p")
	b, err := s.Next(t.Context())
	if err != nil || len(b.Events) != 1 || b.Events[0].ID != 1 {
		t.Fatalf("Next = %v, %v", ids(b.Events), err)
	}
	s.Next(&impatient{Context: t.Context()})
	if b.Events[0] != nil {
		t.Errorf("the subscription still holds %d", b.Events[0].ID)
	}
}

func TestFirstNextTellsLive(t *testing.T) {
	l := &log{}
	h := New(l, 7, Config{})
	s := h.Subscribe(topics(t, "a"), 7)
	defer s.Close()
	next(t, s, nil, 7, true)
}

func TestBeyondTheHead(t *testing.T) {
	l := &log{}
	h := New(l, 0, Config{})
	s := h.Subscribe(topics(t, "a"), 2)
	defer s.Close()
	next(t, s, nil, 2, true)
	publish(l, h, 3)
	next(t, s, []event.ID{3}, 3, true)
}

func TestPublishAgain(t *testing.T) {
	l := &log{}
	h := New(l, 0, Config{})
	s := h.Subscribe(topics(t, "a"), 0)
	defer s.Close()
	next(t, s, nil, 0, true)
	publish(l, h, 2)
	h.Publish(l.evs, 2)
	h.Publish(l.evs[:1], 1)
	next(t, s, []event.ID{1, 2}, 2, true)
	if h.Head() != 2 {
		t.Errorf("Head() = %d, want 2", h.Head())
	}
	if b, err := s.Next(&impatient{Context: t.Context()}); err == nil {
		t.Errorf("Next = %v once more", ids(b.Events))
	}
}

// An event at the head is old, even if no subscription has received it: a reader that follows
// the head has passed it.
func TestPublishAtTheHead(t *testing.T) {
	l := &log{}
	h := New(l, 0, Config{})
	s := h.Subscribe(topics(t, "a"), 0)
	defer s.Close()
	next(t, s, nil, 0, true)
	h.Publish([]event.Event{}, 2)
	if pos := s.Position(); pos != 2 {
		t.Errorf("Position() = %d, want 2", pos)
	}
	h.Publish([]event.Event{newEvent(2, "a", "p"), newEvent(3, "a", "p")}, 3)
	next(t, s, []event.ID{3}, 3, true)
}

// Events published out of order are read from the Source.
func TestPublishOutOfOrder(t *testing.T) {
	l := &log{}
	h := New(l, 0, Config{})
	s := h.Subscribe(topics(t, "a"), 0)
	defer s.Close()
	next(t, s, nil, 0, true)
	l.add(newEvent(1, "a", "p"), newEvent(2, "a", "p"))
	h.Publish([]event.Event{l.evs[1], l.evs[0]}, 2)
	next(t, s, []event.ID{1, 2}, 2, true)
}

func TestPositionFollowsTheHead(t *testing.T) {
	l := &log{}
	h := New(l, 0, Config{})
	quiet := h.Subscribe(topics(t, "b"), 0)
	defer quiet.Close()
	next(t, quiet, nil, 0, true)
	publish(l, h, 3)
	if pos := quiet.Position(); pos != 3 {
		t.Errorf("Position() = %d, want 3", pos)
	}
	// It is read from there, not from the beginning, even if Position was never called.
	publish(l, h, 3)
	h.Advance(9)
	if pos := quiet.Position(); pos != 6 {
		t.Errorf("Position() = %d after Advance, want 6", pos)
	}
	l.before = func() error { return errSource }
	if _, err := quiet.Next(t.Context()); !errors.Is(err, errSource) {
		t.Errorf("Next = %v, want %v", err, errSource)
	}
}

// A quiet reader whose queue overflows does not read the whole log again.
func TestOverflowReadsOnFromTheQueue(t *testing.T) {
	l := &log{}
	h := New(l, 0, Config{Queue: 2})
	s := h.Subscribe(topics(t, "a/x"), 0)
	defer s.Close()
	next(t, s, nil, 0, true)
	publish(l, h, 100)
	for id := event.ID(101); id <= 103; id++ {
		h.Publish([]event.Event{newEvent(id, "a", "x")}, l.add(newEvent(id, "a", "x")))
	}
	if s.queue != nil || s.pos != 100 {
		t.Fatalf("reads on from %d with %d queued, want 100 with none", s.pos, len(s.queue))
	}
	next(t, s, []event.ID{101, 102, 103}, 103, true)
}

// One Publish may be larger than the queue, within bounds.
func TestLargePublish(t *testing.T) {
	for _, c := range []struct{ n, queued int }{{20, 20}, {2 * burst, 2 * burst}, {2*burst + 1, 0}, {300, 0}} {
		l := &log{}
		h := New(l, 0, Config{Queue: 2})
		s := h.Subscribe(topics(t, "a"), 0)
		next(t, s, nil, 0, true)
		publish(l, h, c.n)
		if len(s.queue) != c.queued {
			t.Errorf("of %d events %d are queued, want %d", c.n, len(s.queue), c.queued)
		}
		next(t, s, l.between(s.topics, 0, h.Head()), h.Head(), true)
		s.Close()
	}
}

func TestQueueIsBoundedInBytes(t *testing.T) {
	l := &log{}
	h := New(l, 0, Config{QueueBytes: 10_000})
	s := h.Subscribe(topics(t, "a"), 0)
	defer s.Close()
	next(t, s, nil, 0, true)
	for id := event.ID(1); id <= 3; id++ {
		ev := newEvent(id, "a", "p")
		ev.Value = make([]byte, 4000)
		h.Publish([]event.Event{ev}, l.add(ev))
	}
	if s.queue != nil || s.bytes != 0 {
		t.Errorf("%d events are queued, want none", len(s.queue))
	}
	next(t, s, []event.ID{1, 2, 3}, 3, true)
}

func TestNextWaits(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		l := &log{}
		h := New(l, 0, Config{})
		s := h.Subscribe(topics(t, "a"), 0)
		defer s.Close()
		next(t, s, nil, 0, true)
		for range 3 {
			ctx, cancel := context.WithTimeout(t.Context(), time.Second)
			if _, err := s.Next(ctx); !errors.Is(err, context.DeadlineExceeded) {
				t.Errorf("Next = %v, want %v", err, context.DeadlineExceeded)
			}
			cancel()
		}
		h.Publish([]event.Event{newEvent(1, "b", "p")}, l.add(newEvent(1, "b", "p")))
		time.AfterFunc(time.Second, func() { publish(l, h, 2) })
		next(t, s, []event.ID{2, 3}, 3, true)
	})
}

// A Source that is behind is read again when it may hold more, and not before.
func TestSourceBehind(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		l, reads := &log{}, 0
		l.add(newEvent(1, "a", "p"), newEvent(2, "a", "p"))
		l.end = 1
		l.before = func() error { reads++; return nil }
		h := New(l, 2, Config{})
		s := h.Subscribe(topics(t, "a"), 0)
		defer s.Close()
		next(t, s, []event.ID{1}, 1, false)
		got := make(chan Batch)
		go func() {
			b, _ := s.Next(t.Context())
			got <- b
		}()
		synctest.Wait()
		h.Publish([]event.Event{}, 2)
		synctest.Wait()
		if reads != 3 {
			t.Errorf("the Source was read %d times, want 3", reads)
		}
		l.end = 2
		h.Publish(nil, 2)
		if b := <-got; !slices.Equal(ids(b.Events), []event.ID{2}) || !b.Live {
			t.Errorf("Next = %v, live %t, want 2, live", ids(b.Events), b.Live)
		}
	})
}

// A reader does not sleep through events that reach the Source between its read and its
// sleep.
func TestSourceBehindCatchesUpMeanwhile(t *testing.T) {
	l := &log{}
	h := New(l, 1, Config{})
	s := h.Subscribe(topics(t, "a"), 0)
	defer s.Close()
	reads := 0
	l.before = func() error {
		switch reads++; reads {
		case 1: // an Advance that comes just after the Source has looked
			h.retryStalled()
		case 2:
			l.add(newEvent(1, "a", "p"))
		}
		return nil
	}
	next(t, s, []event.ID{1}, 1, true)
}

func TestCloseWakes(t *testing.T) {
	why := errors.New("why")
	for name, c := range map[string]struct {
		close func(*Hub, *Subscription)
		want  error
	}{
		"subscription": {func(_ *Hub, s *Subscription) { s.Close(); s.Close() }, ErrClosed},
		"hub":          {func(h *Hub, _ *Subscription) { h.Close(why); h.Close(nil) }, why},
	} {
		for _, head := range []event.ID{0, 5} { // sleeping at the head, and for the Source
			t.Run(name, func(t *testing.T) {
				synctest.Test(t, func(t *testing.T) {
					h := New(&log{}, head, Config{})
					s := h.Subscribe(topics(t, "a"), 0)
					if head == 0 {
						next(t, s, nil, 0, true)
					}
					time.AfterFunc(time.Second, func() { c.close(h, s) })
					for range 2 {
						if _, err := s.Next(t.Context()); err != c.want {
							t.Errorf("Next = %v, want %v", err, c.want)
						}
					}
					s.Close()
					synctest.Wait()
					if len(h.table.all.subs) != 0 || len(h.stalls.subs) != 0 {
						t.Error("the hub still knows the subscription")
					}
				})
			})
		}
	}
}

// After Close, readers that have caught up still get their queued events.
func TestCloseGivesTheQueue(t *testing.T) {
	why := errors.New("why")
	l := &log{}
	h := New(l, 0, Config{})
	joined, behind := h.Subscribe(topics(t, "a"), 0), h.Subscribe(topics(t, "a"), 0)
	next(t, joined, nil, 0, true)
	publish(l, h, 2)
	h.Close(why)
	publish(l, h, 1)
	h.Advance(9)
	next(t, joined, []event.ID{1, 2}, 2, true)
	late := h.Subscribe(topics(t, "a"), 0)
	for _, s := range []*Subscription{joined, behind, late} {
		if _, err := s.Next(t.Context()); err != why {
			t.Errorf("Next = %v, want %v", err, why)
		}
	}
}

// A Source that breaks its contract is an error.
func TestLyingSource(t *testing.T) {
	one, two, nine := newEvent(1, "a", "p"), newEvent(2, "a", "p"), newEvent(9, "a", "p")
	for name, c := range map[string]struct {
		evs  []event.Event
		next event.ID
	}{
		"out of order":       {[]event.Event{two, one}, 2},
		"twice":              {[]event.Event{one, one}, 2},
		"position too early": {[]event.Event{one, two}, 1},
		"position too late":  {nil, 9},
		"event too late":     {[]event.Event{nine}, 9},
	} {
		s := New(liar{c.evs, c.next}, 5, Config{}).Subscribe(topics(t, "a"), 0)
		if b, err := s.Next(t.Context()); err == nil {
			t.Errorf("%s: Next = %v", name, ids(b.Events))
		}
		if pos := s.Position(); pos != 0 {
			t.Errorf("%s: Position() = %d, want 0", name, pos)
		}
	}
}

type liar struct {
	evs  []event.Event
	next event.ID
}

func (l liar) Read(context.Context, []event.Topic, event.ID, event.ID, int) ([]event.Event, event.ID, error) {
	return l.evs, l.next, nil
}

// A subscription without topics still learns of the end of history and of Close.
func TestNoTopics(t *testing.T) {
	l := &log{}
	h := New(l, 0, Config{})
	publish(l, h, 1)
	s := h.Subscribe(nil, 0)
	next(t, s, nil, 1, true)
	publish(l, h, 1)
	if pos := s.Position(); pos != 2 {
		t.Errorf("Position() = %d, want 2", pos)
	}
	s.Close()
}

func TestStats(t *testing.T) {
	l := &log{}
	h := New(l, 0, Config{Queue: 2})
	publish(l, h, 5)
	want := func(want Stats) {
		t.Helper()
		if got := h.Stats(); got != want {
			t.Errorf("Stats = %+v, want %+v", got, want)
		}
	}
	want(Stats{})
	s := h.Subscribe(topics(t, "a"), 1)
	quiet := h.Subscribe(topics(t, "b"), 5)
	want(Stats{Readers: 2, Behind: 2, MaxLag: 4})
	next(t, quiet, nil, 5, true)
	next(t, s, []event.ID{2, 3, 4, 5}, 5, true)
	want(Stats{Readers: 2})
	publish(l, h, 1)
	publish(l, h, 1)
	want(Stats{Readers: 2, MaxLag: 2})
	publish(l, h, 1)
	want(Stats{Readers: 2, Behind: 1, MaxLag: 3, Overflows: 1})
	next(t, s, []event.ID{6, 7, 8}, 8, true)
	want(Stats{Readers: 2, Overflows: 1})
	s.Close()
	quiet.Close()
	want(Stats{Overflows: 1})
}

// A nudge only ends the waiting: Next returns the events there are, and loses none.
func TestNudge(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		l := &log{}
		h := New(l, 0, Config{})
		s := h.Subscribe(topics(t, "a"), 0)
		defer s.Close()
		s.Nudge()
		next(t, s, nil, 0, true)
		quiet := func(after time.Duration) {
			t.Helper()
			start := time.Now()
			if _, err := s.Next(t.Context()); !errors.Is(err, ErrQuiet) || time.Since(start) != after {
				t.Fatalf("Next = %v after %s, want %v after %s", err, time.Since(start), ErrQuiet, after)
			}
		}
		quiet(0) // it was given something instead before
		for id := range event.ID(3) {
			time.AfterFunc(time.Second, s.Nudge)
			quiet(time.Second)
			time.AfterFunc(time.Second, func() { publish(l, h, 1) })
			next(t, s, []event.ID{id + 1}, id+1, true)
		}
		s.Nudge()
		s.Nudge()
		quiet(0) // once
		time.AfterFunc(time.Second, func() { publish(l, h, 1) })
		next(t, s, []event.ID{4}, 4, true)
	})
}

// A reader that waits for the Source can be nudged, too.
func TestNudgeWhileTheSourceIsBehind(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		l := &log{}
		h := New(l, 1, Config{})
		s := h.Subscribe(topics(t, "a"), 0)
		defer s.Close()
		time.AfterFunc(time.Second, s.Nudge)
		if b, err := s.Next(t.Context()); !errors.Is(err, ErrQuiet) {
			t.Fatalf("Next = %+v, %v, want %v", b, err, ErrQuiet)
		}
		time.AfterFunc(time.Second, func() { h.Publish(nil, l.add(newEvent(1, "a", "p"))) })
		next(t, s, []event.ID{1}, 1, true)
	})
}
