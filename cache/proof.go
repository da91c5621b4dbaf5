package cache

import (
	"context"
	"database/sql"
	"fmt"

	"github.com/rstream-dev/rstream/cache/internal/dbfile"
	"github.com/rstream-dev/rstream/cache/internal/rows"
	"github.com/rstream-dev/rstream/event"
	"github.com/rstream-dev/rstream/window"
)

// Removals returns how many times stored events were removed from the file.
func (db *DB) Removals(ctx context.Context) (n int64, err error) {
	err = db.file.ViewLog(ctx, `removals`, &n)
	return n, err
}

// Prove records that the stored events of topic in span are all that the log has there:
// their digest has agreed. before is the result of Removals before the digest was
// computed; if events were removed since, Prove returns ErrLost. mark is the mark of the
// end of span, zero if it is unknown.
func (db *DB) Prove(ctx context.Context, topic event.Topic, span window.Span, before int64, mark event.Mark) error {
	err := db.ProveAll(ctx, []Proof{{Topic: topic, Span: span, Mark: mark}}, before)
	if err != nil {
		return fmt.Errorf("note that %s %s is proven: %w", topic, span, err)
	}
	return nil
}

// A Proof is a span of a topic that Prove records, the mark of its end, and the times that the
// server reported for its ends, which are noted as NoteTimes does.
type Proof struct {
	Topic event.Topic
	Span  window.Span
	Mark  event.Mark
	Times map[event.ID]event.Time
}

// ProveAll is Prove for several topics, in one transaction.
func (db *DB) ProveAll(ctx context.Context, proofs []Proof, before int64) error {
	err := db.file.Update(ctx, func(tx *sql.Tx) error {
		normalize := false
		switch now, err := rows.LoadRemovals(tx); {
		case err != nil:
			return err
		case now != before:
			return ErrLost
		}
		windows, err := rows.LoadWindows(tx)
		if err != nil {
			return err
		}
		for i := range proofs {
			p := &proofs[i]
			if err := db.tables.NoteMark(tx, event.Point{ID: p.Span.To, Mark: p.Mark}); err != nil {
				return err
			}
			if p.Span.Empty() || isProven(windows, p.Topic, p.Span) {
				continue
			}
			if err := insertProof(tx, p.Topic, p.Span); err != nil {
				return err
			}
			normalize = true
		}
		if normalize {
			if _, err = db.normalizeWindows(tx, nil); err != nil {
				return err
			}
		}
		for i := range proofs {
			news, err := newTimes(tx, proofs[i].Times)
			if err == nil {
				err = writeTimes(tx, news)
			}
			if err != nil {
				return err
			}
		}
		return nil
	})
	return dbfile.Wrap(err, "record the proofs")
}

// noteProof inserts a proven window, as insertProof does, and normalizes the windows.
func (db *DB) noteProof(tx *sql.Tx, topic event.Topic, span window.Span) error {
	err := insertProof(tx, topic, span)
	if err == nil {
		_, err = db.normalizeWindows(tx, nil)
	}
	return err
}

// insertProof inserts a proven window and ends the doubts about it. Remaining candidates in
// it are not in this log.
func insertProof(tx *sql.Tx, topic event.Topic, span window.Span) error {
	if _, err := rows.InsertWindow(tx, committedWindow(topic, span, true)); err != nil {
		return err
	}
	if err := endDoubts(tx, topic, span); err != nil {
		return err
	}
	where, args := importedOf(topic)
	_, err := tx.Exec(`DELETE FROM candidate WHERE id > ? AND id <= ? AND `+where, append([]any{span.From, span.To}, args...)...)
	return err
}

// committedWindow returns a window that is held.
func committedWindow(topic event.Topic, span window.Span, proven bool) *rows.Window {
	return &rows.Window{Window: window.Window{Topic: topic, State: window.Committed, From: span.From, To: span.To, Reached: span.To, Proven: proven}}
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
