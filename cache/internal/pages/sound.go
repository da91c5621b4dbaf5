package pages

import (
	"bytes"
	"context"
	"database/sql"
	"errors"

	"github.com/rstream-dev/rstream/event"
)

// EachSound calls fn with those events of a damaged page whose lines have the right hash,
// and the numbers of their storages, 0 if the index is damaged. Their times may be wrong,
// since a hash does not cover the time.
func EachSound(ctx context.Context, tx *sql.Tx, key int64, fn func(ev *event.Event, storage int64)) error {
	var p page
	var first, last event.ID
	var count int64
	err := tx.QueryRowContext(ctx, `SELECT `+pageColumns+` FROM page WHERE key = ?`, key).
		Scan(&p.key, &first, &last, &count, &p.index, &p.lines)
	if errors.Is(err, sql.ErrNoRows) {
		return nil
	}
	if err != nil {
		return err
	}
	if p.decodeEntries(first, last, count, p.index, len(p.lines)) != nil {
		for line := range bytes.SplitSeq(p.lines, newline) {
			if ev, err := event.ParseLine(bytes.Trim(line, " ")); err == nil {
				fn(&ev, 0)
			}
		}
		return nil
	}
	for i := range p.entries {
		e := &p.entries[i]
		if e.dead {
			continue
		}
		if ev, err := event.ParseLine(p.line(e)); err == nil && ev.ID == e.id {
			fn(&ev, e.storage)
		}
	}
	return nil
}
