package dbfile

import (
	"context"
	"database/sql"
	"errors"
	"io/fs"
	"os"
	"path/filepath"
	"runtime"
	"time"

	"github.com/gofrs/flock"
	sqlite "modernc.org/sqlite"
	sqlite3 "modernc.org/sqlite/lib"
)

// prepareFile refuses a file that is not ours, takes a server's lock and creates what
// is to be created. Without a role nothing is.
func (db *File) prepareFile(ctx context.Context, cfg Options) error {
	if err := db.hold(cfg); err != nil {
		return err
	}
	kind, h, err := db.held.inspect(db.real)
	if err != nil {
		return err
	}
	db.walless = !h.isWAL()
	switch {
	case cfg.Role == Server && db.frozen != nil:
		return db.frozen
	case cfg.Role == "" && kind == emptyFile, db.frozen != nil && kind != ourFile:
		return ErrNoLog
	case cfg.Role == Client && cfg.Log == "" && kind != ourFile:
		return errNoLog
	}
	if cfg.Role == Server {
		if err := db.takeLock(); err != nil {
			return err
		}
	} else if err := db.findWAL(ctx); err != nil {
		return err
	}
	if cfg.Role == "" || kind == ourFile && (!db.walless || !exists(db.real+"-journal")) {
		return nil
	}
	return db.create(ctx, cfg)
}

// hold finds the file, making an empty one if it is not there and may be.
func (db *File) hold(cfg Options) (err error) {
	flags := 0
	if cfg.Role != "" && !(cfg.Role == Client && cfg.Log == "") {
		flags = os.O_CREATE
	}
	if db.held, err = openHeld(db.Path, flags); err != nil {
		if flags == 0 && cfg.Role != "" && errors.Is(err, fs.ErrNotExist) {
			return errNoLog
		}
		return err
	}
	// SQLite, too, keeps what belongs to a file beside the file itself, not
	// beside a link to it.
	if db.real, err = filepath.EvalSymlinks(db.Path); err != nil {
		return err
	}
	if db.real, err = filepath.Abs(db.real); err != nil {
		return err
	}
	return db.lookAround()
}

// takeLock keeps other servers out for as long as the file is open: by a lock on the
// file, which holds whatever name it is opened under, and by the lock file that earlier
// versions take.
func (db *File) takeLock() error {
	if err := db.held.serve(); err != nil {
		return err
	}
	db.serving = true
	db.flock = flock.New(db.real + ".lock")
	ok, err := db.flock.TryLock()
	if err == nil && !ok {
		err = ErrLocked
	}
	return err
}

// findWAL refuses a file that is served under another name: its write-ahead log lies
// beside that one, and without it SQLite would read, or write, half of a log. A server
// that has just begun, or is about to end, has none for a moment.
func (db *File) findWAL(ctx context.Context) error {
	for deadline := time.Now().Add(time.Second); ; {
		switch {
		case db.held.served || !servedElsewhere(db.held.File) || exists(db.real+"-wal"):
			return nil
		case time.Now().After(deadline):
			return ErrLinked
		}
		select {
		case <-time.After(5 * time.Millisecond):
		case <-ctx.Done():
			return ctx.Err()
		}
	}
}

func exists(path string) bool {
	_, err := os.Lstat(path)
	return err == nil
}

// join connects to the file and finds out which log it belongs to. Where nothing may be
// written, what another process keeps beside the file may go at any time: then it is
// looked for again.
func (db *File) join(ctx context.Context, cfg Options) (err error) {
	for range 3 {
		if err = db.joinOnce(ctx, cfg); db.frozen == nil || !isVanished(err) {
			return err
		}
		if err := errors.Join(db.disconnect(), db.lookAround()); err != nil {
			return err
		}
	}
	return err
}

func (db *File) joinOnce(ctx context.Context, cfg Options) (err error) {
	if db.frozen == nil {
		if err := db.Reconnect(); err != nil {
			return err
		}
	}
	if db.Read, err = db.connect(max(4, 2*runtime.GOMAXPROCS(0)), "&_pragma=query_only(1)"); err != nil {
		return err
	}
	if err := db.migrate(ctx, cfg); err != nil {
		return err
	}
	if cfg.Role != "" && db.frozen == nil && db.walless {
		if err := db.beginWAL(ctx); err != nil {
			return err
		}
	}
	return db.unchanged()
}

// isVanished reports whether SQLite found a write-ahead log, or its index, gone.
func isVanished(err error) bool {
	var e *sqlite.Error
	return errors.As(err, &e) && (e.Code()&0xff == sqlite3.SQLITE_CANTOPEN || e.Code()&0xff == sqlite3.SQLITE_READONLY)
}

// disconnect closes the pools.
func (db *File) disconnect() error {
	var errs []error
	for _, pool := range []*sql.DB{db.Read, db.write} {
		if pool != nil {
			errs = append(errs, pool.Close())
		}
	}
	return errors.Join(errs...)
}
