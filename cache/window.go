package cache

import (
	"cmp"
	"context"
	"database/sql"
	"errors"
	"fmt"
	"slices"
	"strings"

	"github.com/rstream-dev/rstream/cache/internal/dbfile"
	"github.com/rstream-dev/rstream/cache/internal/pages"
	"github.com/rstream-dev/rstream/cache/internal/rows"
	"github.com/rstream-dev/rstream/event"
	"github.com/rstream-dev/rstream/window"
)

// ErrLost means that another process has taken over a lease, of a window or a cursor.
var ErrLost = dbfile.ErrLost

// A ConflictError means that a received event differs from the held one with its id, which is
// another event or, in a proven range, none: they come from different logs, or one of them was
// tampered with.
type ConflictError struct{ ID event.ID }

func (e *ConflictError) Error() string {
	return fmt.Sprintf("event %s differs from the held one with its id", e.ID)
}

// Windows returns the windows of the file, sorted by start. It omits a pending window
// whose process is gone or too slow.
func (db *DB) Windows(ctx context.Context) (ws []window.Window, err error) {
	err = db.file.View(ctx, func(tx *sql.Tx) error {
		rows, err := rows.LoadWindows(tx)
		for i := range rows {
			if r := &rows[i]; r.State != window.Pending || !db.file.Stale(r.Owner, r.Lease) {
				ws = append(ws, r.Window)
			}
		}
		return err
	})
	return ws, err
}

// A Lease is this process's right to fill windows of some topics with one ordered stream
// of events. It is used by one goroutine.
type Lease struct {
	db      *DB
	rows    []int64 // one for each topic
	topics  []event.Topic
	left    []leftWindow // of topics that have left, not committed yet
	span    window.Span  // the span to fill; To is event.MaxID while live
	reached event.ID
	leaves  *leafBuilders // nil if the lease makes no leaves
	live    bool
	ended   bool
	copying bool // the events come from another file, not from a server
	marked  event.Point

	distrusted bool
}

// A leftWindow is a live window of a topic that has left its lease.
type leftWindow struct {
	row int64
	at  event.ID // where the topic left
}

// Copying means that the events come from another file and are not counted as fetched.
func (l *Lease) Copying() { l.copying = true }

// Distrust says whether the events that Apply gets next may be wrong even where others are proven,
// since another server was to vouch for them and did not.
func (l *Lease) Distrust(on bool) { l.distrusted = on }

// Marked sets the mark of a position. The Apply that reaches the position keeps it,
// unless a later mark was set by then.
func (l *Lease) Marked(p event.Point) { l.marked = p }

// newestMark returns the newest position up to reached whose mark is known: the one set by
// Marked, or that of the last of evs, which come before reached.
func (l *Lease) newestMark(evs []event.Event, reached event.ID) (p event.Point) {
	if len(evs) > 0 {
		last := &evs[len(evs)-1]
		p = event.Point{ID: last.ID, Mark: last.Mark()}
	}
	if l.marked.Mark != 0 && p.ID <= l.marked.ID && l.marked.ID <= reached {
		p = l.marked
	}
	return p
}

// Span returns the span that the lease has yet to fill, from Reached on.
func (l *Lease) Span() window.Span { return window.Span{From: l.reached, To: l.span.To} }

// Reached returns the position up to which the lease has been filled.
func (l *Lease) Reached() event.ID { return l.reached }

// Leases grant the right to fill windows, to one process at a time.
type Leases struct{ db *DB }

// Leases returns the leases of a client's file.
func (db *DB) Leases() Leases { return Leases{db} }

