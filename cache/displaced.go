package cache

import (
	"context"
	"database/sql"
	"errors"
	"slices"

	"github.com/rstream-dev/rstream/cache/internal/pages"
	"github.com/rstream-dev/rstream/cache/internal/rows"
	"github.com/rstream-dev/rstream/cache/internal/snapshot"
	"github.com/rstream-dev/rstream/event"
	"github.com/rstream-dev/rstream/window"
)

// displaceOthers removes the stored events that have the id of one of evs, which are about to be
// stored, and are others. Of two events with one id, a server has invented one, and a read that
// met both could return neither. The windows that held an event which is removed are in doubt
// there, so that the next comparison of them tells which one it was. If the stored one is proven,
// it stays, and the error is a *ConflictError. own are the windows that evs are to fill.
//
// Looking for others takes as long as the events of all topics that are stored there. If evs are
// trusted, it is done only where something is stored that is not proven.
func (db *DB) displaceOthers(ctx context.Context, tx *sql.Tx, own []int64, evs []event.Event, storages []int64, trusted bool) error {
	if len(evs) == 0 {
		return nil
	}
	if trusted {
		unproven, err := hasUnproven(ctx, tx, own, window.Span{From: evs[0].ID - 1, To: evs[len(evs)-1].ID})
		if err != nil || !unproven {
			return err
		}
	} else if err := checkNotMissed(ctx, tx, evs, storages); err != nil {
		return err
	}
	others, err := pages.FindOthers(ctx, tx, evs, storages)
	if err != nil || len(others) == 0 {
		return err
	}
	if err := doubtDisplaced(ctx, tx, own, others); err != nil {
		return err
	}
	if _, _, err := db.tables.Pages.Drop(ctx, tx, others); err != nil {
		return err
	}
	return rows.NoteRemoval(tx)
}

// checkNotMissed returns a *ConflictError if one of evs is missing in a proven window.
func checkNotMissed(ctx context.Context, tx *sql.Tx, evs []event.Event, storages []int64) error {
	windows, err := rows.LoadWindows(tx)
	if err != nil {
		return err
	}
	var among []event.Event
	var of []int64
	for i := range evs {
		if inProven(windows, &evs[i]) {
			among, of = append(among, evs[i]), append(of, storages[i])
		}
	}
	held, err := pages.FindHeld(ctx, tx, among, of)
	if err != nil {
		return conflictOf(err)
	}
	for i := range among {
		if i == len(held) || held[i] != i {
			return &ConflictError{ID: among[i].ID}
		}
	}
	return nil
}

// hasUnproven reports whether a window other than own holds a part of span that is not proven.
func hasUnproven(ctx context.Context, tx *sql.Tx, own []int64, span window.Span) (bool, error) {
	found, err := tx.QueryContext(ctx, `SELECT id FROM window WHERE NOT proven AND start < ? AND reached > ?`, span.To, span.From)
	if err != nil {
		return false, err
	}
	defer found.Close()
	for found.Next() {
		var id int64
		if err := found.Scan(&id); err != nil || !slices.Contains(own, id) {
			return err == nil, err
		}
	}
	return false, found.Err()
}

// doubtDisplaced puts in doubt the windows other than own that hold events, at each of them.
func doubtDisplaced(ctx context.Context, tx *sql.Tx, own []int64, places []pages.Place) error {
	windows, err := rows.LoadWindows(tx)
	if err != nil {
		return err
	}
	windows = slices.DeleteFunc(windows, func(w rows.Window) bool { return slices.Contains(own, w.ID) })
	names, spans := rows.NewNames(ctx, tx), map[event.Topic][]window.Span{}
	for _, place := range places {
		name, known, err := names.Of(place.Storage)
		if err != nil {
			return err
		}
		at := spanOf(place.ID)
		for i := range windows {
			w := &windows[i]
			switch {
			case !known || !w.Topic.Matches(name.User, name.Path) || !w.Held().Contains(at):
			case w.Proven:
				return &ConflictError{ID: place.ID}
			default:
				spans[w.Topic] = append(spans[w.Topic], at)
			}
		}
	}
	doubts, err := loadDoubts(tx)
	if err != nil {
		return err
	}
	for topic, list := range spans {
		at := window.Union(list...)
		all := window.Span{From: at[0].From, To: at[len(at)-1].To}
		err := errors.Join(
			writeDoubts(tx, topic, window.Union(slices.Concat(doubtsOf(doubts, topic), at)...)),
			dropLeaves(tx, topic, all), snapshot.Drop(tx, topic, all))
		if err != nil {
			return err
		}
	}
	return nil
}
