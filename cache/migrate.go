package cache

import (
	"context"
	"database/sql"
	"errors"

	"github.com/rstream-dev/rstream/cache/internal/dbfile"
	"github.com/rstream-dev/rstream/event"
	"github.com/rstream-dev/rstream/window"
)

// MigrateImported copies the unproven imported events of another copy, whose log this
// copy's log was restored from. Candidates up to parted, where the two logs diverged,
// remain candidates, except those that cannot be in this log. Candidates after it are
// foreign events now, as are the foreign ones. What is damaged in the other copy is left out;
// MigrateImported reports whether anything was.
func (db *DB) MigrateImported(ctx context.Context, old *DB, parted event.ID) (damaged bool, err error) {
	skip := func() { damaged = true }
	ours := importBatch{add: func(evs []event.Event) error { return db.migrateCandidates(ctx, evs) }}
	others := importBatch{add: func(evs []event.Event) error { _, err := db.Imports().AddForeign(ctx, evs); return err }}
	for _, step := range []struct {
		into *importBatch
		read func(add func(*event.Event) error) error
	}{
		{&ours, func(add func(*event.Event) error) error {
			return old.Imports().eachCandidate(ctx, event.All, window.Span{From: event.Beginning, To: parted}, add, skip)
		}},
		{&others, func(add func(*event.Event) error) error {
			return old.Imports().eachCandidate(ctx, event.All, window.Span{From: parted, To: event.MaxID}, add, skip)
		}},
		{&others, func(add func(*event.Event) error) error {
			return old.Imports().ForeignHashes(ctx, event.All, func(h event.Hash) error {
				err := old.Imports().Foreign(ctx, []event.Hash{h}, add)
				if others.failed == nil && errors.Is(err, ErrCorrupt) {
					skip()
					return nil
				}
				return err
			})
		}},
	} {
		err := step.read(step.into.addImported)
		if step.into.failed == nil && errors.Is(err, ErrCorrupt) {
			skip()
			err = nil
		}
		if err = errors.Join(err, step.into.passOn()); err != nil {
			return damaged, err
		}
	}
	return damaged, nil
}

// migrateCandidates adds candidates; one by one, if one of them cannot be in this log.
func (db *DB) migrateCandidates(ctx context.Context, evs []event.Event) error {
	_, err := db.Imports().AddCandidates(ctx, evs)
	var conflict *ConflictError
	if !errors.As(err, &conflict) && !errors.Is(err, ErrNotInLog) {
		return err
	}
	if len(evs) == 1 {
		return nil
	}
	for i := range evs {
		if err := db.migrateCandidates(ctx, evs[i:i+1]); err != nil {
			return err
		}
	}
	return nil
}

// An importBatch collects events to pass on in groups.
type importBatch struct {
	add    func([]event.Event) error
	evs    []event.Event
	bytes  int
	failed error // of add
}

func (b *importBatch) addImported(ev *event.Event) error {
	b.evs, b.bytes = append(b.evs, *ev), b.bytes+len(ev.Value)
	if len(b.evs) < importChunk && b.bytes < maxReadBytes {
		return nil
	}
	return b.passOn()
}

func (b *importBatch) passOn() error {
	evs := b.evs
	b.evs, b.bytes = nil, 0
	if len(evs) == 0 {
		return nil
	}
	b.failed = b.add(evs)
	return b.failed
}

// createMigrated creates the table that records which parts of which other logs were copied. Most
// files never need it. Its name has the version of its form.
const createMigrated = `
	CREATE TABLE IF NOT EXISTS migrated1 (
	  log   TEXT NOT NULL,
	  draft BLOB NOT NULL,                -- the hash of one of its outbox; empty: all the rest
	  PRIMARY KEY (log, draft)
	) STRICT, WITHOUT ROWID;`

// MigratedFrom reports whether SetMigrated was called for a log: whatever was removed from this copy
// since then must stay removed.
func (db *DB) MigratedFrom(ctx context.Context, log string) (done bool, err error) {
	err = db.file.View(ctx, func(tx *sql.Tx) error {
		err := tx.QueryRow(`SELECT count(*) > 0 FROM sqlite_master WHERE name = 'migrated1'`).Scan(&done)
		if err != nil || !done {
			return err
		}
		return tx.QueryRow(`SELECT count(*) > 0 FROM migrated1 WHERE log = ? AND draft = x''`, log).Scan(&done)
	})
	return done, dbfile.Wrap(err, "look up an earlier migration")
}

