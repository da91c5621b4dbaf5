package cache

import (
	"context"
	"database/sql"
	"errors"
	"fmt"
	"io/fs"
	"strings"
	"sync"
	"sync/atomic"
	"time"
	"unicode"
	"unicode/utf8"

	"github.com/gofrs/flock"
	sqlite "modernc.org/sqlite"
	sqlite3 "modernc.org/sqlite/lib"

	"github.com/rstream-dev/rstream/event"
)

// A Role says what a file is: the log itself or a copy of parts of it.
type Role string

// The roles of a file.
const (
	Server Role = "server"
	Client Role = "client"
)

// The errors of opening a file that callers branch on.
var (
	ErrNotCache   = errors.New("is not an rstream file")
	ErrNoLog      = fmt.Errorf("%w: it has not been given a log yet", ErrNotCache)
	ErrNoIdentity = errors.New("does not say which log it is: its write-ahead log was lost, or an earlier version was killed while creating it")
	ErrOlder      = errors.New("only a program that may write it can bring it up to date")
	ErrLinked     = errors.New("is being served, but its write-ahead log is not beside it: the server knows the file by another name, or the -wal file was removed")
	ErrNewer      = errors.New("was written by a later version of rstream")
	ErrLocked     = errors.New("is in use by another server")
	ErrRole       = errors.New("has another role")
	ErrOtherLog   = errors.New("belongs to another log")
	ErrCorrupt    = errors.New("is damaged")
	ErrIO         = errors.New("cannot be read or written")
)

// Config says how to open a file. The zero Config opens an existing file of any
// role.
type Config struct {
	// Role is what the file must be; with a role a missing file is made. If
	// empty, any role will do and the file must exist.
	Role Role
	// Log is the name of the log that the file must belong to. If empty, any;
	// a new server file gets a random name, a new client file needs one.
	Log string
	// AsNewLog gives a Server's file a new log that goes on from the one that it was:
	// for a file that was put back to an older one, whose log may have given the same
	// ids to other events since. A backup becomes a new log without it.
	AsNewLog bool
	// Now is the clock. If nil, time.Now.
	Now func() time.Time
}

// A DB is an open file. Its methods may be called from several goroutines.
type DB struct {
	// Set once by Open.
	path    string // as it was given
	file    string // absolute, links resolved
	log     string
	role    Role
	now     func() time.Time
	mono    func() time.Duration // since some moment: the time that has passed, whatever the clock shows
	owner   *owner
	read    *sql.DB
	queries readStatements // of read
	held    *heldFile
	walless bool // it had no write-ahead log when it was opened
	serving bool // a server's locks are taken: that of held, and
	flock   *flock.Flock
	location

	// The committer and its writing connection.
	commits   chan *appendRequest
	closing   chan struct{}
	committer sync.WaitGroup
	closeOnce sync.Once
	closeErr  error
	onCommit  atomic.Pointer[func([]event.Event, event.ID)]
	head      atomic.Pointer[event.Point] // nil: the beginning
	lastTime  atomic.Int64                // of the last event, as event.Time
	sealed    chan struct{}               // a block was sealed since somebody looked
	commitTx  func(*sql.Tx) error         // tests: called in place of COMMIT

	clockJumps atomic.Int64

	// Whoever writes holds the one place in writing, and with it what follows. It is a channel so that waiting for it can end.
	writing    chan struct{}
	write      *sql.DB
	conn       *sql.Conn // of the transaction that is open
	statements statements
	storages   map[string]int64 // numbers of storages written lately
	known      *known           // on a server; nil: to be read

	recent recent
}

// Path returns the file's path as it was given to Open.
func (db *DB) Path() string { return db.path }

// Log returns the name of the log that the file belongs to.
func (db *DB) Log() string { return db.log }

// Role returns what the file is.
func (db *DB) Role() Role { return db.role }

// Open opens the file at path and brings its schema up to date. An error wraps
// one of the package's errors where there is one for it, and changed nothing.
func Open(ctx context.Context, path string, cfg Config) (*DB, error) {
	db, err := open(ctx, path, cfg)
	if at := (*fs.PathError)(nil); errors.As(err, &at) && err == error(at) && at.Path == path {
		err = at.Err // which names the path again
	}
	if err != nil {
		return nil, fmt.Errorf("open %s: %w", path, classify(err))
	}
	return db, nil
}

func open(ctx context.Context, path string, cfg Config) (_ *DB, err error) {
	if err := cfg.check(); err != nil {
		return nil, err
	}
	db := &DB{path: path, now: cfg.Now, storages: map[string]int64{}, writing: make(chan struct{}, 1), sealed: make(chan struct{}, 1)}
	if db.now == nil {
		db.now = time.Now
	}
	opened := time.Now()
	db.mono = func() time.Duration { return time.Since(opened) }
	defer func() {
		if err != nil {
			db.Close()
		}
	}()
	if err := db.prepareFile(ctx, cfg); err != nil {
		return nil, err
	}
	db.owner = newOwner(db.file)
	err = db.join(ctx, cfg)
	if begin := db.beginning(cfg, err); begin != nil {
		if err = errors.Join(db.disconnect(), begin(ctx)); err == nil {
			err = db.join(ctx, cfg)
		}
	}
	if err != nil {
		return nil, err
	}
	if err := db.prepareReading(ctx); err != nil {
		return nil, err
	}
	if db.role != Client {
		if err := db.loadHead(ctx); err != nil {
			return nil, err
		}
	}
	if cfg.Role == Server {
		if err := errors.Join(db.openReaders(ctx), db.prepareKnown(ctx)); err != nil {
			return nil, err
		}
		if err := db.held.keepServing(); err != nil {
			return nil, err
		}
		db.startCommitter()
	}
	return db, nil
}

