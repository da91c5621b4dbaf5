package cache

import (
	"context"
	"database/sql"
	"errors"
	"fmt"
	"sync"

	"github.com/rstream-dev/rstream/cache/internal/dbfile"
	"github.com/rstream-dev/rstream/cache/internal/pages"
	"github.com/rstream-dev/rstream/cache/internal/retention"
	"github.com/rstream-dev/rstream/cache/internal/rows"
	"github.com/rstream-dev/rstream/event"
	"github.com/rstream-dev/rstream/window"
)

// Errors of Append, for callers to branch on.
var (
	// ErrUnknown means that the transaction may or may not have been committed. It is
	// safe to send the same drafts again, with the same keys.
	ErrUnknown = dbfile.ErrUnknown
	// ErrClosed means that the file was closed before the append was written.
	ErrClosed error = &StatusError{Text: "the log is closed; nothing was appended", Status: 503}
	// ErrLogFull means that the log has assigned its last id.
	ErrLogFull error = &StatusError{Text: "the log has no ids left", Status: 507}
)

// Bounds of one transaction of the committer, so that no append waits long for others.
const (
	maxBatchDrafts = 8192
	maxBatchBytes  = 16 << 20
)

// An appendRequest is a call of Append waiting for the committer.
type appendRequest struct {
	ctx      context.Context
	drafts   []event.Draft
	hashes   []event.Hash
	bytes    int
	receipts []event.Receipt
	old      []retention.Expiry // of retention: values that may have expired,
	scanned  []event.Topic      // the topics scanned for them,
	expired  event.ID           // and the position up to which they were
	move     *SourceMove        // of a source, if the drafts come from one
	received []event.Event      // of a mirrored log, in place of drafts,
	upTo     event.Point        // and of a mirror of some topics, how far it is then
	done     chan error
}

// isReceived reports whether the request comes from the server of a mirrored log.
func (r *appendRequest) isReceived() bool { return r.received != nil || r.upTo != (event.Point{}) }

// size returns how many events the request may add.
func (r *appendRequest) size() int { return len(r.drafts) + len(r.received) }

// Append assigns ids to drafts and makes them durable: all or none, in order, and
// consecutively. A draft whose hash is already in the log gets the receipt of the first
// event with it. Append returns once the events are synced to disk and the OnCommit
// function has seen them; before that they are visible to nobody. If ctx ends first, the
// outcome is unknown to the caller. The drafts become part of the events and must not be
// modified afterwards, whatever Append returns.
func (db *DB) Append(ctx context.Context, drafts []event.Draft) ([]event.Receipt, error) {
	r, err := db.newAppend(ctx, drafts)
	if err != nil || len(drafts) == 0 {
		return nil, err
	}
	if err := db.submit(ctx, r); err != nil {
		return nil, err
	}
	return r.receipts, nil
}

// newAppend checks drafts and returns the request to append them.
func (db *DB) newAppend(ctx context.Context, drafts []event.Draft) (*appendRequest, error) {
	if db.commits == nil {
		return nil, fmt.Errorf("append: %w: only a server assigns ids", ErrRole)
	}
	if db.file.Mirror {
		return nil, fmt.Errorf("append: %w", ErrMirror)
	}
	r := &appendRequest{ctx: ctx, drafts: drafts, done: make(chan error, 1)}
	for i := range drafts {
		if err := drafts[i].Check(); err != nil {
			return nil, fmt.Errorf("append: %w", err)
		}
		r.bytes += len(drafts[i].Value)
	}
	r.hashes = hashDrafts(drafts)
	return r, nil
}

// hashDrafts returns the hashes of drafts, which it computes on several processors if there are
// many: a publisher that waits for the answer to each batch keeps none of them busy.
func hashDrafts(drafts []event.Draft) []event.Hash {
	const part = 1000
	hashes := make([]event.Hash, len(drafts))
	var hashing sync.WaitGroup
	for from := 0; from < len(drafts); from += part {
		to := min(from+part, len(drafts))
		hash := func() {
			for i := from; i < to; i++ {
				hashes[i] = drafts[i].Hash()
			}
		}
		if to < len(drafts) {
			hashing.Go(hash)
		} else {
			hash()
		}
	}
	hashing.Wait()
	return hashes
}

