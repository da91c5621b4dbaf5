package oldrows

import (
	"context"
	"database/sql"
	"fmt"

	"github.com/rstream-dev/rstream/cache/internal/dbfile"
	"github.com/rstream-dev/rstream/event"
)

// Check reads the tables of an earlier version, whose file was not changed yet. It returns
// an error if SQLite cannot read them to the end, or in their order: moving events would
// stop there, and the earlier version can still do something with the file. Lines that are
// not those of their events are no such error.
func Check(ctx context.Context, f *dbfile.File) error {
	return f.View(ctx, func(tx *sql.Tx) error {
		var size sql.NullInt64
		if err := tx.QueryRowContext(ctx, `SELECT sum(length(offsets)) FROM posting`).Scan(&size); err != nil {
			return err
		}
		return checkRowOrder(ctx, tx)
	})
}

// checkRowOrder reads all events, and their lines to the end.
func checkRowOrder(ctx context.Context, tx *sql.Tx) error {
	rows, err := tx.QueryContext(ctx, `SELECT id, storage, length(CAST(line AS BLOB)) FROM event ORDER BY id`)
	if err != nil {
		return err
	}
	defer rows.Close()
	last := int64(event.Beginning)
	for rows.Next() {
		var id, storage, length int64
		if err := rows.Scan(&id, &storage, &length); err != nil {
			return err
		}
		if id <= last {
			return fmt.Errorf("%w: event %d is stored after %d", dbfile.ErrCorrupt, id, last)
		}
		last = id
	}
	return rows.Err()
}
