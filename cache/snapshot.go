package cache

import (
	"context"
	"database/sql"
	"errors"
	"fmt"
	"slices"

	"github.com/rstream-dev/rstream/event"
	"github.com/rstream-dev/rstream/window"
)

// snapshotChunk is how many storages one transaction looks at. It is a variable for
// the tests.
var snapshotChunk = 500

// Snapshot calls fn with the events that make the state of topic at position at:
// for each storage its last event up to there, if that is a PUT. They come in the
// order of users and paths. Nothing is open while fn runs, and the memory does not
// grow with the state; what happens after at meanwhile changes nothing. All history
// up to at must be held, but for what a server has dropped below its horizon, which
// leaves the state as it was.
func (db *DB) Snapshot(ctx context.Context, topic event.Topic, at event.ID, fn func(*event.Event) error) error {
	var after storageRow
	for more := true; more; {
		var evs []event.Event
		err := db.view(ctx, func(tx *sql.Tx) (err error) {
			if err := db.wholeUpTo(tx, topic, at); err != nil {
				return err
			}
			evs, after, more, err = snapshotPart(ctx, tx, topic, at, after)
			return err
		})
		if err != nil {
			return fmt.Errorf("state of %s at %s: %w", topic, at, err)
		}
		for i := range evs {
			if err := fn(&evs[i]); err != nil {
				return err
			}
		}
	}
	return nil
}

// wholeUpTo refuses a moment at which the state is not known.
func (db *DB) wholeUpTo(tx *sql.Tx, topic event.Topic, at event.ID) error {
	windows, err := loadWindows(tx)
	if err != nil {
		return err
	}
	if db.role != Client && len(windows) > 0 {
		switch log := &windows[0]; {
		case at < log.From:
			return &window.NotHeldError{After: at, Oldest: log.From, Some: true}
		case at > log.To:
			return &window.NotHeldError{After: log.To}
		}
		return nil
	}
	held := setOf(windows).Held(topic)
	gaps := held.Gaps(window.Span{From: event.Beginning, To: event.MaxID})
	switch {
	case len(gaps) == 0 || gaps[0].From >= at:
		return nil
	case gaps[0].To == event.MaxID:
		return &window.NotHeldError{After: gaps[0].From}
	}
	return &window.NotHeldError{After: gaps[0].From, Oldest: gaps[0].To, Some: true}
}

type storageRow struct {
	id         int64
	user, path string
}

// snapshotPart returns the events of the storages that follow after.
func snapshotPart(ctx context.Context, tx *sql.Tx, topic event.Topic, at event.ID, after storageRow) (evs []event.Event, last storageRow, more bool, err error) {
	storages, err := storagesAfter(ctx, tx, topic, after)
	if err != nil || len(storages) == 0 {
		return nil, after, false, err
	}
	open, err := openLast(ctx, tx, at)
	if err != nil {
		return nil, after, false, err
	}
	stmt, err := tx.PrepareContext(ctx, `SELECT line FROM event WHERE id = ?`)
	if err != nil {
		return nil, after, false, err
	}
	defer stmt.Close()
	for _, s := range storages {
		ev, ok, err := lastEvent(ctx, tx, stmt, s.id, open[s.id], at)
		if err != nil {
			return nil, after, false, err
		}
		if ok && ev.Type == event.Put {
			evs = append(evs, ev)
		}
	}
	return evs, storages[len(storages)-1], len(storages) == snapshotChunk, nil
}

func storagesAfter(ctx context.Context, tx *sql.Tx, topic event.Topic, after storageRow) ([]storageRow, error) {
	where, args := storagesOf(topic)
	rows, err := tx.QueryContext(ctx, `SELECT s.id, s.user, s.path FROM storage s
		WHERE (s.user, s.path) > (?, ?) AND `+where+` ORDER BY s.user, s.path LIMIT ?`,
		append(append([]any{after.user, after.path}, args...), snapshotChunk)...)
	if err != nil {
		return nil, err
	}
	defer rows.Close()
	var storages []storageRow
	for rows.Next() {
		var s storageRow
		if err := rows.Scan(&s.id, &s.user, &s.path); err != nil {
			return nil, err
		}
		storages = append(storages, s)
	}
	return storages, rows.Err()
}

// openLast returns the last event up to at of each storage that has one behind what
// is indexed: at most a block and a bit.
func openLast(ctx context.Context, tx *sql.Tx, at event.ID) (map[int64]event.ID, error) {
	rows, err := tx.QueryContext(ctx, `SELECT storage, max(id) FROM event
		WHERE id > (SELECT indexed FROM log) AND id <= ? GROUP BY storage`, at)
	if err != nil {
		return nil, err
	}
	defer rows.Close()
	last := map[int64]event.ID{}
	for rows.Next() {
		var storage int64
		var id event.ID
		if err := rows.Scan(&storage, &id); err != nil {
			return nil, err
		}
		last[storage] = id
	}
	return last, rows.Err()
}

// lastEvent returns the last event of a storage up to at: open, if there is one
// behind what is indexed, or else the last that the postings name. byID reads an
// event.
func lastEvent(ctx context.Context, tx *sql.Tx, byID *sql.Stmt, storage int64, open, at event.ID) (ev event.Event, ok bool, err error) {
	if open != event.Beginning {
		return storedEvent(ctx, byID, open)
	}
	rows, err := tx.QueryContext(ctx, `SELECT block, offsets FROM posting
		WHERE storage = ? AND block <= ? ORDER BY block DESC`, storage, at.Block())
	if err != nil {
		return ev, false, err
	}
	defer rows.Close()
	for rows.Next() {
		ids, err := postedIDs(rows)
		if err != nil {
			return ev, false, err
		}
		for _, id := range slices.Backward(ids) {
			if id > at {
				continue
			}
			// One that is not there was removed since it was indexed.
			if ev, ok, err = storedEvent(ctx, byID, id); ok || err != nil {
				return ev, ok, err
			}
		}
	}
	return ev, false, rows.Err()
}

// postedIDs returns the ids of a row (block, offsets) in order.
func postedIDs(row interface{ Scan(...any) error }) (ids []event.ID, err error) {
	var block int64
	var offsets []byte
	if err := row.Scan(&block, &offsets); err != nil {
		return nil, err
	}
	positions(block, offsets, func(id event.ID) { ids = append(ids, id) })
	slices.Sort(ids)
	return slices.Compact(ids), nil
}

func storedEvent(ctx context.Context, byID *sql.Stmt, id event.ID) (ev event.Event, ok bool, err error) {
	var line []byte
	switch err := byID.QueryRowContext(ctx, id).Scan(&line); {
	case errors.Is(err, sql.ErrNoRows):
		return ev, false, nil
	case err != nil:
		return ev, false, fmt.Errorf("read event %s: %w", id, err)
	}
	ev, err = stored(id, line)
	return ev, err == nil, err
}
