package cache

import (
	"context"
	"crypto/rand"
	"database/sql"
	"embed"
	"errors"
	"fmt"
	"io/fs"
	"net/url"
	"os"
	"path/filepath"
	"runtime"
	"strconv"
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
	ErrNotCache = errors.New("is not an rstream file")
	ErrNoLog    = fmt.Errorf("%w: it has not been given a log yet", ErrNotCache)
	ErrNewer    = errors.New("was written by a later version of rstream")
	ErrLocked   = errors.New("is in use by another server")
	ErrRole     = errors.New("has another role")
	ErrOtherLog = errors.New("belongs to another log")
	ErrCorrupt  = errors.New("is damaged")
	ErrIO       = errors.New("cannot be read or written")
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
	owner   string
	read    *sql.DB
	queries readStatements // of read
	flock   *flock.Flock   // held by a server

	// The committer and its writing connection.
	commits   chan *appendRequest
	closing   chan struct{}
	committer sync.WaitGroup
	closeOnce sync.Once
	closeErr  error
	onCommit  atomic.Pointer[func([]event.Event, event.ID)]
	head      atomic.Uint64
	sealed    chan struct{}       // a block was sealed since somebody looked
	commitTx  func(*sql.Tx) error // tests: called in place of COMMIT

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
	if err != nil {
		return nil, fmt.Errorf("open %s: %w", path, classify(err))
	}
	return db, nil
}

func open(ctx context.Context, path string, cfg Config) (_ *DB, err error) {
	if err := cfg.check(); err != nil {
		return nil, err
	}
	db := &DB{path: path, now: cfg.Now, owner: newOwner(), storages: map[string]int64{}, writing: make(chan struct{}, 1), sealed: make(chan struct{}, 1)}
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
	if err := db.connectWriter(); err != nil {
		return nil, err
	}
	if db.read, err = connect(db.file, max(4, 2*runtime.GOMAXPROCS(0)), "_pragma=query_only(1)"); err != nil {
		return nil, err
	}
	if err := db.migrate(ctx, cfg); err != nil {
		return nil, err
	}
	if err := db.identify(ctx, cfg); err != nil {
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
		if err := db.prepareKnown(ctx); err != nil {
			return nil, err
		}
		db.startCommitter()
	}
	return db, nil
}

// check refuses what no file can satisfy, before anything is made.
func (cfg *Config) check() error {
	if cfg.Role != "" && cfg.Role != Server && cfg.Role != Client {
		return fmt.Errorf("role %.40q: want %s or %s", string(cfg.Role), Server, Client)
	}
	if cfg.Log != "" && !event.ValidLogID(cfg.Log) {
		return fmt.Errorf("log id %.40q: want %d characters of Crockford base32", cfg.Log, event.LogIDLen)
	}
	return nil
}

// prepareFile refuses a file that is not ours, makes a new one readable by its
// owner only and takes a server's lock. Without a role nothing is made.
func (db *DB) prepareFile(ctx context.Context, cfg Config) error {
	kind, err := inspect(db.path)
	if err != nil {
		return err
	}
	if kind == missingFile {
		if err := touch(db.path, cfg); err != nil {
			return err
		}
	}
	// SQLite, too, keeps what belongs to a file beside the file itself, not
	// beside a link to it.
	if db.file, err = filepath.EvalSymlinks(db.path); err != nil {
		return err
	}
	if db.file, err = filepath.Abs(db.file); err != nil {
		return err
	}
	if cfg.Role == Server {
		if err := db.takeLock(); err != nil {
			return err
		}
	}
	if cfg.Role != "" && kind != ourFile {
		return firstPage(ctx, db.file)
	}
	return nil
}

// touch makes an empty file.
func touch(path string, cfg Config) error {
	if cfg.Role == Client && cfg.Log == "" {
		return errNoLog
	}
	flags := os.O_RDWR
	if cfg.Role != "" {
		flags |= os.O_CREATE
	}
	f, err := os.OpenFile(path, flags, 0o600)
	if err != nil {
		return err
	}
	if err := f.Close(); err != nil {
		return err
	}
	if cfg.Role == "" {
		return ErrNoLog // it has not a byte
	}
	return nil
}

