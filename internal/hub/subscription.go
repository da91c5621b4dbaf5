package hub

import (
	"context"
	"fmt"
	"sync"

	"github.com/rstream-dev/rstream/event"
)

// A Subscription is one reader of a hub. One goroutine calls Next and Position; any
// may call Close.
type Subscription struct {
	hub    *Hub
	topics []event.Topic

	// Of the table, guarded by its locks.
	places []int32
	index  int32

	// Guarded by mu. While joined, what the topics have after pos is at or before
	// goal in the Source, or after goal in the queue.
	joined bool
	closed bool
	parked bool // the reader sleeps; whoever clears it rings
	nudged bool // a Next that finds nothing does not sleep
	live   bool // owned by Next: what the last batch said
	mu     sync.Mutex
	pos    event.ID   // what is at or before it has been given
	mark   event.Mark // of pos, if it is known
	goal   event.ID   // where the Source ended when the reader last joined; moved only by Next
	seen   event.ID   // what is at or before it must not be queued any more
	queue  []*event.Event
	bytes  int           // of the queued events
	wake   chan struct{} // made when the reader first sleeps

	// Owned by Next.
	given []*event.Event // the last batch, or an empty slice to use again
}

// keep is how large a slice a subscription keeps for the next events.
const keep = 64

// A Batch is what Next gives a reader.
type Batch struct {
	// Events are in the order of ids. There may be none: the reader has only
	// come further. The slice is valid until the next call of Next.
	Events []*event.Event
	// Position is the position up to which the reader has been given
	// everything of its topics, with this batch.
	Position event.ID
	// Mark is that of Position, zero if it is not known.
	Mark event.Mark
	// Live says that with this batch the reader has come to the end of the log
	// as it was when it last joined: history is done. A reader that falls behind
	// later gets batches that are not live again.
	Live bool
}

// Next returns what is new, all that waits in one batch, and blocks while there is
// nothing. The first call does not block on a log without news: it returns a batch
// that is live.
//
// If ctx is done, Next returns its error; if the Source cannot be read, what it
// said. Nothing is lost by either: the next call goes on. Once the hub is closed
// Next returns the hub's error, once the subscription is, ErrClosed.
//
// Next returns ErrQuiet, once, if there is nothing after a call of Nudge.
func (s *Subscription) Next(ctx context.Context) (Batch, error) {
	s.recycle()
	for {
		if err := ctx.Err(); err != nil {
			return Batch{}, err
		}
		b, then, err := s.poll()
		if then == read {
			b, then, err = s.replay(ctx)
		}
		if err != nil || then == give {
			return b, err
		}
		if then == rest {
			s.sleep(ctx)
		}
	}
}

// Nudge ends the waiting of Next, of the one that is under way or of the first that finds
// nothing. It costs less than a context or a timer's channel for each call of Next.
func (s *Subscription) Nudge() {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.nudged = true
	if s.unpark() {
		s.ring()
	}
}

// A step is what Next does next.
type step int

const (
	give  step = iota // return the batch
	read              // read the Source
	rest              // sleep; parked is set
	again             // begin anew
)

// recycle takes back the last batch, for the reader is done with it.
func (s *Subscription) recycle() {
	clear(s.given)
	if s.given = s.given[:0]; cap(s.given) > keep {
		s.given = nil
	}
}

// poll returns what is queued or decides what else to do.
func (s *Subscription) poll() (Batch, step, error) {
	head := s.hub.point() // before mu: see settle
	s.mu.Lock()
	defer s.mu.Unlock()
	switch {
	case s.closed:
		return Batch{}, give, ErrClosed
	case s.pos >= s.goal && len(s.queue) > 0:
		return s.take(head), give, nil
	case s.hub.closed():
		return Batch{}, give, *s.hub.err.Load()
	}
	if !s.joined && s.pos >= s.goal {
		s.join()
	}
	switch {
	case s.pos < s.goal:
		return Batch{}, read, nil
	case !s.live:
		s.live = true
		return Batch{Position: s.pos, Mark: s.mark, Live: true}, give, nil
	}
	then, err := s.park()
	return Batch{}, then, err
}

