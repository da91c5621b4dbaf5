package cache

import (
	"context"
	"database/sql"
	"errors"
	"fmt"

	"github.com/rstream-dev/rstream/event"
)

// storedMark reads a mark as files keep it: empty if it is not known.
func storedMark(s string) (event.Mark, error) {
	if s == "" {
		return 0, nil
	}
	m, err := event.ParseMark(s)
	if err != nil {
		return 0, fmt.Errorf("%w: %w", ErrCorrupt, err)
	}
	return m, nil
}

// noteMark keeps the mark of a position of a copy, which a server has told, if it is the
// newest one so far. It belongs into the transaction that makes the copy hold what lies
// before the position: what is held and not marked could be mixed with another history.
func (db *DB) noteMark(tx *sql.Tx, p event.Point) error {
	if p.Mark == 0 {
		return nil
	}
	_, err := db.file.Exec(tx, `UPDATE log SET seen = ?, seen_mark = ? WHERE seen < ?`, p.ID, p.Mark.String(), p.ID)
	return err
}

// A Newest is how far a copy of a log has come.
type Newest struct {
	Log    string      // the log's name
	Held   event.ID    // nothing beyond it is held of any topic
	Marked event.Point // the newest position whose mark is known; zero if there is none
}

// Newest returns how far a copy has come. No removal takes that back: what was read once
// tells the log's history from another for ever.
func (db *DB) Newest(ctx context.Context) (n Newest, err error) {
	n.Log = db.file.Log
	err = db.file.View(ctx, func(tx *sql.Tx) error {
		var mark string
		err := tx.QueryRowContext(ctx, `SELECT seen, seen_mark, (SELECT coalesce(max(reached), 0) FROM window
			WHERE state <> 'pending') FROM log`).Scan(&n.Marked.ID, &mark, &n.Held)
		if err != nil {
			return err
		}
		if n.Marked.Mark, err = storedMark(mark); err != nil {
			return err
		}
		n.Held = max(n.Held, n.Marked.ID)
		return n.addLast(ctx, tx)
	})
	if err != nil {
		return Newest{}, fmt.Errorf("read how far the copy is: %w", err)
	}
	return n, nil
}

// addLast takes the mark of the last stored event if that is newer: whatever way an event
// came, it is marked by itself.
func (n *Newest) addLast(ctx context.Context, tx *sql.Tx) error {
	last, err := lastStored(ctx, tx, n.Marked.ID, event.MaxID)
	if last.Mark != 0 {
		n.Marked, n.Held = last, max(n.Held, last.ID)
	}
	return err
}

// LastStored returns the last event that is stored at or before a position, as a point of
// its log; the zero Point if there is none.
func (db *DB) LastStored(ctx context.Context, at event.ID) (p event.Point, err error) {
	err = db.file.View(ctx, func(tx *sql.Tx) error {
		p, err = lastStored(ctx, tx, event.Beginning, at)
		return err
	})
	return p, wrap(err, "read the last event up to %s", at)
}

// lastStored returns the last stored event between two positions. A damaged one says
// nothing of the log, and has no mark.
func lastStored(ctx context.Context, tx *sql.Tx, after, until event.ID) (p event.Point, err error) {
	var line []byte
	err = tx.QueryRowContext(ctx, `SELECT id, line FROM event WHERE id > ? AND id <= ? ORDER BY id DESC LIMIT 1`, after, until).Scan(&p.ID, &line)
	if errors.Is(err, sql.ErrNoRows) {
		return p, nil
	}
	if err != nil {
		return p, err
	}
	if ev, err := event.ParseLine(line); err == nil && ev.ID == p.ID {
		p.Mark = ev.Mark()
	}
	return p, nil
}