var errNoLog = fmt.Errorf("a new file needs the name of its log: %w", fs.ErrNotExist)

// takeLock keeps other servers out for as long as the file is open.
func (db *DB) takeLock() error {
	db.flock = flock.New(db.file + ".lock")
	ok, err := db.flock.TryLock()
	if err == nil && !ok {
		err = ErrLocked
	}
	return err
}

// firstPage writes the first page of a database, which says what can be said only
// there. PRAGMAs run in the order of their names, so auto_vacuum comes before
// journal_mode writes it. On a page that is there, auto_vacuum would write each time.
//
// Where several make the file at once, SQLite refuses the change of the journal mode
// without waiting, so the waiting is done here.
func firstPage(ctx context.Context, file string) error {
	ctx, cancel := context.WithTimeout(ctx, busyTime)
	defer cancel()
	for {
		pool, err := connect(file, 1, "_pragma=auto_vacuum(2)")
		if err != nil {
			return err
		}
		err = orDone(ctx, errors.Join(pool.PingContext(ctx), pool.Close()))
		if !errors.Is(err, ErrBusy) || ctx.Err() != nil {
			return err
		}
		select {
		case <-time.After(5 * time.Millisecond):
		case <-ctx.Done():
		}
	}
}

// busyTime is how long to wait for another process that writes.
const busyTime = 10 * time.Second

// connect opens a pool.
func connect(file string, most int, extra string) (*sql.DB, error) {
	pool, err := sql.Open("sqlite", dataSource(file, extra))
	if err != nil {
		return nil, err
	}
	pool.SetMaxOpenConns(most)
	pool.SetMaxIdleConns(most)
	return pool, nil
}

// dataSource returns the name under which a file is opened. The PRAGMAs stand in the
// name because one Exec would reach one connection of a pool only. A file that was
// moved away is not made anew by the next connection: mode=rw.
func dataSource(file, extra string) string {
	file = filepath.ToSlash(file)
	if !strings.HasPrefix(file, "/") {
		file = "/" + file // a drive letter
	}
	return (&url.URL{Scheme: "file", Path: file}).String() +
		"?mode=rw&_pragma=busy_timeout(" + strconv.FormatInt(busyTime.Milliseconds(), 10) + ")&_pragma=journal_mode(wal)" +
		"&_pragma=synchronous(full)&_pragma=cache_size(-16384)&_pragma=journal_size_limit(16777216)&" + extra
}

//go:embed migrations/*.sql
var migrations embed.FS

// applicationID marks our files among all SQLite files: "rstr".
const applicationID = 0x72737472

// migrate brings the schema up to date, each migration in a transaction of its
// own. It refuses files of other programs, of later versions, of another role and
// of another log before it writes.
func (db *DB) migrate(ctx context.Context, cfg Config) error {
	files, err := fs.Glob(migrations, "migrations/*.sql")
	if err != nil {
		return err
	}
	version, err := db.schemaVersion(ctx)
	if err != nil {
		return err
	}
	if version > len(files) {
		return fmt.Errorf("%w (schema %d, this one knows %d)", ErrNewer, version, len(files))
	}
	if version == 0 && cfg.Role == "" {
		return ErrNoLog
	}
	if version > 0 {
		if err := db.loadIdentity(ctx, cfg); err != nil && !errors.Is(err, sql.ErrNoRows) {
			return err
		}
	}
	for ; version < len(files); version++ {
		if err := db.migrateTo(ctx, version+1, files[version]); err != nil {
			return fmt.Errorf("migrate to schema %d: %w", version+1, err)
		}
	}
	return nil
}

// schemaVersion returns the file's schema, 0 if it is empty.
func (db *DB) schemaVersion(ctx context.Context) (int, error) {
	var version, app, tables int
	if err := db.read.QueryRowContext(ctx, `SELECT v.user_version, a.application_id,
		(SELECT count(*) FROM sqlite_schema)
		FROM pragma_user_version v, pragma_application_id a`).Scan(&version, &app, &tables); err != nil {
		return 0, err
	}
	if tables > 0 && app != applicationID {
		return 0, ErrNotCache
	}
	return version, nil
}

