// Package imports finds out which imported events a log has, and makes them events of a copy.
//
// What was imported is a candidate until the log is known to have it. An [Importer]
// resolves where events of other logs stand in this one, and compares what is here of a
// topic with the log: [Importer.Compare] returns a [Plan], which says what is missing and
// which of it is here. [Importer.Assemble] stores a window by a Plan: what is here and
// what is fetched by its hash, in one order.
//
// A Plan is believed only if all that would be stored then has the log's digest. The
// package makes no requests: a [Server] answers, and decides about retries.
package imports

import (
	"context"

	"github.com/rstream-dev/rstream/event"
	"github.com/rstream-dev/rstream/internal/wire"
	"github.com/rstream-dev/rstream/reconcile"
	"github.com/rstream-dev/rstream/window"
)

// An Importer finds out which of the imported events a log has, and stores them.
type Importer struct {
	Store     Store
	Server    Server
	Reconcile reconcile.Config
	PageLimit int // events that are read or fetched at a time
	PageBytes int // of the events of a page
}

// A Store has what is held of a log, and candidates: events that are here and that nothing
// reads.
type Store interface {
	Held(ctx context.Context, topics ...event.Topic) (window.Spans, error)
	Narrower(ctx context.Context, topics []event.Topic, at, until event.ID) (parts []event.Topic, end event.ID, err error)
	Read(ctx context.Context, topics []event.Topic, after, until event.ID, limit int) (evs []event.Event, next event.ID, err error)

	// Candidates calls fn with events of this log that were imported and are not
	// held, in the order of ids. No transaction is open while fn runs.
	Candidates(ctx context.Context, topic event.Topic, span window.Span, fn func(*event.Event) error) error
	DropCandidates(ctx context.Context, ids []event.ID) error
	// ForeignHashes calls fn with the hashes of events that were imported from
	// another log, in ascending order; Foreign calls it with some of them.
	ForeignHashes(ctx context.Context, topic event.Topic, fn func(event.Hash) error) error
	Foreign(ctx context.Context, hashes []event.Hash, fn func(*event.Event) error) error
}

// A Server answers for a log.
type Server interface {
	// Peer answers comparisons of a topic.
	Peer(topic event.Topic) reconcile.Peer
	// Stubs asks where events with some hashes stand, and counts the bytes in round.
	Stubs(ctx context.Context, hashes []event.Hash, round *reconcile.Round) ([]wire.Stub, error)
	// Sum asks for the digest of a stretch.
	Sum(ctx context.Context, topic event.Topic, span window.Span) (wire.Window, error)
	// Status returns the status of HTTP with which err refuses what was asked for, or 0.
	Status(err error) int
	// WrongAnswer returns the error of an answer that is none.
	WrongAnswer(reason string) error
}

// A FetchFunc fetches the events that items, in order, name. It returns those that came,
// which are the first of those that the log has.
type FetchFunc func(ctx context.Context, topic event.Topic, items []reconcile.Item) ([]event.Event, error)

// A Comparison says how it was found out what was missing.
type Comparison struct {
	Outcome string            // equal, pull, or what ended the negotiation
	Why     string            // the same in words
	Rounds  []reconcile.Round // of the negotiation, if there was one
	Asked   int               // events that were asked for by their hashes
	Saved   int               // events that were here, and were placed without being fetched
}

// A StoreError is an error of the Store, or of the caller's functions, as against one of the Server.
type StoreError struct{ Err error }

func (e *StoreError) Error() string { return e.Err.Error() }

// Unwrap returns the cause.
func (e *StoreError) Unwrap() error { return e.Err }

func storeError(err error) error {
	if err == nil {
		return nil
	}
	return &StoreError{err}
}
