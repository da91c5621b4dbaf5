package cache

import (
	"database/sql"
	"errors"

	"github.com/rstream-dev/rstream/cache/internal/pages"
	"github.com/rstream-dev/rstream/cache/internal/retention"
	"github.com/rstream-dev/rstream/event"
)

// appendExpiries appends the DELs of expired values.
func (w *batchWriter) appendExpiries(old []retention.Expiry, topics []event.Topic, upTo event.ID) error {
	open := w.db.seen.LastOpen()
	for i := range old {
		x := &old[i]
		current, err := w.db.isCurrent(w.tx, x, open)
		if err != nil {
			return err
		}
		if !current {
			continue // it was set again, or deleted
		}
		var receipt event.Receipt
		if err := w.appendDraft(&receipt, &x.Draft, &x.Hash); err != nil {
			return err
		}
	}
	for _, t := range topics {
		if _, err := w.db.file.Exec(w.tx, `UPDATE expired SET position = ? WHERE topic = ?`, int64(upTo), t.String()); err != nil {
			return err
		}
	}
	return nil
}

// isCurrent reports whether a value is still the last event of its storage, given those that have
// no postings yet, in a transaction of File.Begin. If its posting is damaged, nobody knows, and the
// value stays: retention goes past damage, and has reported it.
func (db *DB) isCurrent(tx *sql.Tx, x *Expiry, open map[int64]event.ID) (bool, error) {
	last, err := db.lastOf(tx, x.Storage, open)
	var damage *pages.DamageError
	if errors.As(err, &damage) {
		return false, nil
	}
	return last == x.ID, err
}
