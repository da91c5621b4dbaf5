package cache

import (
	"context"
	"database/sql"
	"fmt"

	"github.com/rstream-dev/rstream/event"
)

// TimeAt returns the time of the last event at or before position at; ok is false if
// there is none, or if it is below the horizon of a log.
func (db *DB) TimeAt(ctx context.Context, at event.ID) (t event.Time, ok bool, err error) {
	t, _, ok, err = db.LastAt(ctx, at)
	return t, ok, err
}

// LastAt returns the time of TimeAt and the mark of the position. The mark is zero if it
// is unknown, as it may be at the horizon of a file from an earlier version.
func (db *DB) LastAt(ctx context.Context, at event.ID) (t event.Time, mark event.Mark, ok bool, err error) {
	err = db.file.View(ctx, func(tx *sql.Tx) error {
		t, mark, ok, err = db.tables.LastAt(ctx, tx, at)
		return err
	})
	if err != nil {
		return 0, 0, false, fmt.Errorf("time at %s: %w", at, err)
	}
	return t, mark, ok, nil
}
