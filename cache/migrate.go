package cache

import (
	"context"
	"database/sql"
	"errors"
	"slices"
	"strings"

	"github.com/rstream-dev/rstream/cache/internal/dbfile"
	"github.com/rstream-dev/rstream/event"
	"github.com/rstream-dev/rstream/window"
)

// MigrateImported copies the unproven imported events of another copy, whose log this
// copy's log was restored from. Candidates up to parted, where the two logs diverged,
// remain candidates, except those that cannot be in this log. Candidates after it are
// foreign events now, as are the foreign ones.
func (db *DB) MigrateImported(ctx context.Context, old *DB, parted event.ID) error {
	ours := importBatch{add: func(evs []event.Event) error { return db.migrateCandidates(ctx, evs) }}
	err := old.Imports().Candidates(ctx, event.All, window.Span{From: event.Beginning, To: parted}, ours.addImported)
	if err = errors.Join(err, ours.passOn()); err != nil {
		return err
	}
	others := importBatch{add: func(evs []event.Event) error { _, err := db.Imports().AddForeign(ctx, evs); return err }}
	err = old.Imports().Candidates(ctx, event.All, window.Span{From: parted, To: event.MaxID}, others.addImported)
	if err != nil {
		return err
	}
	err = old.Imports().ForeignHashes(ctx, event.All, func(h event.Hash) error {
		return old.Imports().Foreign(ctx, []event.Hash{h}, others.addImported)
	})
	return errors.Join(err, others.passOn())
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

// A importBatch collects events to pass on in groups.
type importBatch struct {
	add   func([]event.Event) error
	evs   []event.Event
	bytes int
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
	return b.add(evs)
}

// The table of what was copied from which logs is made when a copy of another log is carried over.
// Its name has the version of its form.
const createMigrated = `
	CREATE TABLE IF NOT EXISTS migrated1 (
	  log   TEXT NOT NULL,
	  draft BLOB NOT NULL,                -- the hash of one of its outbox; empty: all the rest
	  PRIMARY KEY (log, draft)
	) STRICT, WITHOUT ROWID;`

// MigratedFrom reports whether the copy of a log was carried over into this one: SetMigrated was
// called. What was removed here since must not come back.
func (db *DB) MigratedFrom(ctx context.Context, log string) (done bool, err error) {
	err = db.file.View(ctx, func(tx *sql.Tx) error {
		done, err = migrated(tx, log, rest)
		return err
	})
	return done, dbfile.Wrap(err, "look up an earlier migration")
}

// SetMigrated notes that the copy of a log was carried over into this one.
func (db *DB) SetMigrated(ctx context.Context, log string) error {
	err := db.file.Update(ctx, func(tx *sql.Tx) error { return setMigrated(tx, log, rest) })
	return dbfile.Wrap(err, "note the migration")
}

// rest is in place of the hash of a draft for all that is no draft.
var rest = []byte{}

func migrated(tx *sql.Tx, log string, draft []byte) (done bool, err error) {
	err = tx.QueryRow(`SELECT count(*) > 0 FROM sqlite_master WHERE name = 'migrated1'`).Scan(&done)
	if err != nil || !done {
		return false, err
	}
	err = tx.QueryRow(`SELECT count(*) > 0 FROM migrated1 WHERE log = ? AND draft = ?`, log, draft).Scan(&done)
	return done, err
}

func setMigrated(tx *sql.Tx, log string, draft []byte) error {
	if _, err := tx.Exec(createMigrated); err != nil {
		return err
	}
	_, err := tx.Exec(`INSERT OR IGNORE INTO migrated1 (log, draft) VALUES (?, ?)`, log, draft)
	return err
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
			for i := range queued {
				hash := queued[i].Hash[:]
				done, err := migrated(tx, old.Log(), hash)
				if err != nil {
					return err
				}
				if done {
					continue
				}
				if _, err := queueDraft(tx, queued[i].Draft, event.TimeOf(db.file.Now())); err != nil {
					return err
				}
				if err := setMigrated(tx, old.Log(), hash); err != nil {
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
// Cursors and topics already in this copy are kept. Dead letters are copied.
func (db *DB) MigrateCursors(ctx context.Context, old *DB, parted event.ID) error {
	cursors, err := old.Cursors(ctx)
	if err != nil {
		return err
	}
	topics, err := old.Followed(ctx)
	if err != nil {
		return err
	}
	if err := db.followLike(ctx, old, topics, parted); err != nil {
		return err
	}
	cursors = slices.DeleteFunc(cursors, func(c CursorInfo) bool { return c.Damaged }) // where they were is not known
	var names []string
	for _, c := range cursors {
		names = append(names, c.Name)
	}
	undone, err := db.migrateConsumers(ctx, old, names)
	if err != nil {
		return dbfile.Wrap(err, "copy the dead letters")
	}
	err = db.file.Update(ctx, func(tx *sql.Tx) error {
		for _, c := range cursors {
			at := min(c.Position, parted)
			if before, ok := undone[c.Name]; ok {
				at = min(at, before)
			}
			_, err := tx.Exec(insertCursor+` ON CONFLICT DO NOTHING`, c.Name, strings.Join(c.Topics, "\n"), at, nil, nil, nil)
			if err != nil {
				return err
			}
		}
		return nil
	})
	return dbfile.Wrap(err, "copy the cursors")
}
