package cache

import (
	"context"
	"database/sql"
	"errors"
	"fmt"

	"github.com/rstream-dev/rstream/cache/internal/dbfile"
	"github.com/rstream-dev/rstream/cache/internal/pages"
	"github.com/rstream-dev/rstream/cache/internal/rows"
	"github.com/rstream-dev/rstream/event"
	"github.com/rstream-dev/rstream/window"
)

// Restored reports whether Open has found the row of the log damaged, and restored it.
func (db *DB) Restored() bool { return db.file.LogDamaged }

// restoreLog restores the row of the log from its copy, if it is damaged. The copy is from
// when the last block was sealed. On a server, the changes since then follow from the events.
func (db *DB) restoreLog(ctx context.Context, server bool) error {
	if !db.file.LogDamaged && server {
		return db.checkCounter(ctx)
	}
	if !db.file.LogDamaged {
		return nil
	}
	db.damaged.countDamage(dbfile.ErrLogRow)
	if !server && db.file.Role != Client {
		return fmt.Errorf("%w; its server restores it when it starts", dbfile.ErrLogRow)
	}
	return db.file.Update(ctx, func(tx *sql.Tx) error {
		var there event.ID
		if err := dbfile.ScanLog(ctx, tx, `next`, &there); !errors.Is(err, dbfile.ErrLogRow) {
			return err // another process was faster
		}
		if server {
			return restoreServerLog(ctx, tx)
		}
		return dbfile.RestoreLog(tx)
	})
}

// restoreServerLog restores the damaged row of a server's log. The events tell the changes since
// the copy was made.
func restoreServerLog(ctx context.Context, tx *sql.Tx) error {
	last, err := lastEvent(ctx, tx)
	if err != nil {
		return fmt.Errorf("restore the row of the log: %w", err)
	}
	return dbfile.RestoreLog(tx, "next", fmt.Sprintf("max(next, indexed + 1, horizon + 1, %d)", last.ID+1),
		"time", fmt.Sprintf("max(time, %d)", last.Time))
}

// checkCounter moves the counter of a log past its last event, if a bit of it has flipped
// under a version that had no checksums.
func (db *DB) checkCounter(ctx context.Context) error {
	var next event.ID
	var last event.Event
	err := db.file.View(ctx, func(tx *sql.Tx) (err error) {
		if err := dbfile.ScanLog(ctx, tx, `next`, &next); err != nil {
			return err
		}
		last, err = lastEvent(ctx, tx)
		return err
	})
	if errors.Is(err, ErrCorrupt) || err == nil && last.ID < next {
		return nil // a damaged page is an error of its readers
	}
	if err != nil {
		return err
	}
	return db.file.Update(ctx, func(tx *sql.Tx) error {
		return dbfile.UpdateLog(tx, setNext, last.ID+1, last.Time)
	})
}

// lastEvent returns the last event of a log, whose id and time must be certain: an id that
// was given must not be given again.
func lastEvent(ctx context.Context, tx *sql.Tx) (ev event.Event, err error) {
	line, ok, err := pages.Last(ctx, tx, window.Span{To: event.MaxID}, true)
	if err != nil || !ok {
		return ev, err
	}
	return rows.ParseStored(line.ID, line.Text)
}