// Claim takes the first part of span that is not held of all topics, and makes pulling
// windows of it, one for each topic. If nothing is missing, the lease is nil. If another
// process is pulling the missing part, busy is true and the caller tries again later.
func (ls Leases) Claim(ctx context.Context, topics []event.Topic, span window.Span) (l *Lease, busy bool, err error) {
	topics = without(nil, topics)
	err = ls.db.file.Update(ctx, func(tx *sql.Tx) error {
		l, busy = nil, false
		windows, err := ls.db.normalizeWindows(tx, func(w *rows.Window) bool {
			return containedIn(topics, w.Topic) && !w.Missing().Intersect(span).Empty()
		})
		if err != nil {
			return err
		}
		missing := rows.WindowSet(windows).Held(topics...).Gaps(span)
		if len(missing) == 0 {
			return nil
		}
		free := beingPulled(windows, topics).gapsOf(missing)
		if len(free) == 0 {
			busy = true
			return nil
		}
		l = &Lease{db: ls.db, topics: topics, span: free[0], reached: free[0].From, leaves: newLeafBuilders(topics, free[0].From)}
		return l.insertWindows(tx, window.Pulling)
	})
	if err != nil {
		return nil, false, fmt.Errorf("claim %s %s: %w", strings.ReplaceAll(topicLines(topics), "\n", " "), span, err)
	}
	return l, busy, nil
}

func containedIn(topics []event.Topic, t event.Topic) bool {
	return slices.ContainsFunc(topics, func(wide event.Topic) bool { return wide.Contains(t) })
}

type pulled window.Spans

// beingPulled returns the spans that processes are pulling of topics, or of topics that
// share events with them, which need not be requested once they have come.
func beingPulled(windows []rows.Window, topics []event.Topic) pulled {
	var spans []window.Span
	for _, w := range windows {
		if w.State == window.Pulling && w.Owner != "" && slices.ContainsFunc(topics, w.Topic.Overlaps) {
			spans = append(spans, w.Missing())
		}
	}
	return pulled(window.Union(spans...))
}

func (p pulled) gapsOf(missing window.Spans) (free window.Spans) {
	for _, m := range missing {
		free = append(free, window.Spans(p).Gaps(m)...)
	}
	return free
}

// Follow makes live windows of topics that begin at position from and belong to this
// process until they end.
func (ls Leases) Follow(ctx context.Context, topics []event.Topic, from event.ID) (*Lease, error) {
	l := &Lease{db: ls.db, topics: without(nil, topics), span: window.Span{From: from, To: event.MaxID}, reached: from, live: true}
	err := ls.db.file.Update(ctx, func(tx *sql.Tx) error {
		if _, err := ls.db.normalizeWindows(tx, nil); err != nil {
			return err
		}
		return l.insertWindows(tx, window.Live)
	})
	if err != nil {
		return nil, fmt.Errorf("follow from %s: %w", from, err)
	}
	return l, nil
}

// without returns those of topics that are not in have, each once.
func without(have, topics []event.Topic) (more []event.Topic) {
	for _, t := range topics {
		if !slices.Contains(have, t) && !slices.Contains(more, t) {
			more = append(more, t)
		}
	}
	return more
}

// insertWindows inserts the lease's windows. It changes the lease, which is valid only if the
// transaction is committed.
func (l *Lease) insertWindows(tx *sql.Tx, state window.State) error {
	l.rows = nil
	for _, t := range l.topics {
		id, err := l.insertWindow(tx, t, state, window.Span{From: l.span.From, To: l.reached})
		if err != nil {
			return err
		}
		l.rows = append(l.rows, id)
	}
	return nil
}

func (l *Lease) insertWindow(tx *sql.Tx, t event.Topic, state window.State, held window.Span) (id int64, err error) {
	w := rows.Window{Owner: l.db.file.OwnerName(), Lease: l.db.file.LeaseEnd()}
	w.Topic, w.State, w.From, w.Reached, w.To = t, state, held.From, held.To, l.span.To
	return rows.InsertWindow(tx, &w)
}

// The statements that change a lease's windows.
var (
	moveWindow = dbfile.WindowTable.Update("reached", "?1", "owner", "?2", "lease", "?3") +
		` AND id = ?4 AND (owner = ?2 OR owner IS NULL AND state = 'pulling')`
	releaseWindow = dbfile.WindowTable.Update("state", "?1", "error", "?2", "owner", "NULL", "lease", "NULL") + ` AND id = ?3 AND owner = ?4`
	commitWindow  = dbfile.WindowTable.Update("state", "'committed'", "reached", "?1", "stop", "?1", "owner", "NULL", "lease", "NULL") +
		` AND id = ?2 AND owner = ?3`
)

