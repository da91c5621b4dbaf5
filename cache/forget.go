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

// A HeldAsError means that a topic cannot be forgotten alone: it is held as part of a
// wider one.
type HeldAsError struct{ Topic, As event.Topic }

func (e *HeldAsError) Error() string {
	return fmt.Sprintf("%s is held as part of %s and can only be forgotten together with it", e.Topic, e.As)
}

// ErrInUse means that a process is filling a window to be forgotten.
var ErrInUse = errors.New("is being filled")

// Forget drops the held events of topic and its parts up to position before, and returns
// how many events it removed. Up to event.MaxID it also stops following them. Events in a
// window of an overlapping topic stay. Imported events are dropped too; the outbox stays.
// Forget returns a *HeldAsError if a wider window holds all the events, and ErrInUse
// while a process fills windows that it would cut.
func (db *DB) Forget(ctx context.Context, topic event.Topic, before event.ID) (removed int, err error) {
	if db.file.Role != Client {
		return 0, fmt.Errorf("forget %s: %w: only a copy can forget", topic, ErrRole)
	}
	span := window.Span{From: event.Beginning, To: before}
	// Cut the windows first: from then on no reader sees the events, and a kill leaves
	// only unused bytes.
	err = db.file.Update(ctx, func(tx *sql.Tx) error { return db.forgetWindows(tx, topic, span) })
	if err != nil {
		return 0, fmt.Errorf("forget %s: %w", topic, err)
	}
	for at := (loosePosition{}); !at.end; {
		var n int
		next := at
		err := db.file.Update(ctx, func(tx *sql.Tx) (err error) {
			n, next, err = removeLoose(ctx, tx, topic, span, at)
			return err
		})
		if err != nil {
			return removed, fmt.Errorf("forget %s: %w", topic, err)
		}
		removed, at = removed+n, next
	}
	if err := db.file.GiveBack(ctx); err != nil {
		return removed, fmt.Errorf("forget %s: %w", topic, err)
	}
	return removed, nil
}

// forgetWindows cuts span, which begins at Beginning, out of the windows of topic and its
// parts.
func (db *DB) forgetWindows(tx *sql.Tx, topic event.Topic, span window.Span) error {
	// An abandoned pull ends where it is. If its process wakes up, it must not continue:
	// it may have left out events because they were held.
	windows, err := db.normalizeWindows(tx, func(w *rows.Window) bool {
		return topic.Overlaps(w.Topic) && !w.Missing().Intersect(span).Empty()
	})
	if err != nil {
		return err
	}
	for i := range windows {
		w := &windows[i]
		held, coming := w.Held().Intersect(span), w.Missing().Intersect(span)
		switch {
		case w.State == window.Pending, !topic.Overlaps(w.Topic), held.Empty() && coming.Empty():
		case topic.Contains(w.Topic) && coming.Empty():
			if err := cutWindow(tx, w, span.To); err != nil {
				return err
			}
		case topic.Contains(w.Topic), w.State == window.Pulling && !coming.Empty():
			// The process that pulls more than topic may have left out events to be
			// removed, because they were held.
			return ErrInUse
		case w.Topic.Contains(topic) && !held.Empty():
			return &HeldAsError{topic, w.Topic}
		}
	}
	if span.To == event.MaxID {
		if err := unfollow(tx, topic); err != nil {
			return err
		}
	}
	err = errors.Join(dropLeaves(tx, topic, span), snapshot.Drop(tx, topic, span), snapshot.DropFetched(tx, topic, span.To), forgetImported(tx, topic, span), endDoubts(tx, topic, span))
	if err != nil {
		return err
	}
	return rows.NoteRemoval(tx)
}

// cutWindow moves the start of a window to start, or deletes it if it ends there.
func cutWindow(tx *sql.Tx, w *rows.Window, start event.ID) error {
	if w.ID == 0 { // normalizeWindows has just inserted the row, so it is found by its contents
		where := `WHERE topic = ? AND state = 'committed' AND proven = ? AND start = ? AND stop = ?`
		if err := tx.QueryRow(`SELECT id FROM window `+where, w.Topic.String(), w.Proven, w.From, w.To).Scan(&w.ID); err != nil {
			return err
		}
	}
	if w.State == window.Committed && w.To <= start {
		_, err := tx.Exec(`DELETE FROM window WHERE id = ?`, w.ID)
		return err
	}
	_, err := tx.Exec(`UPDATE window SET start = ? WHERE id = ?`, min(start, w.Held().To), w.ID)
	return err
}

