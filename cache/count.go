package cache

import (
	"context"
	"database/sql"

	"github.com/rstream-dev/rstream/cache/internal/pages"
)

// A Count is how much a file holds.
type Count struct {
	Events   int64
	Storages int64
	Bytes    int64 // of the file, excluding its write-ahead log
}

// Count returns how much the file holds.
func (db *DB) Count(ctx context.Context) (n Count, err error) {
	err = db.file.View(ctx, func(tx *sql.Tx) (err error) {
		if n.Events, err = pages.CountAll(ctx, tx); err != nil {
			return err
		}
		return tx.QueryRowContext(ctx, `SELECT (SELECT count(*) FROM storage),
			(SELECT page_count * page_size FROM pragma_page_count, pragma_page_size)`).Scan(&n.Storages, &n.Bytes)
	})
	return n, err
}
