package dbfile

import (
	"context"
	"database/sql"
	"errors"
	"fmt"
	"strconv"
)

// CopyInto writes a compact copy of the file to path, with pages of PageSize bytes. It uses
// a connection of its own: the writing connection would block appends, and the reading ones
// may not write anywhere.
func (f *File) CopyInto(ctx context.Context, path string) error {
	pool, err := f.connect(1, "")
	if err != nil {
		return err
	}
	defer pool.Close()
	if _, err := pool.ExecContext(ctx, `PRAGMA page_size=`+strconv.Itoa(PageSize)+`; VACUUM INTO ?`, path); err != nil {
		return orDone(ctx, err)
	}
	return f.unchanged()
}

// MarkBackup checks the integrity of the copy at path, by SQLite and by check, gives it the
// role Backup and syncs it.
func MarkBackup(ctx context.Context, path string, check func(*sql.Tx) error) error {
	return markCopy(ctx, path, check, func(tx *sql.Tx) error {
		return UpdateLog(tx, LogTable.Update("role", "?1"), string(Backup))
	})
}

// MarkSeed is MarkBackup for a copy that becomes the file of a mirror of the same log.
func MarkSeed(ctx context.Context, path string, check func(*sql.Tx) error) error {
	return markCopy(ctx, path, check, func(tx *sql.Tx) error {
		_, err := tx.Exec(createMirror)
		return errors.Join(err, UpdateLog(tx, LogTable.Update("role", "?1"), string(Server)))
	})
}

// markCopy checks the copy at path, has mark say in the row of its log what it is, and syncs it.
func markCopy(ctx context.Context, path string, check, mark func(*sql.Tx) error) (err error) {
	pool, err := openPool(path, 1, "mode=rw"+tuning)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(orDone(ctx, err), pool.Close()) }()
	var result string
	if err := pool.QueryRowContext(ctx, `PRAGMA integrity_check(1)`).Scan(&result); err != nil {
		return err
	}
	if result != "ok" {
		return fmt.Errorf("%w: %s", ErrCorrupt, result)
	}
	tx, err := pool.BeginTx(ctx, nil)
	if err != nil {
		return err
	}
	defer tx.Rollback()
	for _, step := range []func(*sql.Tx) error{check, mark, CopyLog} {
		if err := step(tx); err != nil {
			return err
		}
	}
	return tx.Commit()
}
