package cache

import (
	"github.com/rstream-dev/rstream/cache/internal/retention"
	"github.com/rstream-dev/rstream/event"
)

// appendExpiries appends the DELs of expired values.
func (w *batchWriter) appendExpiries(old []retention.Expiry, topics []event.Topic, upTo event.ID) error {
	open := w.db.seen.LastOpen()
	for i := range old {
		x := &old[i]
		last, err := w.db.lastOf(w.tx, x.Storage, open)
		if err != nil {
			return err
		}
		if last != x.ID {
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
