package snapshot

import (
	"context"
	"database/sql"

	"github.com/rstream-dev/rstream/cache/internal/dbfile"
	"github.com/rstream-dev/rstream/cache/internal/rows"
	"github.com/rstream-dev/rstream/event"
	"github.com/rstream-dev/rstream/window"
)

// A Store has the kept snapshots of a file, and folds states from them.
type Store struct {
	file    *dbfile.File
	tables  *rows.Tables
	doubted func(tx *sql.Tx, topics []event.Topic) (window.Spans, error)
	sealed  chan struct{} // a block was sealed since Run has looked
	recent  recent
}

// New returns the Store of a file. doubted returns where the events held of topics are in
// doubt: no state is kept of those.
func New(f *dbfile.File, t *rows.Tables, doubted func(*sql.Tx, []event.Topic) (window.Spans, error)) *Store {
	return &Store{file: f, tables: t, doubted: doubted, sealed: make(chan struct{}, 1)}
}

// BlockSealed wakes Run: a block was sealed.
func (s *Store) BlockSealed() {
	select {
	case s.sealed <- struct{}{}:
	default: // it knows
	}
}

// EventsStored takes up the events that a transaction has stored, or has found stored,
// with the numbers of their storages. It is committed, and the file had so many removals then.
func (s *Store) EventsStored(evs []event.Event, storages []int64, removals int64) {
	s.recent.add(evs, storages, removals)
}

// LastRecent returns the last event in span of each storage of topic, in the order of
// their names; ok is false if others are stored there than this process remembers.
func (s *Store) LastRecent(ctx context.Context, tx *sql.Tx, topic event.Topic, span window.Span, removals int64) (refs []Ref, ok bool, err error) {
	return s.recent.last(ctx, tx, topic, span, removals)
}