// join makes the hub queue what comes after the log's end, and makes that end the
// goal. A commit is announced before its events are queued. So if one is announced
// later than this, its events will find the subscription joined; if earlier, they
// are in the Source, and if they are still being queued, seen keeps them out.
func (s *Subscription) join() {
	end := event.ID(s.hub.announced.Load())
	s.goal = end
	s.seen = max(s.seen, end)
	s.joined = true
}

// take empties the queue. head was loaded before mu was locked.
func (s *Subscription) take(head event.Point) Batch {
	s.given, s.queue, s.bytes = s.queue, s.given, 0
	last := s.given[len(s.given)-1]
	s.pos, s.mark = last.ID, last.Mark()
	s.come(head)
	s.live = true
	return Batch{Events: s.given, Position: s.pos, Mark: s.mark, Live: true}
}

// come moves the reader to a position, if that is further.
func (s *Subscription) come(to event.Point) {
	if to.ID > s.pos {
		s.pos, s.mark = to.ID, to.Mark
	}
}

// replay reads a chunk of what lies before the goal. If the Source has nothing
// there yet, the reader is to sleep until that may have changed.
func (s *Subscription) replay(ctx context.Context) (Batch, step, error) {
	version := s.hub.version()
	after, until := s.stretch()
	evs, next, err := s.hub.src.Read(ctx, s.topics, after, until, s.hub.cfg.Chunk)
	if err == nil {
		err = check(evs, after, next, until)
	}
	if err != nil {
		return Batch{}, give, fmt.Errorf("read source after %s: %w", after, err)
	}
	if next == after {
		then, err := s.stall(version)
		return Batch{}, then, err
	}
	for i := range evs {
		s.given = append(s.given, &evs[i])
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	s.pos, s.mark = next, 0
	if n := len(evs); n > 0 && evs[n-1].ID == next {
		s.mark = evs[n-1].Mark()
	}
	s.live = next == until
	return Batch{Events: s.given, Position: next, Mark: s.mark, Live: s.live}, give, nil
}

// stretch returns what is to be read from the Source. As long as pos is before
// goal, nobody but Next moves either.
func (s *Subscription) stretch() (after, until event.ID) {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.pos, s.goal
}

// check refuses what a Source must not return. Events that it repeats or passes
// over would otherwise be repeated or lost without a word.
func check(evs []event.Event, after, next, until event.ID) error {
	last := after
	for i := range evs {
		if evs[i].ID <= last {
			return fmt.Errorf("source returned %s after %s", evs[i].ID, last)
		}
		last = evs[i].ID
	}
	if next < last || next > until {
		return fmt.Errorf("source returned position %s, not between %s and %s", next, last, until)
	}
	return nil
}

// stall makes the reader sleep until the Source may hold more than at version.
func (s *Subscription) stall(version uint64) (step, error) {
	s.mu.Lock()
	then, err := s.park()
	s.mu.Unlock()
	// Close of either kind may have come before that, and rung nobody.
	if err == nil && (s.over() || !s.hub.stalled(s, version)) {
		s.unparkSelf()
		return again, nil
	}
	return then, err
}

// over reports whether Next has an error to return.
func (s *Subscription) over() bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.closed || s.hub.closed()
}

// park says that the reader is about to sleep, if it has not been nudged. Whoever has
// something for it from now on sees that under mu, so nothing can be missed between here
// and sleep.
func (s *Subscription) park() (step, error) {
	if s.nudged {
		s.nudged = false
		return give, ErrQuiet
	}
	if s.wake == nil {
		s.wake = make(chan struct{}, 1)
	}
	s.parked = true
	return rest, nil
}

func (s *Subscription) sleep(ctx context.Context) {
	select {
	case <-s.wake:
	case <-ctx.Done():
		s.unparkSelf()
	}
}

