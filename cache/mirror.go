package cache

import (
	"cmp"
	"context"
	"database/sql"
	"errors"
	"fmt"
	"iter"
	"slices"

	"github.com/rstream-dev/rstream/cache/internal/dbfile"
	"github.com/rstream-dev/rstream/cache/internal/rows"
	"github.com/rstream-dev/rstream/event"
)

// Errors of the file of a mirror, for callers to branch on.
var (
	// ErrMirror means that the file mirrors a log that another server assigns the ids of.
	ErrMirror = dbfile.ErrMirror
	// ErrNotMirror means that the file is a log of its own.
	ErrNotMirror = dbfile.ErrNotMirror
	// ErrOtherTopics means that the file mirrors other topics than those of Config.
	ErrOtherTopics = dbfile.ErrOtherTopics
	// ErrPartMirror means that the file has some topics of a log only, so that it cannot take
	// the place of the log.
	ErrPartMirror = dbfile.ErrPartMirror
)

// An OrderError means that a received event does not follow the last one of the log: one
// between them is missing, or the time has gone back.
type OrderError struct {
	Last event.ID // of the log
	Next event.ID // the event
}

func (e *OrderError) Error() string {
	return fmt.Sprintf("event %s does not follow %s", e.Next, e.Last)
}

// IsMirror reports whether the file mirrors the log of another server.
func (db *DB) IsMirror() bool { return db.file.Mirror }

// MirroredTopics returns the topics of a mirror, none if it has all.
func (db *DB) MirroredTopics() []event.Topic { return db.file.Topics }

// Receive stores events of the mirrored log, with their ids and times, all or none: they must
// follow the head without a gap, or Receive returns an *OrderError. It returns once the
// events are synced to disk and the OnCommit function has seen them. After ErrUnknown, Head
// says whether they are stored.
func (db *DB) Receive(ctx context.Context, evs []event.Event) error {
	if db.commits == nil || !db.file.Mirror {
		return fmt.Errorf("receive: %w", ErrNotMirror)
	}
	if db.file.IsPart() {
		return fmt.Errorf("receive: %w", ErrPartMirror)
	}
	if len(evs) == 0 {
		return nil
	}
	return db.submitReceived(ctx, evs, event.Point{})
}

// ReceiveUpTo is Receive for a mirror of some topics: evs are all their events after the head,
// or an earlier position, up to a position, which becomes the head if it is after it. Events at
// or before the head are skipped.
func (db *DB) ReceiveUpTo(ctx context.Context, evs []event.Event, to event.Point) error {
	if db.commits == nil || !db.file.IsPart() {
		return fmt.Errorf("receive up to %s: %w", to.ID, ErrNotMirror)
	}
	if to.ID <= db.Head() {
		return nil
	}
	return db.submitReceived(ctx, evs, to)
}

// submitReceived passes received events to the committer.
func (db *DB) submitReceived(ctx context.Context, evs []event.Event, to event.Point) error {
	r := &appendRequest{ctx: ctx, received: evs, upTo: to, done: make(chan error, 1)}
	for i := range evs {
		r.bytes += len(evs[i].Line())
	}
	return db.submit(ctx, r)
}

// receive appends received events, and moves the head of a mirror of some topics.
func (w *batchWriter) receive(r *appendRequest) error {
	if !w.db.file.IsPart() {
		return w.appendReceived(r.received)
	}
	known, _ := slices.BinarySearchFunc(r.received, w.next, func(ev event.Event, id event.ID) int { return cmp.Compare(ev.ID, id) })
	if err := w.appendReceived(r.received[known:]); err != nil {
		return err
	}
	if r.upTo.ID >= event.MaxID || len(r.received) > 0 && r.received[len(r.received)-1].ID > r.upTo.ID {
		return &OrderError{w.next - 1, r.upTo.ID}
	}
	if r.upTo.ID < w.next {
		return nil
	}
	w.next, w.mark = r.upTo.ID+1, r.upTo.Mark
	return w.db.tables.KeepMark(w.tx, r.upTo)
}

// appendReceived appends events that have their ids.
func (w *batchWriter) appendReceived(evs []event.Event) error {
	for i := range evs {
		ev := &evs[i]
		follows := ev.ID == w.next || w.db.file.IsPart() && ev.ID > w.next
		if !follows || ev.Time < w.time || ev.ID > event.MaxID-1 {
			return &OrderError{w.next - 1, ev.ID}
		}
		storage, err := w.db.tables.StorageID(w.tx, ev.User, ev.Path)
		if err != nil {
			return err
		}
		w.events = append(w.events, *ev)
		w.db.seen.Add(rows.OpenEvent{ID: ev.ID, Storage: storage, Hash: ev.Hash})
		w.storages = append(w.storages, storage)
		w.next, w.time = ev.ID+1, ev.Time
	}
	return nil
}