// Apply stores events that follow Reached, sorted by id and complete for the lease's
// topics up to position reached, and advances the windows to reached, all in one
// transaction. Events already held are left unchanged. Apply returns the new ones. An event
// that is held under the id of another one gives way to it and leaves a doubt, unless it is
// proven: then Apply returns a *ConflictError and stores nothing. It
// returns ErrLost if another process has begun to pull the window, which it may once the
// lease has ended. A live window cannot be lost in this way: it continues in a new
// window. An Apply that reaches the end of the span ends the lease, as Commit does.
func (l *Lease) Apply(ctx context.Context, evs []event.Event, reached event.ID) (added []event.Event, err error) {
	if l.copying {
		return l.apply(ctx, evs, nil, reached, anyRemovals)
	}
	return l.apply(ctx, evs, evs, reached, anyRemovals)
}

// ApplyPlaced is Apply for events that are already here, outside of all windows, except
// for fetched ones: only these are counted as fetched. removals is the result of
// [DB.Removals] before it was determined which events are missing. ApplyPlaced returns
// ErrLost if events were removed since: evs may lack some of them.
func (l *Lease) ApplyPlaced(ctx context.Context, evs, fetched []event.Event, reached event.ID, removals int64) (added []event.Event, err error) {
	return l.apply(ctx, evs, fetched, reached, removals)
}

// anyRemovals stands for any number of removals.
const anyRemovals = -1

// checkRemovals returns ErrLost unless the file's count of removals is the wanted one.
func (db *DB) checkRemovals(tx *sql.Tx, want int64) error {
	if want == anyRemovals {
		return nil
	}
	if now, err := db.tables.Removals(tx); err != nil || now != want {
		return cmp.Or(err, ErrLost)
	}
	return nil
}

func (l *Lease) apply(ctx context.Context, evs, fetched []event.Event, reached event.ID, removals int64) (added []event.Event, err error) {
	if err := l.checkOrder(evs, reached); err != nil {
		return nil, err
	}
	var rows, storages []int64
	var places []pages.Posted
	var removed int64
	ends := !l.live && reached == l.span.To
	err = l.db.file.Update(ctx, func(tx *sql.Tx) (err error) {
		if rows, err = l.moveWindows(tx, reached); err != nil {
			return err
		}
		if err := l.db.checkRemovals(tx, removals); err != nil {
			return err
		}
		if err := l.db.tables.NoteMark(tx, l.newestMark(evs, reached)); err != nil {
			return err
		}
		if storages, err = l.db.tables.StorageIDs(tx, evs); err != nil {
			return err
		}
		if err := l.db.displaceOthers(ctx, tx, rows, evs, storages, !l.distrusted); err != nil {
			return err
		}
		if places, added, err = l.db.insertStored(tx, evs, storages); err != nil {
			return err
		}
		if removed, err = l.db.tables.Removals(tx); err != nil {
			return err
		}
		if l.leaves != nil {
			if err := l.leaves.addStored(l.db, tx, evs, storages, len(added) < len(evs), reached, removed); err != nil {
				return err
			}
		}
		if err := tally(tx, fetched); err != nil {
			return err
		}
		switch {
		case ends:
			return l.commitRows(tx, rows, reached)
		case len(l.left) > 0:
			return l.commitRows(tx, nil, reached)
		}
		return nil
	})
	if err != nil {
		if l.leaves != nil {
			l.leaves.startAllOver(l.reached, -1)
		}
		return nil, fmt.Errorf("store events up to %s: %w", reached, err)
	}
	l.db.snapshots.EventsStored(evs, storages, places, removed)
	l.rows, l.reached, l.ended, l.left = rows, reached, ends, nil
	return added, nil
}