// submit passes a request to the committer and waits for its outcome.
func (db *DB) submit(ctx context.Context, r *appendRequest) error {
	select {
	case db.commits <- r:
	case <-db.closing:
		return fmt.Errorf("append: %w", ErrClosed)
	case <-ctx.Done():
		return fmt.Errorf("append: %w", ctx.Err())
	}
	select {
	case err := <-r.done:
		return err
	case <-ctx.Done():
		return fmt.Errorf("append: %w: %w", ErrUnknown, ctx.Err())
	}
}

// OnCommit sets the function that receives the new events of each transaction, sorted by
// id, from one goroutine, before their appends return. The second argument is the new
// head. After an append with an unknown outcome the events are nil, and the function must
// read the events up to the head itself.
func (db *DB) OnCommit(fn func(evs []event.Event, head event.ID)) { db.onCommit.Store(&fn) }

// Horizon returns the position below which a server's file lacks part of the history: the
// start of its window.
func (db *DB) Horizon(ctx context.Context) (event.ID, error) {
	if at, ok := db.tables.Horizon.Get(); ok {
		return at, ctx.Err()
	}
	span, err := db.logWindow(ctx)
	return span.From, err
}

// Head returns the newest position of the log in a server's file. If the file was not
// opened as a Server, it is the head at the time of opening. In a client's file it is
// Beginning.
func (db *DB) Head() event.ID { return db.HeadPoint().ID }

// HeadPoint returns Head with its mark.
func (db *DB) HeadPoint() event.Point {
	if p := db.head.Load(); p != nil {
		return *p
	}
	return event.Point{}
}

func (db *DB) loadHead(ctx context.Context) error {
	span, err := db.logWindow(ctx)
	if err != nil {
		return err
	}
	_, mark, _, err := db.LastAt(ctx, span.To)
	if err != nil && !errors.Is(err, ErrCorrupt) {
		return err
	}
	db.head.Store(&event.Point{ID: span.To, Mark: mark}) // without a mark if the last event is damaged
	return db.loadTime(ctx)
}

// logWindow returns the one window of a server's file.
func (db *DB) logWindow(ctx context.Context) (s window.Span, err error) {
	if db.file.Role == Client {
		return s, fmt.Errorf("read the log's window: %w", db.file.Role.Wrong())
	}
	err = db.file.View(ctx, func(tx *sql.Tx) error {
		s, err = rows.LogWindow(ctx, tx)
		return err
	})
	return s, dbfile.Wrap(err, "read the log's window")
}

// A batchWriter writes one transaction of the committer.
type batchWriter struct {
	db       *DB
	tx       *sql.Tx
	first    event.ID // of the transaction
	next     event.ID
	mark     event.Mark // of the position before next, zero if it is not known
	time     event.Time
	events   []event.Event  // new ones
	storages []int64        // the numbers of their storages
	places   []pages.Posted // where they are stored
	removals int64          // of the file

	madeSources bool // the tables of sources exist once the transaction is committed
}

func (w *batchWriter) writeRequests(batch []*appendRequest) error {
	if err := w.beginBatch(batch); err != nil {
		return err
	}
	for _, r := range batch {
		if r.move != nil {
			if err := w.move(r.move); err != nil {
				return err
			}
		}
		if r.isReceived() {
			if err := w.receive(r); err != nil {
				return err
			}
			continue
		}
		r.receipts = make([]event.Receipt, len(r.drafts))
		if r.move != nil {
			if err := w.appendMoved(r); err != nil {
				return err
			}
			continue
		}
		for i := range r.drafts {
			if err := w.appendDraft(&r.receipts[i], &r.drafts[i], &r.hashes[i]); err != nil {
				return err
			}
		}
		if r.expired > 0 {
			if err := w.appendExpiries(r.old, r.scanned, r.expired); err != nil {
				return err
			}
		}
	}
	if w.next == w.first {
		return nil
	}
	if n := len(w.events); n > 0 && w.events[n-1].ID == w.next-1 {
		w.mark = w.events[n-1].Mark()
	}
	var err error
	if w.places, err = w.db.tables.Pages.Append(w.tx, w.events, w.storages); err != nil {
		return err
	}
	head := w.next - 1
	if head.Block() != w.first.Block() || head%event.BlockSize == 0 {
		if err := w.db.seen.Seal(w.tx, head); err != nil {
			return err
		}
	}
	if err := w.db.seen.MergeSome(w.tx, len(w.events)); err != nil {
		return err
	}
	return w.db.file.UpdateLog(w.tx, setNext, w.next, w.time)
}

