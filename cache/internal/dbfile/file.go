package dbfile

import (
	"context"
	"database/sql"
	"errors"
	"fmt"
	"os"
	"time"

	"github.com/gofrs/flock"

	"github.com/rstream-dev/rstream/event"
)

// Options configure Open. The zero Options open an existing file of any role and log.
type Options struct {
	Role     Role             // expected role; if empty, any, and the file must exist
	Log      string           // id of the expected log; if empty, any
	AsNewLog bool             // turn a server's file into a new log that continues the old one
	Mirror   *Mirrored        // of a server's file that is a mirror; nil for a log of its own
	Now      func() time.Time // if nil, time.Now

	NoUpgrade bool // return ErrOlder for a file of an earlier version
	// Progress is called during the upgrade of a file of an earlier version, or while
	// another process upgrades it, and during other steps. It may be nil.
	Progress func(Progress)
	// RestoreLog restores the row of a server's log, which is damaged, before the log becomes
	// a new one.
	RestoreLog func(ctx context.Context, tx *sql.Tx) error
	// CheckEvents is called before a file of an earlier version is changed whose events or
	// postings move. If it returns an error, the file stays as it is. It may be nil.
	CheckEvents func(ctx context.Context, f *File) error
	// MoveEvents moves the events of an earlier version to their new place, or what is left
	// of them, and returns when all are there. Nobody else uses the file at that time.
	MoveEvents func(ctx context.Context, f *File, report func(Progress)) error
}

// A File is the open SQLite file of a log.
type File struct {
	// Set once by Open.
	Path       string // as it was given
	absPath    string // absolute, links resolved
	Log        string
	Role       Role
	Mirror     bool          // another server assigns the ids
	Topics     []event.Topic // of a mirror that has some topics only
	Now        func() time.Time
	owner      *owner
	Read       *sql.DB
	held       *heldFile
	progress   func(Progress) // may be nil
	LogDamaged bool           // the row of the log was damaged when the file was opened
	walless    bool           // the file had no write-ahead log when it was opened
	serving    bool           // a server's locks are taken: that of held, and
	flock      *flock.Flock
	pageSize   int
	location

	// The writer holds the one slot in writing, which guards the fields below. It is a
	// channel so that waiting for it can be cancelled.
	writing    chan struct{}
	write      *sql.DB
	conn       *sql.Conn // of the open transaction
	statements statements
	OnRollback func() // called after a transaction that was not committed

	OnDamage func(error) // if set, called with each ErrCorrupt of a transaction, also concurrently
}

// Open opens the file at path and brings its schema up to date.
func Open(ctx context.Context, path string, cfg Options) (_ *File, err error) {
	if err := cfg.checkOptions(); err != nil {
		return nil, err
	}
	db := &File{Path: path, Now: cfg.Now, progress: cfg.Progress, writing: make(chan struct{}, 1), OnRollback: func() {}}
	if db.Now == nil {
		db.Now = time.Now
	}
	defer func() {
		if err != nil {
			db.Close()
		}
	}()
	if err := db.prepareFile(ctx, cfg); err != nil {
		return nil, err
	}
	db.owner = newOwner(db.absPath)
	err = db.join(ctx, cfg)
	if begin := db.beginning(cfg, err); begin != nil {
		damaged := db.LogDamaged
		if err = errors.Join(db.disconnect(), begin(ctx)); err == nil {
			err = db.join(ctx, cfg)
		}
		db.LogDamaged = db.LogDamaged || damaged
	}
	if err != nil {
		return nil, err
	}
	return db, nil
}

// beginning returns the function that makes the file another log, or nil if none is
// needed. err is the result of joining the file.
func (f *File) beginning(cfg Options, err error) func(context.Context) error {
	switch {
	case errors.Is(err, errIsBackup):
		return f.becomeNewLog
	case err == nil && cfg.AsNewLog:
		return func(ctx context.Context) error { return f.goOnAsNewLog(ctx, cfg) }
	}
	return nil
}

