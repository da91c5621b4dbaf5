package cache

import (
	"context"
	"database/sql"

	"github.com/rstream-dev/rstream/cache/internal/rows"
	"github.com/rstream-dev/rstream/event"
)

// maxNarrower bounds how many narrower topics a request names. Events held of further
// ones are fetched again: a request with a thousand names would cost more.
const maxNarrower = 32

// Narrower returns the topics, each a part of topics, that are held from position at on,
// and the position up to which exactly these are, at most until. A window of topics that
// begins at position at can exclude them from its request.
func (db *DB) Narrower(ctx context.Context, topics []event.Topic, at, until event.ID) (parts []event.Topic, end event.ID, err error) {
	err = db.file.View(ctx, func(tx *sql.Tx) error {
		windows, err := rows.LoadWindows(tx)
		if err != nil {
			return err
		}
		parts, end = rows.WindowSet(windows).Parts(topics, at, until, maxNarrower)
		return nil
	})
	return parts, end, err
}
