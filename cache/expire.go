package cache

import (
	"context"
	"database/sql"
	"errors"
	"time"

	"github.com/rstream-dev/rstream/event"
)

// expire ends the values that were set at time t or before and not since. Each event is
// looked at once: who is the last of its storage then is ended, by the committer, and
// others are none any more.
func (r *retainer) expire(ctx context.Context, t event.Time) error {
	until, err := r.db.PositionAt(ctx, t)
	if err != nil {
		return err
	}
	var from event.ID
	if err := r.db.read.QueryRowContext(ctx, `SELECT expired FROM log`).Scan(&from); err != nil {
		return r.db.named(orDone(ctx, err))
	}
	for from < until {
		began := time.Now()
		var old []expiry
		err := r.db.view(ctx, func(tx *sql.Tx) (err error) {
			old, from, err = r.db.readOld(ctx, tx, from, until)
			return err
		})
		if err != nil {
			return err
		}
		if err := r.db.endValues(ctx, old, from); err != nil {
			return err
		}
		if err := r.rest(ctx, time.Since(began)); err != nil {
			return err
		}
	}
	return nil
}

// One transaction ends at most so many values, and one that looks for them looks at so
// many events.
const (
	expireValues = 256
	expireEvents = 4096
)

// An expiry is a value that may have had its time: that of the event, if it is still the
// last one of its storage.
type expiry struct {
	storage int64
	id      event.ID
	draft   event.Draft
	hash    event.Hash
}

// readOld returns the values set after a position and up to until that nothing has come
// for since, some of them, and the position up to which it has looked.
func (db *DB) readOld(ctx context.Context, tx *sql.Tx, after, until event.ID) (old []expiry, next event.ID, err error) {
	last, err := tx.PrepareContext(ctx, lastPosting)
	if err != nil {
		return nil, after, err
	}
	defer last.Close()
	line, err := tx.PrepareContext(ctx, `SELECT line FROM event WHERE id = ?`)
	if err != nil {
		return nil, after, err
	}
	defer line.Close()
	rows, err := tx.QueryContext(ctx, `SELECT id, storage FROM event WHERE id > ? AND id <= ? ORDER BY id LIMIT ?`, after, until, expireEvents)
	if err != nil {
		return nil, after, err
	}
	defer rows.Close()
	n := 0
	for ; rows.Next() && len(old) < expireValues; n++ {
		x := expiry{}
		if err := rows.Scan(&x.id, &x.storage); err != nil {
			return nil, after, err
		}
		after = x.id
		if at, err := lastInPosting(last.QueryRowContext(ctx, x.storage)); err != nil {
			return nil, after, err
		} else if at > x.id {
			continue // others would be none either, but cost more to tell
		}
		var b []byte
		if err := line.QueryRowContext(ctx, x.id).Scan(&b); err != nil {
			return nil, after, err
		}
		ev, err := stored(x.id, b)
		if err != nil {
			return nil, after, err
		}
		if ev.Type == event.Put {
			x.draft = event.Expiry(&ev)
			x.hash = x.draft.Hash()
			old = append(old, x)
		}
	}
	if n < expireEvents && len(old) < expireValues {
		after = until
	}
	return old, after, rows.Err()
}

// lastPosting finds the last posting of a storage.
const lastPosting = `SELECT block, offsets FROM posting WHERE storage = ? ORDER BY block DESC LIMIT 1`

// lastInPosting returns the last event that a posting names, or Beginning if there is none.
func lastInPosting(row interface{ Scan(...any) error }) (last event.ID, err error) {
	var block int64
	var offsets []byte
	err = row.Scan(&block, &offsets)
	if errors.Is(err, sql.ErrNoRows) {
		return event.Beginning, nil
	}
	positions(block, offsets, func(id event.ID) { last = max(last, id) })
	return last, err
}

// endValues has the committer end the values that are still as they were found, and note that
// those up to a position have had their time.
func (db *DB) endValues(ctx context.Context, old []expiry, upTo event.ID) error {
	r := &appendRequest{ctx: ctx, old: old, expired: upTo, done: make(chan error, 1)}
	return db.submit(ctx, r)
}

// expire appends the events that end values.
func (w *batchWriter) expire(old []expiry, upTo event.ID) error {
	open := map[int64]event.ID{} // the last events that have no postings yet
	tail := &w.db.known.tail
	for _, ev := range tail.events[tail.after(w.db.known.indexed):] {
		open[ev.storage] = ev.id
	}
	for i := range old {
		x := &old[i]
		last, ok := open[x.storage]
		if !ok {
			stmt, err := w.db.stmt(w.tx, lastPosting)
			if err != nil {
				return err
			}
			if last, err = lastInPosting(stmt.QueryRow(x.storage)); err != nil {
				return err
			}
		}
		if last != x.id {
			continue // it was renewed, or ended
		}
		var receipt event.Receipt
		if err := w.append(&receipt, &x.draft, &x.hash); err != nil {
			return err
		}
	}
	_, err := w.db.exec(w.tx, `UPDATE log SET expired = ?`, int64(upTo))
	return err
}
