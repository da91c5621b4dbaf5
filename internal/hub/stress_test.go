package hub

import (
	"context"
	"errors"
	"math/rand/v2"
	"slices"
	"sync"
	"testing"

	"github.com/rstream-dev/rstream/event"
)

// Fifty readers of all speeds come and go while a publisher commits; each gets the events of
// the log.
func TestStress(t *testing.T) {
	l := &log{}
	h := New(l, 0, Config{Queue: 4, Chunk: 50})
	ctx, stop := context.WithCancel(t.Context())
	var readers sync.WaitGroup
	for i := range 50 {
		r := rand.New(rand.NewPCG(1, uint64(i)))
		readers.Go(func() {
			for ctx.Err() == nil {
				stay(ctx, t, l, h, r)
			}
		})
	}
	commitALot(l, h)
	// One more reader of everything sees it to the end.
	s := h.Subscribe(topics(t, "*"), 0)
	defer s.Close()
	for pos := event.ID(0); pos < h.Head(); {
		pos = readOn(ctx, t, l, s, pos)
	}
	stop()
	readers.Wait()
	if n := len(h.table.all.subs); n != 1 {
		t.Errorf("%d subscriptions are left, want 1", n)
	}
}

// commitALot publishes 1,500 events in commits of all sizes, some uncertain.
func commitALot(l *log, h *Hub) {
	r := rand.New(rand.NewPCG(2, 2))
	for id := event.ID(1); id <= 1500; {
		var evs []event.Event
		for range 1 + r.IntN(12) {
			user, path := [...]string{"a", "b"}[r.IntN(2)], fewPaths[r.IntN(len(fewPaths))]
			evs = append(evs, newEvent(id, user, path))
			id++
		}
		head := l.add(evs...)
		if r.IntN(20) == 0 {
			h.Advance(head)
		} else {
			h.Publish(evs, head)
		}
	}
}

// stay subscribes, reads for a while and leaves.
func stay(ctx context.Context, t *testing.T, l *log, h *Hub, r *rand.Rand) {
	names := []string{fewTopics[r.IntN(len(fewTopics))], fewTopics[r.IntN(len(fewTopics))]}
	pos := event.ID(r.Uint64N(uint64(h.Head()) + 1))
	s := h.Subscribe(topics(t, names...), pos)
	var left sync.WaitGroup
	defer left.Wait()
	defer s.Close()
	if r.IntN(4) == 0 {
		left.Go(s.Close)
	}
	for range r.IntN(30) {
		pos = readOn(ctx, t, l, s, pos)
	}
}

// readOn calls Next once, checks it and returns the new position.
func readOn(ctx context.Context, t *testing.T, l *log, s *Subscription, pos event.ID) event.ID {
	b, err := s.Next(ctx)
	switch {
	case errors.Is(err, context.Canceled), errors.Is(err, ErrClosed):
		return pos
	case err != nil:
		t.Errorf("Next: %v", err)
		return pos
	}
	if want := l.between(s.topics, pos, b.Position); !slices.Equal(ids(b.Events), want) {
		t.Errorf("Next of %v at %d = %v up to %d, want %v", s.topics, pos, ids(b.Events), b.Position, want)
	}
	now := s.Position()
	if missed := l.between(s.topics, b.Position, now); missed != nil {
		t.Errorf("Position() of %v = %d passes %v", s.topics, now, missed)
	}
	return now
}
