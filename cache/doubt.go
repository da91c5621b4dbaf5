package cache

import (
	"context"
	"database/sql"
	"errors"
	"fmt"
	"slices"

	"github.com/rstream-dev/rstream/cache/internal/dbfile"
	"github.com/rstream-dev/rstream/cache/internal/rows"
	"github.com/rstream-dev/rstream/cache/internal/snapshot"
	"github.com/rstream-dev/rstream/event"
	"github.com/rstream-dev/rstream/window"
)

// A Doubt is a stretch of a topic that is held but differs from the server: a comparison
// has found it, and none has agreed since.
type Doubt struct {
	Topic event.Topic
	Span  window.Span
}

// Doubt compares what is stored of topic in span, which lies in one block, with the digest
// of the server. If they differ, what is held of span is in doubt and no longer proven. All
// of that is one transaction, so a repair in the meantime is not overlooked.
func (db *DB) Doubt(ctx context.Context, topic event.Topic, span window.Span, theirs window.Digest) (differs bool, err error) {
	err = db.file.Update(ctx, func(tx *sql.Tx) error {
		leaves, err := checkedLeaves(ctx, tx, topic, span)
		if err != nil {
			return err
		}
		ours, _ := window.DigestOf(leaves)
		if differs = ours != theirs; !differs {
			return dropLeaves(tx, topic, span) // what was kept of it may be wrong
		}
		windows, err := rows.LoadWindows(tx)
		if err != nil {
			return err
		}
		doubts, err := loadDoubts(tx)
		if err != nil {
			return err
		}
		held := rows.WindowSet(windows).Held(topic).Intersect(window.Spans{span})
		if err := writeDoubts(tx, topic, window.Union(slices.Concat(doubtsOf(doubts, topic), held)...)); err != nil {
			return err
		}
		if err := db.unprove(tx, windows, topic, span); err != nil {
			return err
		}
		// No state may be begun with one that was sealed over it, or is being sealed.
		return errors.Join(snapshot.Drop(tx, topic, span), rows.NoteRemoval(tx))
	})
	return differs, dbfile.Wrap(err, "note that %s %s differs from the server", topic, span)
}

// unprove takes the proof from windows that have events in common with topic in span.
func (db *DB) unprove(tx *sql.Tx, windows []rows.Window, topic event.Topic, span window.Span) error {
	for i := range windows {
		w := &windows[i]
		if !w.Proven || !w.Topic.Overlaps(topic) || w.Held().Intersect(span).Empty() {
			continue
		}
		if _, err := tx.Exec(`UPDATE window SET proven = 0 WHERE id = ?`, w.ID); err != nil {
			return err
		}
	}
	_, err := db.tidy(tx, nil)
	return err
}

// Doubts returns what is in doubt, in the order of topics and positions.
func (db *DB) Doubts(ctx context.Context) (list []Doubt, err error) {
	err = db.file.View(ctx, func(tx *sql.Tx) error {
		list, err = loadDoubts(tx)
		return err
	})
	return list, dbfile.Wrap(err, "read what is in doubt")
}

// Doubted returns where what is held of topics is in doubt. A doubt about a topic concerns
// all topics that have events in common with it, but not where these are proven.
func (db *DB) Doubted(ctx context.Context, topics ...event.Topic) (doubted window.Spans, err error) {
	err = db.file.View(ctx, func(tx *sql.Tx) error {
		doubted, err = doubtedIn(tx, topics)
		return err
	})
	return doubted, dbfile.Wrap(err, "read what is in doubt of %s", topicLines(topics))
}

func doubtedIn(tx *sql.Tx, topics []event.Topic) (window.Spans, error) {
	doubts, err := loadDoubts(tx)
	if err != nil || len(doubts) == 0 {
		return nil, err
	}
	windows, err := rows.LoadWindows(tx)
	if err != nil {
		return nil, err
	}
	set := rows.WindowSet(windows)
	var spans []window.Span
	for _, t := range topics {
		proven := set.Proven(t)
		for _, d := range doubts {
			if d.Topic.Overlaps(t) {
				spans = append(spans, proven.Gaps(d.Span)...)
			}
		}
	}
	return window.Union(spans...).Intersect(set.Held(topics...)), nil
}

func loadDoubts(tx *sql.Tx) (list []Doubt, err error) {
	rows, err := tx.Query(`SELECT topic, start, stop FROM doubt ORDER BY topic, start`)
	if err != nil {
		return nil, err
	}
	defer rows.Close()
	for rows.Next() {
		var topic string
		var d Doubt
		if err := rows.Scan(&topic, &d.Span.From, &d.Span.To); err != nil {
			return nil, err
		}
		if d.Topic, err = event.ParseTopic(topic); err != nil {
			return nil, fmt.Errorf("%w: a doubt: %w", ErrCorrupt, err)
		}
		list = append(list, d)
	}
	return list, rows.Err()
}

// doubtsOf returns the stretches of topic itself.
func doubtsOf(list []Doubt, topic event.Topic) (spans window.Spans) {
	for _, d := range list {
		if d.Topic == topic {
			spans = append(spans, d.Span)
		}
	}
	return spans
}

func writeDoubts(tx *sql.Tx, topic event.Topic, spans window.Spans) error {
	if _, err := tx.Exec(`DELETE FROM doubt WHERE topic = ?`, topic.String()); err != nil {
		return err
	}
	for _, span := range spans {
		if _, err := tx.Exec(`INSERT INTO doubt (topic, start, stop) VALUES (?, ?, ?)`, topic.String(), span.From, span.To); err != nil {
			return err
		}
	}
	return nil
}

// endDoubts removes doubts about topic and its parts in span: it is proven, or not held
// any more.
func endDoubts(tx *sql.Tx, topic event.Topic, span window.Span) error {
	doubts, err := loadDoubts(tx)
	if err != nil {
		return err
	}
	for i, d := range doubts {
		if !topic.Contains(d.Topic) || i > 0 && doubts[i-1].Topic == d.Topic {
			continue
		}
		var left window.Spans
		for _, s := range doubtsOf(doubts, d.Topic) {
			left = append(left, window.Spans{span}.Gaps(s)...)
		}
		if err := writeDoubts(tx, d.Topic, left); err != nil {
			return err
		}
	}
	return nil
}

// Merge stores events of topic in span, which is held, beside those that are stored there:
// all that the log has of it was fetched again. It removes nothing, and returns the events
// that are new.
func (db *DB) Merge(ctx context.Context, topic event.Topic, span window.Span, evs []event.Event) (added []event.Event, err error) {
	if err := db.checkAgain(topic, span, evs); err != nil {
		return nil, fmt.Errorf("merge %s %s: %w", topic, span, err)
	}
	err = db.file.Update(ctx, func(tx *sql.Tx) (err error) {
		if added, err = db.insertEvents(tx, evs); err != nil || len(added) == 0 {
			return err
		}
		if err := dropLeaves(tx, topic, span); err != nil {
			return err
		}
		if err := snapshot.Drop(tx, topic, span); err != nil {
			return err
		}
		// Whoever has read what is stored there must read it again, as after a removal.
		return rows.NoteRemoval(tx)
	})
	return added, dbfile.Wrap(err, "merge %s %s", topic, span)
}
