// Package imports determines which imported events a log has, and adds them to the copy.
//
// An imported event is a candidate until the log is known to have it. An [Importer]
// looks up the positions that events of other logs have in this log, and compares the
// local events of a topic with the log. [Importer.Compare] returns a [Plan], which lists
// the missing events and marks those that are available locally. [Importer.Assemble] fills a
// window according to a Plan: it merges local events with events fetched by hash, in
// order of their ids.
//
// A Plan is accepted only if the events that it would store have the log's digest. The
// package makes no requests: a [Server] makes them and decides about retries.
package imports

import (
	"context"

	"github.com/rstream-dev/rstream/event"
	"github.com/rstream-dev/rstream/internal/wire"
	"github.com/rstream-dev/rstream/reconcile"
	"github.com/rstream-dev/rstream/window"
)

// An Importer determines which of the imported events a log has, and stores them.
type Importer struct {
	Store     Store
	Server    Server
	Reconcile reconcile.Config
	PageLimit int // events to fetch at a time
	PageBytes int // bytes of the events of a page
}

// A Store holds events of a log, and candidates: imported events that no read returns yet.
type Store interface {
	// Removals returns how many times held events were removed.
	Removals(ctx context.Context) (int64, error)
	Held(ctx context.Context, topics ...event.Topic) (window.Spans, error)
	Narrower(ctx context.Context, topics []event.Topic, at, until event.ID) (parts []event.Topic, end event.ID, err error)
	// Each calls fn with the events of topics in span, all of which must be held. No
	// transaction is open while fn runs.
	Each(ctx context.Context, topics []event.Topic, span window.Span, fn func(*event.Event) error) error

	// Candidates calls fn with the imported events of this log that are not held, in
	// order of their ids. No transaction is open while fn runs.
	Candidates(ctx context.Context, topic event.Topic, span window.Span, fn func(*event.Event) error) error
	DropCandidates(ctx context.Context, ids []event.ID) error
	// ForeignHashes calls fn with the hashes of the events imported from other logs, in
	// ascending order. Foreign calls fn with the events that have some of these hashes.
	ForeignHashes(ctx context.Context, topic event.Topic, fn func(event.Hash) error) error
	Foreign(ctx context.Context, hashes []event.Hash, fn func(*event.Event) error) error
}

// A Server makes requests to the servers of a log.
type Server interface {
	// Peer returns the other side of a reconciliation of a topic.
	Peer(topic event.Topic) reconcile.Peer
	// Stubs returns the ids of the events with the given hashes that the log has, and
	// adds the bytes transferred to round.
	Stubs(ctx context.Context, hashes []event.Hash, round *reconcile.Round) ([]wire.Stub, error)
	// Sum returns the digest of a range.
	Sum(ctx context.Context, topic event.Topic, span window.Span) (wire.Window, error)
	// Status returns the HTTP status if err is the server's refusal of a request, or 0.
	Status(err error) int
	// WrongAnswer returns the error for an invalid response.
	WrongAnswer(reason string) error
}

// A FetchFunc fetches the events named by items, which are in order. It returns a prefix
// of those that the log has: the response may have been cut off.
type FetchFunc func(ctx context.Context, topic event.Topic, items []reconcile.Item) ([]event.Event, error)

// WhyPull is why missing events are fetched if no imported event can be one of them.
const WhyPull = "no missing event is available locally"

// A Comparison reports how the missing events were determined.
type Comparison struct {
	Outcome string            // equal, pull, or the outcome of the negotiation
	Why     string            // the reason, in words
	Rounds  []reconcile.Round // of the negotiation, if there was one
	Asked   int               // events requested by hash
	Saved   int               // local events that were stored without fetching them
}

// A StoreError is an error of the Store or of the caller's functions, not of the Server.
type StoreError struct{ Err error }

func (e *StoreError) Error() string { return e.Err.Error() }

// Unwrap returns the cause.
func (e *StoreError) Unwrap() error { return e.Err }

// NewStoreError returns err as a *StoreError, or nil if it is nil.
func NewStoreError(err error) error {
	if err == nil {
		return nil
	}
	return &StoreError{err}
}
