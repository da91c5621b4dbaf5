package cache

import (
	"context"
	"database/sql"
	"errors"
	"fmt"

	"github.com/rstream-dev/rstream/cache/internal/dbfile"
	"github.com/rstream-dev/rstream/event"
)

// A Queued is a draft in the outbox: it was written here, and no server has acknowledged
// it yet.
type Queued struct {
	Number  int64      // its place: drafts are sent in the order of their numbers
	Time    event.Time // when it was written
	Hash    event.Hash
	Refused string // why the server did not take it; empty if it waits to be sent
	event.Draft
}

// An Outbox keeps drafts written here until a server has acknowledged them.
type Outbox struct{ db *DB }

// Outbox returns the outbox of a client's file.
func (db *DB) Outbox() Outbox { return Outbox{db} }

// Queue appends drafts to the outbox in order, all or none, and returns them with their
// numbers. They are durable when Queue returns. A draft that is already in the outbox
// keeps its place; if it was refused, it is queued again.
func (o Outbox) Queue(ctx context.Context, drafts []event.Draft) (queued []Queued, err error) {
	if o.db.file.Role != Client {
		return nil, fmt.Errorf("queue: %w", o.db.file.Role.Wrong())
	}
	for i := range drafts {
		if err := drafts[i].Check(); err != nil {
			return nil, fmt.Errorf("queue: %w", err)
		}
	}
	err = o.db.file.Update(ctx, func(tx *sql.Tx) error {
		queued = nil
		for _, d := range drafts {
			q, err := queueDraft(tx, d, event.TimeOf(o.db.file.Now()))
			if err != nil {
				return err
			}
			queued = append(queued, q)
		}
		return nil
	})
	return queued, dbfile.Wrap(err, "queue")
}

func queueDraft(tx *sql.Tx, d event.Draft, now event.Time) (Queued, error) {
	q := Queued{Draft: d, Hash: d.Hash()}
	err := tx.QueryRow(`UPDATE outbox SET refused = NULL WHERE hash = ? RETURNING number, time`, q.Hash[:]).Scan(&q.Number, &q.Time)
	if errors.Is(err, sql.ErrNoRows) {
		err = tx.QueryRow(`INSERT INTO outbox (hash, draft, time) VALUES (?, ?, ?) RETURNING number, time`,
			q.Hash[:], string(d.AppendJSON(nil)), now).Scan(&q.Number, &q.Time)
	}
	return q, err
}

// List returns the drafts of the outbox after a number, in order: at most limit drafts
// and about a megabyte of them. It returns none only at the end of the outbox.
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
			if q.Number <= after {
				return dbfile.OutOfOrder("outbox")
			}
			after = q.Number
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

// Acknowledge removes drafts that a server has confirmed to be in the log.
func (o Outbox) Acknowledge(ctx context.Context, numbers []int64) error {
	_, err := o.remove(ctx, numbers)
	return dbfile.Wrap(err, "acknowledge")
}

// Discard removes drafts that are never to be sent, and returns the numbers of those that were
// still there.
func (o Outbox) Discard(ctx context.Context, numbers []int64) (removed []int64, err error) {
	removed, err = o.remove(ctx, numbers)
	return removed, dbfile.Wrap(err, "drop from the outbox")
}

func (o Outbox) remove(ctx context.Context, numbers []int64) (removed []int64, err error) {
	err = o.db.file.Update(ctx, func(tx *sql.Tx) error {
		removed = nil
		for _, number := range numbers {
			n, err := affected(tx.Exec(`DELETE FROM outbox WHERE number = ?`, number))
			if err != nil {
				return err
			}
			if n > 0 {
				removed = append(removed, number)
			}
		}
		return nil
	})
	return removed, err
}

// Refuse records why a server did not take drafts. They stay in the outbox, but are not
// sent any more, unless Queue gets them again.
func (o Outbox) Refuse(ctx context.Context, numbers []int64, reason string) error {
	err := o.db.file.Update(ctx, func(tx *sql.Tx) error {
		for _, number := range numbers {
			if _, err := tx.Exec(`UPDATE outbox SET refused = ? WHERE number = ?`, reason, number); err != nil {
				return err
			}
		}
		return nil
	})
	return dbfile.Wrap(err, "note that a draft was refused")
}

// An Aside counts the events in a file that are not held: drafts, and imported events
// that are not proven.
type Aside struct {
	Queued     int64 // drafts waiting to be sent
	Refused    int64 // drafts that the server did not take
	Candidates int64
	Foreign    int64
}

// Aside counts the events in the file that are not held.
func (db *DB) Aside(ctx context.Context) (n Aside, err error) {
	err = db.file.ViewRow(ctx, `SELECT
		(SELECT count(*) FROM outbox WHERE refused IS NULL),
		(SELECT count(*) FROM outbox WHERE refused IS NOT NULL),
		(SELECT count(*) FROM candidate),
		(SELECT count(*) FROM foreign_event)`, nil, &n.Queued, &n.Refused, &n.Candidates, &n.Foreign)
	return n, err
}
