package cache

import (
	"bytes"
	"context"
	"database/sql"
	"errors"
	"fmt"

	"github.com/rstream-dev/rstream/cache/internal/dbfile"
	"github.com/rstream-dev/rstream/event"
)

// ErrMoved means that a source is not where its follower has left it: another process
// follows it, too. Nothing was appended.
var ErrMoved = errors.New("is followed by another process")

// A SourceMove is a step along a foreign stream: what its follower knows of it afterwards.
// Its contents are opaque to the package.
type SourceMove struct {
	Name string
	// Old is the state before, nil if there is none, and New the state after. They differ
	// in each step.
	Old, New []byte
	// Seen is kept with the state, under the number Until. Entries with numbers up to
	// Forget go. If Seen is empty, nothing is kept.
	Seen          []byte
	Until, Forget int64
	// Foreign has for each draft the id that the event has in the foreign stream, "" if it
	// is not from there. Where an event comes from is kept as long as its hash: for good.
	// If Foreign is nil, nothing is kept.
	Foreign []string
	// Log is the id of the foreign log, if the source has one.
	Log string
	// If has for each draft the event that must be the last of its storage, or Beginning if
	// it does not matter. If another one is the last, the draft is left out, and has the
	// zero Receipt. If If is nil, all drafts are appended.
	If []event.ID
}

// AppendFrom is Append of events of a source, and moves the source in the same transaction,
// also without events. It returns ErrMoved if the state of the source is not m.Old. If it
// already is m.New, an earlier call with the same arguments has succeeded.
func (db *DB) AppendFrom(ctx context.Context, m *SourceMove, drafts []event.Draft) ([]event.Receipt, error) {
	r, err := db.newAppend(ctx, drafts)
	if err != nil {
		return nil, err
	}
	r.move = m
	if err := db.submit(ctx, r); err != nil {
		return nil, err
	}
	return r.receipts, nil
}

// The tables of sources are made when a file gets its first one. Their names have the
// version of their form.
const createSources = `
	CREATE TABLE IF NOT EXISTS source1_state (
	  name  TEXT PRIMARY KEY,
	  state BLOB    NOT NULL,
	  sum   INTEGER NOT NULL              -- row_sum (name, state)
	) STRICT, WITHOUT ROWID;
	CREATE TABLE IF NOT EXISTS source1_seen (
	  name  TEXT    NOT NULL,
	  until INTEGER NOT NULL,
	  seen  BLOB    NOT NULL,
	  sum   INTEGER NOT NULL,             -- row_sum (name, until, seen)
	  PRIMARY KEY (name, until)
	) STRICT, WITHOUT ROWID;
	CREATE TABLE IF NOT EXISTS source1_origin (
	  last    INTEGER PRIMARY KEY,        -- of some events in a row that came from one source
	  first   INTEGER NOT NULL,
	  name    TEXT    NOT NULL,
	  log     TEXT    NOT NULL,           -- the foreign log, '' if there is none
	  theirs  BLOB    NOT NULL,           -- the ids there, without the beginning that each shares with the one before
	  sum     INTEGER NOT NULL            -- row_sum (last, first, name, log, theirs)
	) STRICT`

// dropSources removes what a file knows of its sources. A copy that went on from an old cursor of
// a source would append its events again.
func dropSources(tx *sql.Tx) error {
	_, err := tx.Exec(`DROP TABLE IF EXISTS source1_state; DROP TABLE IF EXISTS source1_seen; DROP TABLE IF EXISTS source1_origin`)
	return err
}

// move moves a source.
func (w *batchWriter) move(m *SourceMove) error {
	if !w.db.hasSources || m.Old == nil {
		if _, err := w.tx.Exec(createSources); err != nil {
			return err
		}
		w.madeSources = true
	}
	state, err := readSource(w.tx, m.Name)
	switch {
	case err != nil:
		return err
	case bytes.Equal(state, m.New):
		return nil
	case !bytes.Equal(state, m.Old):
		return fmt.Errorf("source %s %w", m.Name, ErrMoved)
	}
	f := w.db.file
	_, err = f.Exec(w.tx, `INSERT OR REPLACE INTO source1_state (name, state, sum) VALUES (?, ?, ?)`, m.Name, m.New, dbfile.RowSum(m.Name, m.New))
	if err != nil || len(m.Seen) == 0 {
		return err
	}
	if _, err := f.Exec(w.tx, `DELETE FROM source1_seen WHERE name = ? AND until <= ?`, m.Name, m.Forget); err != nil {
		return err
	}
	_, err = f.Exec(w.tx, `INSERT OR REPLACE INTO source1_seen (name, until, seen, sum) VALUES (?, ?, ?, ?)`,
		m.Name, m.Until, m.Seen, dbfile.RowSum(m.Name, m.Until, m.Seen))
	return err
}

