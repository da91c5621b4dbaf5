package deliver

import (
	"context"
	"encoding/json"
	"fmt"
	"iter"
	"sync"

	"github.com/rstream-dev/rstream/cache"
	"github.com/rstream-dev/rstream/event"
)

func testEvent(id event.ID, path, value string) *event.Event {
	b, _ := json.Marshal(value)
	d := event.Draft{User: "u", Path: path, Type: event.Put, Key: id.String(), Value: b}
	ev := event.New(id, event.Time(id), d, d.Hash())
	return &ev
}

// A listStore is a store in memory, for workers that are processes.
type listStore struct {
	mu sync.Mutex
	cache.ConsumerStep
	blocked map[event.Storage]cache.BlockedStorage
	events  []*event.Event
}

func (s *listStore) Position() event.ID { return s.ConsumerStep.Position }
func (s *listStore) State() []byte      { return s.ConsumerStep.State }
func (s *listStore) Blocked(context.Context) (list []cache.BlockedStorage, err error) {
	for _, b := range s.blocked {
		list = append(list, b)
	}
	return list, nil
}

func (s *listStore) Step(_ context.Context, step *cache.ConsumerStep) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	for _, st := range step.Unblock {
		delete(s.blocked, st)
	}
	for _, b := range step.Block {
		s.blocked[b.Storage] = b
	}
	s.ConsumerStep = *step
	return nil
}

func (s *listStore) EventsByID(_ context.Context, ids []event.ID) (evs []event.Event, err error) {
	for _, id := range ids {
		evs = append(evs, *s.events[id-1])
	}
	return evs, nil
}

func (s *listStore) ReadStorage(_ context.Context, st event.Storage, after, until event.ID, limit int) (evs []event.Event, next event.ID, err error) {
	for _, ev := range s.events[after:until] {
		if len(evs) == limit {
			return evs, evs[limit-1].ID, nil
		}
		if ev.Storage() == st {
			evs = append(evs, *ev)
		}
	}
	return evs, until, nil
}

func (s *listStore) AskedAgain(context.Context) ([]cache.DeadLetter, error) { return nil, nil }

func (s *listStore) batches(_ context.Context, after event.ID) iter.Seq2[Batch, error] {
	return func(yield func(Batch, error) bool) {
		for at := int(after); at < len(s.events); {
			end := min(at+1000, len(s.events))
			if !yield(Batch{s.events[at:end], event.ID(end)}, nil) {
				return
			}
			at = end
		}
	}
}

func newListStore(n, storages int) *listStore {
	s := &listStore{blocked: map[event.Storage]cache.BlockedStorage{}}
	for i := range n {
		s.events = append(s.events, testEvent(event.ID(i+1), fmt.Sprint(i%storages), "works"))
	}
	return s
}
