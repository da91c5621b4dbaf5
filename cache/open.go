package cache

import (
	"context"
	"database/sql"
	"errors"
	"fmt"
	"io/fs"
	"sync"
	"sync/atomic"
	"time"

	"github.com/rstream-dev/rstream/cache/internal/dbfile"
	"github.com/rstream-dev/rstream/cache/internal/oldrows"
	"github.com/rstream-dev/rstream/cache/internal/retention"
	"github.com/rstream-dev/rstream/cache/internal/rows"
	"github.com/rstream-dev/rstream/cache/internal/seen"
	"github.com/rstream-dev/rstream/cache/internal/snapshot"
	"github.com/rstream-dev/rstream/event"
)

// A Role says what a file holds: the log itself or a copy of parts of it.
type Role = dbfile.Role

// The roles of a file.
const (
	Server Role = dbfile.Server
	Client Role = dbfile.Client
)

// Config configures Open. The zero Config opens an existing file of any role.
type Config struct {
	// Role is the expected role of the file; with a role, a missing file is created. If
	// empty, any role will do and the file must exist.
	Role Role
	// Log is the id of the log that the file must belong to. If empty, any will do: a new
	// server file gets a random id, but a new client file needs one, which client.Probe
	// gets from the server.
	Log string
	// AsNewLog turns a Server's file into a new log that continues the old one. It is for
	// a file that was replaced by an older copy, whose log may have assigned the same ids
	// to other events since. A backup becomes a new log without it.
	AsNewLog bool
	// Mirror says that a Server's file mirrors a log whose ids another server assigns; a new
	// file then needs Log. If nil, the file is a log of its own. A file of the other kind is
	// refused with ErrMirror or ErrNotMirror.
	Mirror *Mirrored
	// Now is the clock. If nil, time.Now.
	Now func() time.Time
	// NoUpgrade has Open return ErrOlder for a file of an earlier version. Otherwise it
	// upgrades the file, if it may write it; earlier versions then refuse the file.
	NoUpgrade bool
	// Progress is called while Open upgrades a file of an earlier version, which takes up to
	// half a minute for a million events, or while another process does; and during BackupTo,
	// Compact, CheckContents, Check, DamagedStates and Forget, which may take as long. The
	// goroutine that works waits for it. BackupTo and Compact may call it in another one, which
	// has ended when they return. If nil, nothing is called.
	Progress func(Progress)
}

// A Mirrored says what the server of a mirrored log says of it.
type Mirrored = dbfile.Mirrored

// A Progress says how far a step of work on a file is. An upgrade that is interrupted goes
// on where it has ended when the file is opened again.
type Progress = dbfile.Progress

// A Step is a part of work on a file that takes long.
type Step = dbfile.Step

// The steps, and their units.
const (
	StepUpgrade   = dbfile.StepUpgrade   // events of an earlier version that are in their new place
	StepStructure = dbfile.StepStructure // tables that SQLite has checked
	StepPages     = dbfile.StepPages     // pages of events that were checked
	StepPostings  = dbfile.StepPostings  // postings that were checked
	StepStates    = dbfile.StepStates    // kept states that were checked
	StepDigests   = dbfile.StepDigests   // kept digests that were computed again
	StepCopy      = dbfile.StepCopy      // bytes of a backup that were written
	StepDrop      = dbfile.StepDrop      // events below the horizon that retention went past
	StepRewrite   = dbfile.StepRewrite   // bytes of a rewritten file, without a total if that is not known
	StepForget    = dbfile.StepForget    // positions up to which a topic was forgotten
	StepSearch    = dbfile.StepSearch    // pages of a damaged file that were searched
)

