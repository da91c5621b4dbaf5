package source

import (
	"context"

	"github.com/rstream-dev/rstream/cache"
	"github.com/rstream-dev/rstream/event"
)

// A storedLog is a Log whose errors are storeErrors. Such an error ends the follower: were it taken
// for one of the network, the next connection would begin behind the events that were not stored.
type storedLog struct{ log Log }

func stored(err error) error {
	if err == nil {
		return nil
	}
	return &storeError{err}
}

func (l storedLog) Log() string    { return l.log.Log() }
func (l storedLog) Head() event.ID { return l.log.Head() }

func (l storedLog) Source(ctx context.Context, name string) (state []byte, seen [][]byte, err error) {
	state, seen, err = l.log.Source(ctx, name)
	return state, seen, stored(err)
}

func (l storedLog) AppendFrom(ctx context.Context, m *cache.SourceMove, drafts []event.Draft) ([]event.Receipt, error) {
	receipts, err := l.log.AppendFrom(ctx, m, drafts)
	return receipts, stored(err)
}

func (l storedLog) Taken(ctx context.Context, hashes []event.Hash) (map[event.Hash]event.ID, error) {
	taken, err := l.log.Taken(ctx, hashes)
	return taken, stored(err)
}

// StateAfter calls fn, whose errors are not of the log.
func (l storedLog) StateAfter(ctx context.Context, topic event.Topic, at event.ID, after event.Storage, fn func(*event.Event) error) error {
	var ofFn error
	err := l.log.StateAfter(ctx, topic, at, after, func(ev *event.Event) error {
		ofFn = fn(ev)
		return ofFn
	})
	if ofFn != nil {
		return ofFn
	}
	return stored(err)
}

func (l storedLog) Origins(ctx context.Context, ids []event.ID) ([]event.Origin, error) {
	origins, err := l.log.Origins(ctx, ids)
	return origins, stored(err)
}

func (l storedLog) BeforeLast(ctx context.Context, topics []event.Topic, n int, from, until event.ID) (event.ID, error) {
	before, err := l.log.BeforeLast(ctx, topics, n, from, until)
	return before, stored(err)
}

func (l storedLog) Read(ctx context.Context, topics []event.Topic, after, until event.ID, limit int) ([]event.Event, event.ID, error) {
	evs, next, err := l.log.Read(ctx, topics, after, until, limit)
	return evs, next, stored(err)
}

func (l storedLog) EventsByID(ctx context.Context, ids []event.ID) ([]event.Event, error) {
	evs, err := l.log.EventsByID(ctx, ids)
	return evs, stored(err)
}

func (l storedLog) LastFrom(ctx context.Context, name string, before event.ID, n int) ([]event.ID, []event.Origin, error) {
	ids, origins, err := l.log.LastFrom(ctx, name, before, n)
	return ids, origins, stored(err)
}
