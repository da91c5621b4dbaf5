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

// AddForeign stores imported events of other logs, each accepted by event.ParseLine, all
// or none. They are identified by their hashes: this log may have taken the same events,
// with other ids and times, and then their values need not be fetched. AddForeign returns
// how many are new.
func (im Imports) AddForeign(ctx context.Context, evs []event.Event) (added int, err error) {
	if err := im.db.takesImports(); err != nil {
		return 0, err
	}
	err = im.db.file.Update(ctx, func(tx *sql.Tx) error {
		insert, err := tx.Prepare(`INSERT INTO foreign_event (hash, storage, line) VALUES (?, ?, ?) ON CONFLICT DO NOTHING`)
		if err != nil {
			return err
		}
		defer insert.Close()
		added = 0
		for i := range evs {
			ev := &evs[i]
			storage, err := im.db.tables.StorageID(tx, ev.User, ev.Path)
			if err != nil {
				return err
			}
			n, err := affected(insert.Exec(ev.Hash[:], storage, string(ev.Line())))
			if err != nil {
				return err
			}
			added += n
		}
		return nil
	})
	return added, dbfile.Wrap(err, "import")
}

// ForeignHashes calls fn with the hashes of the foreign events of topic, sorted as bytes.
// It reads them in chunks: no transaction is open while fn runs.
func (im Imports) ForeignHashes(ctx context.Context, topic event.Topic, fn func(event.Hash) error) error {
	after := []byte{} // sorts before every hash
	for more := true; more; {
		var hashes []event.Hash
		err := im.db.file.View(ctx, func(tx *sql.Tx) (err error) {
			hashes, err = foreignAfter(ctx, tx, topic, after)
			return err
		})
		if err != nil {
			return dbfile.Wrap(err, "read the foreign events of %s", topic)
		}
		for _, h := range hashes {
			if err := fn(h); err != nil {
				return err
			}
			after = h[:]
		}
		more = len(hashes) == importChunk
	}
	return nil
}

func foreignAfter(ctx context.Context, tx *sql.Tx, topic event.Topic, after []byte) (hashes []event.Hash, err error) {
	where, args := importedOf(topic)
	rows, err := tx.QueryContext(ctx, `SELECT hash FROM foreign_event WHERE hash > ? AND `+where+` ORDER BY hash LIMIT ?`,
		append(append([]any{after}, args...), importChunk)...)
	if err != nil {
		return nil, err
	}
	defer rows.Close()
	for rows.Next() {
		var b []byte
		var h event.Hash
		if err := rows.Scan(&b); err != nil {
			return nil, err
		}
		if copy(h[:], b) != len(h) {
			return nil, fmt.Errorf("%w: hash %x of a foreign event", ErrCorrupt, b)
		}
		if bytes.Compare(b, after) <= 0 {
			return nil, dbfile.OutOfOrder("foreign_event")
		}
		after = b
		hashes = append(hashes, h)
	}
	return hashes, rows.Err()
}

// Foreign calls fn with the foreign events that have the given hashes, in that order,
// with the ids and times of the other log. Hashes without an event are skipped. No
// transaction is open while fn runs.
func (im Imports) Foreign(ctx context.Context, hashes []event.Hash, fn func(*event.Event) error) error {
	for len(hashes) > 0 {
		var evs []event.Event
		err := im.db.file.View(ctx, func(tx *sql.Tx) (err error) {
			evs, hashes, err = foreignOf(ctx, tx, hashes)
			return err
		})
		if err != nil {
			return dbfile.Wrap(err, "read foreign events")
		}
		for i := range evs {
			if err := fn(&evs[i]); err != nil {
				return err
			}
		}
	}
	return nil
}

// foreignOf returns the foreign events of the first hashes, up to the limits of one
// transaction, and the remaining hashes.
func foreignOf(ctx context.Context, tx *sql.Tx, hashes []event.Hash) (evs []event.Event, left []event.Hash, err error) {
	stmt, err := tx.PrepareContext(ctx, `SELECT line FROM foreign_event WHERE hash = ?`)
	if err != nil {
		return nil, nil, err
	}
	defer stmt.Close()
	looked := 0
	for bytes := 0; looked < min(len(hashes), importChunk) && bytes < maxReadBytes; looked++ {
		h := hashes[looked]
		var line []byte
		err := stmt.QueryRowContext(ctx, h[:]).Scan(&line)
		if errors.Is(err, sql.ErrNoRows) {
			continue
		}
		if err != nil {
			return nil, nil, err
		}
		ev, err := event.Stored(line)
		if err == nil && ev.Hash != h {
			err = fmt.Errorf("event %s is stored as %s", ev.Hash, h)
		}
		if err != nil {
			return nil, nil, fmt.Errorf("%w: %w", ErrCorrupt, err)
		}
		evs, bytes = append(evs, ev), bytes+len(line)
	}
	return evs, hashes[looked:], nil
}
