package client

import (
	"context"
	"sync"

	"github.com/rstream-dev/rstream/event"
)

// A sealer stores the states of the held windows of a topic while a sync fills them. They
// only make later answers faster, so errors are ignored.
type sealer struct {
	store   stateStore
	topic   event.Topic
	stop    context.CancelFunc
	more    chan struct{} // has a value if events were added
	running sync.WaitGroup
}

func (c *Client) newSealer(ctx context.Context, topic event.Topic) *sealer {
	s := &sealer{store: c.store, topic: topic, more: make(chan struct{}, 1)}
	ctx, s.stop = context.WithCancel(ctx)
	s.running.Go(func() {
		for range s.more {
			_ = s.store.SealStates(ctx, topic)
		}
	})
	return s
}

// wakeBefore returns a function that wakes the sealer and then calls fresh, which may
// be nil.
func (s *sealer) wakeBefore(fresh func([]event.Event) error) func([]event.Event) error {
	return func(evs []event.Event) error {
		select {
		case s.more <- struct{}{}:
		default: // it has been woken already
		}
		if fresh == nil {
			return nil
		}
		return fresh(evs)
	}
}

// endSealing stops the sealer and waits for it. If the sync was completed, whole, it
// first stores the remaining states.
func (s *sealer) endSealing(ctx context.Context, whole bool) {
	if !whole {
		s.stop()
	}
	close(s.more)
	s.running.Wait()
	s.stop()
	if whole {
		_ = s.store.SealStates(ctx, s.topic)
	}
}
