package rows

import (
	"context"
	"database/sql"
	"errors"
	"fmt"
	"time"

	"github.com/rstream-dev/rstream/cache/internal/dbfile"
	"github.com/rstream-dev/rstream/cache/internal/pages"
	"github.com/rstream-dev/rstream/event"
	"github.com/rstream-dev/rstream/window"
)

// MaxReadBytes and MaxReadTime are roughly how much one transaction reads, and for how long.
const (
	MaxReadBytes = 1 << 20
	MaxReadTime  = 250 * time.Millisecond
)

// ParseStored reads a line of the event table.
func ParseStored(id event.ID, line []byte) (event.Event, error) {
	ev, err := event.Stored(line)
	if err == nil && ev.ID != id {
		err = fmt.Errorf("event %s is stored as %s", ev.ID, id)
	}
	if err != nil {
		return event.Event{}, fmt.Errorf("%w: %w", dbfile.ErrCorrupt, err)
	}
	return ev, nil
}

// An OpenEvent is an event whose block has no postings, or no run of hashes, yet.
type OpenEvent struct {
	ID      event.ID
	Storage int64
	Hash    event.Hash
}

// EachOpenEvent calls visit with the events after a position.
func EachOpenEvent(tx *sql.Tx, after event.ID, visit func(OpenEvent)) error {
	rows, err := tx.Query(`SELECT id, storage, line FROM event WHERE id > ? ORDER BY id`, after)
	if err != nil {
		return err
	}
	defer rows.Close()
	for rows.Next() {
		var ev OpenEvent
		var line []byte
		if err := rows.Scan(&ev.ID, &ev.Storage, &line); err != nil {
			return err
		}
		whole, err := ParseStored(ev.ID, line)
		if err != nil {
			return err
		}
		ev.Hash = whole.Hash
		visit(ev)
	}
	return rows.Err()
}

// LastEvents returns the last event in span, which must be short, of each storage with
// events there.
func LastEvents(ctx context.Context, tx *sql.Tx, span window.Span) (map[int64]event.ID, error) {
	var ids, storages []byte
	err := tx.QueryRowContext(ctx, `SELECT CAST(group_concat(id, char(10)) AS BLOB), CAST(group_concat(storage, char(10)) AS BLOB)
		FROM event WHERE id > ? AND id <= ?`, span.From, span.To).Scan(&ids, &storages)
	if err != nil {
		return nil, err
	}
	at, of, err := SplitPairs(ids, storages)
	last := make(map[int64]event.ID, len(of))
	for i, storage := range of {
		last[storage] = max(last[storage], event.ID(at[i]))
	}
	return last, err
}

// SplitPairs parses joined event ids and the joined numbers of their storages.
func SplitPairs(ids, storages []byte) (at, of []int64, err error) {
	at, err = parseNumbers(ids)
	of, err2 := parseNumbers(storages)
	if err := errors.Join(err, err2); err != nil {
		return nil, nil, err
	}
	if len(at) != len(of) {
		return nil, nil, ErrJoined
	}
	return at, of, nil
}

// LastStored returns the last stored event between two positions. A damaged event yields
// no mark.
func LastStored(ctx context.Context, tx *sql.Tx, after, until event.ID) (p event.Point, err error) {
	line, ok, err := pages.Last(ctx, tx, window.Span{From: after, To: until}, false)
	var damage *pages.DamageError
	if errors.As(err, &damage) {
		return event.Point{ID: min(damage.Last, until)}, nil
	}
	if err != nil || !ok {
		return p, err
	}
	p.ID = line.ID
	if ev, err := event.ParseLine(line.Text); err == nil && ev.ID == p.ID {
		p.Mark = ev.Mark()
	}
	return p, nil
}
