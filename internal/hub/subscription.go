package hub

import (
	"context"
	"fmt"
	"sync"

	"github.com/rstream-dev/rstream/event"
)

// A Subscription is one reader of a hub. Only one goroutine may call Next and Position;
// Close and Nudge may be called from any.
type Subscription struct {
	hub    *Hub
	src    Source
	topics []event.Topic

	// Owned by the table, guarded by its locks.
	places []int32
	index  int32

	// Guarded by mu. While joined, the events after pos are in the Source up to goal,
	// and in the queue after goal.
	joined bool
	closed bool
	parked bool // the reader sleeps; the caller that clears parked must signal it
	nudged bool // the next sleep is skipped
	live   bool // owned by Next: the last batch was live
	mu     sync.Mutex
	pos    event.ID   // events up to here were given
	mark   event.Mark // of pos, if known
	goal   event.ID   // end of the Source when the reader last joined; only Next changes it
	seen   event.ID   // events up to here must not be queued again
	queue  []*event.Event
	bytes  int           // of the queued events
	wake   chan struct{} // created when the reader first sleeps

	// Owned by Next.
	given []*event.Event // the last batch, or an empty slice to reuse
}

// keep is the largest capacity of a slice that a subscription reuses.
const keep = 64

// A Batch is the result of Next.
type Batch struct {
	// Events are in the order of ids. If there are none, only the position has
	// advanced. The slice is valid until the next call of Next.
	Events []*event.Event
	// Position is the position up to which the reader has received all events of
	// its topics, including this batch.
	Position event.ID
	// Mark is the mark of Position, zero if it is not known.
	Mark event.Mark
	// Live reports that the reader has reached the end of the log as of its last
	// join, so history is complete. A reader that falls behind later gets batches
	// that are not live again.
	Live bool
}

// Next returns all new events in one batch, and blocks while there are none. Without
// new events, the first call does not block: it returns an empty live batch.
//
// If ctx is done, Next returns the error of ctx. If the Source cannot be read, it
// returns that error. Neither loses events: the next call continues. After the hub is
// closed, Next returns the hub's error; after the subscription is closed, ErrClosed.
//
// After a call of Nudge, Next returns ErrQuiet once instead of blocking.
func (s *Subscription) Next(ctx context.Context) (Batch, error) {
	s.recycle()
	for {
		if err := ctx.Err(); err != nil {
			return Batch{}, err
		}
		b, then, err := s.poll()
		if then == stepRead {
			b, then, err = s.readSource(ctx)
		}
		if err != nil || then == stepGive {
			return b, err
		}
		if then == stepSleep {
			s.sleep(ctx)
		}
	}
}

// Nudge makes the current call of Next, or else the next one, return instead of blocking.
// It is cheaper than a context or a timer for each call of Next.
func (s *Subscription) Nudge() {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.nudged = true
	if s.unpark() {
		s.signalReader()
	}
}

// A step is what Next does next.
type step int

const (
	stepGive   step = iota // return the batch
	stepRead               // read the Source
	stepSleep              // sleep; parked is set
	stepRepeat             // poll again
)

// recycle makes the slice of the last batch available for the next one.
func (s *Subscription) recycle() {
	clear(s.given)
	if s.given = s.given[:0]; cap(s.given) > keep {
		s.given = nil
	}
}

// poll returns the queued events, or the next step if there are none.
func (s *Subscription) poll() (Batch, step, error) {
	head := s.hub.headPoint() // before mu: see followHead
	s.mu.Lock()
	defer s.mu.Unlock()
	switch {
	case s.closed:
		return Batch{}, stepGive, ErrClosed
	case s.pos >= s.goal && len(s.queue) > 0:
		return s.takeQueue(head), stepGive, nil
	case s.hub.closed():
		return Batch{}, stepGive, *s.hub.err.Load()
	}
	if !s.joined && s.pos >= s.goal {
		s.joinHub()
	}
	switch {
	case s.pos < s.goal:
		return Batch{}, stepRead, nil
	case !s.live:
		s.live = true
		return Batch{Position: s.pos, Mark: s.mark, Live: true}, stepGive, nil
	}
	then, err := s.park()
	return Batch{}, then, err
}

