package server

import (
	"context"
	"fmt"

	"github.com/rstream-dev/rstream/event"
	"github.com/rstream-dev/rstream/reconcile"
	"github.com/rstream-dev/rstream/window"
)

// A logSet is the set of the log's events of topics in a range that ends at or before the
// head, with ids. It keeps nothing in memory: it reads events as they are needed, and
// leaves no read open in between.
type logSet struct {
	ctx    context.Context
	log    Log
	topics []event.Topic
	span   window.Span
	hashed bool // leave out events that their hash does not cover entirely
}

func (l *logSet) Span() window.Span { return l.span }
func (l *logSet) Shared() bool      { return true }

// Sum returns the Sum of the only topic up to upTo, made of leaves that the log keeps. It
// has no Last, which responses do not need.
func (l *logSet) Sum(upTo event.ID) (sum reconcile.Sum, err error) {
	leaves, err := l.log.Leaves(l.ctx, l.topics[0], window.Span{From: l.span.From, To: min(upTo, l.span.To)})
	sum.Digest, sum.Count = window.DigestOf(leaves)
	return sum, err
}

func (l *logSet) Items() reconcile.Items {
	return func(yield func(reconcile.Item, error) bool) {
		for at := l.span.From; at < l.span.To; {
			evs, next, err := l.log.Read(l.ctx, l.topics, at, l.span.To, chunk)
			if err == nil && next <= at {
				err = fmt.Errorf("the log ends at %s, before %s", at, l.span.To)
			}
			if err != nil {
				yield(reconcile.Item{}, err)
				return
			}
			for i := range evs {
				if l.hashed && len(evs[i].Extra) > 0 {
					continue
				}
				if !yield(reconcile.Item{ID: evs[i].ID, Time: evs[i].Time, Hash: evs[i].Hash}, nil) {
					return
				}
			}
			at = next
		}
	}
}

// maxHashes is the most hashes that one comparison keeps in memory, 32 MiB. It is a
// variable for the tests.
var maxHashes = 1 << 20

// hashes returns the hashes of all items, or a FrameError if they are more than most.
func (l *logSet) hashes(most int) (hashes []event.Hash, err error) {
	for it, err := range l.Items() {
		if err != nil {
			return nil, err
		}
		if len(hashes) == most {
			return nil, &reconcile.FrameError{TooLarge: true,
				Detail: fmt.Sprintf("more than %d events to compare by their hashes; request a smaller range", most)}
		}
		hashes = append(hashes, it.Hash)
	}
	return hashes, nil
}