// unparkSelf takes park back. The bell may be rung all the same; the next sleep is
// then short.
func (s *Subscription) unparkSelf() {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.parked = false
}

// unpark reports whether the caller has to ring.
func (s *Subscription) unpark() bool {
	was := s.parked
	s.parked = false
	return was
}

// ring wakes the reader.
func (s *Subscription) ring() {
	select {
	case s.wake <- struct{}{}:
	default: // it has been rung already
	}
}

// rouse wakes the reader if it sleeps.
func (s *Subscription) rouse() {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.unpark() {
		s.ring()
	}
}

// push queues ev, which a Publish that began at the head old has brought. It
// reports whether the caller has to ring. An event that several topics ask for
// comes several times.
func (s *Subscription) push(ev *event.Event, old event.Point) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	if !s.joined || ev.ID <= s.seen {
		return false
	}
	if s.full(old.ID) {
		s.hub.overflows.Add(1)
		s.drop()
		return s.unpark()
	}
	s.settle(old)
	s.queue = append(s.queue, ev)
	s.bytes += weight(ev)
	s.seen = ev.ID
	return s.unpark()
}

// full reports whether nothing more must be queued. If something of the same
// Publish has been, the limits are wider.
func (s *Subscription) full(old event.ID) bool {
	events, bytes := len(s.queue), s.bytes
	if s.seen > old {
		events, bytes = events/burst, bytes/burst
	}
	return events >= s.hub.cfg.Queue || bytes >= s.hub.cfg.QueueBytes
}

// weight is about what ev takes in memory: its value stands in its line, too.
func weight(ev *event.Event) int { return 512 + 2*len(ev.Value) + 2*len(ev.Path) }

// settle lets a reader that has been given everything keep up with the head, so
// that a quiet topic is never read again from far back. The head must have been
// loaded before mu was locked: then what is at or before it had been queued, and
// since the queue is empty it has been given.
func (s *Subscription) settle(head event.Point) {
	if s.joined && s.pos >= s.goal && len(s.queue) == 0 {
		s.come(head)
	}
}

// lose makes the reader read the Source from where it is. All that is at or before
// the head old has been queued.
func (s *Subscription) lose(old event.Point) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.settle(old)
	s.drop()
	if s.unpark() {
		s.ring()
	}
}

// drop empties the queue and leaves the hub until the next join.
func (s *Subscription) drop() {
	s.queue, s.bytes, s.joined = nil, 0, false
}

// Position returns where the reader is: everything of its topics up to there has
// been returned by Next. When there is nothing to give, it moves with the head of
// the hub. It never goes back and never passes an event that waits to be given.
func (s *Subscription) Position() event.ID { return s.Point().ID }

// Point is Position with its mark, which is zero if it is not known.
func (s *Subscription) Point() event.Point {
	head := s.hub.point() // before mu: see settle
	s.mu.Lock()
	defer s.mu.Unlock()
	s.settle(head)
	return event.Point{ID: s.pos, Mark: s.mark}
}

// lag returns how far the reader is behind head and whether it reads the Source.
func (s *Subscription) lag(head event.ID) (ids uint64, behind bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	behind = !s.joined || s.pos < s.goal
	if !behind && len(s.queue) == 0 || s.pos >= head {
		return 0, behind
	}
	return uint64(head - s.pos), behind
}

// Close ends the subscription; a blocked Next returns ErrClosed. Closing twice is
// fine.
func (s *Subscription) Close() {
	if !s.end() {
		return
	}
	s.hub.table.remove(s)
	s.hub.stalls.Lock()
	delete(s.hub.stalls.subs, s)
	s.hub.stalls.Unlock()
}

// end closes s for its reader. It reports false if that had been done.
func (s *Subscription) end() bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.closed {
		return false
	}
	s.closed = true
	s.drop()
	if s.unpark() {
		s.ring()
	}
	return true
}
