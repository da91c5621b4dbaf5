package cache

import (
	"context"
	"errors"

	"github.com/rstream-dev/rstream/event"
	"github.com/rstream-dev/rstream/window"
)

// MigrateImported copies the unproven imported events of another copy, whose log this
// copy's log was restored from. Candidates up to parted, where the two logs diverged,
// remain candidates, except those that cannot be in this log. Candidates after it are
// foreign events now, as are the foreign ones.
func (db *DB) MigrateImported(ctx context.Context, old *DB, parted event.ID) error {
	ours := importBatch{add: func(evs []event.Event) error { return db.migrateCandidates(ctx, evs) }}
	err := old.Imports().Candidates(ctx, event.All, window.Span{From: event.Beginning, To: parted}, ours.addImported)
	if err = errors.Join(err, ours.passOn()); err != nil {
		return err
	}
	others := importBatch{add: func(evs []event.Event) error { _, err := db.Imports().AddForeign(ctx, evs); return err }}
	err = old.Imports().Candidates(ctx, event.All, window.Span{From: parted, To: event.MaxID}, others.addImported)
	if err != nil {
		return err
	}
	err = old.Imports().ForeignHashes(ctx, event.All, func(h event.Hash) error {
		return old.Imports().Foreign(ctx, []event.Hash{h}, others.addImported)
	})
	return errors.Join(err, others.passOn())
}

// migrateCandidates adds candidates; one by one, if one of them cannot be in this log.
func (db *DB) migrateCandidates(ctx context.Context, evs []event.Event) error {
	_, err := db.Imports().AddCandidates(ctx, evs)
	var conflict *ConflictError
	if !errors.As(err, &conflict) && !errors.Is(err, ErrNotInLog) {
		return err
	}
	if len(evs) == 1 {
		return nil
	}
	for i := range evs {
		if err := db.migrateCandidates(ctx, evs[i:i+1]); err != nil {
			return err
		}
	}
	return nil
}

// A importBatch collects events to pass on in groups.
type importBatch struct {
	add   func([]event.Event) error
	evs   []event.Event
	bytes int
}

func (b *importBatch) addImported(ev *event.Event) error {
	b.evs, b.bytes = append(b.evs, *ev), b.bytes+len(ev.Value)
	if len(b.evs) < importChunk && b.bytes < maxReadBytes {
		return nil
	}
	return b.passOn()
}

func (b *importBatch) passOn() error {
	evs := b.evs
	b.evs, b.bytes = nil, 0
	if len(evs) == 0 {
		return nil
	}
	return b.add(evs)
}
