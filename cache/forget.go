package cache

import (
	"context"
	"database/sql"
	"errors"
	"fmt"

	"github.com/rstream-dev/rstream/cache/internal/dbfile"
	"github.com/rstream-dev/rstream/cache/internal/pages"
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
// how many events it removed. Up to event.MaxID it also stops following them; otherwise
// FollowedSince says from then on that they start there. Events in a
// window of an overlapping topic stay. Imported events are dropped too; the outbox stays.
// Forget returns a *HeldAsError if a wider window holds all the events, and ErrInUse
// while a process fills windows that it would cut. It returns a *NeededError if a consumer has
// not done some of the events.
func (db *DB) Forget(ctx context.Context, topic event.Topic, before event.ID) (removed int, err error) {
	if db.file.Role != Client {
		return 0, fmt.Errorf("forget %s: %w: only a copy can forget", topic, ErrRole)
	}
	span := window.Span{From: event.Beginning, To: before}
	// Cut the windows first: from then on no reader sees the events, and a kill leaves
	// only unused bytes.
	err = db.file.Update(ctx, func(tx *sql.Tx) error {
		if err := db.checkNeeded(ctx, tx, topic, before); err != nil {
			return err
		}
		return db.forgetWindows(tx, topic, span)
	})
	if err != nil {
		return 0, fmt.Errorf("forget %s: %w", topic, err)
	}
	for from, end := (event.Storage{}), false; !end; {
		var group []rows.StorageRow
		err := db.file.View(ctx, func(tx *sql.Tx) (err error) {
			group, end, err = storagesToForget(ctx, tx, topic, from)
			return err
		})
		if err != nil {
			return removed, fmt.Errorf("forget %s: %w", topic, err)
		}
		if len(group) == 0 {
			break
		}
		from = group[len(group)-1].Next()
		f := newForgetting(db, topic, span, group)
		err = f.removeAll(ctx)
		if removed += f.removed; err != nil {
			return removed, fmt.Errorf("forget %s: %w", topic, err)
		}
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
	if span.To == event.MaxID {
		err = unfollowBelow(tx, topic)
	} else {
		err = shortenFollowed(tx, topic, span.To, rows.WindowSet(windows))
	}
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
	_, err := tx.Exec(moveStart, min(start, w.Held().To), w.ID)
	return err
}

var moveStart = dbfile.WindowTable.Update("start", "?1") + ` AND id = ?2`

// unfollowBelow ends that topic and its parts are followed.
func unfollowBelow(tx *sql.Tx, topic event.Topic) error {
	return eachFollowed(tx, topic, func(t event.Topic) error {
		_, err := tx.Exec(`DELETE FROM followed WHERE topic = ?`, t.String())
		return err
	})
}

// shortenFollowed notes that topic and its parts start at a position or, if they are held only up to
// an earlier one, there. Otherwise a sync would fetch the removed events again.
func shortenFollowed(tx *sql.Tx, topic event.Topic, at event.ID, held window.Set) error {
	return eachFollowed(tx, topic, func(t event.Topic) error {
		spans := held.Held(t)
		if len(spans) == 0 {
			return nil
		}
		return startAfter(tx, t, min(at, spans[len(spans)-1].To))
	})
}

// eachFollowed calls fn with the followed ones of topic and its parts.
func eachFollowed(tx *sql.Tx, topic event.Topic, fn func(event.Topic) error) error {
	names, err := texts(tx, `SELECT topic FROM followed`)
	if err != nil {
		return err
	}
	for _, name := range names {
		t, err := event.ParseTopic(name)
		if err != nil || !topic.Contains(t) {
			continue
		}
		if err := fn(t); err != nil {
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

// maxForgetStorages bounds the storages whose events are removed together. Pages that have
// events of several such groups are written several times.
const maxForgetStorages = 1 << 16

// storagesToForget returns some storages of topic, from a name on, and whether they are the
// last ones.
func storagesToForget(ctx context.Context, tx *sql.Tx, topic event.Topic, from event.Storage) (group []rows.StorageRow, end bool, err error) {
	for len(group) < maxForgetStorages {
		some, err := rows.StoragesFrom(ctx, tx, topic, from)
		if err != nil {
			return nil, false, err
		}
		group = append(group, some...)
		if len(some) < rows.StorageChunk {
			return group, true, nil
		}
		from = some[len(some)-1].Next()
	}
	return group, false, nil
}

// forgetPages is roughly how many pages one transaction of Forget removes events from. It
// is a variable for the tests.
var forgetPages = 512

// A forgetting removes the events of some storages that no window holds any more. It goes
// through the postings, which a copy has for every event, in the order of ids, so that a
// page with events of many storages is written once.
type forgetting struct {
	db      *DB
	topic   event.Topic
	span    window.Span
	numbers []int64
	names   map[int64]event.Storage
	removed int
}

func newForgetting(db *DB, topic event.Topic, span window.Span, group []rows.StorageRow) *forgetting {
	f := &forgetting{db: db, topic: topic, span: span, names: make(map[int64]event.Storage, len(group))}
	for _, s := range group {
		f.numbers = append(f.numbers, s.ID)
		f.names[s.ID] = s.Storage
	}
	return f
}

func (f *forgetting) removeAll(ctx context.Context) error {
	end, err := f.lastPosition(ctx)
	if err != nil {
		return err
	}
	for at := f.span.From; at < f.span.To; {
		f.db.file.Report(Progress{Step: StepForget, Done: int64(min(at, end)), Total: int64(end)})
		var n int
		var next event.ID
		err := f.db.file.Update(ctx, func(tx *sql.Tx) (err error) {
			if next, err = pages.StretchEnd(ctx, tx, at, forgetPages); err != nil {
				return err
			}
			next = min(next, f.span.To)
			n, err = f.removeIn(ctx, tx, window.Span{From: at, To: next})
			return err
		})
		if err != nil {
			return err
		}
		f.removed += n
		at = next
	}
	return nil
}

// lastPosition returns the position of the last event in the span, of any topic.
func (f *forgetting) lastPosition(ctx context.Context) (end event.ID, err error) {
	err = f.db.file.ViewRow(ctx, `SELECT coalesce(max(last), 0) FROM page`, nil, &end)
	return min(end, f.span.To), err
}

// removeIn removes the loose events of a span.
func (f *forgetting) removeIn(ctx context.Context, tx *sql.Tx, span window.Span) (removed int, err error) {
	windows, err := rows.LoadWindows(tx)
	if err != nil {
		return 0, err
	}
	loose := f.looseIn(windows)
	var places []pages.Place
	var damaged []*pages.DamageError
	skip := func(damage *pages.DamageError) error { damaged = append(damaged, damage); return nil }
	err = pages.EachPosting(ctx, tx, f.numbers, span, skip, func(key pages.PostingKey, evs []pages.Posted) error {
		for i := range evs {
			if loose(f.names[key.Storage], evs[i].ID) {
				places = append(places, pages.Place{Storage: key.Storage, ID: evs[i].ID})
			}
		}
		return nil
	})
	if err != nil {
		return 0, err
	}
	removed, more, err := f.db.tables.Pages.Drop(ctx, tx, places)
	if err != nil {
		return 0, err
	}
	for _, damage := range append(damaged, more...) {
		n, err := f.removeDamaged(ctx, tx, damage, loose)
		if err != nil {
			return 0, err
		}
		removed += n
	}
	if removed > 0 {
		err = rows.NoteRemoval(tx)
	}
	return removed, err
}

// looseIn returns a function that reports whether an event is to be removed: no window holds
// it.
func (f *forgetting) looseIn(windows []rows.Window) func(s event.Storage, id event.ID) bool {
	var overlapping []*rows.Window
	for i := range windows {
		if w := &windows[i]; w.Topic.Overlaps(f.topic) && !w.Held().Intersect(f.span).Empty() {
			overlapping = append(overlapping, w)
		}
	}
	return func(s event.Storage, id event.ID) bool {
		at := spanOf(id)
		if !f.topic.Matches(s.User, s.Path) || !f.span.Contains(at) {
			return false
		}
		for _, w := range overlapping {
			if w.Topic.Matches(s.User, s.Path) && w.Held().Contains(at) {
				return false
			}
		}
		return true
	}
}

// removeDamaged rebuilds a damaged span without its loose events.
func (f *forgetting) removeDamaged(ctx context.Context, tx *sql.Tx, damage *pages.DamageError, loose func(event.Storage, event.ID) bool) (removed int, err error) {
	span := window.Span{From: damage.ID - 1, To: damage.Last}
	if damage.Page == 0 {
		span = window.BlockSpan(damage.Block)
	}
	if damage.Page != 0 && (damage.ID == event.Beginning || damage.Last < damage.ID) {
		return 0, nil // nothing tells where its events would be
	}
	lost, err := f.db.tables.Pages.Rebuild(ctx, tx, pages.Rebuilding{
		Span: span,
		Drop: func(ev *event.Event) bool {
			gone := loose(ev.Storage(), ev.ID)
			if gone {
				removed++
			}
			return gone
		},
		Number: func(ev *event.Event) (int64, error) { return f.db.tables.StorageID(tx, ev.User, ev.Path) },
	})
	if err != nil {
		return 0, err
	}
	return removed, f.db.doubtLost(ctx, tx, lost, func(user, path string, id event.ID) bool {
		return loose(event.Storage{User: user, Path: path}, id)
	})
}
