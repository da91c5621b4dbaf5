package cache

import (
	"context"
	"database/sql"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"time"

	"github.com/rstream-dev/rstream/cache/internal/dbfile"
	"github.com/rstream-dev/rstream/cache/internal/pages"
	"github.com/rstream-dev/rstream/event"
	"github.com/rstream-dev/rstream/internal/folder"
)

// Backup is the role of a file written by BackupTo. When served, it becomes a new log
// that continues the old one: otherwise ids assigned after the backup would be assigned
// again, to other events.
const Backup Role = dbfile.Backup

// BackupTo writes a consistent copy of a server's file to path, which must not exist, nor the
// -wal or -journal file of another file of that name. The log may be served at the same time.
// On error there is no file at path.
func (db *DB) BackupTo(ctx context.Context, path string) error {
	return db.copyTo(ctx, path, func(copied string) error {
		return dbfile.MarkBackup(ctx, copied, func(tx *sql.Tx) error { return db.checkCopy(ctx, tx) })
	})
}

// SeedTo is BackupTo for the file of a mirror, which keeps the id of the log: the mirror fetches
// only what the log has taken since. What a relay knows of its sources is not in it.
func (db *DB) SeedTo(ctx context.Context, path string) error {
	return db.copyTo(ctx, path, func(copied string) error {
		return dbfile.MarkSeed(ctx, copied, func(tx *sql.Tx) error {
			return errors.Join(db.checkCopy(ctx, tx), dropSources(tx))
		})
	})
}

// copyTo writes a copy to path that mark has checked.
func (db *DB) copyTo(ctx context.Context, path string, mark func(copied string) error) error {
	if err := db.copyMarked(ctx, path, mark); err != nil {
		return fmt.Errorf("back up %s to %s: %w", db.file.Path, path, dbfile.Classify(err))
	}
	return nil
}

func (db *DB) copyMarked(ctx context.Context, path string, mark func(copied string) error) (err error) {
	if db.file.Role == Client {
		return db.file.Role.Wrong()
	}
	if db.file.IsPart() {
		return ErrPartMirror // nothing could be made of it
	}
	if path, err = filepath.Abs(path); err != nil {
		return err
	}
	if err := absent(path); err != nil {
		return err
	}
	removeStaleParts(path)
	// A unique name, so that two backups never write into each other's file, readable by
	// its owner only.
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
	db.file.Report(Progress{Step: StepStructure})
	if err := mark(tmp); err != nil {
		return err
	}
	if err := absent(path); err != nil { // a copy takes its time
		return err
	}
	if err := os.Rename(tmp, path); err != nil {
		return err
	}
	return folder.Sync(filepath.Dir(path))
}

// stalePart is the age after which a part belongs to a killed backup. A running one writes most of the
// time, and then only checks the copy.
const stalePart = 24 * time.Hour

// removeStaleParts removes what killed backups to path have left. What cannot be removed stays.
func removeStaleParts(path string) {
	dir := filepath.Dir(path)
	entries, err := os.ReadDir(dir)
	if err != nil {
		return
	}
	for _, e := range entries {
		rest, isOf := strings.CutPrefix(e.Name(), filepath.Base(path)+".")
		number, isPart := strings.CutSuffix(rest, ".part")
		if _, err := strconv.ParseUint(number, 10, 64); !isOf || !isPart || err != nil {
			continue
		}
		if info, err := e.Info(); err == nil && time.Since(info.ModTime()) > stalePart {
			removeFiles(filepath.Join(dir, e.Name()))
		}
	}
}

// copyInto writes a compact copy of the file to path.
func (db *DB) copyInto(ctx context.Context, path string) error {
	return db.watchWritten(ctx, StepCopy, func() (int64, error) { return sizeOf(path) }, func() error { return db.file.CopyInto(ctx, path) })
}

// copyPoll is how often watchWritten looks how much is written.
const copyPoll = 100 * time.Millisecond

// watchWritten calls write, which writes all that the file uses elsewhere. SQLite does not say
// how far it is, but written does: the size of the other file.
func (db *DB) watchWritten(ctx context.Context, step Step, written func() (int64, error), write func() error) error {
	size, err := db.file.Size(ctx)
	if err != nil {
		return err
	}
	ended := make(chan struct{})
	var watching sync.WaitGroup
	watching.Go(func() {
		poll := time.NewTicker(copyPoll)
		defer poll.Stop()
		for {
			select {
			case <-poll.C:
			case <-ended:
				return
			}
			if n, err := written(); err == nil {
				db.file.Report(Progress{Step: step, Done: min(n, size.Used()), Total: size.Used()})
			}
		}
	})
	defer watching.Wait()
	defer close(ended)
	return write()
}

// checkCopy checks all pages, hashes and postings of a log, and that no event is missing.
// It returns the first damage.
func (db *DB) checkCopy(ctx context.Context, tx *sql.Tx) error {
	var s pages.Scope
	total, err := pages.CountAllPages(ctx, tx)
	if err != nil {
		return err
	}
	s.Checked = func(n int) { db.file.Report(Progress{Step: StepPages, Done: int64(n), Total: total}) }
	err = dbfile.ScanLog(ctx, tx, `indexed, horizon, next - 1`, &s.Posted, &s.Dense.From, &s.Dense.To)
	if err != nil {
		return err
	}
	return pages.Check(ctx, tx, s, func(damage *pages.DamageError) error { return damage })
}

// absent returns an error if there is a file at path, or if another one has left there what
// SQLite would take for a part of the file that is to come.
func absent(path string) error {
	for _, suffix := range []string{"", "-wal", "-journal"} {
		_, err := os.Lstat(path + suffix)
		switch {
		case err == nil && suffix == "":
			return fs.ErrExist
		case err == nil:
			return fmt.Errorf("%s%s: %w", path, suffix, fs.ErrExist)
		case !errors.Is(err, fs.ErrNotExist):
			return err
		}
	}
	return nil
}

// removeFiles removes a database and SQLite's other files.
func removeFiles(path string) {
	for _, suffix := range []string{"", "-journal", "-wal", "-shm"} {
		os.Remove(path + suffix)
	}
}

// Parent returns the log that this one continues and the position at which they diverged,
// event.MaxID if that is unknown. log is empty if there is none.
func (db *DB) Parent(ctx context.Context) (log string, head event.ID, err error) {
	err = db.file.ViewLog(ctx, fmt.Sprintf(`coalesce(parent, ''), coalesce(parent_head, iif(parent IS NULL, 0, %d))`, event.MaxID), &log, &head)
	return log, head, err
}
