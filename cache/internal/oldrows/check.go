package oldrows

import (
	"cmp"
	"context"
	"database/sql"
	"fmt"
	"math"

	"github.com/rstream-dev/rstream/cache/internal/dbfile"
	"github.com/rstream-dev/rstream/cache/internal/pages"
	"github.com/rstream-dev/rstream/event"
)

// Check reads the tables of an earlier version that Move will empty, while that version can still
// open the file. It returns an error if SQLite cannot read them to the end, or in their order:
// moving events or joining postings would stop there, and the earlier version can still do
// something with the file. Lines that are not those of their events are no such error, nor are
// damaged postings.
func Check(ctx context.Context, f *dbfile.File) error {
	return f.View(ctx, func(tx *sql.Tx) error {
		for _, c := range []struct {
			table string
			check func(ctx context.Context, tx *sql.Tx, table string) error
		}{
			{"posting", readOffsets}, {"event", checkRowOrder}, // of schemas 1 to 6
			{"old_posting", readOffsets}, {"old_event", checkRowOrder}, {"page_posting", checkPostingOrder}, // of 7 and 8
		} {
			var there bool
			if err := tx.QueryRowContext(ctx, `SELECT EXISTS (SELECT 1 FROM sqlite_schema WHERE name = ?)`, c.table).Scan(&there); err != nil {
				return err
			}
			if !there {
				continue
			}
			if err := c.check(ctx, tx, c.table); err != nil {
				return err
			}
		}
		return nil
	})
}

func readOffsets(ctx context.Context, tx *sql.Tx, table string) error {
	var size sql.NullInt64
	return tx.QueryRowContext(ctx, `SELECT sum(length(offsets)) FROM `+table).Scan(&size)
}

// checkPostingOrder reads all postings of one storage each, and their chunks to the end. It returns
// an error for a damaged key, also if the order is right.
func checkPostingOrder(ctx context.Context, tx *sql.Tx, table string) error {
	rows, err := tx.QueryContext(ctx, `SELECT storage, block, count, chunks FROM `+table+` ORDER BY storage, block`)
	if err != nil {
		return err
	}
	defer rows.Close()
	last := pages.PostingKey{Storage: math.MinInt64}
	for rows.Next() {
		var storage, block, count int64
		var chunks sql.RawBytes
		if err := rows.Scan(&storage, &block, &count, &chunks); err != nil {
			return err
		}
		key := pages.PostingKey{Storage: storage, Block: uint64(block)}
		if block < 0 || cmp.Or(cmp.Compare(key.Storage, last.Storage), cmp.Compare(key.Block, last.Block)) <= 0 {
			return dbfile.OutOfOrder(table)
		}
		last = key
		if err := pages.CheckOldPosting(ctx, tx, key, count, chunks); err != nil {
			return err
		}
	}
	return rows.Err()
}

// checkRowOrder reads all events, and their lines to the end.
func checkRowOrder(ctx context.Context, tx *sql.Tx, table string) error {
	rows, err := tx.QueryContext(ctx, `SELECT id, storage, length(CAST(line AS BLOB)) FROM `+table+` ORDER BY id`)
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
