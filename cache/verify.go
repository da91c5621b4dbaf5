package cache

import (
	"context"
	"database/sql"
	"errors"
	"fmt"

	"github.com/rstream-dev/rstream/cache/internal/rows"
	"github.com/rstream-dev/rstream/cache/internal/snapshot"
	"github.com/rstream-dev/rstream/event"
	"github.com/rstream-dev/rstream/window"
)

// CheckedLeaves returns the leaves of topic in span, computed by reading every event and
// hashing its contents. An event that is damaged, or that Read would not find, changes
// the leaf of its block; it never causes an error.
func (db *DB) CheckedLeaves(ctx context.Context, topic event.Topic, span window.Span) (leaves []window.Leaf, err error) {
	for at := span.From; at < span.To; {
		part := window.Span{From: at, To: chunkEnd(at, span.To)}
		err := db.file.View(ctx, func(tx *sql.Tx) error {
			some, err := checkedLeaves(ctx, tx, topic, part)
			leaves = append(leaves, some...)
			return err
		})
		if err != nil {
			return nil, fmt.Errorf("check %s %s: %w", topic, span, err)
		}
		at = part.To
	}
	return leaves, nil
}

func checkedLeaves(ctx context.Context, tx *sql.Tx, topic event.Topic, span window.Span) ([]window.Leaf, error) {
	posted, indexed, err := postedIn(ctx, tx, topic, span)
	if err != nil {
		return nil, err
	}
	where, args := rows.StoragesOf(topic)
	rows, err := tx.QueryContext(ctx, `SELECT e.id, e.storage, e.line, s.user, s.path FROM event e JOIN storage s ON s.id = e.storage
		WHERE e.id > ? AND e.id <= ? AND `+where+` ORDER BY e.id`, append([]any{span.From, span.To}, args...)...)
	if err != nil {
		return nil, err
	}
	defer rows.Close()
	var l window.Leafer
	for rows.Next() {
		var id event.ID
		var storage int64
		var line []byte
		var user, path string
		if err := rows.Scan(&id, &storage, &line, &user, &path); err != nil {
			return nil, err
		}
		ev, err := event.ParseLine(line)
		found := id > indexed || posted[id] == storage
		if err != nil || ev.ID != id || ev.User != user || ev.Path != path || !found {
			ev = event.Event{} // no event has the zero hash
		}
		l.Add(id, ev.Time, ev.Hash)
	}
	return l.Leaves(), rows.Err()
}

// postedIn returns the storages of the events that the postings of topic name in the
// blocks of span, and the position up to which there should be postings.
func postedIn(ctx context.Context, tx *sql.Tx, topic event.Topic, span window.Span) (posted map[event.ID]int64, indexed event.ID, err error) {
	if err := tx.QueryRowContext(ctx, `SELECT indexed FROM log`).Scan(&indexed); err != nil {
		return nil, 0, err
	}
	posted = map[event.ID]int64{}
	err = rows.EachStoragePosting(ctx, tx, topic, span, func(key rows.PostingKey, offsets []byte) error {
		rows.EachPosition(int64(key.Block), offsets, func(id event.ID) { posted[id] = key.Storage })
		return nil
	})
	return posted, indexed, err
}

// Replace replaces the stored events of topic in span with evs, which must be all that
// the log has there. It changes nothing outside of span or of other topics.
func (db *DB) Replace(ctx context.Context, topic event.Topic, span window.Span, evs []event.Event) error {
	err := db.checkAgain(topic, span, evs)
	if err != nil {
		return fmt.Errorf("replace %s %s: %w", topic, span, err)
	}
	err = db.file.Update(ctx, func(tx *sql.Tx) error {
		if err := db.removeAll(ctx, tx, topic, span, evs); err != nil {
			return err
		}
		if _, err := db.insertEvents(tx, evs); err != nil {
			return err
		}
		return errors.Join(dropLeaves(tx, topic, span), snapshot.Drop(tx, topic, span))
	})
	if err != nil {
		return fmt.Errorf("replace %s %s: %w", topic, span, err)
	}
	return nil
}

