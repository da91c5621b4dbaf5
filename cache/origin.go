package cache

import (
	"context"
	"database/sql"
	"encoding/binary"
	"errors"
	"fmt"
	"slices"

	"github.com/rstream-dev/rstream/cache/internal/dbfile"
	"github.com/rstream-dev/rstream/event"
)

// originRow bounds the events of one row of origins: to find one of them, a row is read.
const originRow = 256

// appendMoved appends the drafts of a source, and notes where they come from.
func (w *batchWriter) appendMoved(r *appendRequest) error {
	var open map[int64]event.ID
	var run originRun
	for i := range r.drafts {
		if r.move.If != nil && r.move.If[i] != event.Beginning {
			if open == nil {
				open = w.db.seen.LastOpen()
			}
			storage, err := w.db.tables.StorageID(w.tx, r.drafts[i].User, r.drafts[i].Path)
			if err != nil {
				return err
			}
			last, err := w.db.lastOf(w.tx, storage, open)
			if err != nil {
				return err
			}
			if last != r.move.If[i] {
				continue
			}
		}
		if err := w.appendDraft(&r.receipts[i], &r.drafts[i], &r.hashes[i]); err != nil {
			return err
		}
		if r.receipts[i].Duplicate || r.move.Foreign == nil {
			continue
		}
		run.add(r.receipts[i].ID, r.move.Foreign[i])
		if run.n == originRow {
			if err := w.writeOrigins(r.move, &run); err != nil {
				return err
			}
		}
	}
	return w.writeOrigins(r.move, &run)
}

// lastOf returns the last event of a storage, given those that have no postings yet, in a
// transaction of File.Begin.
func (db *DB) lastOf(tx *sql.Tx, storage int64, open map[int64]event.ID) (event.ID, error) {
	if last, ok := open[storage]; ok {
		return last, nil
	}
	return db.tables.Pages.LastPostedOf(tx, storage)
}

// An originRun collects the foreign ids of events whose ids follow each other.
type originRun struct {
	last    event.ID
	n       int
	before  string // the foreign id of the last event
	foreign []byte
}

func (run *originRun) add(id event.ID, foreign string) {
	shared := 0
	for shared < len(run.before) && shared < len(foreign) && run.before[shared] == foreign[shared] {
		shared++
	}
	run.foreign = binary.AppendUvarint(run.foreign, uint64(shared))
	run.foreign = binary.AppendUvarint(run.foreign, uint64(len(foreign)-shared))
	run.foreign = append(run.foreign, foreign[shared:]...)
	run.last, run.before = id, foreign
	run.n++
}

// writeOrigins writes a run, and empties it.
func (w *batchWriter) writeOrigins(m *SourceMove, run *originRun) error {
	if run.n == 0 {
		return nil
	}
	last, first := int64(run.last), int64(run.last)-int64(run.n)+1
	_, err := w.db.file.Exec(w.tx, `INSERT INTO source1_origin (last, first, name, log, theirs, sum) VALUES (?, ?, ?, ?, ?, ?)`,
		last, first, m.Name, m.Log, run.foreign, dbfile.RowSum(last, first, m.Name, m.Log, run.foreign))
	*run = originRun{foreign: run.foreign[:0]}
	return err
}

// Origins returns where the log has some events from, in the order of ids: the zero Origin
// for an event that was appended here, and for an id that is none.
func (db *DB) Origins(ctx context.Context, ids []event.ID) ([]event.Origin, error) {
	origins := make([]event.Origin, len(ids))
	err := db.viewSources(ctx, "source1_origin", func(tx *sql.Tx) error {
		var row originRows
		for i, id := range ids {
			if id < row.first || id > row.last {
				if err := row.read(tx, id); err != nil {
					return err
				}
			}
			if id >= row.first && id <= row.last {
				origins[i] = event.Origin{Source: row.name, Log: row.log, ID: row.foreign[id-row.first]}
			}
		}
		return nil
	})
	return origins, err
}

// LastFrom returns the last events before an id that came from a source, at most n, and where
// they are from, in the order of ids.
func (db *DB) LastFrom(ctx context.Context, name string, before event.ID, n int) (ids []event.ID, origins []event.Origin, err error) {
	err = db.viewSources(ctx, "source1_origin", func(tx *sql.Tx) error {
		var row originRows
		for at := before - 1; at > event.Beginning && len(ids) < n; at = row.first - 1 {
			if err := row.readBefore(tx, name, at); err != nil || row.last == event.Beginning {
				return err
			}
			for id := min(row.last, at); id >= row.first && len(ids) < n; id-- {
				ids = append(ids, id)
				origins = append(origins, event.Origin{Source: name, Log: row.log, ID: row.foreign[id-row.first]})
			}
		}
		return nil
	})
	slices.Reverse(ids)
	slices.Reverse(origins)
	return ids, origins, err
}

// An originRows is the row of origins that was read last.
type originRows struct {
	first, last event.ID
	name, log   string
	foreign     []string
}

// read reads the row that may have the origin of an event.
func (row *originRows) read(tx *sql.Tx, id event.ID) error {
	return row.scan(tx.QueryRow(`SELECT last, first, name, log, theirs, sum FROM source1_origin WHERE last >= ? ORDER BY last LIMIT 1`, int64(id)))
}

// readBefore reads the last row of a source that begins at or before an event.
func (row *originRows) readBefore(tx *sql.Tx, name string, id event.ID) error {
	return row.scan(tx.QueryRow(`SELECT last, first, name, log, theirs, sum FROM source1_origin WHERE name = ? AND first <= ? ORDER BY last DESC LIMIT 1`, name, int64(id)))
}

// scan reads a row. If there is none, last is Beginning.
func (row *originRows) scan(found *sql.Row) error {
	var first, last, sum int64
	var foreign []byte
	err := found.Scan(&last, &first, &row.name, &row.log, &foreign, &sum)
	row.first, row.last = event.ID(first), event.ID(last)
	switch {
	case errors.Is(err, sql.ErrNoRows):
		row.first, row.last = event.MaxID, event.Beginning
		return nil
	case err != nil:
		return err
	case sum != dbfile.RowSum(last, first, row.name, row.log, foreign):
		return fmt.Errorf("origins up to event %s: their row %w", row.last, ErrCorrupt)
	}
	if row.foreign = parseForeign(row.foreign[:0], foreign); len(row.foreign) != int(last-first)+1 {
		return fmt.Errorf("origins up to event %s: their row %w", row.last, ErrCorrupt)
	}
	return nil
}

// parseForeign appends the foreign ids that originRun has encoded.
func parseForeign(ids []string, b []byte) []string {
	before := ""
	for len(b) > 0 {
		shared, n := binary.Uvarint(b)
		if n <= 0 || shared > uint64(len(before)) {
			return nil
		}
		b = b[n:]
		size, n := binary.Uvarint(b)
		if n <= 0 || size > uint64(len(b)-n) {
			return nil
		}
		before = before[:shared] + string(b[n:n+int(size)])
		b = b[n+int(size):]
		ids = append(ids, before)
	}
	return ids
}
