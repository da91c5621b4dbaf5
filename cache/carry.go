package cache

import (
	"context"
	"errors"

	"github.com/rstream-dev/rstream/event"
	"github.com/rstream-dev/rstream/window"
)

// CarryImported copies the unproven imported events of another copy, whose log this
// copy's log was restored from. Candidates up to parted, where the two logs diverged,
// remain candidates, except those that cannot be in this log. Candidates after it are
// foreign events now, as are the foreign ones.
func (db *DB) CarryImported(ctx context.Context, old *DB, parted event.ID) error {
	ours := batch{add: func(evs []event.Event) error { return db.carryCandidates(ctx, evs) }}
	err := old.Imports().Candidates(ctx, event.All, window.Span{From: event.Beginning, To: parted}, ours.take)
	if err = errors.Join(err, ours.flush()); err != nil {
		return err
	}
	others := batch{add: func(evs []event.Event) error { _, err := db.Imports().AddForeign(ctx, evs); return err }}
	err = old.Imports().Candidates(ctx, event.All, window.Span{From: parted, To: event.MaxID}, others.take)
	if err != nil {
		return err
	}
	err = old.Imports().ForeignHashes(ctx, event.All, func(h event.Hash) error {
		return old.Imports().Foreign(ctx, []event.Hash{h}, others.take)
	})
	return errors.Join(err, others.flush())
}

// carryCandidates adds candidates; one by one, if one of them cannot be in this log.
func (db *DB) carryCandidates(ctx context.Context, evs []event.Event) error {
	_, err := db.Imports().AddCandidates(ctx, evs)
	var conflict *ConflictError
	if !errors.As(err, &conflict) && !errors.Is(err, ErrNotInLog) {
		return err
	}
	if len(evs) == 1 {
		return nil
	}
	for i := range evs {
		if err := db.carryCandidates(ctx, evs[i:i+1]); err != nil {
			return err
		}
	}
	return nil
}

// A batch collects events to pass on in groups.
type batch struct {
	add   func([]event.Event) error
	evs   []event.Event
	bytes int
}

func (b *batch) take(ev *event.Event) error {
	b.evs, b.bytes = append(b.evs, *ev), b.bytes+len(ev.Value)
	if len(b.evs) < importChunk && b.bytes < maxReadBytes {
		return nil
	}
	return b.flush()
}

func (b *batch) flush() error {
	evs := b.evs
	b.evs, b.bytes = nil, 0
	if len(evs) == 0 {
		return nil
	}
	return b.add(evs)
}
