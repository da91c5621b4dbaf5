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

// prepareFile refuses foreign files, takes a server's lock and creates the missing parts.
// Without a role it creates nothing.
func (f *File) prepareFile(ctx context.Context, cfg Options) error {
	if err := f.holdFile(cfg); err != nil {
		return err
	}
	kind, h, err := f.inspect(cfg)
	if err == nil && kind == emptyFile && cfg.Role == "" {
		kind, h, err = f.awaitCreation(ctx)
	}
	if err != nil {
		return err
	}
	f.walless = !h.isWAL()
	switch {
	case cfg.Role == Server && f.frozen != nil:
		return f.frozen
	case cfg.Role == "" && kind == emptyFile, f.frozen != nil && kind != ourFile:
		return ErrNoLog
	case cfg.Role == Client && cfg.Log == "" && kind != ourFile:
		return errNoLog
	}
	if cfg.Role == Server {
		if err := f.takeServersLock(ctx); err != nil {
			return err
		}
	} else if err := f.findWAL(ctx); err != nil {
		return err
	}
	if cfg.Role == "" || kind == ourFile && (!f.walless || !exists(f.absPath+"-journal")) {
		return nil
	}
	return f.create(ctx, cfg)
}

// inspect identifies the file. It returns ErrOtherWAL, or ErrOnlyWAL if the file is empty, if its
// header says that it has no write-ahead log, and one lies next to it. SQLite would mix the two, or remove the log of a
// file that is gone; and who left the log has events that are nowhere else. Our own files are
// never so: SQLite says in the header that there is a log before it makes one, and removes the
// log before it says that there is none.
func (f *File) inspect(cfg Options) (kind fileKind, h header, err error) {
	for {
		kind, h, err = f.held.inspect(f.absPath)
		if err != nil || h.isWAL() || !f.hasOtherWAL(kind, cfg) {
			return kind, h, err
		}
		// Another process may have begun the log after the header was read, and changed it.
		now, err := f.held.readHeader()
		switch {
		case err == nil && now == h && kind == emptyFile:
			err = ErrOnlyWAL
		case err == nil && now == h:
			err = ErrOtherWAL
		}
		if err != nil {
			return kind, h, err
		}
	}
}

// hasOtherWAL reports whether a write-ahead log lies next to a file that has none. An empty one
// counts, too, if the file is not empty and may be written: SQLite would go on with it.
func (f *File) hasOtherWAL(kind fileKind, cfg Options) bool {
	wal := f.absPath + "-wal"
	if kind == emptyFile {
		return isLeft(wal, cfg)
	}
	info, err := os.Lstat(wal)
	return err == nil && (info.Size() > 0 || f.frozen == nil)
}

// isLeft reports whether a write-ahead log whose file is gone has events that may be nowhere else.
// A copy that was deleted is fetched again, whatever was left of it.
func isLeft(wal string, cfg Options) bool {
	info, err := os.Lstat(wal)
	return err == nil && info.Size() > 0 && cfg.Role == Server && cfg.Mirror == nil
}

// awaitCreation waits until the process that is creating the file has done so, if there is
// one, and inspects the file again.
func (f *File) awaitCreation(ctx context.Context) (kind fileKind, h header, err error) {
	for deadline := time.Now().Add(creationTime); ; {
		created := f.isBeingCreated()
		kind, h, err = f.inspect(Options{})
		if !created || err != nil || kind == ourFile || time.Now().After(deadline) {
			return kind, h, err
		}
		select {
		case <-time.After(5 * time.Millisecond):
		case <-ctx.Done():
			return kind, h, ctx.Err()
		}
	}
}

// creationTime is how long the creation of a file may take on a busy machine.
const creationTime = 5 * time.Second

// sqliteReserved is the byte of a file that SQLite locks while a transaction writes.
const sqliteReserved = 0x40000001

// isBeingCreated reports whether a server, or a process that writes, has the empty file.
func (f *File) isBeingCreated() bool {
	if servedElsewhere(f.held.File) || exists(f.absPath+"-journal") {
		return true
	}
	if runtime.GOOS == "windows" {
		return false // one can look at a lock there only by taking it
	}
	locked, err := lockedAt(f.held.File, sqliteReserved)
	return locked && err == nil
}