func (db *DB) migrateTo(ctx context.Context, version int, file string) error {
	text, err := migrations.ReadFile(file)
	if err != nil {
		return err
	}
	return db.update(ctx, func(tx *sql.Tx) error {
		var now int
		if err := tx.QueryRowContext(ctx, `PRAGMA user_version`).Scan(&now); err != nil {
			return err
		}
		if now >= version {
			return nil // another process was faster
		}
		if _, err := tx.ExecContext(ctx, string(text)); err != nil {
			return err
		}
		_, err := tx.ExecContext(ctx, `PRAGMA application_id=`+strconv.Itoa(applicationID)+
			`; PRAGMA user_version=`+strconv.Itoa(version))
		return err
	})
}

// identify reads which log the file belongs to, or gives a new file its log.
func (db *DB) identify(ctx context.Context, cfg Config) error {
	err := db.loadIdentity(ctx, cfg)
	if !errors.Is(err, sql.ErrNoRows) {
		return err
	}
	if cfg.Role == "" {
		return ErrNoLog // a file that was killed before it got it, or is being made
	}
	if err := db.newIdentity(ctx, cfg); err != nil {
		return err
	}
	return db.loadIdentity(ctx, cfg)
}

func (db *DB) scanIdentity(ctx context.Context) error {
	return db.read.QueryRowContext(ctx, `SELECT id, role FROM log`).Scan(&db.log, &db.role)
}

func (db *DB) loadIdentity(ctx context.Context, cfg Config) error {
	if err := db.scanIdentity(ctx); err != nil {
		return err
	}
	if db.role == Backup && cfg.Role == Server {
		if err := errors.Join(db.beginAnew(ctx), db.scanIdentity(ctx)); err != nil {
			return err
		}
	}
	if cfg.Role != "" && db.role != cfg.Role {
		return fmt.Errorf("%w: it is a %s's file", ErrRole, db.role)
	}
	if cfg.Log != "" && db.log != cfg.Log {
		return fmt.Errorf("%w: %s, not %s", ErrOtherLog, db.log, cfg.Log)
	}
	return nil
}

func (db *DB) newIdentity(ctx context.Context, cfg Config) error {
	log := cfg.Log
	if log == "" {
		if cfg.Role == Client {
			return errNoLog
		}
		var random [10]byte
		rand.Read(random[:]) // never fails
		log = event.NewLogID(random)
	}
	indexed := event.MaxID // a client writes postings with each event
	if cfg.Role == Server {
		indexed = event.Beginning
	}
	return db.update(ctx, func(tx *sql.Tx) error {
		if _, err := tx.ExecContext(ctx, `INSERT INTO log (one, id, role, next, time, indexed)
			VALUES (1, ?, ?, 1, 0, ?) ON CONFLICT DO NOTHING`, log, string(cfg.Role), indexed); err != nil {
			return err
		}
		if cfg.Role != Server {
			return nil
		}
		_, err := tx.ExecContext(ctx, `INSERT INTO window (topic, state, start, reached, stop)
			SELECT '*', 'committed', 0, 0, 0 WHERE NOT EXISTS (SELECT * FROM window)`)
		return err
	})
}

// lock takes the right to write, which unlock gives back.
func (db *DB) lock(ctx context.Context) error {
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
	return db.named(orDone(ctx, fn(tx)))
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
	for _, known := range []error{ErrNotCache, ErrCorrupt, ErrFull, ErrBusy, ErrIO} {
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
		var errs []error
		if db.read != nil {
			errs = append(errs, db.read.Close())
		}
		if db.write != nil {
			errs = append(errs, db.write.Close())
		}
		if db.flock != nil {
			errs = append(errs, db.flock.Close())
		}
		db.closeErr = errors.Join(errs...)
	})
	return db.closeErr
}
