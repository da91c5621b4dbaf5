package cache

import (
	"context"
	"database/sql"
	"errors"
	"fmt"
	"slices"

	"github.com/rstream-dev/rstream/cache/internal/dbfile"
	"github.com/rstream-dev/rstream/cache/internal/pages"
	"github.com/rstream-dev/rstream/cache/internal/rows"
	"github.com/rstream-dev/rstream/cache/internal/snapshot"
	"github.com/rstream-dev/rstream/event"
	"github.com/rstream-dev/rstream/window"
)

// A Doubt is a held span of a topic that differs from the server: a comparison has shown
// it, and none has agreed since.
type Doubt struct {
	Topic event.Topic
	Span  window.Span
}

// Doubt compares the stored events of topic in span, which lies in one block, with the
// server's digest. If they differ, span becomes doubted and is no longer proven. It is
// all one transaction, so a concurrent repair is not overlooked.
func (db *DB) Doubt(ctx context.Context, topic event.Topic, span window.Span, theirs window.Digest) (differs bool, err error) {
	err = db.file.Update(ctx, func(tx *sql.Tx) error {
		leaves, err := checkedLeaves(ctx, tx, topic, span)
		if err != nil {
			return err
		}
		ours, _ := window.DigestOf(leaves)
		if differs = ours != theirs; !differs {
			return dropLeaves(tx, topic, span) // the kept leaves of it may be wrong
		}
		return db.doubtHeld(tx, topic, span)
	})
	return differs, dbfile.Wrap(err, "note that %s %s differs from the server", topic, span)
}

// doubtHeld puts in doubt the held events of topic in span.
func (db *DB) doubtHeld(tx *sql.Tx, topic event.Topic, span window.Span) error {
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
	// No state may start with a snapshot sealed over it, or being sealed.
	return errors.Join(snapshot.Drop(tx, topic, span), rows.NoteRemoval(tx))
}

// unprove marks the windows that share events with topic in span as not proven.
func (db *DB) unprove(tx *sql.Tx, windows []rows.Window, topic event.Topic, span window.Span) error {
	for i := range windows {
		w := &windows[i]
		if !w.Proven || !w.Topic.Overlaps(topic) || w.Held().Intersect(span).Empty() {
			continue
		}
		if _, err := tx.Exec(unproveWindow, w.ID); err != nil {
			return err
		}
	}
	_, err := db.normalizeWindows(tx, nil)
	return err
}

var unproveWindow = dbfile.WindowTable.Update("proven", "0") + ` AND id = ?1`

// Doubts returns all doubts, sorted by topic and position.
func (db *DB) Doubts(ctx context.Context) (list []Doubt, err error) {
	err = db.file.View(ctx, func(tx *sql.Tx) error {
		list, err = loadDoubts(tx)
		return err
	})
	return list, dbfile.Wrap(err, "read the doubts")
}

// Doubted returns the doubted spans of topics. A doubt about a topic extends to all
// topics that share events with it, except where they are proven.
func (db *DB) Doubted(ctx context.Context, topics ...event.Topic) (doubted window.Spans, err error) {
	err = db.file.View(ctx, func(tx *sql.Tx) error {
		doubted, err = doubtedIn(tx, topics)
		return err
	})
	return doubted, dbfile.Wrap(err, "read the doubts about %s", topicLines(topics))
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

// loadDoubts reads all doubts. A damaged one may be about anything.
func loadDoubts(tx *sql.Tx) (list []Doubt, err error) {
	rows, err := tx.Query(`SELECT iif(sound, topic, '*'), iif(sound, start, 0), iif(sound, stop, ?) FROM
		(SELECT topic, start, stop, `+dbfile.DoubtTable.Sound()+` AS sound FROM doubt) ORDER BY 1, 2`, event.MaxID)
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

// doubtsOf returns the spans doubted of topic itself.
func doubtsOf(list []Doubt, topic event.Topic) (spans window.Spans) {
	for _, d := range list {
		if d.Topic == topic {
			spans = append(spans, d.Span)
		}
	}
	return spans
}

func writeDoubts(tx *sql.Tx, topic event.Topic, spans window.Spans) error {
	if _, err := tx.Exec(`DELETE FROM doubt WHERE topic = ?1 OR ?1 = '*' AND NOT `+dbfile.DoubtTable.Sound(), topic.String()); err != nil {
		return err
	}
	for _, span := range spans {
		if _, err := tx.Exec(insertDoubt, topic.String(), span.From, span.To); err != nil {
			return err
		}
	}
	return nil
}

var insertDoubt = dbfile.DoubtTable.Insert()

// endDoubts removes the doubts about topic and its parts in span, which is proven or no
// longer held.
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

// Merge adds events to the stored ones of topic in span, which is held. evs are all
// events of the log there, fetched again. Merge removes nothing and returns the events
// that are new.
func (db *DB) Merge(ctx context.Context, topic event.Topic, span window.Span, evs []event.Event) (added []event.Event, err error) {
	if err := db.checkAgain(topic, span, evs); err != nil {
		return nil, fmt.Errorf("merge %s %s: %w", topic, span, err)
	}
	err = db.file.Update(ctx, func(tx *sql.Tx) (err error) {
		if added, err = db.insertEvents(tx, evs); err != nil || len(added) == 0 {
			return err
		}
		if err := checkTwins(ctx, tx, span); err != nil {
			return err
		}
		if err := dropLeaves(tx, topic, span); err != nil {
			return err
		}
		if err := snapshot.Drop(tx, topic, span); err != nil {
			return err
		}
		// Readers of the stored events must read them again, as after a removal.
		return rows.NoteRemoval(tx)
	})
	return added, dbfile.Wrap(err, "merge %s %s", topic, span)
}

// checkTwins returns a *ConflictError if an event is stored twice in span, for different
// storages. It does not look for other damage.
func checkTwins(ctx context.Context, tx *sql.Tx, span window.Span) error {
	q := pages.Query{Span: span, MaxText: -1, Skip: func(damage *pages.DamageError) error {
		if damage.Twin {
			return &ConflictError{ID: damage.ID}
		}
		return nil
	}}
	return pages.Scan(ctx, tx, q, func(pages.Line) error { return nil })
}