// checkOptions refuses options that no file can satisfy, before anything is created.
func (cfg *Options) checkOptions() error {
	if cfg.Role != "" && cfg.Role != Server && cfg.Role != Client {
		return fmt.Errorf("role %.40q: want %s or %s", string(cfg.Role), Server, Client)
	}
	if cfg.AsNewLog && cfg.Role != Server {
		return fmt.Errorf("make it a new log: %w: only a server's file can be one", ErrRole)
	}
	if cfg.Mirror != nil && (cfg.Role != Server || cfg.AsNewLog) {
		return fmt.Errorf("mirror a log: %w: only a server's file can", ErrRole)
	}
	if cfg.Log != "" && !event.ValidLogID(cfg.Log) {
		return fmt.Errorf("log id %.40q: want %d characters of Crockford base32", cfg.Log, event.LogIDLen)
	}
	return nil
}

// Close closes the file.
func (f *File) Close() error {
	errs := []error{f.disconnect()}
	if f.owner != nil {
		errs = append(errs, f.owner.close())
	}
	if f.flock != nil {
		errs = append(errs, f.flock.Close())
	}
	if f.serving {
		errs = append(errs, f.held.endServing())
	}
	if f.held != nil {
		errs = append(errs, f.held.release())
	}
	return errors.Join(errs...)
}

// Abandon drops the file as if the process were killed: it releases nothing. It is for
// tests.
func (f *File) Abandon() {
	f.Read.Close()
	f.write.Close()
	f.owner.close()
	if f.serving {
		f.flock.Close()
		f.held.endServing()
	}
}

// PageSize returns the size of the file's pages in bytes: [PageSize], or 4,096 in a file that
// was created with a schema up to 9.
func (f *File) PageSize() int { return f.pageSize }

// InUse returns the number of connections in use. It is for tests.
func (f *File) InUse() int { return f.Read.Stats().InUse + f.write.Stats().InUse }

// Lock acquires the right to write, or returns an error if ctx ends first or the file may
// not be written. Unlock releases it.
func (f *File) Lock(ctx context.Context) error {
	if f.frozen != nil {
		return fmt.Errorf("%s: %w", f.Path, f.frozen)
	}
	select {
	case f.writing <- struct{}{}:
		return nil
	case <-ctx.Done():
		return ctx.Err()
	}
}

// Unlock releases the right to write.
func (f *File) Unlock() { <-f.writing }

// Update runs fn in one writing transaction. It rolls back if fn returns an error or ctx
// ends.
func (f *File) Update(ctx context.Context, fn func(*sql.Tx) error) error {
	if err := f.Lock(ctx); err != nil {
		return err
	}
	defer f.Unlock()
	err := f.Transact(ctx, fn)
	if err != nil {
		f.OnRollback()
	}
	return f.Named(err)
}

// Named adds the file's path to the error of a damaged file, so that its owner can move
// it away.
func (f *File) Named(err error) error {
	if errors.Is(err, ErrCorrupt) {
		if f.OnDamage != nil {
			f.OnDamage(err)
		}
		return fmt.Errorf("%s: %w", f.Path, err)
	}
	return err
}

// Transact is Update for a caller that holds the right to write.
func (f *File) Transact(ctx context.Context, fn func(*sql.Tx) error) error {
	tx, err := f.Begin(ctx)
	if err != nil {
		return orDone(ctx, err)
	}
	defer f.End()
	if err := fn(tx); err != nil {
		tx.Rollback()
		return orDone(ctx, err)
	}
	return orDone(ctx, tx.Commit())
}

// View runs fn in one reading transaction, which sees the file at one moment.
func (f *File) View(ctx context.Context, fn func(*sql.Tx) error) error {
	tx, err := f.Read.BeginTx(ctx, &sql.TxOptions{ReadOnly: true})
	if err != nil {
		return f.Named(orDone(ctx, err))
	}
	defer tx.Rollback()
	err = orDone(ctx, fn(tx))
	if changed := f.unchanged(); changed != nil {
		return changed
	}
	return f.Named(err)
}

// ViewRow runs a query and scans its only row into dest.
func (f *File) ViewRow(ctx context.Context, query string, args []any, dest ...any) error {
	return f.Named(orDone(ctx, f.Read.QueryRowContext(ctx, query, args...).Scan(dest...)))
}

// SyncWAL syncs the write-ahead log to disk.
func (file *File) SyncWAL() error {
	// The locks are on the other two files, so closing this one drops none.
	f, err := os.OpenFile(file.absPath+"-wal", os.O_RDWR, 0)
	if err != nil {
		return err
	}
	return errors.Join(f.Sync(), f.Close())
}

// KeepServing takes a server's lock again, since SQLite may have dropped it by closing a
// descriptor of its own.
func (f *File) KeepServing() error { return f.held.keepServing() }