// A DB is an open file. Its methods may be called concurrently.
type DB struct {
	file      *dbfile.File
	tables    *rows.Tables
	snapshots *snapshot.Store

	// Set once by Open.
	mono    func() time.Duration // time passed since some moment, independent of the clock
	queries readStatements       // of read
	filters keptFilters          // of reads
	seen    *seen.Index          // of a server; guarded by the right to write
	history *retention.History   // of a server

	leafMemo leafMemo // of a server

	// The committer and its writing connection.
	commits   chan *appendRequest
	closing   chan struct{}
	committer sync.WaitGroup
	closeOnce sync.Once
	closeErr  error
	onCommit  atomic.Pointer[func([]event.Event, event.ID)]
	head      atomic.Pointer[event.Point] // nil: the beginning
	lastTime  atomic.Int64                // of the last event, as event.Time
	commitTx  func(*sql.Tx) error         // for tests: called in place of COMMIT

	hasSources bool // owned by the committer: the file has the tables of sources

	clockJumps atomic.Int64
	damaged    damagedParts
}

// Path returns the file's path as it was given to Open.
func (db *DB) Path() string { return db.file.Path }

// Log returns the id of the log that the file belongs to.
func (db *DB) Log() string { return db.file.Log }

// Role returns the role of the file.
func (db *DB) Role() Role { return db.file.Role }

// Open opens the file at path and upgrades it if it is of an earlier version. An error wraps
// one of the package's errors if one applies; then nothing was changed, unless an upgrade was
// interrupted, which goes on when the file is opened again.
func Open(ctx context.Context, path string, cfg Config) (*DB, error) {
	db, err := open(ctx, path, cfg)
	if at := (*fs.PathError)(nil); errors.As(err, &at) && err == error(at) && at.Path == path {
		err = at.Err // it would repeat the path
	}
	if err != nil {
		return nil, fmt.Errorf("open %s: %w", path, dbfile.Classify(err))
	}
	return db, nil
}

func open(ctx context.Context, path string, cfg Config) (_ *DB, err error) {
	f, err := dbfile.Open(ctx, path, dbfile.Options{Role: cfg.Role, Log: cfg.Log, AsNewLog: cfg.AsNewLog, Mirror: cfg.Mirror, Now: cfg.Now,
		NoUpgrade: cfg.NoUpgrade, Progress: cfg.Progress, RestoreLog: restoreServerLog, CheckEvents: oldrows.Check, MoveEvents: oldrows.Move})
	if err != nil {
		return nil, err
	}
	db := &DB{file: f, tables: rows.New(f)}
	db.snapshots = snapshot.New(f, db.tables, doubtedIn)
	db.file.OnRollback = db.tables.ForgetWritten
	db.file.OnDamage = db.damaged.countDamage
	opened := time.Now()
	db.mono = func() time.Duration { return time.Since(opened) }
	defer func() {
		if err != nil {
			db.Close()
		}
	}()
	if err := db.restoreLog(ctx, cfg.Role == Server); err != nil {
		return nil, err
	}
	if err := db.prepareReading(ctx); err != nil {
		return nil, err
	}
	if db.file.Role != Client {
		if err := db.loadHead(ctx); err != nil {
			return nil, err
		}
	}
	if cfg.Role == Server {
		if err := db.file.OpenReaders(ctx); err != nil {
			return nil, err
		}
		if db.seen, err = seen.Open(ctx, db.file, db.tables); err != nil {
			return nil, err
		}
		horizon, err := db.Horizon(ctx)
		if err != nil {
			return nil, err
		}
		db.tables.Horizon.Set(horizon)
		db.history = retention.New(db.file, db.tables, db.seen, db.snapshots, func() time.Duration { return db.mono() })
		if err := db.file.KeepServing(); err != nil {
			return nil, err
		}
		db.startCommitter()
	}
	return db, nil
}

// Close ends the committer and closes the file. Waiting appends return ErrClosed. Closing
// twice is fine.
func (db *DB) Close() error {
	db.closeOnce.Do(func() {
		if db.closing != nil {
			close(db.closing)
			db.committer.Wait()
			_ = db.saveLeaves(context.Background(), true) // or they are made again
		}
		db.closeErr = db.file.Close()
	})
	return db.closeErr
}
