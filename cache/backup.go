package cache

import (
	"context"
	"database/sql"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"

	"github.com/rstream-dev/rstream/event"
)

// Backup is the role of a file that Backup wrote. Served, it becomes a new log that
// goes on from the old one: ids given after the backup would otherwise be given
// again, to other events.
const Backup Role = "backup"

// BackupTo writes a consistent copy of a server's file to path, which must not exist
// yet. The log may be served meanwhile. The copy is whole or not there.
func (db *DB) BackupTo(ctx context.Context, path string) error {
	if err := db.backupTo(ctx, path); err != nil {
		return fmt.Errorf("back up %s to %s: %w", db.path, path, classify(err))
	}
	return nil
}

func (db *DB) backupTo(ctx context.Context, path string) (err error) {
	if db.role == Client {
		return fmt.Errorf("%w: it is a %s's file", ErrRole, db.role)
	}
	if path, err = filepath.Abs(path); err != nil {
		return err
	}
	if err := absent(path); err != nil {
		return err
	}
	// A name of its own, so that two backups never write into each other's file,
	// readable by its owner only.
	f, err := os.CreateTemp(filepath.Dir(path), filepath.Base(path)+".*.part")
	if err != nil {
		return err
	}
	tmp := f.Name()
	defer removeFiles(tmp)
	if err := f.Close(); err != nil {
		return err
	}
	if err := db.copyInto(ctx, tmp); err != nil {
		return err
	}
	if err := markBackup(ctx, tmp); err != nil {
		return err
	}
	if err := absent(path); err != nil { // a copy takes its time
		return err
	}
	return os.Rename(tmp, path)
}

func absent(path string) error {
	_, err := os.Lstat(path)
	if err == nil {
		return fs.ErrExist
	}
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	return err
}

// removeFiles removes a database and what SQLite keeps beside it.
func removeFiles(path string) {
	for _, suffix := range []string{"", "-journal", "-wal", "-shm"} {
		os.Remove(path + suffix)
	}
}

// copyInto copies the file through a connection of its own: the one that writes
// would keep appends waiting, those that read must not write, not even elsewhere.
func (db *DB) copyInto(ctx context.Context, path string) error {
	pool, err := db.connect(1, "")
	if err != nil {
		return err
	}
	defer pool.Close()
	if _, err := pool.ExecContext(ctx, `VACUUM INTO ?`, path); err != nil {
		return orDone(ctx, err)
	}
	return db.unchanged()
}

// markBackup says in the copy what it is, checks it and has it synced to disk.
func markBackup(ctx context.Context, path string) (err error) {
	pool, err := connect(path, 1, "mode=rw"+tuning)
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
	_, err = pool.ExecContext(ctx, `UPDATE log SET role = ?`, string(Backup))
	return err
}

// beginAnew makes a backup the log of a server: a new log, whose parent is the old
// one up to the head of the backup.
func (db *DB) beginAnew(ctx context.Context) error {
	return db.changeIdentity(ctx, func(tx *sql.Tx) error {
		_, err := tx.Exec(`UPDATE log SET parent = id, parent_head = (SELECT stop FROM window WHERE topic = '*' AND state = 'committed'),
			id = ?, role = 'server' WHERE role = 'backup'`, newLogID())
		return err
	})
}

// goOnAsNewLog makes a server's file a new log that goes on from the one that it was.
// Nobody knows where the two parted.
func (db *DB) goOnAsNewLog(ctx context.Context) error {
	return db.changeIdentity(ctx, func(tx *sql.Tx) error {
		_, err := tx.Exec(`UPDATE log SET parent = id, parent_head = NULL, id = ?`, newLogID())
		return err
	})
}

// Parent returns the log that this one goes on from and the position at which they
// parted, event.MaxID if that is not known; log is empty if there is none.
func (db *DB) Parent(ctx context.Context) (log string, head event.ID, err error) {
	err = db.read.QueryRowContext(ctx, `SELECT coalesce(parent, ''), coalesce(parent_head, iif(parent IS NULL, 0, ?)) FROM log`, event.MaxID).Scan(&log, &head)
	return log, head, db.named(classify(err))
}
