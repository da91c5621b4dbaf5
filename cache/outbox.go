package cache

import (
	"context"
	"database/sql"
	"errors"
	"fmt"

	"github.com/rstream-dev/rstream/cache/internal/dbfile"
	"github.com/rstream-dev/rstream/event"
)

// A Queued is a draft in the outbox: it was written here, and no server has
// acknowledged it.
type Queued struct {
	Number  int64      // its place: drafts are sent in the order of their numbers
	Time    event.Time // when it was written
	Hash    event.Hash
	Refused string // why the server will never take it; "" if it waits to be sent
	event.Draft
}

// An Outbox keeps the drafts that were written here until a server has acknowledged
// them.
type Outbox struct{ db *DB }

// Outbox returns the outbox of a client's file.
func (db *DB) Outbox() Outbox { return Outbox{db} }

// Queue puts drafts into the outbox in their order, all or none, and returns them
// with their places there. It is durable when Queue returns. A draft that waits there
// already keeps its place; if it was refused, it is to be tried again.
func (o Outbox) Queue(ctx context.Context, drafts []event.Draft) (queued []Queued, err error) {
	if o.db.file.Role != Client {
		return nil, fmt.Errorf("queue: %w: it is a %s's file", ErrRole, o.db.file.Role)
	}
	for i := range drafts {
		if err := drafts[i].Check(); err != nil {
			return nil, fmt.Errorf("queue: %w", err)
		}
	}
	err = o.db.file.Update(ctx, func(tx *sql.Tx) error {
		queued = nil
		for _, d := range drafts {
			q := Queued{Draft: d, Hash: d.Hash()}
			err := tx.QueryRow(`UPDATE outbox SET refused = NULL WHERE hash = ? RETURNING number, time`, q.Hash[:]).Scan(&q.Number, &q.Time)
			if errors.Is(err, sql.ErrNoRows) {
				err = tx.QueryRow(`INSERT INTO outbox (hash, draft, time) VALUES (?, ?, ?) RETURNING number, time`,
					q.Hash[:], string(d.AppendJSON(nil)), event.TimeOf(o.db.file.Now())).Scan(&q.Number, &q.Time)
			}
			if err != nil {
				return err
			}
			queued = append(queued, q)
		}
		return nil
	})
	return queued, dbfile.Wrap(err, "queue")
}

// List returns what is in the outbox behind place after, in order: at most limit
// drafts and about a megabyte of them, and none only at its end.
func (o Outbox) List(ctx context.Context, after int64, limit int) (queued []Queued, err error) {
	err = o.db.file.View(ctx, func(tx *sql.Tx) error {
		rows, err := tx.QueryContext(ctx, `SELECT number, hash, draft, time, coalesce(refused, '')
			FROM outbox WHERE number > ? ORDER BY number LIMIT ?`, after, limit)
		if err != nil {
			return err
		}
		defer rows.Close()
		for bytes := 0; bytes < maxReadBytes && rows.Next(); {
			var q Queued
			var hash, line []byte
			if err := rows.Scan(&q.Number, &hash, &line, &q.Time, &q.Refused); err != nil {
				return err
			}
			bytes += len(line)
			if q.Draft, err = event.ParseDraft(line); err != nil {
				return fmt.Errorf("%w: place %d: %w", ErrCorrupt, q.Number, err)
			}
			if q.Hash = q.Draft.Hash(); string(hash) != string(q.Hash[:]) {
				return fmt.Errorf("%w: place %d: %w", ErrCorrupt, q.Number, event.ErrHash)
			}
			queued = append(queued, q)
		}
		return rows.Err()
	})
	return queued, dbfile.Wrap(err, "read the outbox")
}

// Acknowledge takes drafts out of the outbox: a server has said that they are in the
// log.
func (o Outbox) Acknowledge(ctx context.Context, numbers []int64) error {
	_, err := o.remove(ctx, numbers)
	return dbfile.Wrap(err, "acknowledge")
}

// Discard takes drafts out of the outbox that are never to be sent, and returns how
// many there were.
func (o Outbox) Discard(ctx context.Context, numbers []int64) (n int, err error) {
	n, err = o.remove(ctx, numbers)
	return n, dbfile.Wrap(err, "drop from the outbox")
}

func (o Outbox) remove(ctx context.Context, numbers []int64) (n int, err error) {
	err = o.db.file.Update(ctx, func(tx *sql.Tx) error {
		n = 0
		for _, number := range numbers {
			some, err := affected(tx.Exec(`DELETE FROM outbox WHERE number = ?`, number))
			if err != nil {
				return err
			}
			n += some
		}
		return nil
	})
	return n, err
}

// Refuse notes why the server will never take a draft. It stays in the outbox and is
// not sent any more.
func (o Outbox) Refuse(ctx context.Context, number int64, reason string) error {
	err := o.db.file.Update(ctx, func(tx *sql.Tx) error {
		_, err := tx.Exec(`UPDATE outbox SET refused = ? WHERE number = ?`, reason, number)
		return err
	})
	return dbfile.Wrap(err, "note that a draft was refused")
}

// An Aside is what a file has that is not held: what waits to be sent, and what was
// imported and is not proven.
type Aside struct {
	Queued     int64 // drafts that wait to be sent
	Refused    int64 // drafts that the server will never take
	Candidates int64
	Foreign    int64
}

// Aside counts what the file has beside what it holds.
func (db *DB) Aside(ctx context.Context) (n Aside, err error) {
	err = db.file.ViewRow(ctx, `SELECT
		(SELECT count(*) FROM outbox WHERE refused IS NULL),
		(SELECT count(*) FROM outbox WHERE refused IS NOT NULL),
		(SELECT count(*) FROM candidate),
		(SELECT count(*) FROM foreign_event)`, nil, &n.Queued, &n.Refused, &n.Candidates, &n.Foreign)
	return n, err
}
