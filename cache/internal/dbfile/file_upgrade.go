package dbfile

import (
	"context"
	"errors"
	"fmt"
	"os"
	"time"

	"github.com/gofrs/flock"
)

// A Step is a part of work on a file that takes long.
type Step string

// The steps, and their units.
const (
	StepUpgrade   Step = "upgrade"   // events of an earlier version that are in their new place
	StepStructure Step = "structure" // tables that SQLite has checked
	StepPages     Step = "pages"     // pages of events that were checked
	StepPostings  Step = "postings"  // postings that were checked
	StepStates    Step = "states"    // kept states that were checked
	StepDigests   Step = "digests"   // kept digests that were computed again
	StepCopy      Step = "copy"      // bytes of a backup that were written
	StepDrop      Step = "drop"      // events below the horizon that retention went past
	StepRewrite   Step = "rewrite"   // bytes of a rewritten file, without a total if that is not known
	StepForget    Step = "forget"    // positions up to which a topic was forgotten
	StepSearch    Step = "search"    // pages of a damaged file that were searched
)

// A Progress says how far a step is.
type Progress struct {
	Step    Step
	Waiting bool  // for another process, which upgrades the file
	Done    int64 // of Total
	Total   int64 // 0 if it is not known
}

// A schemaState is how far the upgrade of a file is.
type schemaState struct {
	version int
	moving  bool // some events are not yet in their new place
}

func (f *File) schemaState(ctx context.Context) (s schemaState, err error) {
	if s.version, err = schemaVersion(ctx, f.Read); err != nil {
		return s, err
	}
	err = f.ViewRow(ctx, `SELECT EXISTS (SELECT 1 FROM sqlite_schema WHERE name IN ('old_event', 'old_page_posting'))`, nil, &s.moving)
	return s, err
}

// HasOldEvents reports whether the file has events of an earlier version that are not yet
// in their new place.
func (f *File) HasOldEvents(ctx context.Context) (bool, error) { return f.hasTable(ctx, "old_event") }

// HasOldPostings reports whether the file has postings of an earlier version.
func (f *File) HasOldPostings(ctx context.Context) (bool, error) {
	return f.hasTable(ctx, "old_page_posting")
}

func (f *File) hasTable(ctx context.Context, name string) (has bool, err error) {
	err = f.ViewRow(ctx, `SELECT EXISTS (SELECT 1 FROM sqlite_schema WHERE name = ?)`, []any{name}, &has)
	return has, err
}

// upgradePoll is how often a process that waits for an upgrade looks whether it is done.
const upgradePoll = 50 * time.Millisecond

// upgrade migrates a file of an earlier version and has its events moved. One process
// does, before any process uses the file in another way; the others wait for it.
func (f *File) upgrade(ctx context.Context, cfg Options, files []string) error {
	for start := time.Now(); ; {
		now, err := f.schemaState(ctx)
		switch {
		case err != nil:
			return err
		case now.version >= len(files) && !now.moving:
			return nil
		case cfg.NoUpgrade:
			return fmt.Errorf("schema %d: %w", now.version, ErrOlder)
		case f.frozen != nil && now.moving:
			return fmt.Errorf("%w, and its upgrade to schema %d is not finished: %w", f.frozen, now.version, ErrOlder)
		case f.frozen != nil:
			return fmt.Errorf("%w, and its schema %d is older than this version's: %w", f.frozen, now.version, ErrOlder)
		}
		unlock, err := f.lockUpgrade()
		if err == nil {
			return errors.Join(f.upgradeAlone(ctx, cfg, files), unlock())
		}
		if !errors.Is(err, ErrLocked) {
			return err
		}
		if !now.moving && f.Role != Client && !f.serving && time.Since(start) > serverGrace && !f.isMarked() {
			return fmt.Errorf("schema %d: %w", now.version, ErrServedOlder)
		}
		if err := f.awaitUpgrade(ctx); err != nil {
			return err
		}
	}
}

// serverGrace is how long a server that is just starting may take to begin an upgrade, and to say
// so. One that does not is of an earlier version. It is a variable for the tests.
var serverGrace = 3 * time.Second

// pagesVersion is the version of the schema that brought pages: the events of a file of an
// earlier one move.
const pagesVersion = 7