// joinHub makes the end of the log the goal, and makes the hub queue later events. A commit
// is announced before its events are queued. If it is announced after the join, its
// events find the subscription joined. If before, they are in the Source, and seen
// keeps those out that are still being queued.
func (s *Subscription) joinHub() {
	end := event.ID(s.hub.announced.Load())
	s.goal = end
	s.seen = max(s.seen, end)
	s.joined = true
}

// takeQueue empties the queue. head was loaded before mu was locked.
func (s *Subscription) takeQueue(head event.Point) Batch {
	s.given, s.queue, s.bytes = s.queue, s.given, 0
	last := s.given[len(s.given)-1]
	s.pos, s.mark = last.ID, last.Mark()
	s.moveTo(head)
	s.live = true
	return Batch{Events: s.given, Position: s.pos, Mark: s.mark, Live: true}
}

// moveTo advances the reader to a position. It never moves the reader back.
func (s *Subscription) moveTo(to event.Point) {
	if to.ID > s.pos {
		s.pos, s.mark = to.ID, to.Mark
	}
}

// readSource reads the next chunk of events up to the goal. If the Source does not hold
// them yet, the reader sleeps until it may.
func (s *Subscription) readSource(ctx context.Context) (Batch, step, error) {
	version := s.hub.sourceVersion()
	after, until := s.unreadRange()
	evs, next, err := s.src.Read(ctx, s.topics, after, until, s.hub.cfg.Chunk)
	if err == nil {
		err = checkRead(evs, after, next, until)
	}
	if err != nil {
		return Batch{}, stepGive, fmt.Errorf("read source after %s: %w", after, err)
	}
	if next == after {
		then, err := s.waitForSource(version)
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
	return Batch{Events: s.given, Position: next, Mark: s.mark, Live: s.live}, stepGive, nil
}

// unreadRange returns the range to read from the Source. While pos is before goal, only
// Next changes them.
func (s *Subscription) unreadRange() (after, until event.ID) {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.pos, s.goal
}

// checkRead returns an error if the Source broke its contract. Otherwise events that it
// repeats or skips would silently be repeated or lost.
func checkRead(evs []event.Event, after, next, until event.ID) error {
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

// waitForSource makes the reader sleep until the Source may hold more than at version.
func (s *Subscription) waitForSource(version uint64) (step, error) {
	s.mu.Lock()
	then, err := s.park()
	s.mu.Unlock()
	// The hub or the subscription may have been closed before park, and signalled nobody.
	if err == nil && (s.hasEnded() || !s.hub.addStalled(s, version)) {
		s.unparkSelf()
		return stepRepeat, nil
	}
	return then, err
}

// hasEnded reports whether the hub or the subscription is closed.
func (s *Subscription) hasEnded() bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.closed || s.hub.closed()
}

// park marks the reader as about to sleep, unless it was nudged. The caller holds mu, so
// every event from now on finds parked set and rings: nothing is missed between park and
// sleep.
func (s *Subscription) park() (step, error) {
	if s.nudged {
		s.nudged = false
		return stepGive, ErrQuiet
	}
	if s.wake == nil {
		s.wake = make(chan struct{}, 1)
	}
	s.parked = true
	return stepSleep, nil
}

func (s *Subscription) sleep(ctx context.Context) {
	select {
	case <-s.wake:
	case <-ctx.Done():
		s.unparkSelf()
	}
}

// unparkSelf undoes park. The reader may be signalled even so, which makes its next sleep
// short.
func (s *Subscription) unparkSelf() {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.parked = false
}

// unpark clears parked and reports whether the caller must signal it. The caller holds mu.
func (s *Subscription) unpark() bool {
	was := s.parked
	s.parked = false
	return was
}

// signalReader wakes the reader.
func (s *Subscription) signalReader() {
	select {
	case s.wake <- struct{}{}:
	default: // already signalled
	}
}

// wakeReader wakes the reader if it sleeps.
func (s *Subscription) wakeReader() {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.unpark() {
		s.signalReader()
	}
}

// enqueue queues ev, from a Publish that began at the head old. It reports whether the
// caller must signal it. It is called once for each topic that matches ev, and queues ev
// only once.
func (s *Subscription) enqueue(ev *event.Event, old event.Point) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	if !s.joined || ev.ID <= s.seen {
		return false
	}
	if s.isFull(old.ID) {
		s.hub.overflows.Add(1)
		s.leaveHub()
		return s.unpark()
	}
	s.followHead(old)
	s.queue = append(s.queue, ev)
	s.bytes += weight(ev)
	s.seen = ev.ID
	return s.unpark()
}

