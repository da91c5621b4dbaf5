// Package oldrows moves the events of a file of an earlier version into pages, and joins its
// postings. Up to schema 6, each event was a row, and postings had offsets into blocks; up to
// schema 8, each storage had postings of its own.
//
// Moving is done in steps of some megabytes. Each is one transaction, which stores events
// and deletes their rows, so it can be interrupted at any point: no event is lost or there
// twice, and where it has come to is seen in the file. The stored events take the place of
// the deleted rows, so the file grows little. When no row is left, the tables go and their
// space is given back.
//
// The package relies on its caller for the lock that keeps everybody else from the file.
package oldrows

import (
	"context"
	"database/sql"
	"fmt"

	"github.com/rstream-dev/rstream/cache/internal/dbfile"
	"github.com/rstream-dev/rstream/cache/internal/pages"
	"github.com/rstream-dev/rstream/event"
)

// Limits of a step. They are variables for the tests.
var (
	stepEvents = event.BlockSize
	stepBytes  = 2 << 20
)

// Move moves the rest of the events of an earlier version, and then its postings. It does
// nothing if there are none. It reports how far it is after each step.
func Move(ctx context.Context, f *dbfile.File, report func(dbfile.Progress)) error {
	if err := moveEvents(ctx, f, report); err != nil {
		return err
	}
	return joinPostings(ctx, f, report)
}

func moveEvents(ctx context.Context, f *dbfile.File, report func(dbfile.Progress)) error {
	if has, err := f.HasOldEvents(ctx); err != nil || !has {
		return err
	}
	m := mover{file: f, tables: pages.New(f)}
	for m.more = true; m.more; {
		err := f.Update(ctx, func(tx *sql.Tx) error { return m.step(ctx, tx) })
		if err != nil {
			m.tables.ForgetPage()
			return dbfile.Wrap(err, "move events after %s", m.at)
		}
		report(dbfile.Progress{Step: dbfile.StepUpgrade, Done: int64(m.at), Total: int64(m.last)})
	}
	return m.finishMove(ctx)
}

// A mover moves events.
type mover struct {
	file   *dbfile.File
	tables *pages.Tables
	more   bool     // there are more events, as far as is known
	at     event.ID // of the last that was moved
	last   event.ID // of all
	posted event.ID // events up to here have postings
}

// step moves some events.
func (m *mover) step(ctx context.Context, tx *sql.Tx) error {
	var there bool
	if err := tx.QueryRowContext(ctx, `SELECT EXISTS (SELECT 1 FROM sqlite_schema WHERE name = 'old_event')`).Scan(&there); err != nil {
		return err
	}
	if m.more = there; !there {
		return nil // another process, on a file system without locks, was faster
	}
	if m.last == 0 {
		if err := dbfile.ScanLog(ctx, tx, `indexed, (SELECT coalesce(max(id), 0) FROM old_event)`, &m.posted, &m.last); err != nil {
			return err
		}
	}
	lines, err := readSome(ctx, tx)
	if err != nil {
		return err
	}
	if m.more = len(lines) > 0; !m.more {
		return nil
	}
	if err := m.tables.StoreOld(tx, lines, m.posted); err != nil {
		return err
	}
	at := lines[len(lines)-1].ID
	m.at = at
	res, err := m.file.Exec(tx, `DELETE FROM old_event WHERE id <= ?`, int64(at))
	if err != nil {
		return err
	}
	n, err := res.RowsAffected()
	if err == nil && n != int64(len(lines)) { // rows that are out of order would be lost
		err = fmt.Errorf("%w: there are %d events up to %s, and %d were read", dbfile.ErrCorrupt, n, at, len(lines))
	}
	return err
}

// readSome returns the first rows that are left.
func readSome(ctx context.Context, tx *sql.Tx) (lines []pages.Line, err error) {
	rows, err := tx.QueryContext(ctx, `SELECT id, storage, line FROM old_event WHERE id > 0 ORDER BY id LIMIT ?`, stepEvents)
	if err != nil {
		return nil, err
	}
	defer rows.Close()
	size := 0
	for rows.Next() {
		var l pages.Line
		if err := rows.Scan(&l.ID, &l.Storage, &l.Text); err != nil {
			return nil, err
		}
		lines = append(lines, l)
		if size += len(l.Text); size >= stepBytes {
			break
		}
	}
	if size >= stepBytes || len(lines) == stepEvents {
		lines = wholeBlocks(lines)
	}
	return lines, rows.Err()
}

// wholeBlocks returns lines without those of the last block, which may have more, unless
// all are of that block. Postings are per block, and each addition makes a chunk of them.
func wholeBlocks(lines []pages.Line) []pages.Line {
	n, last := len(lines), lines[len(lines)-1].ID.Block()
	for n > 0 && lines[n-1].ID.Block() == last {
		n--
	}
	if n == 0 {
		return lines
	}
	return lines[:n]
}

// finishMove removes the tables of earlier versions. Each step can be repeated; the last one
// ends the upgrade.
func (m *mover) finishMove(ctx context.Context) error {
	if err := m.execMove(ctx, `DROP TABLE IF EXISTS old_posting`); err != nil {
		return err
	}
	if err := m.file.GiveBack(ctx); err != nil {
		return err
	}
	if err := m.execMove(ctx, `DROP TABLE IF EXISTS old_event`); err != nil {
		return err
	}
	return m.file.GiveBack(ctx) // the page that the empty table had
}

func (m *mover) execMove(ctx context.Context, query string) error {
	return m.file.Update(ctx, func(tx *sql.Tx) error {
		_, err := tx.ExecContext(ctx, query)
		return err
	})
}
