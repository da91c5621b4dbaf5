package dbfile

import (
	"context"
	"database/sql"
	"errors"
	"fmt"
	"io/fs"
	"net/url"
	"os"
	"path/filepath"
	"runtime"
	"strconv"
	"strings"
	"syscall"
	"time"

	sqlite "modernc.org/sqlite"
)

// A location says how a file can be opened in its place.
type location struct {
	frozen error    // why the file may not be written; nil if it may
	params string   // of SQLite's name for the file
	alone  bool     // SQLite takes no locks, so changes must be checked for
	seen   [2]stamp // the file and its write-ahead log when they were opened
}

// A stamp changes when a file does.
type stamp struct {
	size int64
	time time.Time
}

// locate finds out how f can be opened. It writes nothing.
//
// Where SQLite may not write, it reads a write-ahead log only with its index, the -shm
// file. If there is none, each connection builds an index in memory, which SQLite allows
// only if the connection has the file to itself. Without a write-ahead log, the file is
// complete and is read as immutable.
func (f *File) locate() error {
	f.location = location{frozen: frozen(f.absPath), params: "mode=rw" + tuning}
	if f.frozen == nil {
		return nil
	}
	log := f.absPath + "-wal"
	info, err := os.Stat(log)
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	unreadable := mayRead(log)
	switch {
	case err != nil || info.Size() == 0 && (unreadable != nil || mayRead(f.absPath+"-shm") != nil):
		f.params, f.alone = "mode=ro&immutable=1"+tuning, true
	case unreadable != nil:
		return fmt.Errorf("read its write-ahead log: %w", unreadable)
	case mayRead(f.absPath+"-shm") == nil:
		f.params = "mode=ro" + tuning
	default:
		// This must precede any PRAGMA that reads the file.
		f.params, f.alone = "mode=ro&vfs="+lockless+"&_pragma=locking_mode(exclusive)", true
	}
	f.seen, err = f.stamps()
	return err
}

// lockless names SQLite's VFS without locks.
var lockless = map[bool]string{true: "win32-none", false: "unix-none"}[runtime.GOOS == "windows"]

// frozen returns why a file may not be written, or nil if it may.
func frozen(file string) error {
	for _, path := range []string{file, filepath.Dir(file), file + "-wal", file + "-shm"} {
		if err := mayWrite(path); err != nil && !errors.Is(err, fs.ErrNotExist) {
			return fmt.Errorf("%w (%w)", ErrReadOnly, err)
		}
	}
	return nil
}

func (f *File) stamps() (seen [2]stamp, err error) {
	for i, path := range []string{f.absPath, f.absPath + "-wal"} {
		info, err := os.Stat(path)
		if errors.Is(err, fs.ErrNotExist) && i > 0 {
			continue
		}
		if err != nil {
			return seen, err
		}
		seen[i] = stamp{info.Size(), info.ModTime()}
	}
	return seen, nil
}

// unchanged returns ErrChanged if a file that is read without locks has changed.
func (f *File) unchanged() error {
	if !f.alone {
		return nil
	}
	now, err := f.stamps()
	if err == nil && now != f.seen {
		err = fmt.Errorf("%s: %w", f.Path, ErrChanged)
	}
	return err
}

// busyTime is how long to wait for another writing process.
const busyTime = 10 * time.Second

// connect opens a pool of connections to f.
func (f *File) connect(most int, extra string) (*sql.DB, error) {
	return openPool(f.absPath, most, f.params+extra)
}

// OpenReaders opens the reading connections ahead of their first use: later there may be
// no file descriptors left.
func (f *File) OpenReaders(ctx context.Context) (err error) {
	conns := make([]*sql.Conn, f.Read.Stats().MaxOpenConnections)
	for i := 0; i < len(conns) && err == nil; i++ {
		conns[i], err = f.Read.Conn(ctx)
	}
	for _, conn := range conns {
		if conn != nil {
			err = errors.Join(err, conn.Close())
		}
	}
	return err
}

// outOfFiles reports whether no more files can be opened. SQLite does not say why it
// could not open one.
func outOfFiles() bool {
	f, err := os.Open(os.DevNull)
	if err == nil {
		f.Close()
	}
	return errors.Is(err, syscall.EMFILE) || errors.Is(err, syscall.ENFILE)
}

// openPool opens a pool of connections to a file.
func openPool(file string, most int, params string) (*sql.DB, error) {
	connector, err := sqlite.NewConnector(dataSource(file, params))
	if err != nil {
		return nil, err
	}
	pool := sql.OpenDB(keepingConnector{connector})
	pool.SetMaxOpenConns(most)
	pool.SetMaxIdleConns(most)
	return pool, nil
}

// dataSource returns SQLite's name for a file. It contains the PRAGMAs because an Exec
// would reach only one connection of a pool; they run in the order of their names. params
// begin with the mode: with mode=rw, a file that was moved away is not created again by
// the next connection.
func dataSource(file, params string) string {
	file = filepath.ToSlash(file)
	if !strings.HasPrefix(file, "/") {
		file = "/" + file // a drive letter
	}
	return (&url.URL{Scheme: "file", Path: file}).String() +
		"?" + params + "&_pragma=busy_timeout(" + strconv.FormatInt(busyTime.Milliseconds(), 10) + ")"
}

const tuning = "&_pragma=synchronous(full)&_pragma=cache_size(-16384)&_pragma=journal_size_limit(16777216)"