// holdFile opens the file, creating an empty one if there is none and the role allows it.
func (f *File) holdFile(cfg Options) (err error) {
	flags := 0
	if cfg.Role != "" && !(cfg.Role == Client && cfg.Log == "") {
		flags = os.O_CREATE
	}
	if flags != 0 && !exists(f.Path) && isLeft(f.Path+"-wal", cfg) {
		return ErrOnlyWAL
	}
	if f.held, err = openHeld(f.Path, flags); err != nil {
		if flags == 0 && cfg.Role != "" && errors.Is(err, fs.ErrNotExist) {
			return errNoLog
		}
		return err
	}
	// SQLite, too, puts its other files next to the file itself, not next to a link to
	// it.
	if f.absPath, err = filepath.EvalSymlinks(f.Path); err != nil {
		return err
	}
	if f.absPath, err = filepath.Abs(f.absPath); err != nil {
		return err
	}
	return f.locate()
}

// takeLock keeps other servers out while the file is open: with a lock on the file, which
// holds for all its names, and with the lock file that earlier versions use.
func (f *File) takeLock() error {
	if err := f.held.serve(); err != nil {
		return err
	}
	f.serving = true
	f.flock = flock.New(f.absPath + ".lock")
	ok, err := f.flock.TryLock()
	if err == nil && !ok {
		err = ErrLocked
	}
	return err
}

// findWAL refuses a file that is served under another name: its write-ahead log has that
// name, and without it SQLite would read, or write, half of a log. A server that is just
// starting or stopping has none for a moment, and one that upgrades a backup has none before the end.
func (f *File) findWAL(ctx context.Context) error {
	for deadline := time.Now().Add(findWALTime); ; {
		switch {
		case f.held.served || !servedElsewhere(f.held.File) || exists(f.absPath+"-wal"):
			return nil
		case f.isMarked():
			if err := f.awaitUpgrade(ctx); err != nil {
				return err
			}
			deadline = time.Now().Add(findWALTime)
			continue
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

// findWALTime is how long a server that starts or stops may have no write-ahead log.
const findWALTime = time.Second

func exists(path string) bool {
	_, err := os.Lstat(path)
	return err == nil
}

// join connects to the file and finds out which log it belongs to. If the file may not be
// written, another process may remove SQLite's other files at any time; then join looks
// again.
func (f *File) join(ctx context.Context, cfg Options) (err error) {
	for range 3 {
		if err = f.joinOnce(ctx, cfg); f.frozen == nil || !isVanished(err) {
			return err
		}
		if err := errors.Join(f.disconnect(), f.locate()); err != nil {
			return err
		}
	}
	return err
}

func (f *File) joinOnce(ctx context.Context, cfg Options) (err error) {
	if f.pageSize, err = f.held.readPageSize(); err != nil {
		return err
	}
	if f.frozen == nil {
		if err := f.Reconnect(); err != nil {
			return err
		}
	}
	if f.Read, err = f.connect(max(4, 2*runtime.GOMAXPROCS(0)), "&_pragma=query_only(1)"); err != nil {
		return err
	}
	if err := f.migrate(ctx, cfg); err != nil {
		return err
	}
	if cfg.Role != "" && f.frozen == nil && f.walless {
		if err := f.beginWAL(ctx); err != nil {
			return err
		}
	}
	return f.unchanged()
}

// isVanished reports whether SQLite found a write-ahead log, or its index, missing.
func isVanished(err error) bool {
	var e *sqlite.Error
	return errors.As(err, &e) && (e.Code()&0xff == sqlite3.SQLITE_CANTOPEN || e.Code()&0xff == sqlite3.SQLITE_READONLY)
}

// disconnect closes the pools.
func (f *File) disconnect() error {
	var errs []error
	for _, pool := range []*sql.DB{f.Read, f.write} {
		if pool != nil {
			errs = append(errs, pool.Close())
		}
	}
	return errors.Join(errs...)
}