// beginning returns what makes the file another log, nil if nothing is to. err is what
// came of joining it.
func (db *DB) beginning(cfg Config, err error) func(context.Context) error {
	switch {
	case errors.Is(err, errIsBackup):
		return db.beginAnew
	case err == nil && cfg.AsNewLog:
		return db.goOnAsNewLog
	}
	return nil
}

// check refuses what no file can satisfy, before anything is made.
func (cfg *Config) check() error {
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

// lock takes the right to write, which unlock gives back.
func (db *DB) lock(ctx context.Context) error {
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

func (db *DB) unlock() { <-db.writing }

// update runs fn in one writing transaction. The transaction is rolled back if fn
// returns an error or ctx ends.
func (db *DB) update(ctx context.Context, fn func(*sql.Tx) error) error {
	if err := db.lock(ctx); err != nil {
		return err
	}
	defer db.unlock()
	err := db.transact(ctx, fn)
	if err != nil {
		clear(db.storages) // it may name storages that were rolled back
	}
	return db.named(err)
}

// named says which file is damaged: nobody could move it away otherwise.
func (db *DB) named(err error) error {
	if errors.Is(err, ErrCorrupt) {
		return fmt.Errorf("%s: %w", db.path, err)
	}
	return err
}

func (db *DB) transact(ctx context.Context, fn func(*sql.Tx) error) error {
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
func (db *DB) view(ctx context.Context, fn func(*sql.Tx) error) error {
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

// orDone names err, and says that ctx has ended where SQLite would only say that it
// was interrupted, or database/sql that the transaction is over.
func orDone(ctx context.Context, err error) error {
	if err == nil || ctx.Err() == nil || errors.Is(err, ctx.Err()) {
		return classify(err)
	}
	return fmt.Errorf("%w (%w)", ctx.Err(), classify(err))
}

// classify gives SQLite's errors the package's names, so that callers need not
// know SQLite's.
func classify(err error) error {
	if err == nil || isClassified(err) {
		return err
	}
	var e *sqlite.Error
	if !errors.As(err, &e) {
		if strings.Contains(err.Error(), "sql: Scan error on column") { // it has no type
			return fmt.Errorf("%w (%w)", ErrCorrupt, &printable{err})
		}
		return err
	}
	switch e.Code() & 0xff {
	case sqlite3.SQLITE_NOTADB:
		return fmt.Errorf("%w (%w)", ErrNotCache, err)
	case sqlite3.SQLITE_CORRUPT,
		// What is asked of a file never changes, and a sound one can answer it.
		sqlite3.SQLITE_ERROR, sqlite3.SQLITE_CONSTRAINT, sqlite3.SQLITE_MISMATCH, sqlite3.SQLITE_TOOBIG:
		return fmt.Errorf("%w (%w)", ErrCorrupt, &printable{err})
	case sqlite3.SQLITE_FULL:
		return fmt.Errorf("%w (%w)", ErrFull, err)
	case sqlite3.SQLITE_READONLY:
		return fmt.Errorf("%w (%w)", ErrReadOnly, err)
	case sqlite3.SQLITE_CANTOPEN:
		if outOfFiles() {
			return fmt.Errorf("%w (%w)", ErrFiles, err)
		}
	case sqlite3.SQLITE_IOERR:
		return fmt.Errorf("%w (%w)", ErrIO, err)
	case sqlite3.SQLITE_BUSY:
		return fmt.Errorf("%w (%w)", ErrBusy, err)
	}
	return err
}

// A printable is an error that may quote a damaged file: its text is the first line,
// without what a terminal would act upon.
type printable struct{ err error }

func (e *printable) Unwrap() error { return e.err }

func (e *printable) Error() string {
	line, _, _ := strings.Cut(e.err.Error(), "\n")
	return strings.Map(func(r rune) rune {
		if r == utf8.RuneError || !unicode.IsPrint(r) {
			return '?'
		}
		return r
	}, line)
}

func isClassified(err error) bool {
	for _, known := range []error{ErrNotCache, ErrCorrupt, ErrFull, ErrBusy, ErrIO, ErrReadOnly, ErrFiles} {
		if errors.Is(err, known) {
			return true
		}
	}
	return false
}

// Close ends the committer and closes the file. Appends that wait get ErrClosed.
// Closing twice is fine.
func (db *DB) Close() error {
	db.closeOnce.Do(func() {
		if db.closing != nil {
			close(db.closing)
			db.committer.Wait()
		}
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
		db.closeErr = errors.Join(errs...)
	})
	return db.closeErr
}