// checkAgain returns an error unless db is a copy and evs are events of topic in span,
// sorted.
func (db *DB) checkAgain(topic event.Topic, span window.Span, evs []event.Event) error {
	if db.file.Role != Client {
		return fmt.Errorf("%w: it is the log itself", ErrRole)
	}
	at := span.From
	for i := range evs {
		ev := &evs[i]
		if ev.ID <= at || ev.ID > span.To || !topic.Matches(ev.User, ev.Path) {
			return fmt.Errorf("event %s does not belong there", ev.ID)
		}
		at = ev.ID
	}
	return nil
}

// removeAll removes the stored events of topic in span, and events stored in the place of
// evs. It moves misplaced events of other topics to their own places.
func (db *DB) removeAll(ctx context.Context, tx *sql.Tx, topic event.Topic, span window.Span, evs []event.Event) error {
	lost := map[rows.PostingKey][]byte{}
	err := rows.EachStoragePosting(ctx, tx, topic, span, func(key rows.PostingKey, offsets []byte) error {
		left, gone := rows.SplitPosting(key.Block, offsets, func(id event.ID) bool { return id > span.From && id <= span.To })
		if len(gone) > 0 {
			lost[key] = left
		}
		return nil
	})
	if err != nil {
		return err
	}
	for key, left := range lost {
		if err := rows.ReplacePosting(tx, key, left); err != nil {
			return err
		}
	}
	strays, err := straysIn(ctx, tx, topic, span)
	if err != nil {
		return err
	}
	where, args := rows.StoragesOf(topic)
	_, err = tx.Exec(`DELETE FROM event WHERE id > ? AND id <= ? AND storage IN (SELECT s.id FROM storage s WHERE `+where+`)`,
		append([]any{span.From, span.To}, args...)...)
	if err != nil {
		return err
	}
	if err := db.putBack(tx, strays); err != nil {
		return err
	}
	for i := range evs { // remove events stored under a wrong storage
		if _, err := tx.Exec(`DELETE FROM event WHERE id = ?`, evs[i].ID); err != nil {
			return err
		}
	}
	return rows.NoteRemoval(tx)
}

// straysIn returns the intact events of other topics that are stored under the storages
// of topic.
func straysIn(ctx context.Context, tx *sql.Tx, topic event.Topic, span window.Span) (strays []event.Event, err error) {
	where, args := rows.StoragesOf(topic)
	rows, err := tx.QueryContext(ctx, `SELECT id, line FROM event WHERE id > ? AND id <= ?
		AND storage IN (SELECT s.id FROM storage s WHERE `+where+`)`, append([]any{span.From, span.To}, args...)...)
	if err != nil {
		return nil, err
	}
	defer rows.Close()
	for rows.Next() {
		var id event.ID
		var line []byte
		if err := rows.Scan(&id, &line); err != nil {
			return nil, err
		}
		if ev, err := event.ParseLine(line); err == nil && ev.ID == id && !topic.Matches(ev.User, ev.Path) {
			strays = append(strays, ev)
		}
	}
	return strays, rows.Err()
}

// putBack stores strays under their own storages, with one posting each.
func (db *DB) putBack(tx *sql.Tx, strays []event.Event) error {
	for i := range strays {
		ev := &strays[i]
		storage, err := db.tables.StorageID(tx, ev.User, ev.Path)
		if err != nil {
			return err
		}
		key := rows.PostingKey{Storage: storage, Block: ev.ID.Block()}
		var offsets []byte
		err = tx.QueryRow(`SELECT offsets FROM posting WHERE storage = ? AND block = ?`, key.Storage, int64(key.Block)).Scan(&offsets)
		if errors.Is(err, sql.ErrNoRows) {
			continue
		}
		if err != nil {
			return err
		}
		if left, gone := rows.SplitPosting(key.Block, offsets, func(id event.ID) bool { return id == ev.ID }); len(gone) > 0 {
			if err := rows.ReplacePosting(tx, key, left); err != nil {
				return err
			}
		}
	}
	_, err := db.insertEvents(tx, strays)
	return err
}

// Check has SQLite check the structure of the whole file.
func (db *DB) Check(ctx context.Context) error {
	if err := db.file.QuickCheck(ctx); err != nil {
		return fmt.Errorf("check %s: %w", db.file.Path, err)
	}
	return nil
}