// stateChunk is how many events of a state are stored at a time. It is a variable for the
// tests.
var stateChunk = 4096

// BeginAt makes the file of a mirror what a log is whose horizon has just become at, with the
// last event at or before it at time t: state yields the state there, in any order. What the
// file had before is gone, and readers of positions below the horizon learn so. BeginAt does
// all of it in one transaction, or nothing.
func (db *DB) BeginAt(ctx context.Context, at event.Point, t event.Time, state iter.Seq2[event.Event, error]) error {
	if db.commits == nil || !db.file.Mirror {
		return fmt.Errorf("begin at %s: %w", at.ID, ErrNotMirror)
	}
	if at.ID <= db.Head() || at.ID%event.BlockSize != 0 || at.ID >= event.MaxID || !t.Valid() {
		return fmt.Errorf("begin at %s: want the end of a block after %s", at.ID, db.Head())
	}
	if err := db.file.Lock(ctx); err != nil {
		return err
	}
	defer db.file.Unlock()
	db.tables.ForgetWritten()
	err := db.file.Transact(context.WithoutCancel(ctx), func(tx *sql.Tx) error {
		b := beginner{db: db, tx: tx, at: at.ID}
		return b.begin(ctx, at, t, state)
	})
	if err != nil {
		db.tables.ForgetWritten()
		db.seen.Invalidate()
		db.tables.Horizon.Forget()
		return fmt.Errorf("begin at %s: %w", at.ID, db.file.Named(err))
	}
	db.tables.Horizon.Set(at.ID)
	db.lastTime.Store(int64(t))
	db.head.Store(&at)
	db.publish(nil)
	return nil
}

// A beginner runs BeginAt.
type beginner struct {
	db     *DB
	tx     *sql.Tx
	at     event.ID
	hashes []rows.OpenEvent
}

// droppedTables are the tables of a log's events, and of what was made of them.
var droppedTables = []string{"page", "page_posting", "leaf", "snapshot", "part", "expired"}

func (b *beginner) begin(ctx context.Context, at event.Point, t event.Time, state iter.Seq2[event.Event, error]) error {
	for _, table := range droppedTables {
		if _, err := b.tx.Exec(`DELETE FROM ` + table); err != nil {
			return err
		}
	}
	if err := b.storeState(ctx, state); err != nil {
		return err
	}
	if err := b.db.seen.Replace(b.tx, at.ID, b.hashes); err != nil {
		return err
	}
	mark := ""
	if at.Mark != 0 {
		mark = at.Mark.String()
	}
	err := dbfile.UpdateLog(b.tx, beginLog, int64(at.ID)+1, int64(t), int64(at.ID), mark)
	return errors.Join(err, dbfile.CopyLog(b.tx))
}

var beginLog = dbfile.LogTable.Update("next", "?1", "time", "?2", "horizon_time", "?2", "horizon", "?3", "dropped", "?3",
	"horizon_mark", "?4", "removals", "removals + 1")

// storeState stores the events of a state, some at a time: their order is that of storages,
// and pages have theirs in the order of ids.
func (b *beginner) storeState(ctx context.Context, state iter.Seq2[event.Event, error]) error {
	some := make([]event.Event, 0, stateChunk)
	for ev, err := range state {
		if err == nil {
			err = ctx.Err()
		}
		if err != nil {
			return err
		}
		if ev.ID > b.at || ev.Type != event.Put {
			return fmt.Errorf("event %s does not belong to the state at %s", ev.ID, b.at)
		}
		if some = append(some, ev); len(some) == stateChunk {
			if err := b.storeSome(some); err != nil {
				return err
			}
			some = some[:0]
		}
	}
	if err := b.storeSome(some); err != nil {
		return err
	}
	b.db.tables.Pages.ForgetPage() // what comes next does not belong to the state
	return nil
}

func (b *beginner) storeSome(evs []event.Event) error {
	slices.SortFunc(evs, func(a, b event.Event) int { return cmp.Compare(a.ID, b.ID) })
	storages, err := b.db.tables.StorageIDs(b.tx, evs)
	if err != nil {
		return err
	}
	if _, _, err := b.db.tables.Pages.Store(b.tx, evs, storages); err != nil {
		return err
	}
	for i := range evs {
		b.hashes = append(b.hashes, rows.OpenEvent{ID: evs[i].ID, Storage: storages[i], Hash: evs[i].Hash})
	}
	return nil
}
