package cache

import (
	"context"
	"errors"
	"fmt"

	"github.com/rstream-dev/rstream/event"
	"github.com/rstream-dev/rstream/window"
)

// eachChunk is how many events Each reads at a time.
const eachChunk = 1000

// ErrStop may be returned by a function that State, StateAfter or Each calls. It ends the
// call, which then returns nil.
var ErrStop = errors.New("stop")

// unlessStopped returns err, or nil if it is ErrStop.
func unlessStopped(err error) error {
	if errors.Is(err, ErrStop) {
		return nil
	}
	return err
}

// Each calls fn with the events of topics in span, in order. It reads them in chunks: no
// transaction is open while fn runs. All of span must be held.
func (db *DB) Each(ctx context.Context, topics []event.Topic, span window.Span, fn func(*event.Event) error) error {
	for at := span.From; at < span.To; {
		evs, next, err := db.Read(ctx, topics, at, span.To, eachChunk)
		if err != nil {
			return err
		}
		if next == at {
			return fmt.Errorf("read after %s: %w", at, &window.NotHeldError{After: at})
		}
		for i := range evs {
			if err := fn(&evs[i]); err != nil {
				return unlessStopped(err)
			}
		}
		at = next
	}
	return nil
}
