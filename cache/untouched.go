package cache

import (
	"context"
	"database/sql"

	"github.com/rstream-dev/rstream/cache/internal/dbfile"
	"github.com/rstream-dev/rstream/cache/internal/rows"
	"github.com/rstream-dev/rstream/event"
)

// Untouched reports whether a copy has never had anything of topic: no window shares events
// with it, and none of its storages has had an event, imported or not. Then no digest of it
// can agree with a server's, unless the server has no events of it either.
func (db *DB) Untouched(ctx context.Context, topic event.Topic) (untouched bool, err error) {
	err = db.file.View(ctx, func(tx *sql.Tx) error {
		windows, err := rows.LoadWindows(tx)
		if err != nil {
			return err
		}
		for i := range windows {
			if windows[i].Topic.Overlaps(topic) {
				untouched = false
				return nil
			}
		}
		where, args := rows.StoragesOf(topic)
		return tx.QueryRowContext(ctx, `SELECT NOT EXISTS (SELECT 1 FROM storage s WHERE `+where+`)`, args...).Scan(&untouched)
	})
	return untouched, dbfile.Wrap(err, "look for events of %s", topic)
}
