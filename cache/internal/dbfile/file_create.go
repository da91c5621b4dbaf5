package dbfile

import (
	"context"
	"crypto/rand"
	"database/sql"
	_ "embed" // schema
	"errors"
	"fmt"
	"io/fs"
	"strconv"
	"time"

	"github.com/rstream-dev/rstream/event"
)

// The identity of a log is written before the file has a write-ahead log: to the file
// itself, in one transaction with the schema. So a file is empty or has its identity,
// wherever its creation is interrupted, and a file that lost its write-ahead log is never
// mistaken for a new one.

// create gives an empty file its schema and its identity. If several processes create a
// file, one does and the others find it created.
func (f *File) create(ctx context.Context, cfg Options) error {
	files, err := migrationFiles()
	if err != nil {
		return err
	}
	return f.alter(ctx, `PRAGMA page_size=`+strconv.Itoa(PageSize)+`; PRAGMA auto_vacuum=2`, func(tx *sql.Tx) error {
		version, err := schemaVersion(ctx, tx)
		if err != nil || version > 0 {
			return err
		}
		if err := applySchema(ctx, tx, schema, len(files)); err != nil {
			return err
		}
		return insertIdentity(ctx, tx, cfg)
	})
}

// changeIdentity changes which log a file belongs to, in the file itself, which has no
// write-ahead log until it is joined again. This process must have no connection open.
func (f *File) changeIdentity(ctx context.Context, change func(tx *sql.Tx) error) error {
	f.walless = true
	return f.alter(ctx, `PRAGMA journal_mode=DELETE`, change)
}

// alter runs change in a transaction written to the file itself. It also syncs the
// folder: otherwise a crash could bring back the journal and undo the change after others
// have built on it.
func (f *File) alter(ctx context.Context, pragma string, change func(tx *sql.Tx) error) error {
	return f.runAside(ctx, func(ctx context.Context, pool *sql.DB) error {
		if _, err := pool.ExecContext(ctx, pragma+`; PRAGMA synchronous=EXTRA`); err != nil {
			return err
		}
		tx, err := pool.BeginTx(ctx, nil)
		if err != nil {
			return err
		}
		if err := change(tx); err != nil {
			tx.Rollback()
			return orDone(ctx, err)
		}
		return orDone(ctx, tx.Commit())
	})
}

// beginWAL switches the file to a write-ahead log.
func (f *File) beginWAL(ctx context.Context) error {
	return f.runAside(ctx, func(ctx context.Context, pool *sql.DB) error {
		_, err := pool.ExecContext(ctx, `PRAGMA journal_mode=WAL`)
		return err
	})
}

// runAside runs fn with a connection of its own. SQLite refuses to change the journal
// mode at once if another connection is in the way, so runAside retries until none is. It
// returns ErrBusy if that takes too long.
func (f *File) runAside(ctx context.Context, fn func(ctx context.Context, pool *sql.DB) error) error {
	waiting, cancel := context.WithTimeoutCause(ctx, busyTime, ErrBusy)
	defer cancel()
	for {
		pool, err := f.connect(1, "&_txlock=immediate")
		if err != nil {
			return err
		}
		err = errors.Join(fn(waiting, pool), pool.Close())
		switch cause := context.Cause(waiting); {
		case err != nil && cause == ErrBusy:
			return fmt.Errorf("%w (%w)", ErrBusy, err)
		case err != nil && cause != nil:
			return orDone(ctx, err)
		}
		if err = Classify(err); !errors.Is(err, ErrBusy) {
			return err
		}
		select {
		case <-time.After(5 * time.Millisecond):
		case <-waiting.Done():
		}
	}
}

// schema is what the migrations lead to, for new files: running the migrations takes
// three times as long.
//
//go:embed schema.sql
var schema string

// applySchema executes statements that lead to a version of the schema.
func applySchema(ctx context.Context, tx *sql.Tx, text string, version int) error {
	_, err := tx.ExecContext(ctx, text+`;
		PRAGMA application_id=`+strconv.Itoa(applicationID)+`; PRAGMA user_version=`+strconv.Itoa(version))
	return err
}

// insertIdentity makes an empty schema the file of a log.
func insertIdentity(ctx context.Context, tx *sql.Tx, cfg Options) error {
	log := cfg.Log
	switch {
	case log == "" && cfg.Mirror != nil:
		return errNoLog
	case log == "":
		log = newLogID()
	}
	indexed := event.MaxID // a client writes postings with each event
	if cfg.Role == Server {
		indexed = event.Beginning
	}
	if _, err := tx.ExecContext(ctx, `INSERT INTO log (one, id, role, next, time, indexed)
		VALUES (1, ?, ?, 1, 0, ?)`, log, string(cfg.Role), indexed); err != nil {
		return err
	}
	if cfg.Mirror != nil {
		if err := cfg.Mirror.insertMirror(ctx, tx); err != nil {
			return err
		}
	}
	return SumLog(tx)
}

func newLogID() string {
	var random [10]byte
	rand.Read(random[:]) // never fails
	return event.NewLogID(random)
}

// schemaVersion returns the version of a file's schema, 0 if the file is empty.
func schemaVersion(ctx context.Context, db interface {
	QueryRowContext(ctx context.Context, query string, args ...any) *sql.Row
}) (int, error) {
	var version, app, tables int
	if err := db.QueryRowContext(ctx, `SELECT v.user_version, a.application_id,
		(SELECT count(*) FROM sqlite_schema)
		FROM pragma_user_version v, pragma_application_id a`).Scan(&version, &app, &tables); err != nil {
		return 0, err
	}
	if tables > 0 && app != applicationID {
		return 0, ErrNotCache
	}
	return version, nil
}

var errNoLog = fmt.Errorf("a new file needs the name of its log: %w", fs.ErrNotExist)

// becomeNewLog turns a backup into a server's file: a new log, whose parent is the old
// one up to the head of the backup.
func (f *File) becomeNewLog(ctx context.Context) error {
	return f.changeIdentity(ctx, func(tx *sql.Tx) error {
		if f.LogDamaged {
			// The copy is exact: nothing is appended to a backup.
			if err := RestoreLog(tx); err != nil {
				return err
			}
		}
		err := UpdateLog(tx, LogTable.Update("parent", "id", "parent_head", "next - 1", "id", "?1", "role", "'server'")+` AND role = 'backup'`, newLogID())
		return errors.Join(err, endMirror(tx), CopyLog(tx))
	})
}

// goOnAsNewLog makes a server's file a new log that continues the old one. Nobody knows
// where the two diverged, except of a mirror: at its head.
func (f *File) goOnAsNewLog(ctx context.Context, cfg Options) error {
	parted := "NULL"
	if f.Mirror {
		parted = "next - 1"
	}
	return f.changeIdentity(ctx, func(tx *sql.Tx) error {
		if f.LogDamaged {
			if err := cfg.RestoreLog(ctx, tx); err != nil {
				return err
			}
		}
		err := UpdateLog(tx, LogTable.Update("parent", "id", "parent_head", parted, "id", "?1"), newLogID())
		return errors.Join(err, endMirror(tx), CopyLog(tx))
	})
}