// setNext moves the counter and the time of a log.
var setNext = dbfile.LogTable.Update("next", "?1", "time", "?2")

// beginBatch reads the counter and the clock. The log's time never goes back, even if the
// clock does.
func (w *batchWriter) beginBatch(batch []*appendRequest) (err error) {
	var next, last int64
	if err := w.db.file.ScanLog(w.tx, `next, time, removals`, &next, &last, &w.removals); err != nil {
		return err
	}
	w.first, w.next = event.ID(next), event.ID(next)
	w.time = event.Time(last)
	if !w.db.file.Mirror { // its events have their times
		w.time = max(event.TimeOf(w.db.file.Now()), w.time)
	}
	if !w.time.Valid() {
		return fmt.Errorf("the clock shows %s, which is out of range", w.db.file.Now())
	}
	if err := w.db.seen.Ready(w.tx); err != nil {
		return err
	}
	n := 0
	for _, r := range batch {
		n += len(r.drafts) + len(r.old) + len(r.received)
	}
	w.events, w.storages = make([]event.Event, 0, n), make([]int64, 0, n)
	return nil
}

func (w *batchWriter) appendDraft(receipt *event.Receipt, d *event.Draft, h *event.Hash) error {
	id, known, err := w.db.seen.Find(w.tx, h)
	switch {
	case err != nil:
		return err
	case known && id >= w.first:
		*receipt = event.Receipt{Event: w.events[id-w.first], Duplicate: true}
		return nil
	case known:
		*receipt, err = w.db.repeatedReceipt(w.tx, id, d, h)
		return err
	case w.next > event.MaxID-1:
		return ErrLogFull
	}
	storage, err := w.db.tables.StorageID(w.tx, d.User, d.Path)
	if err != nil {
		return err
	}
	w.events = append(w.events, event.New(w.next, w.time, *d, *h))
	receipt.Event = w.events[len(w.events)-1]
	w.db.seen.Add(rows.OpenEvent{ID: w.next, Storage: storage, Hash: *h})
	w.storages = append(w.storages, storage)
	w.next++
	return nil
}

// repeatedReceipt returns the receipt of a draft whose hash the event id has, in a transaction
// of File.Begin. The event may have been dropped, or be damaged.
func (db *DB) repeatedReceipt(tx *sql.Tx, id event.ID, d *event.Draft, h *event.Hash) (r event.Receipt, err error) {
	r = event.Receipt{Duplicate: true}
	r.Event, err = readRepeated(tx, id)
	gone, damage := errors.Is(err, sql.ErrNoRows), (*pages.DamageError)(nil)
	if gone || errors.As(err, &damage) {
		r.Event, r.Dropped = event.Event{ID: id, Draft: *d, Hash: *h}, true
		err = nil
	}
	if gone {
		err = db.checkBelowHorizon(tx, id)
	}
	return r, err
}

// readRepeated returns the stored event of a repeated append.
func readRepeated(tx *sql.Tx, id event.ID) (event.Event, error) {
	line, _, err := pages.Find(context.Background(), tx, id)
	if err == nil && line == nil {
		err = sql.ErrNoRows
	}
	if err != nil {
		return event.Event{}, fmt.Errorf("read event %s: %w", id, err)
	}
	return rows.ParsePosted(pages.Posted{ID: id}, line)
}

// checkBelowHorizon checks that a missing event may have been dropped.
func (db *DB) checkBelowHorizon(tx *sql.Tx, id event.ID) error {
	horizon, err := db.tables.HorizonIn(tx)
	if err == nil && id > horizon {
		err = fmt.Errorf("%w: event %s is missing", ErrCorrupt, id)
	}
	return err
}
