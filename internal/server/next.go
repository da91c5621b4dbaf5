package server

import (
	"context"
	"errors"
	"time"

	"github.com/rstream-dev/rstream/event"
	"github.com/rstream-dev/rstream/internal/hub"
)

// errQuiet means that nothing has happened for as long as a reader should wait for
// a sign of life.
var errQuiet = errors.New("quiet")

// next returns what sub has next, or errQuiet after patience.
func next(ctx context.Context, sub *hub.Subscription, patience time.Duration) (hub.Batch, error) {
	waiting, cancel := context.WithTimeout(context.WithValue(ctx, requestKey{}, ctx), max(patience, time.Millisecond))
	defer cancel()
	batch, err := sub.Next(waiting)
	if err != nil && ctx.Err() == nil && waiting.Err() != nil && errors.Is(err, context.DeadlineExceeded) {
		return hub.Batch{}, errQuiet
	}
	return batch, err
}

// requestKey is the key under which a context that ends with a reader's patience
// holds the context that ends with its request.
type requestKey struct{}

// A source is a log as the hub reads it: a heartbeat that is due ends the waiting
// for news, but not a read that is under way, which would have to begin anew.
type source struct{ Log }

func (s source) Read(ctx context.Context, topics []event.Topic, after, until event.ID, limit int) ([]event.Event, event.ID, error) {
	if request, ok := ctx.Value(requestKey{}).(context.Context); ok {
		ctx = request
	}
	return s.Log.Read(ctx, topics, after, until, limit)
}
