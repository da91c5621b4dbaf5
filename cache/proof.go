package cache

import (
	"context"
	"database/sql"
	"fmt"

	"github.com/rstream-dev/rstream/cache/internal/rows"
	"github.com/rstream-dev/rstream/event"
	"github.com/rstream-dev/rstream/window"
)

// Removals returns how many times stored events were removed from the file.
func (db *DB) Removals(ctx context.Context) (n int64, err error) {
	err = db.file.ViewRow(ctx, `SELECT removals FROM log`, nil, &n)
	return n, err
}

// Prove records that the stored events of topic in span are all that the log has there:
// their digest has agreed. before is the result of Removals before the digest was
// computed; if events were removed since, Prove returns ErrLost. mark is the mark of the
// end of span, zero if it is unknown.
func (db *DB) Prove(ctx context.Context, topic event.Topic, span window.Span, before int64, mark event.Mark) error {
	err := db.file.Update(ctx, func(tx *sql.Tx) error {
		switch now, err := rows.LoadRemovals(tx); {
		case err != nil:
			return err
		case now != before:
			return ErrLost
		}
		if err := db.tables.NoteMark(tx, event.Point{ID: span.To, Mark: mark}); err != nil {
			return err
		}
		windows, err := rows.LoadWindows(tx)
		if err != nil {
			return err
		}
		if span.Empty() || isProven(windows, topic, span) {
			return nil
		}
		return db.noteProof(tx, topic, span)
	})
	if err != nil {
		return fmt.Errorf("note that %s %s is proven: %w", topic, span, err)
	}
	return nil
}

// noteProof inserts a proven window and ends the doubts about it. Remaining candidates in
// it are not in this log.
func (db *DB) noteProof(tx *sql.Tx, topic event.Topic, span window.Span) error {
	_, err := tx.Exec(`INSERT INTO window (topic, state, start, reached, stop, proven) VALUES (?, 'committed', ?, ?, ?, 1)`,
		topic.String(), span.From, span.To, span.To)
	if err != nil {
		return err
	}
	if err := endDoubts(tx, topic, span); err != nil {
		return err
	}
	where, args := importedOf(topic)
	if _, err := tx.Exec(`DELETE FROM candidate WHERE id > ? AND id <= ? AND `+where, append([]any{span.From, span.To}, args...)...); err != nil {
		return err
	}
	_, err = db.normalizeWindows(tx, nil)
	return err
}

// isProven reports whether a proven window contains topic in span already.
func isProven(windows []rows.Window, topic event.Topic, span window.Span) bool {
	for i := range windows {
		w := &windows[i]
		if w.Proven && w.Topic.Contains(topic) && w.Held().Contains(span) {
			return true
		}
	}
	return false
}
