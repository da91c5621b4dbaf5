package cache

import (
	"context"
	"database/sql"
	"fmt"

	"github.com/rstream-dev/rstream/cache/internal/dbfile"
	"github.com/rstream-dev/rstream/cache/internal/retention"
	"github.com/rstream-dev/rstream/event"
)

// An Expiry is a value that may have expired: that of an event, if the event is still the last
// one of its storage. Draft is the DEL for it, and Hash the hash of that.
type Expiry = retention.Expiry

// An Assignment asks an Assigner for ids: for drafts, or for the DELs of expired values.
type Assignment struct {
	Drafts  []event.Draft
	Hashes  []event.Hash // of Drafts
	Expired []Expiry

	Receipts []event.Receipt // of Drafts, set by Assign
	Err      error           // the reason for which nothing was assigned, set by Assign
}

// An Assigner assigns the ids of a mirrored log, in the place of its server: many servers share
// the log, and one at a time has an Assigner. What it assigns is not in the file. It must be
// made durable elsewhere and come back through Receive; until then it is pending.
//
// Assign must be called by one goroutine at a time.
type Assigner struct {
	db      *DB
	head    event.ID      // assigned up to here
	time    event.Time    // of the last event
	now     event.Time    // of the events of this call
	pending []event.Event // assigned, and not known to be in the file
	hashes  map[event.Hash]event.ID
	last    map[event.Storage]event.ID // of pending
}

// NewAssigner returns an Assigner that goes on from the head of the file.
func (db *DB) NewAssigner() (*Assigner, error) {
	if db.commits == nil || !db.file.Mirror {
		return nil, fmt.Errorf("assign ids: %w", ErrNotMirror)
	}
	if db.file.IsPart() {
		return nil, fmt.Errorf("assign ids: %w", ErrPartMirror)
	}
	return &Assigner{db: db, head: db.Head(), time: event.Time(db.lastTime.Load()), hashes: map[event.Hash]event.ID{}, last: map[event.Storage]event.ID{}}, nil
}

// Head returns the position up to which ids are assigned.
func (a *Assigner) Head() event.ID { return a.head }

// Assign assigns ids and times to all drafts of some, by the rules of Append, and returns the
// new events. Each of some is assigned as a whole or not at all. The drafts become part of the
// events, and must have passed Check.
func (a *Assigner) Assign(ctx context.Context, some []*Assignment) (evs []event.Event, err error) {
	file := a.db.file
	if err := file.Lock(ctx); err != nil {
		return nil, err
	}
	defer file.Unlock()
	tx, err := file.Begin(context.Background())
	if err != nil {
		return nil, fmt.Errorf("assign ids: %w", dbfile.Classify(err))
	}
	defer file.End()
	defer tx.Rollback() // nothing is written
	if err := a.db.seen.Ready(tx); err != nil {
		return nil, fmt.Errorf("assign ids: %w", dbfile.Classify(err))
	}
	a.forgetStored()
	a.now = max(event.TimeOf(file.Now()), a.time)
	if !a.now.Valid() {
		return nil, fmt.Errorf("the clock shows %s, which is out of range", file.Now())
	}
	before := a.head
	for _, s := range some {
		begin := a.head
		if s.Err = a.assign(tx, s); s.Err != nil {
			s.Err = fmt.Errorf("append: %w", dbfile.Classify(s.Err))
			s.Receipts = nil
			a.forgetAfter(begin)
		}
	}
	if a.head > before {
		a.time = a.now
	}
	return a.pending[len(a.pending)-int(a.head-before):], nil
}

// forgetStored forgets events that are in the file by now.
func (a *Assigner) forgetStored() {
	stored, n := a.db.Head(), 0
	for n < len(a.pending) && a.pending[n].ID <= stored {
		a.forget(&a.pending[n])
		n++
	}
	a.pending = a.pending[n:]
}

func (a *Assigner) forget(ev *event.Event) {
	delete(a.hashes, ev.Hash)
	if a.last[ev.Storage()] == ev.ID {
		delete(a.last, ev.Storage())
	}
}

// forgetAfter takes back the ids after a position, which was the head before an assignment
// failed.
func (a *Assigner) forgetAfter(begin event.ID) {
	keep := len(a.pending) - int(a.head-begin)
	for i := keep; i < len(a.pending); i++ {
		a.forget(&a.pending[i])
	}
	a.pending, a.head = a.pending[:keep], begin
	for i := range a.pending { // those before were the last ones of their storages
		a.last[a.pending[i].Storage()] = a.pending[i].ID
	}
}

func (a *Assigner) assign(tx *sql.Tx, s *Assignment) error {
	s.Receipts = make([]event.Receipt, len(s.Drafts))
	for i := range s.Drafts {
		if err := a.assignDraft(tx, &s.Receipts[i], &s.Drafts[i], &s.Hashes[i]); err != nil {
			return err
		}
	}
	if len(s.Expired) == 0 {
		return nil
	}
	open := a.db.seen.LastOpen()
	for i := range s.Expired {
		x := &s.Expired[i]
		last, pending := a.last[x.Draft.Storage()]
		current := last == x.ID
		if !pending {
			var err error
			if current, err = a.db.isCurrent(tx, x, open); err != nil {
				return err
			}
		}
		if !current {
			continue // it was set again, or deleted
		}
		var receipt event.Receipt
		if err := a.assignDraft(tx, &receipt, &x.Draft, &x.Hash); err != nil {
			return err
		}
	}
	return nil
}

func (a *Assigner) assignDraft(tx *sql.Tx, receipt *event.Receipt, d *event.Draft, h *event.Hash) error {
	if id, ok := a.hashes[*h]; ok {
		first := a.pending[len(a.pending)-1-int(a.head-id)]
		*receipt = event.Receipt{Event: first, Duplicate: true}
		return nil
	}
	id, known, err := a.db.seen.Find(tx, h)
	switch {
	case err != nil:
		return err
	case known:
		*receipt, err = a.db.repeatedReceipt(tx, id, d, h)
		return err
	case a.head >= event.MaxID-1:
		return ErrLogFull
	}
	a.head++
	ev := event.New(a.head, a.now, *d, *h)
	a.pending = append(a.pending, ev)
	a.hashes[*h], a.last[d.Storage()] = ev.ID, ev.ID
	receipt.Event = ev
	return nil
}