// moveWindows records how far the windows are filled, renews their leases and returns their
// rows. A pull whose lease has ended continues if no other process has taken it. A live
// window that was committed in the meantime, as if we were gone, continues in a new one,
// which begins at the end of the old one.
func (l *Lease) moveWindows(tx *sql.Tx, reached event.ID) (rows []int64, err error) {
	for i, id := range l.rows {
		res, err := l.db.file.Exec(tx, moveWindow, reached, l.db.file.OwnerName(), l.db.file.LeaseEnd(), id)
		if err != nil {
			return nil, err
		}
		n, err := res.RowsAffected()
		switch {
		case err != nil:
			return nil, err
		case n == 0 && !l.live:
			return nil, ErrLost
		case n == 0:
			if id, err = l.insertWindow(tx, l.topics[i], window.Live, window.Span{From: l.reached, To: reached}); err != nil {
				return nil, err
			}
		}
		rows = append(rows, id)
	}
	return rows, nil
}

var errEnded = errors.New("the lease has ended")

// checkOrder returns an error unless evs continue the lease in order.
func (l *Lease) checkOrder(evs []event.Event, reached event.ID) error {
	if l.ended || len(l.rows) == 0 {
		return errEnded // events outside a window would never be read
	}
	at := l.reached
	for i := range evs {
		if evs[i].ID <= at {
			return fmt.Errorf("event %s does not follow %s", evs[i].ID, at)
		}
		at = evs[i].ID
	}
	if reached < at || reached > l.span.To {
		return fmt.Errorf("position %s lies outside %s-%s", reached, at, l.span.To)
	}
	return nil
}

// insertEvents stores events, which must be sorted, with their postings, and returns
// those that were not held.
func (db *DB) insertEvents(tx *sql.Tx, evs []event.Event) (added []event.Event, err error) {
	storages, err := db.tables.StorageIDs(tx, evs)
	if err != nil {
		return nil, err
	}
	_, added, err = db.insertStored(tx, evs, storages)
	return added, err
}

// insertStored is insertEvents with the numbers of the events' storages. places are where
// all of them are.
func (db *DB) insertStored(tx *sql.Tx, evs []event.Event, storages []int64) (places []pages.Posted, added []event.Event, err error) {
	if len(evs) == 0 {
		return nil, nil, nil
	}
	places, held, err := db.tables.Pages.Store(tx, evs, storages)
	if err != nil {
		return nil, nil, conflictOf(err)
	}
	added = evs
	if len(held) > 0 {
		added = make([]event.Event, 0, len(evs)-len(held))
		for i := range evs {
			if len(held) > 0 && held[0] == i {
				held = held[1:]
				continue
			}
			added = append(added, evs[i])
		}
	}
	return places, added, dropImported(tx, added)
}

// conflictOf returns the *ConflictError that a *pages.HeldError means, or err itself.
func conflictOf(err error) error {
	var held *pages.HeldError
	if errors.As(err, &held) {
		return &ConflictError{ID: held.ID}
	}
	return err
}

// Commit ends the lease: it commits the filled part, merged with the other committed
// windows of each topic. Of Commit, Release and Fail, the first that succeeds counts; the
// others do nothing.
func (l *Lease) Commit(ctx context.Context) error {
	return l.endOnce(func() error { return l.commitWindows(ctx, l.rows) })
}

// Release gives up the lease where it is. Filled events stay held. A pulling window keeps
// its bounds, so that it remains visible and can be continued.
func (l *Lease) Release(ctx context.Context) error {
	if l.live || l.reached >= l.span.To {
		return l.Commit(ctx)
	}
	return l.endOnce(func() error { return l.releaseWindows(ctx, window.Pulling, nil) })
}

// Fail gives up the lease because of an error that retrying would not fix. Filled events
// stay held; nothing else of live windows is remembered.
func (l *Lease) Fail(ctx context.Context, cause error) error {
	if l.live {
		return l.Commit(ctx)
	}
	return l.endOnce(func() error { return l.releaseWindows(ctx, window.Failed, cause.Error()) })
}

