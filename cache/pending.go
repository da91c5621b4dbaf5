package cache

import (
	"context"
	"database/sql"
	"fmt"

	"github.com/rstream-dev/rstream/event"
	"github.com/rstream-dev/rstream/window"
)

// Pend makes a pending window of topic, of which only a moment is known, and
// returns what ends it once its bounds are. Ending it twice is fine.
func (db *DB) Pend(ctx context.Context, topic event.Topic, moment event.Moment) (end func(context.Context) error, err error) {
	if db.role != Client {
		return nil, fmt.Errorf("pend %s at %s: %w: it is the log itself", topic, moment, ErrRole)
	}
	var id int64
	err = db.update(ctx, func(tx *sql.Tx) error {
		// What a process that is gone had pending is of no use to anyone.
		windows, err := loadWindows(tx)
		if err != nil {
			return err
		}
		for i := range windows {
			if w := &windows[i]; w.State == window.Pending && db.stale(w) {
				if _, err := tx.Exec(`DELETE FROM window WHERE id = ?`, w.id); err != nil {
					return err
				}
			}
		}
		return tx.QueryRow(`INSERT INTO window (topic, state, start, reached, stop, moment, owner, lease)
			VALUES (?, 'pending', 0, 0, 0, ?, ?, ?) RETURNING id`,
			topic.String(), moment.String(), db.owner, db.leaseEnd()).Scan(&id)
	})
	if err != nil {
		return nil, fmt.Errorf("pend %s at %s: %w", topic, moment, err)
	}
	return func(ctx context.Context) error {
		return db.update(ctx, func(tx *sql.Tx) error {
			_, err := tx.Exec(`DELETE FROM window WHERE id = ?`, id)
			return err
		})
	}, nil
}