// SetMigrated records that the copy of a log was carried over into this one.
func (db *DB) SetMigrated(ctx context.Context, log string) error {
	err := db.file.Update(ctx, func(tx *sql.Tx) error {
		if _, err := tx.Exec(createMigrated); err != nil {
			return err
		}
		_, err := setMigrated(tx, log, []byte{})
		return err
	})
	return dbfile.Wrap(err, "record the migration")
}

// setMigrated adds a row of migrated1. isNew is false if it was there before.
func setMigrated(tx *sql.Tx, log string, draft []byte) (isNew bool, err error) {
	res, err := tx.Exec(`INSERT OR IGNORE INTO migrated1 (log, draft) VALUES (?, ?)`, log, draft)
	if err != nil {
		return false, err
	}
	n, err := res.RowsAffected()
	return n > 0, err
}

// MigrateOutbox copies the drafts in the outbox of another copy, in order, each once. Drafts that
// were refused there are queued again.
func (db *DB) MigrateOutbox(ctx context.Context, old *DB) error {
	for after := int64(0); ; {
		queued, err := old.Outbox().List(ctx, after, maxReadEvents)
		if err != nil || len(queued) == 0 {
			return err
		}
		err = db.file.Update(ctx, func(tx *sql.Tx) error {
			if _, err := tx.Exec(createMigrated); err != nil {
				return err
			}
			for i := range queued {
				isNew, err := setMigrated(tx, old.Log(), queued[i].Hash[:])
				if err == nil && isNew {
					_, err = queueDraft(tx, queued[i].Draft, event.TimeOf(db.file.Now()))
				}
				if err != nil {
					return err
				}
			}
			return nil
		})
		if err != nil {
			return dbfile.Wrap(err, "queue")
		}
		after = queued[len(queued)-1].Number
	}
}

// followLike follows topics of another copy, from where they start there, but not after parted.
func (db *DB) followLike(ctx context.Context, old *DB, topics []event.Topic, parted event.ID) error {
	starts := make([]event.ID, len(topics))
	for i, t := range topics {
		since, err := old.FollowedSince(ctx, t)
		if err != nil {
			return err
		}
		starts[i] = min(since, parted)
	}
	err := db.file.Update(ctx, func(tx *sql.Tx) error {
		for i, t := range topics {
			if err := insertFollowed(tx, t, starts[i]); err != nil {
				return err
			}
		}
		return nil
	})
	return dbfile.Wrap(err, "copy the followed topics")
}

// MigrateCursors copies the cursors and the followed topics of another copy, whose log this
// copy's log was restored from. A cursor beyond parted, where the two logs diverged, is
// set back to parted, and that of a consumer to before the first event that it has not done.
// Cursors and topics already in this copy are kept. Dead letters are copied. A cursor that is
// damaged, or what its consumer has not done, is left out, since it is not known where to go on;
// MigrateCursors returns the names of these.
func (db *DB) MigrateCursors(ctx context.Context, old *DB, parted event.ID) (damaged []string, err error) {
	cursors, err := old.Cursors(ctx)
	if err != nil {
		return nil, err
	}
	topics, err := old.Followed(ctx)
	if err != nil {
		return nil, err
	}
	if err := db.followLike(ctx, old, topics, parted); err != nil {
		return nil, err
	}
	var sound []oldConsumer
	for _, c := range cursors {
		o, err := old.readOldConsumer(ctx, &c, parted)
		switch {
		case errors.Is(err, ErrCorrupt):
			damaged = append(damaged, c.Name)
		case err != nil:
			return nil, dbfile.Wrap(err, "copy the cursors")
		default:
			sound = append(sound, o)
		}
	}
	err = db.file.Update(ctx, func(tx *sql.Tx) error {
		for i := range sound {
			if err := db.insertOldConsumer(tx, &sound[i]); err != nil {
				return err
			}
		}
		return nil
	})
	return damaged, dbfile.Wrap(err, "copy the cursors")
}
