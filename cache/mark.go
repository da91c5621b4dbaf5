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
	_, err := db.exec(tx, `UPDATE log SET seen = ?, seen_mark = ? WHERE seen < ?`, p.ID, p.Mark.String(), p.ID)
	return err
}

// A Newest is how far a copy of a log has come.
type Newest struct {
	Held   event.ID    // nothing beyond it is held of any topic
	Marked event.Point // the newest position whose mark is known; zero if there is none
}

// Newest returns how far a copy has come. No removal takes that back: what was read once
// tells the log's history from another for ever.
func (db *DB) Newest(ctx context.Context) (n Newest, err error) {
	err = db.view(ctx, func(tx *sql.Tx) error {
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
// came, it is marked by itself. A damaged one says nothing of the log.
func (n *Newest) addLast(ctx context.Context, tx *sql.Tx) error {
	var id event.ID
	var line []byte
	err := tx.QueryRowContext(ctx, `SELECT id, line FROM event WHERE id > ? ORDER BY id DESC LIMIT 1`, n.Marked.ID).Scan(&id, &line)
	if errors.Is(err, sql.ErrNoRows) {
		return nil
	}
	if err != nil {
		return err
	}
	ev, err := event.ParseLine(line)
	if err != nil || ev.ID != id {
		return nil
	}
	n.Marked, n.Held = event.Point{ID: id, Mark: ev.Mark()}, max(n.Held, id)
	return nil
}