// readSource returns the state of a source, nil if there is none.
func readSource(tx *sql.Tx, name string) (state []byte, err error) {
	var sum int64
	err = tx.QueryRow(`SELECT state, sum FROM source1_state WHERE name = ?`, name).Scan(&state, &sum)
	switch {
	case errors.Is(err, sql.ErrNoRows):
		return nil, nil
	case err != nil:
		return nil, err
	case sum != dbfile.RowSum(name, state):
		return nil, fmt.Errorf("source %s: its row %w", name, ErrCorrupt)
	}
	return state, nil
}

// SourceState returns the state of a source, nil if there is none.
func (db *DB) SourceState(ctx context.Context, name string) (state []byte, err error) {
	err = db.viewSources(ctx, "source1_state", func(tx *sql.Tx) error {
		state, err = readSource(tx, name)
		return err
	})
	return state, err
}

// Source returns the state of a source, nil if there is none, and the entries kept with it.
func (db *DB) Source(ctx context.Context, name string) (state []byte, seen [][]byte, err error) {
	err = db.viewSources(ctx, "source1_seen", func(tx *sql.Tx) error {
		if state, err = readSource(tx, name); err != nil {
			return err
		}
		found, err := tx.Query(`SELECT until, seen, sum FROM source1_seen WHERE name = ? ORDER BY until`, name)
		if err != nil {
			return err
		}
		defer found.Close()
		for found.Next() {
			var b []byte
			var until, sum int64
			if err := found.Scan(&until, &b, &sum); err != nil {
				return err
			}
			if sum != dbfile.RowSum(name, until, b) {
				return fmt.Errorf("source %s: a row of its events %w", name, ErrCorrupt)
			}
			seen = append(seen, b)
		}
		return found.Err()
	})
	return state, seen, err
}

// SourceNames returns the names of the sources that are followed into the file, sorted.
func (db *DB) SourceNames(ctx context.Context) (names []string, err error) {
	err = db.viewSources(ctx, "source1_state", func(tx *sql.Tx) error {
		found, err := tx.Query(`SELECT name FROM source1_state ORDER BY name`)
		if err != nil {
			return err
		}
		defer found.Close()
		for found.Next() {
			var name string
			if err := found.Scan(&name); err != nil {
				return err
			}
			names = append(names, name)
		}
		return found.Err()
	})
	return names, err
}

// viewSources is a View of a table that the file has only if it has had a source.
func (db *DB) viewSources(ctx context.Context, table string, fn func(tx *sql.Tx) error) error {
	err := db.file.View(ctx, func(tx *sql.Tx) error {
		var n int
		err := tx.QueryRow(`SELECT count(*) FROM sqlite_master WHERE name = ?`, table).Scan(&n)
		if err != nil || n == 0 {
			return err
		}
		return fn(tx)
	})
	return dbfile.Wrap(err, "read a source")
}

// ResetSource replaces the state of a source, and forgets the entries kept with it. Its
// events stay.
func (db *DB) ResetSource(ctx context.Context, name string, state []byte) error {
	err := db.file.Update(ctx, func(tx *sql.Tx) error {
		if _, err := tx.Exec(createSources); err != nil {
			return err
		}
		if _, err := tx.Exec(`DELETE FROM source1_seen WHERE name = ?`, name); err != nil {
			return err
		}
		_, err := tx.Exec(`INSERT OR REPLACE INTO source1_state (name, state, sum) VALUES (?, ?, ?)`, name, state, dbfile.RowSum(name, state))
		return err
	})
	return dbfile.Wrap(err, "reset a source")
}