// octetsVersion is the version of the schema whose postings are of eight storages: those of a
// file of an earlier one are joined.
const octetsVersion = 9

// upgradeAlone does the work of upgrade. The caller holds the lock.
func (f *File) upgradeAlone(ctx context.Context, cfg Options, files []string) error {
	now, err := f.schemaState(ctx)
	if err != nil {
		return err
	}
	// Once the schema is new no other version opens the file, so an upgrade that was interrupted
	// goes on in whatever space there is: each of its steps is one transaction.
	if now.version < octetsVersion {
		if err := f.checkRoom(ctx, now); err != nil {
			return err
		}
	}
	if now.version < octetsVersion && cfg.CheckEvents != nil {
		if err := cfg.CheckEvents(ctx, f); err != nil {
			return fmt.Errorf("it was not upgraded, and the version that wrote it can still open it: %w", err)
		}
	}
	if now.version < len(files) {
		if err := f.migrateAll(ctx, now.version, files); err != nil {
			return err
		}
	}
	return cfg.MoveEvents(ctx, f, f.Report)
}

// Report says how far a step is, if anybody wants to know.
func (f *File) Report(p Progress) {
	if f.progress != nil {
		f.progress(p)
	}
}

// upgradePlace is the byte of FILE.owners that is locked during an upgrade. No owner locks it.
const upgradePlace = 1 << 62

// lockUpgrade keeps other processes from upgrading the file. It returns ErrLocked if one
// does. A server's file is upgraded by its server, or under the server's lock. The mark says that
// this lock is not held by a server of an earlier version. It is set before the lock is taken, and removed
// after the lock is released.
func (f *File) lockUpgrade() (unlock func() error, err error) {
	unmark, err := f.markUpgrade()
	switch {
	case err != nil && (f.Role == Client || errors.Is(err, ErrLocked)):
		return nil, err
	case err != nil:
		unmark = func() error { return nil } // others will not know why they wait
	}
	if f.Role == Client || f.serving {
		return unmark, nil
	}
	if err := f.takeLock(); err != nil {
		return nil, errors.Join(err, f.dropLock(), unmark())
	}
	return func() error { return errors.Join(f.dropLock(), unmark()) }, nil
}

func (f *File) ownersPath() string { return f.absPath + ".owners" }

// markUpgrade locks upgradePlace. It returns ErrLocked if another opening has done so.
func (f *File) markUpgrade() (unmark func() error, err error) {
	owners, err := os.OpenFile(f.ownersPath(), os.O_RDWR|os.O_CREATE, 0o600)
	if err != nil {
		return nil, err
	}
	// Without locks here, go on: each step of an upgrade is one transaction, which finds out where
	// the one before has ended. Two processes only get into each other's way.
	if isHeldElsewhere(lockAt(owners, upgradePlace)) {
		return nil, errors.Join(ErrLocked, owners.Close())
	}
	return owners.Close, nil
}

// isMarked reports whether another opening has locked upgradePlace.
func (f *File) isMarked() bool {
	owners, err := os.Open(f.ownersPath())
	if err != nil {
		return false
	}
	defer owners.Close()
	locked, err := lockedAt(owners, upgradePlace)
	return err == nil && locked
}

// awaitUpgrade says that another process upgrades the file, and waits a moment.
func (f *File) awaitUpgrade(ctx context.Context) error {
	f.Report(Progress{Step: StepUpgrade, Waiting: true})
	select {
	case <-time.After(upgradePoll):
		return nil
	case <-ctx.Done():
		return ctx.Err()
	}
}

// takeServersLock takes a server's lock, and waits for a process that has it to upgrade the file.
func (f *File) takeServersLock(ctx context.Context) error {
	for {
		err := f.takeLock()
		if !errors.Is(err, ErrLocked) || !f.isMarked() {
			return err
		}
		if err := errors.Join(f.dropLock(), f.awaitUpgrade(ctx)); err != nil {
			return err
		}
	}
}

// dropLock ends takeLock.
func (f *File) dropLock() error {
	var errs []error
	if f.flock != nil {
		errs = append(errs, f.flock.Close())
	}
	if f.serving {
		errs = append(errs, f.held.endServing())
	}
	f.flock, f.serving = (*flock.Flock)(nil), false
	return errors.Join(errs...)
}
