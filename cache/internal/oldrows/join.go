package oldrows

import (
	"context"
	"database/sql"

	"github.com/rstream-dev/rstream/cache/internal/dbfile"
	"github.com/rstream-dev/rstream/cache/internal/pages"
)

// stepBlocks is how many blocks of a storage one step takes the postings of, and stepPostings
// after how many a step ends. They are variables for the tests.
var (
	stepBlocks   = 64
	stepPostings = 4096
)

// joinPostings joins the rest of the postings of an earlier version.
func joinPostings(ctx context.Context, f *dbfile.File, report func(dbfile.Progress)) error {
	if has, err := f.HasOldPostings(ctx); err != nil || !has {
		return err
	}
	tables := pages.New(f)
	total, done := int64(0), int64(0)
	for more := true; more; {
		joined := int64(0)
		err := f.Update(ctx, func(tx *sql.Tx) (err error) {
			var there bool
			if err := tx.QueryRowContext(ctx, `SELECT EXISTS (SELECT 1 FROM sqlite_schema WHERE name = 'old_page_posting')`).Scan(&there); err != nil {
				return err
			}
			if more = there; !there {
				return nil // another process, on a file system without locks, was faster
			}
			if total == 0 {
				if total, err = pages.CountOldPosted(ctx, tx); err != nil {
					return err
				}
			}
			joined, more, err = tables.JoinOldPostings(ctx, tx, stepBlocks, stepPostings)
			return err
		})
		if err != nil {
			tables.ForgetPage()
			return dbfile.Wrap(err, "join postings after %d of %d events", done, total)
		}
		done += joined
		if joined > 0 {
			report(dbfile.Progress{Step: dbfile.StepUpgrade, Done: done, Total: total})
		}
	}
	// Nobody would give back the free pages once the table is gone.
	if err := f.GiveBack(ctx); err != nil {
		return err
	}
	err := f.Update(ctx, func(tx *sql.Tx) error {
		_, err := tx.ExecContext(ctx, `DROP TABLE IF EXISTS old_page_posting`)
		return err
	})
	if err != nil {
		return err
	}
	return f.GiveBack(ctx) // the page that the empty table had
}
