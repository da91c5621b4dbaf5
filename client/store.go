package client

import (
	"context"

	"github.com/rstream-dev/rstream/cache"
	"github.com/rstream-dev/rstream/event"
	"github.com/rstream-dev/rstream/internal/hub"
	"github.com/rstream-dev/rstream/window"
)

// A store is the copy of a Client: a dbStore, except in tests that inject errors.
type store interface {
	hub.Source
	copyReader
	leaser
	prover
	stateStore
	importStore
	outboxStore
	noter
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

// A copyReader reports which events are held.
type copyReader interface {
	Log() string
	Newest(ctx context.Context) (cache.Newest, error)
	Windows(ctx context.Context) ([]window.Window, error)
	Held(ctx context.Context, topics ...event.Topic) (window.Spans, error)
	PositionsAt(ctx context.Context, t event.Time) (window.Span, error)
	FollowedSince(ctx context.Context, topic event.Topic) (event.ID, error)
	Untouched(ctx context.Context, topic event.Topic) (bool, error)
	Narrower(ctx context.Context, topics []event.Topic, at, until event.ID) (parts []event.Topic, end event.ID, err error)
	Each(ctx context.Context, topics []event.Topic, span window.Span, fn func(*event.Event) error) error
	Removals(ctx context.Context) (int64, error)
	CountSaved(ctx context.Context, n int64) error
}

// A leaser gives out leases on windows to be filled.
type leaser interface {
	Claim(ctx context.Context, topics []event.Topic, span window.Span) (l *cache.Lease, busy bool, err error)
	Follow(ctx context.Context, topics []event.Topic, from event.ID) (*cache.Lease, error)
	Pend(ctx context.Context, topic event.Topic, moment event.Moment) (p *cache.Pending, busy int64, err error)
}

// A prover provides the leaves of held events, which are compared with a server's digests,
// and corrects the events.
type prover interface {
	Leaves(ctx context.Context, topic event.Topic, span window.Span) ([]window.Leaf, error)
	CheckedLeaves(ctx context.Context, topic event.Topic, span window.Span) ([]window.Leaf, error)
	Prove(ctx context.Context, topic event.Topic, span window.Span, removals int64, mark event.Mark) error
	ProveAll(ctx context.Context, proofs []cache.Proof, removals int64) error
	Doubt(ctx context.Context, topic event.Topic, span window.Span, theirs window.Digest) (differs bool, err error)
	Doubted(ctx context.Context, topics ...event.Topic) (window.Spans, error)
	Merge(ctx context.Context, topic event.Topic, span window.Span, evs []event.Event) (added []event.Event, err error)
	Replace(ctx context.Context, topic event.Topic, span window.Span, evs []event.Event) error
}

// A stateStore stores and returns states.
type stateStore interface {
	NoteTimes(ctx context.Context, times map[event.ID]event.Time) error
	State(ctx context.Context, topic event.Topic, at event.ID, fn func(*event.Event) error) error
	StateFrom(ctx context.Context, topic event.Topic, at event.ID) (event.ID, error)
	StateTime(ctx context.Context, topic event.Topic, t event.Time) (at event.ID, ok bool, err error)
	KeepSnapshot(ctx context.Context, topic event.Topic, at event.ID) (w *cache.SnapshotWriter, busy bool, err error)
	SealStates(ctx context.Context, topic event.Topic) error
}

// An importStore holds candidates: imported events that no read returns until the log is
// known to have them.
type importStore interface {
	// Candidates calls fn with the imported events of this log that are not held, in
	// order of their ids. No transaction is open while fn runs.
	Candidates(ctx context.Context, topic event.Topic, span window.Span, fn func(*event.Event) error) error
	CandidateSpan(ctx context.Context, topic event.Topic, span window.Span) (window.Span, error)
	DropCandidates(ctx context.Context, ids []event.ID) error
	ImportedLeaves(ctx context.Context, topic event.Topic, span window.Span) ([]window.Leaf, error)
	PromoteCandidates(ctx context.Context, topic event.Topic, span window.Span, leaves []window.Leaf, fresh func([]event.Event) error) error
	// ForeignHashes calls fn with the hashes of the events imported from other logs, in
	// ascending order. Foreign calls fn with the events that have some of these hashes.
	ForeignHashes(ctx context.Context, topic event.Topic, fn func(event.Hash) error) error
	Foreign(ctx context.Context, hashes []event.Hash, fn func(*event.Event) error) error
}

// An outboxStore keeps local drafts until a server has acknowledged them.
type outboxStore interface {
	List(ctx context.Context, after int64, limit int) ([]cache.Queued, error)
	Acknowledge(ctx context.Context, numbers []int64) error
	Refuse(ctx context.Context, numbers []int64, reason string) error
}