// isFull reports whether the queue is full. Its limits are wider once it holds an event of
// the same Publish.
func (s *Subscription) isFull(old event.ID) bool {
	events, bytes := len(s.queue), s.bytes
	if s.seen > old {
		events, bytes = events/burst, bytes/burst
	}
	return events >= s.hub.cfg.Queue || bytes >= s.hub.cfg.QueueBytes
}

// weight returns the approximate bytes of memory of ev. Its value is in its line as well.
func weight(ev *event.Event) int { return 512 + 2*len(ev.Value) + 2*len(ev.Path) }

// followHead advances a reader that has received everything to the head, so that a quiet
// topic is never read from far back again. The head must have been loaded before mu was
// locked: then all events up to it had been queued, and since the queue is empty, they
// were given.
func (s *Subscription) followHead(head event.Point) {
	if s.joined && s.pos >= s.goal && len(s.queue) == 0 {
		s.moveTo(head)
	}
}

// fallBehind makes the reader read the Source from its position. All events up to the head
// old have been queued.
func (s *Subscription) fallBehind(old event.Point) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.followHead(old)
	s.leaveHub()
	if s.unpark() {
		s.signalReader()
	}
}

// leaveHub empties the queue and leaves the joined state.
func (s *Subscription) leaveHub() {
	s.queue, s.bytes, s.joined = nil, 0, false
}

// Position returns the position of the reader: Next has returned all events of its
// topics up to there. While no events wait, it follows the head of the hub. It never
// goes back, and never passes an event that waits.
func (s *Subscription) Position() event.ID { return s.Point().ID }

// Point returns Position with its mark, which is zero if it is not known.
func (s *Subscription) Point() event.Point {
	head := s.hub.headPoint() // before mu: see followHead
	s.mu.Lock()
	defer s.mu.Unlock()
	s.followHead(head)
	return event.Point{ID: s.pos, Mark: s.mark}
}

// Lag returns the number of ids by which the reader is behind head, and whether it reads
// the Source. It may be called from any goroutine.
func (s *Subscription) Lag(head event.ID) (ids uint64, behind bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	behind = !s.joined || s.pos < s.goal
	if !behind && len(s.queue) == 0 || s.pos >= head {
		return 0, behind
	}
	return uint64(head - s.pos), behind
}

// Close ends the subscription: a blocked Next returns ErrClosed. It may be called more
// than once.
func (s *Subscription) Close() {
	if !s.markClosed() {
		return
	}
	s.hub.table.removeSubscription(s)
	s.hub.stalls.Lock()
	delete(s.hub.stalls.subs, s)
	s.hub.stalls.Unlock()
}

// markClosed closes s for its reader. It returns false if s was closed already.
func (s *Subscription) markClosed() bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.closed {
		return false
	}
	s.closed = true
	s.leaveHub()
	if s.unpark() {
		s.signalReader()
	}
	return true
}
