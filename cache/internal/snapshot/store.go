package snapshot

import (
	"context"
	"database/sql"

	"github.com/rstream-dev/rstream/cache/internal/dbfile"
	"github.com/rstream-dev/rstream/cache/internal/pages"
	"github.com/rstream-dev/rstream/cache/internal/rows"
	"github.com/rstream-dev/rstream/event"
	"github.com/rstream-dev/rstream/window"
)

// A Store keeps the snapshots of a file and folds states from them.
type Store struct {
	file    *dbfile.File
	tables  *rows.Tables
	doubted func(tx *sql.Tx, topics []event.Topic) (window.Spans, error)
	sealed  chan struct{} // a block was sealed since Run last looked
	recent  recent
}

// New returns the Store of a file. doubted returns the spans in which the events held of
// topics are in doubt; no state of them is kept.
func New(f *dbfile.File, t *rows.Tables, doubted func(*sql.Tx, []event.Topic) (window.Spans, error)) *Store {
	return &Store{file: f, tables: t, doubted: doubted, sealed: make(chan struct{}, 1)}
}

// BlockSealed wakes Run after a block was sealed.
func (s *Store) BlockSealed() {
	select {
	case s.sealed <- struct{}{}:
	default: // it is already awake
	}
}

// EventsStored records the events that a committed transaction stored, or found stored,
// with the numbers of their storages and their places. removals is the file's count of
// removals after it.
func (s *Store) EventsStored(evs []event.Event, storages []int64, places []pages.Posted, removals int64) {
	s.recent.addRecent(evs, storages, places, removals)
}

// LastRecent returns the last event in span of each storage of topic, sorted by name; ok
// is false if the file has events there that this process does not remember.
func (s *Store) LastRecent(ctx context.Context, tx *sql.Tx, topic event.Topic, span window.Span, removals int64) (refs []Ref, ok bool, err error) {
	return s.recent.lastRecent(ctx, tx, topic, span, removals)
}
