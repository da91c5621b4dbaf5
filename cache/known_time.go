package cache

import (
	"context"
	"database/sql"
	"errors"
	"fmt"

	"github.com/rstream-dev/rstream/cache/internal/pages"
	"github.com/rstream-dev/rstream/cache/internal/rows"
	"github.com/rstream-dev/rstream/event"
	"github.com/rstream-dev/rstream/window"
)

// KnownTime is [DB.TimeAt] for a position of which the file can know the time. A copy knows it
// if a server has named it, or if the position is held and an event comes before it in the
// same held range. Elsewhere the log may have had many events since the last one that is
// stored, and ok is false.
func (db *DB) KnownTime(ctx context.Context, at event.ID) (t event.Time, ok bool, err error) {
	if at == event.Beginning {
		return 0, false, nil
	}
	err = db.file.View(ctx, func(tx *sql.Tx) error {
		named, err := db.isNamed(ctx, tx, at)
		if err == nil && named {
			t, _, ok, err = db.tables.LastAt(ctx, tx, at)
		} else if err == nil {
			t, ok, err = lastHeldTime(ctx, tx, at)
		}
		return err
	})
	if errors.As(err, new(*window.NotHeldError)) {
		return 0, false, nil // below the horizon of a log
	}
	if err != nil {
		return 0, false, fmt.Errorf("time at %s: %w", at, err)
	}
	return t, ok, nil
}

// isNamed reports whether the file has a time of its own for a position: a log has all.
func (db *DB) isNamed(ctx context.Context, tx *sql.Tx, at event.ID) (named bool, err error) {
	if db.file.Role != Client {
		return true, nil
	}
	err = tx.QueryRowContext(ctx, `SELECT EXISTS (SELECT 1 FROM bound WHERE at = ? AND `+rows.BoundSound+`)`, at).Scan(&named)
	return named, err
}

// lastHeldTime returns the time of the last event at or before a position in the held range
// that the position is in.
func lastHeldTime(ctx context.Context, tx *sql.Tx, at event.ID) (t event.Time, ok bool, err error) {
	windows, err := rows.LoadWindows(tx)
	if err != nil {
		return 0, false, err
	}
	var held []window.Span
	for i := range windows {
		if windows[i].State != window.Pending {
			held = append(held, windows[i].Held())
		}
	}
	for _, span := range window.Union(held...) {
		if at <= span.From || span.To < at {
			continue
		}
		line, ok, err := pages.Last(ctx, tx, window.Span{From: span.From, To: at}, false)
		if err != nil || !ok {
			return 0, false, err
		}
		ev, err := rows.ParseStored(line.ID, line.Text)
		return ev.Time, err == nil, err
	}
	return 0, false, nil
}
