package cache

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

// options say how to open a file.
type options struct {
	Role     Role
	Log      string
	AsNewLog bool
	Now      func() time.Time
}

// A file is an open SQLite file of a log.
type file struct {
	// Set once by openFile.
	path    string // as it was given
	real    string // absolute, links resolved
	log     string
	role    Role
	now     func() time.Time
	owner   *owner
	read    *sql.DB
	held    *heldFile
	walless bool // it had no write-ahead log when it was opened
	serving bool // a server's locks are taken: that of held, and
	flock   *flock.Flock
	location

	// Whoever writes holds the one place in writing, and with it what follows. It is a channel so that waiting for it can end.
	writing    chan struct{}
	write      *sql.DB
	conn       *sql.Conn // of the transaction that is open
	statements statements
	undone     func() // called after a transaction that was not committed
}

// openFile opens the file at path and brings its schema up to date.
func openFile(ctx context.Context, path string, cfg options) (_ *file, err error) {
	if err := cfg.check(); err != nil {
		return nil, err
	}
	db := &file{path: path, now: cfg.Now, writing: make(chan struct{}, 1), undone: func() {}}
	if db.now == nil {
		db.now = time.Now
	}
	defer func() {
		if err != nil {
			db.close()
		}
	}()
	if err := db.prepareFile(ctx, cfg); err != nil {
		return nil, err
	}
	db.owner = newOwner(db.real)
	err = db.join(ctx, cfg)
	if begin := db.beginning(cfg, err); begin != nil {
		if err = errors.Join(db.disconnect(), begin(ctx)); err == nil {
			err = db.join(ctx, cfg)
		}
	}
	if err != nil {
		return nil, err
	}
	return db, nil
}

// beginning returns what makes the file another log, nil if nothing is to. err is what
// came of joining it.
func (db *file) beginning(cfg options, err error) func(context.Context) error {
	switch {
	case errors.Is(err, errIsBackup):
		return db.beginAnew
	case err == nil && cfg.AsNewLog:
		return db.goOnAsNewLog
	}
	return nil
}

// check refuses what no file can satisfy, before anything is made.
func (cfg *options) check() error {
	if cfg.Role != "" && cfg.Role != Server && cfg.Role != Client {
		return fmt.Errorf("role %.40q: want %s or %s", string(cfg.Role), Server, Client)
	}
	if cfg.AsNewLog && cfg.Role != Server {
		return fmt.Errorf("make it a new log: %w: only a server's file can be one", ErrRole)
	}
	if cfg.Log != "" && !event.ValidLogID(cfg.Log) {
		return fmt.Errorf("log id %.40q: want %d characters of Crockford base32", cfg.Log, event.LogIDLen)
	}
	return nil
}

// close closes the file.
func (db *file) close() error {
	errs := []error{db.disconnect()}
	if db.owner != nil {
		errs = append(errs, db.owner.close())
	}
	if db.flock != nil {
		errs = append(errs, db.flock.Close())
	}
	if db.serving {
		errs = append(errs, db.held.endServing())
	}
	if db.held != nil {
		errs = append(errs, db.held.release())
	}
	return errors.Join(errs...)
}

// abandon drops the file as a killed process would: nothing is released. It is for tests.
func (db *file) abandon() {
	db.read.Close()
	db.write.Close()
	db.owner.close()
	if db.serving {
		db.flock.Close()
		db.held.endServing()
	}
}

// inUse returns how many connections are in use. It is for tests.
func (db *file) inUse() int { return db.read.Stats().InUse + db.write.Stats().InUse }

// lock takes the right to write, which unlock gives back.
func (db *file) lock(ctx context.Context) error {
	if db.frozen != nil {
		return fmt.Errorf("%s: %w", db.path, db.frozen)
	}
	select {
	case db.writing <- struct{}{}:
		return nil
	case <-ctx.Done():
		return ctx.Err()
	}
}

func (db *file) unlock() { <-db.writing }

// update runs fn in one writing transaction. The transaction is rolled back if fn
// returns an error or ctx ends.
func (db *file) update(ctx context.Context, fn func(*sql.Tx) error) error {
	if err := db.lock(ctx); err != nil {
		return err
	}
	defer db.unlock()
	err := db.transact(ctx, fn)
	if err != nil {
		db.undone()
	}
	return db.named(err)
}

// named says which file is damaged: nobody could move it away otherwise.
func (db *file) named(err error) error {
	if errors.Is(err, ErrCorrupt) {
		return fmt.Errorf("%s: %w", db.path, err)
	}
	return err
}

func (db *file) transact(ctx context.Context, fn func(*sql.Tx) error) error {
	tx, err := db.begin(ctx)
	if err != nil {
		return orDone(ctx, err)
	}
	defer db.end()
	if err := fn(tx); err != nil {
		tx.Rollback()
		return orDone(ctx, err)
	}
	return orDone(ctx, tx.Commit())
}

// view runs fn in one reading transaction: all that it sees is of one moment.
func (db *file) view(ctx context.Context, fn func(*sql.Tx) error) error {
	tx, err := db.read.BeginTx(ctx, &sql.TxOptions{ReadOnly: true})
	if err != nil {
		return db.named(orDone(ctx, err))
	}
	defer tx.Rollback()
	err = orDone(ctx, fn(tx))
	if changed := db.unchanged(); changed != nil {
		return changed
	}
	return db.named(err)
}

// viewRow scans the only row of a query.
func (db *file) viewRow(ctx context.Context, query string, args []any, dest ...any) error {
	return db.named(orDone(ctx, db.read.QueryRowContext(ctx, query, args...).Scan(dest...)))
}

// syncLog makes durable what has been written to the write-ahead log.
func (db *file) syncLog() error {
	// Locks are on the other two files: closing this one takes none away.
	f, err := os.OpenFile(db.real+"-wal", os.O_RDWR, 0)
	if err != nil {
		return err
	}
	return errors.Join(f.Sync(), f.Close())
}

// keepServing takes a server's lock again where SQLite, closing a descriptor of its own,
// may have dropped it.
func (db *file) keepServing() error { return db.held.keepServing() }