// state returns the state of the lease's windows.
func (l *Lease) state() window.State {
	if l.live {
		return window.Live
	}
	return window.Pulling
}

// endOnce runs how, which ends the lease, unless it has ended already. If how fails, the
// lease continues.
func (l *Lease) endOnce(how func() error) error {
	if l.ended {
		return nil
	}
	err := how()
	l.ended = err == nil
	return err
}

func (l *Lease) releaseWindows(ctx context.Context, state window.State, cause any) error {
	if !l.state().To(state) {
		return fmt.Errorf("release the window: a %s one cannot become %s", l.state(), state)
	}
	err := l.db.file.Update(ctx, func(tx *sql.Tx) error {
		for _, id := range l.rows {
			_, err := tx.Exec(releaseWindow, state.String(), cause, id, l.db.file.OwnerName())
			if err != nil {
				return err
			}
		}
		return l.boundKeptLeaves(tx)
	})
	if err != nil {
		return fmt.Errorf("release the window: %w", err)
	}
	return nil
}

// commitWindows commits rows at the lease's position, and the windows of topics that have
// left. Rows that the lease has lost were committed by the process that took them.
func (l *Lease) commitWindows(ctx context.Context, rows []int64) error {
	err := l.db.file.Update(ctx, func(tx *sql.Tx) error { return l.commitRows(tx, rows, l.reached) })
	if err != nil {
		return fmt.Errorf("commit the window: %w", err)
	}
	l.left = nil
	return nil
}

// commitRows is commitWindows in a transaction.
func (l *Lease) commitRows(tx *sql.Tx, rows []int64, reached event.ID) error {
	for _, id := range rows {
		if _, err := tx.Exec(commitWindow, reached, id, l.db.file.OwnerName()); err != nil {
			return err
		}
	}
	for _, w := range l.left {
		if _, err := tx.Exec(commitWindow, w.at, w.row, l.db.file.OwnerName()); err != nil {
			return err
		}
	}
	if err := l.boundKeptLeaves(tx); err != nil {
		return err
	}
	_, err := l.db.normalizeWindows(tx, nil)
	return err
}

// boundKeptLeaves drops leaves in excess of the bound, if the lease has kept any.
func (l *Lease) boundKeptLeaves(tx *sql.Tx) error {
	if l.leaves == nil || l.leaves.kept == 0 {
		return nil
	}
	return boundLeaves(tx)
}

// Join adds live windows of more topics to l, from its position on. Topics that l already
// has are skipped.
func (l *Lease) Join(ctx context.Context, topics []event.Topic) error {
	if l.ended || !l.live {
		return fmt.Errorf("follow more topics: %w", errEnded)
	}
	more := &Lease{db: l.db, topics: without(l.topics, topics), span: window.Span{From: l.reached, To: event.MaxID}, reached: l.reached}
	err := l.db.file.Update(ctx, func(tx *sql.Tx) error { return more.insertWindows(tx, window.Live) })
	if err != nil {
		return fmt.Errorf("follow more topics from %s: %w", l.reached, err)
	}
	l.topics, l.rows = append(l.topics, more.topics...), append(l.rows, more.rows...)
	return nil
}

// Leave removes topics from l and commits their live windows at their position. If Leave
// returns an error, the topics have left all the same: a later Apply, Leave or Commit commits
// their windows where they left.
func (l *Lease) Leave(ctx context.Context, topics []event.Topic) error {
	if l.ended {
		return nil
	}
	var keep Lease
	for i, t := range l.topics {
		if slices.Contains(topics, t) {
			l.left = append(l.left, leftWindow{l.rows[i], l.reached})
			continue
		}
		keep.topics, keep.rows = append(keep.topics, t), append(keep.rows, l.rows[i])
	}
	l.topics, l.rows = keep.topics, keep.rows
	return l.commitWindows(ctx, nil)
}
