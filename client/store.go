package client

import (
	"context"

	"github.com/rstream-dev/rstream/cache"
	"github.com/rstream-dev/rstream/event"
	"github.com/rstream-dev/rstream/internal/hub"
	"github.com/rstream-dev/rstream/window"
)

// A store is the copy of a Client: a dbStore, except in tests of what fails.
type store interface {
	hub.Source
	copyReader
	leaser
	prover
	stateStore
	importStore
	outboxStore
}

// A dbStore is a cache with its parts.
type dbStore struct {
	*cache.DB
	cache.Leases
	cache.Imports
	cache.Snapshots
	cache.Outbox
}

func storeOf(db *cache.DB) dbStore {
	return dbStore{db, db.Leases(), db.Imports(), db.Snapshots(), db.Outbox()}
}

// A copyReader knows what is held.
type copyReader interface {
	Log() string
	Newest(ctx context.Context) (cache.Newest, error)
	Held(ctx context.Context, topics ...event.Topic) (window.Spans, error)
	Narrower(ctx context.Context, topics []event.Topic, at, until event.ID) (parts []event.Topic, end event.ID, err error)
	Removals(ctx context.Context) (int64, error)
	CountSaved(ctx context.Context, n int64) error
}

// A leaser gives out what is to be filled.
type leaser interface {
	Claim(ctx context.Context, topics []event.Topic, span window.Span) (l *cache.Lease, busy bool, err error)
	Follow(ctx context.Context, topics []event.Topic, from event.ID) (*cache.Lease, error)
	Pend(ctx context.Context, topic event.Topic, moment event.Moment) (p *cache.Pending, busy int64, err error)
}

// A prover compares what is held with a server's digests, and corrects it.
type prover interface {
	Leaves(ctx context.Context, topic event.Topic, span window.Span) ([]window.Leaf, error)
	CheckedLeaves(ctx context.Context, topic event.Topic, span window.Span) ([]window.Leaf, error)
	Prove(ctx context.Context, topic event.Topic, span window.Span, removals int64, mark event.Mark) error
	Doubt(ctx context.Context, topic event.Topic, span window.Span, theirs window.Digest) (differs bool, err error)
	Doubted(ctx context.Context, topics ...event.Topic) (window.Spans, error)
	Merge(ctx context.Context, topic event.Topic, span window.Span, evs []event.Event) (added []event.Event, err error)
	Replace(ctx context.Context, topic event.Topic, span window.Span, evs []event.Event) error
}

// A stateStore knows the state at moments.
type stateStore interface {
	NoteTimes(ctx context.Context, times map[event.ID]event.Time) error
	State(ctx context.Context, topic event.Topic, at event.ID, fn func(*event.Event) error) error
	StateFrom(ctx context.Context, topic event.Topic, at event.ID) (event.ID, error)
	StateTime(ctx context.Context, topic event.Topic, t event.Time) (at event.ID, ok bool, err error)
	KeepSnapshot(ctx context.Context, topic event.Topic, at event.ID) (w *cache.SnapshotWriter, busy bool, err error)
	SealStates(ctx context.Context, topic event.Topic) error
}

// An importStore has candidates: events that are here and that nothing reads. They were
// imported, and become events once the log is known to have them.
type importStore interface {
	// Candidates calls fn with events of this log that were imported and are not
	// held, in the order of ids. No transaction is open while fn runs.
	Candidates(ctx context.Context, topic event.Topic, span window.Span, fn func(*event.Event) error) error
	CandidateSpan(ctx context.Context, topic event.Topic, span window.Span) (window.Span, error)
	DropCandidates(ctx context.Context, ids []event.ID) error
	ImportedLeaves(ctx context.Context, topic event.Topic, span window.Span) ([]window.Leaf, error)
	AdoptCandidates(ctx context.Context, topic event.Topic, span window.Span, leaves []window.Leaf, fresh func([]event.Event) error) error
	// ForeignHashes calls fn with the hashes of events that were imported from
	// another log, in ascending order; Foreign calls it with some of them.
	ForeignHashes(ctx context.Context, topic event.Topic, fn func(event.Hash) error) error
	Foreign(ctx context.Context, hashes []event.Hash, fn func(*event.Event) error) error
}

// An outboxStore keeps what was written here until a server has acknowledged it.
type outboxStore interface {
	List(ctx context.Context, after int64, limit int) ([]cache.Queued, error)
	Acknowledge(ctx context.Context, numbers []int64) error
	Refuse(ctx context.Context, number int64, reason string) error
}