func unfollow(tx *sql.Tx, topic event.Topic) error {
	names, err := texts(tx, `SELECT topic FROM followed`)
	if err != nil {
		return err
	}
	for _, name := range names {
		if t, err := event.ParseTopic(name); err != nil || !topic.Contains(t) {
			continue
		}
		if _, err := tx.Exec(`DELETE FROM followed WHERE topic = ?`, name); err != nil {
			return err
		}
	}
	return nil
}

// dropLeaves drops the kept leaves of all topics that share events with topic, in the
// blocks that span touches.
func dropLeaves(tx *sql.Tx, topic event.Topic, span window.Span) error {
	names, err := texts(tx, `SELECT DISTINCT topic FROM leaf`)
	if err != nil {
		return err
	}
	for _, name := range names {
		if t, err := event.ParseTopic(name); err == nil && !t.Overlaps(topic) {
			continue
		}
		_, err := tx.Exec(`DELETE FROM leaf WHERE topic = ? AND block BETWEEN ? AND ?`,
			name, uint64(span.From)/event.BlockSize, span.To.Block())
		if err != nil {
			return err
		}
	}
	return nil
}

// texts reads a column of texts.
func texts(tx *sql.Tx, query string) (list []string, err error) {
	rows, err := tx.Query(query)
	if err != nil {
		return nil, err
	}
	defer rows.Close()
	for rows.Next() {
		var s string
		if err := rows.Scan(&s); err != nil {
			return nil, err
		}
		list = append(list, s)
	}
	return list, rows.Err()
}

// forgetChunk is roughly how many events one transaction of Forget removes. It is a
// variable for the tests.
var forgetChunk = 5000

// A loosePosition is the progress of Forget: all blocks of the storages before from, and
// the blocks below block of the next one.
type loosePosition struct {
	from  event.Storage
	block uint64
	end   bool
}

// removeLoose removes some of the events of topic in span that no window holds now. It
// uses the postings, which a copy has for every event, and reads no event, since one may
// be damaged.
func removeLoose(ctx context.Context, tx *sql.Tx, topic event.Topic, span window.Span, at loosePosition) (n int, next loosePosition, err error) {
	windows, err := rows.LoadWindows(tx)
	if err != nil {
		return 0, at, err
	}
	storages, err := rows.StoragesFrom(ctx, tx, topic, at.from)
	if err != nil {
		return 0, at, err
	}
	next = at
	for i := range storages {
		s := &storages[i]
		held := heldOfStorage(windows, s)
		loose := func(id event.ID) bool {
			event := window.Span{From: id - 1, To: id}
			return span.Contains(event) && !held.Contains(event)
		}
		for n < forgetChunk {
			some, block, more, err := removePosted(ctx, tx, s.ID, next.block, loose)
			if err != nil {
				return 0, at, err
			}
			if n += some; !more {
				next = loosePosition{from: s.Next()}
				break
			}
			next.block = block + 1
		}
		if n >= forgetChunk {
			return n, next, rows.NoteRemoval(tx)
		}
	}
	next.end = len(storages) < rows.StorageChunk
	if n > 0 {
		err = rows.NoteRemoval(tx)
	}
	return n, next, err
}

func heldOfStorage(windows []rows.Window, s *rows.StorageRow) window.Spans {
	var spans []window.Span
	for i := range windows {
		if w := &windows[i]; w.Topic.Matches(s.User, s.Path) {
			spans = append(spans, w.Held())
		}
	}
	return window.Union(spans...)
}

// removePosted removes the gone events of a storage in its first block at or after from,
// and returns that block. more is false if there is none.
func removePosted(ctx context.Context, tx *sql.Tx, storage int64, from uint64, gone func(event.ID) bool) (n int, block uint64, more bool, err error) {
	var offsets []byte
	err = tx.QueryRowContext(ctx, `SELECT block, offsets FROM posting WHERE storage = ? AND block >= ? ORDER BY block LIMIT 1`,
		storage, from).Scan(&block, &offsets)
	if errors.Is(err, sql.ErrNoRows) {
		return 0, 0, false, nil
	}
	if err != nil {
		return 0, 0, false, err
	}
	left, lost := rows.SplitPosting(block, offsets, gone)
	for _, id := range lost {
		res, err := tx.Exec(`DELETE FROM event WHERE id = ? AND storage = ?`, id, storage)
		if err != nil {
			return 0, 0, false, err
		}
		if rows, err := res.RowsAffected(); err != nil {
			return 0, 0, false, err
		} else if rows > 0 {
			n++
		}
	}
	if len(lost) == 0 {
		return 0, block, true, nil
	}
	return n, block, true, rows.ReplacePosting(tx, rows.PostingKey{Storage: storage, Block: block}, left)
}
