package client

import (
	"context"
	"sync"

	"github.com/rstream-dev/rstream/event"
)

// A sealer keeps the states of what is held of a topic, beside the sync that makes it
// held. That only makes later answers faster, so it may fail.
type sealer struct {
	store   stateStore
	topic   event.Topic
	stop    context.CancelFunc
	more    chan struct{} // there is more to do
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

// beside returns fresh, which may be nil, with the sealer told that there is more.
func (s *sealer) beside(fresh func([]event.Event) error) func([]event.Event) error {
	return func(evs []event.Event) error {
		select {
		case s.more <- struct{}{}:
		default: // it knows
		}
		if fresh == nil {
			return nil
		}
		return fresh(evs)
	}
}

// end lets the sealer do the rest if the sync has come to its end, and waits for it.
func (s *sealer) end(ctx context.Context, whole bool) {
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
