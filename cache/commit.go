package cache

import (
	"context"
	"database/sql"
	"errors"
	"fmt"
	"runtime"

	"github.com/rstream-dev/rstream/cache/internal/dbfile"
	"github.com/rstream-dev/rstream/event"
)

func (db *DB) startCommitter() {
	db.commits = make(chan *appendRequest)
	db.closing = make(chan struct{})
	db.committer.Go(db.commitLoop)
}

// commitLoop is the committer: it takes all waiting requests, writes them in one
// transaction, publishes their events and only then replies.
func (db *DB) commitLoop() {
	alone := false
	for {
		select {
		case <-db.closing:
			return
		case first := <-db.commits:
			batch := db.collectBatch(first, !alone)
			alone = len(batch) == 1
			db.commitRequests(batch)
		}
	}
}

// collectBatch adds to first the other waiting requests. If yield is set, it yields once, so
// that more appends join the batch: a transaction of many takes little longer than one of few.
// If nobody joined the batch before, that would only wait for every reader that has something
// to write.
func (db *DB) collectBatch(first *appendRequest, yield bool) []*appendRequest {
	batch, drafts, bytes := []*appendRequest{first}, first.size(), first.bytes
	for drafts < maxBatchDrafts && bytes < maxBatchBytes {
		select {
		case r := <-db.commits:
			batch = append(batch, r)
			drafts, bytes = drafts+r.size(), bytes+r.bytes
		default:
			if !yield {
				return batch
			}
			runtime.Gosched()
			yield = false
		}
	}
	return batch
}

// commitRequests writes the batch, publishes its events and replies. If one request cannot be
// written, the others must not suffer: each is then tried alone.
func (db *DB) commitRequests(batch []*appendRequest) {
	live := dropEnded(batch)
	if len(live) == 0 {
		return
	}
	w, before := batchWriter{db: db}, db.Head()
	err := db.writeTransaction(&w, live)
	if db.tables.Pages.AvoidIndex(err) {
		w = batchWriter{db: db}
		err = db.writeTransaction(&w, live)
	}
	if errors.Is(err, ErrUnknown) {
		err = db.readBack(&w, err)
	}
	switch {
	case err == nil:
		db.hasSources = db.hasSources || w.madeSources
		db.snapshots.EventsStored(w.events, w.storages, w.places, w.removals)
		db.lastTime.Store(int64(w.time))
		if w.next > w.first {
			db.head.Store(&event.Point{ID: w.next - 1, Mark: w.mark})
			if w.first-1 != before { // a commit of unknown outcome was made, and could not be read back
				w.events = nil
			}
			db.publish(w.events)
		}
		db.noteSealed(before)
	case errors.Is(err, ErrUnknown):
		db.publish(nil)
	case len(live) > 1 && !errors.Is(err, ErrBusy):
		for i := range live {
			db.commitRequests(live[i : i+1])
		}
		return
	}
	for _, r := range live {
		if err != nil {
			r.receipts = nil
		}
		r.done <- err
	}
}

// noteSealed wakes those who wait for a block to be sealed, if the head has passed the
// end of one since it was before.
func (db *DB) noteSealed(before event.ID) {
	if db.Head()/event.BlockSize == before/event.BlockSize {
		return
	}
	db.snapshots.BlockSealed()
}

// dropEnded returns the requests whose callers still wait, and replies to the others.
func dropEnded(batch []*appendRequest) []*appendRequest {
	live := batch[:0]
	for _, r := range batch {
		if err := r.ctx.Err(); err != nil {
			r.done <- fmt.Errorf("append: %w", err)
			continue
		}
		live = append(live, r)
	}
	return live
}

func (db *DB) publish(evs []event.Event) {
	if show := db.onCommit.Load(); show != nil {
		(*show)(evs, db.Head())
	}
}

// A commitError is an error of COMMIT itself; it comes with ErrUnknown.
type commitError struct{ err error }

func (e *commitError) Error() string   { return ErrUnknown.Error() + ": " + e.err.Error() }
func (e *commitError) Unwrap() []error { return []error{ErrUnknown, e.err} }

// writeTransaction writes the batch in one transaction. An error of COMMIT itself does not say
// what is on disk, and reading back does not tell either: a log written but not synced may
// reappear after the next crash. writeBatch then returns ErrUnknown.
func (db *DB) writeTransaction(w *batchWriter, batch []*appendRequest) error {
	// No caller's context may end the transaction.
	ctx := context.Background()
	if err := db.file.Lock(ctx); err != nil {
		return err
	}
	defer db.file.Unlock()
	tx, err := db.file.Begin(ctx)
	if err != nil {
		return fmt.Errorf("append: %w", dbfile.Classify(err))
	}
	defer db.file.End()
	w.tx = tx
	if err := w.writeRequests(batch); err != nil {
		tx.Rollback()
		db.tables.ForgetWritten()
		db.seen.Invalidate()
		return fmt.Errorf("append: %w", dbfile.Classify(err))
	}
	if err := db.endTransaction(tx); err != nil {
		db.tables.ForgetWritten()
		db.seen.Invalidate()
		return fmt.Errorf("append: %w", &commitError{dbfile.Classify(err)})
	}
	return nil
}

// readBack opens the file again after a failed COMMIT and determines, if possible, the
// outcome of the batch. That is possible if there was no space: SQLite reports this only
// for a write to the write-ahead log, before anything is synced, and a transaction
// without its last frame does not count, neither now nor after a crash. If the batch is
// in the file, readBack makes it durable, and the append succeeds.
func (db *DB) readBack(w *batchWriter, err error) error {
	var failed *commitError
	if e := db.recoverWriter(); e != nil || !errors.Is(err, ErrFull) || !errors.As(err, &failed) {
		return errors.Join(err, e)
	}
	switch db.Head() {
	case w.first - 1:
		return fmt.Errorf("append: %w", failed.err)
	case w.next - 1:
		if e := db.file.SyncWAL(); e != nil {
			return errors.Join(err, e)
		}
		return nil
	}
	return err
}

func (db *DB) endTransaction(tx *sql.Tx) error {
	if db.commitTx != nil {
		return db.commitTx(tx)
	}
	return tx.Commit()
}

// recoverWriter reopens the file after a failed COMMIT and reads back the log.
func (db *DB) recoverWriter() error {
	ctx := context.Background()
	if err := db.file.Lock(ctx); err != nil {
		return err
	}
	defer db.file.Unlock()
	if err := db.file.Reconnect(); err != nil {
		return err
	}
	return db.loadHead(ctx)
}
