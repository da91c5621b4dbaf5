package pages

import (
	"context"
	"database/sql"

	"github.com/rstream-dev/rstream/event"
	"github.com/rstream-dev/rstream/window"
)

// FindOthers returns the stored events that have the id of one of evs and are others: their
// storage, their hash or their time differs. The ids of evs ascend, and storages are the numbers
// of their storages. FindOthers goes past damage. It reads no line unless one of evs seems to be
// stored.
func FindOthers(ctx context.Context, tx *sql.Tx, evs []event.Event, storages []int64) (others []Place, err error) {
	if len(evs) == 0 {
		return nil, nil
	}
	stored := false
	err = scanIDs(ctx, tx, evs, -1, func(i int, l *Line) {
		if l.Storage != storages[i] {
			others = append(others, Place{l.Storage, l.ID})
		} else {
			stored = true
		}
	})
	if err != nil || !stored {
		return others, err
	}
	err = scanIDs(ctx, tx, evs, 0, func(i int, l *Line) {
		if l.Storage == storages[i] && checkSame(l.Text, &evs[i]) != nil {
			others = append(others, Place{l.Storage, l.ID})
		}
	})
	return others, err
}

// scanIDs calls fn with the stored events that have the id of one of evs.
func scanIDs(ctx context.Context, tx *sql.Tx, evs []event.Event, maxText int, fn func(i int, l *Line)) error {
	next := 0
	q := Query{Span: window.Span{From: evs[0].ID - 1, To: evs[len(evs)-1].ID}, MaxText: maxText, Skip: func(*DamageError) error { return nil }}
	return Scan(ctx, tx, q, func(l Line) error {
		for next < len(evs) && evs[next].ID < l.ID {
			next++
		}
		if next < len(evs) && evs[next].ID == l.ID {
			fn(next, &l)
		}
		return nil
	})
}
