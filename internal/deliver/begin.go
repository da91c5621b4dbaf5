package deliver

import (
	"container/heap"
	"context"
	"errors"
	"fmt"
	"slices"
	"time"

	"github.com/rstream-dev/rstream/event"
)

// allot begins lanes: their next events may be started once the step that names them is
// stored. While the destination is busy it begins no lane whose try that step would count: the
// try would not begin, and the count would stay if the process was killed.
func (c *consumer) allot(now time.Time) {
	held := c.heldUntil.After(now)
	if c.stepping || c.begunN > c.quota/2 || c.ready.len() == 0 && (held || c.alone.len() == 0) {
		return
	}
	c.adaptQuota(now)
	for !held && c.exact == nil && c.alone.len() > 0 {
		if l := c.alone.pop(); len(l.dead) > 0 {
			c.beginDead(l, now)
		} else {
			c.begin(l, 1)
		}
	}
	share := max(1, min(max(laneBegun, c.cfg.Batch), (c.quota-c.begunN)/max(1, c.ready.len())))
	for c.ready.len() > 0 && c.begunN < c.quota {
		c.begin(c.ready.pop(), share)
	}
	c.limited = c.ready.len() > 0
}

// adaptQuota lets more events be begun if workers have waited for steps, or steps follow each
// other faster than acknowledgements need, and fewer if they last long.
func (c *consumer) adaptQuota(now time.Time) {
	least := c.cfg.Workers * c.cfg.Batch
	switch lasted := now.Sub(c.allotted); {
	case c.starved, c.limited && lasted < groupTime:
		c.quota = min(2*c.quota, max(maxBegun, 2*least))
	case lasted > 4*groupTime:
		c.quota = max(least, c.quota*3/4)
	}
	c.starved, c.limited, c.allotted = false, false, now
}

// errProcessEnded is why a try has failed in which the process ended.
var errProcessEnded = errors.New("the program ended while it was under way")

// begin begins up to share events of a lane.
func (c *consumer) begin(l *lane, share int) {
	switch {
	case l.careful > 0:
		if c.cfg.Tries > 0 && l.tries >= c.cfg.Tries {
			c.tell(Failure{Event: l.queue[0], Events: 1, Try: l.tries, Err: errProcessEnded, Dead: true})
			c.bury(l, errProcessEnded.Error())
			c.rest(l)
			return
		}
		// From here on the row counts the try.
		if !l.behind {
			l.behind, l.skipped = true, l.queue[len(l.queue)-1].ID
			c.rows++
		}
		c.exact, l.charged, l.begun = l, true, 1
	case l.tries > 0 || l.limit > 0:
		l.begun = 1
	default:
		l.begun = min(share, len(l.queue))
	}
	l.phase = begun
	c.begunN += l.begun
	c.beginning = append(c.beginning, l)
	c.note(l)
}

// beginDead begins the first dead letter of a lane. Until it has ended, it is an ordinary
// dead letter again, so that it cannot end the process more than once.
func (c *consumer) beginDead(l *lane, now time.Time) {
	c.exact, l.burned, l.phase = l, true, begun
	d := l.dead[0]
	d.Tries++
	d.Time, d.Retry, d.Error = event.TimeOf(now), false, errProcessEnded.Error()
	c.pending.Return = append(c.pending.Return, d)
	c.beginning = append(c.beginning, l)
	c.note(l)
}

// readUnread reads the next events of lanes that are behind.
func (c *consumer) readUnread(ctx context.Context) {
	for c.unread.len() > 0 && c.loadingN < maxLoading && (c.queued < maxQueued+maxRead && c.bytes < maxBytes || c.ready.len()+c.begun.len() == 0) {
		l := c.unread.pop()
		c.loadingN++
		l.phase = loading
		after, until := l.first-1, c.position
		c.running.Go(func() {
			evs, next, err := c.cfg.Store.ReadStorage(ctx, l.storage, after, until, loadEvents)
			if ctx.Err() != nil {
				err = context.Cause(ctx)
			}
			c.loaded <- loaded{l, evs, until, next, err}
		})
	}
}

// errMissing means that events that were read before are not in the file any more.
var errMissing = errors.New("events that are not done are missing in the copy")

// takeLoaded takes the events that were read of a lane.
func (c *consumer) takeLoaded(r loaded) {
	c.loadingN--
	l := r.lane
	// Events that came since then are after until.
	if r.err == nil && r.next < l.first && r.next < min(l.skipped, r.until) {
		r.err = fmt.Errorf("read %s after %s: %w", l.storage, r.next, errMissing)
	}
	if r.err != nil {
		if !c.passDropped(l, r.err) {
			c.fail(r.err)
			l.phase = ready
		}
		return
	}
	var wanted []*event.Event
	for i := range r.evs {
		if c.wants(&r.evs[i]) {
			wanted = append(wanted, &r.evs[i])
		} else if c.err != nil { // the event may be wanted: the lane stays where it is
			l.phase = ready
			return
		}
	}
	for _, ev := range wanted {
		c.enqueue(l, ev)
	}
	first := max(l.first, r.next+1)
	if l.isEvent = len(l.queue) > 0; l.isEvent {
		first = l.queue[0].ID
	}
	if first != l.first && l.tries > 0 {
		l.tries, l.err = 0, "" // that event is gone, or is left out now
	}
	l.first = first
	if r.next >= l.skipped {
		l.behind = false
		c.rows--
	}
	c.restFull(l)
}

// passDropped lets a lane go on after events that the copy no longer has. It reports false if err
// is to end the consumer.
func (c *consumer) passDropped(l *lane, err error) bool {
	if c.cfg.PassDropped == nil {
		return false
	}
	oldest, ok := c.cfg.PassDropped(Dropped{l.storage, l.isEvent || l.tries > 0, err})
	if !ok || oldest < l.first {
		return false
	}
	l.first, l.isEvent = oldest+1, false
	l.tries, l.err = 0, ""
	if oldest >= l.skipped {
		l.behind = false
		c.rows--
	}
	c.restFull(l)
	return true
}

// dispatch gives begun lanes to idle workers.
func (c *consumer) dispatch(now time.Time) {
	for len(c.idle) > 0 && !c.heldUntil.After(now) {
		if c.begun.len() == 0 {
			c.starved = c.starved || c.limited && c.ready.len() > 0
			return
		}
		w := c.nextWork(now)
		s := c.idle[len(c.idle)-1]
		c.idle = c.idle[:len(c.idle)-1]
		c.trying++
		s.tries <- w
	}
}

// nextWork takes begun lanes for one try: several only if none is exact and a larger try of
// them has not failed.
func (c *consumer) nextWork(now time.Time) *work {
	l := c.begun.pop()
	w := &work{lanes: []*lane{l}, try: Try{Number: l.tries + 1, Line: c.cfg.Line}}
	l.phase, l.since = underWay, now
	if l.burned {
		w.dead = true
		w.try.Dead, w.try.Number = true, l.dead[0].Tries+1
		w.try.Events, w.counts = []*event.Event{&l.dead[0].Event}, []int{0}
		return w
	}
	most := c.cfg.Batch
	if l.limit > 0 {
		most = min(most, l.limit)
	}
	if l.tries > 0 || l.careful > 0 {
		most = 1
	}
	c.send(w, l, most)
	for len(w.try.Events) < most && c.begun.len() > 0 {
		next := c.begun.peek()
		if next.limit != l.limit || next.burned || next.tries > 0 || next.careful > 0 {
			break
		}
		c.begun.pop()
		next.phase, next.since = underWay, now
		w.lanes = append(w.lanes, next)
		c.send(w, next, most-len(w.try.Events))
	}
	return w
}

// send adds up to most events of a lane to a try.
func (c *consumer) send(w *work, l *lane, most int) {
	l.sent = min(most, l.begun)
	w.try.Events = append(w.try.Events, l.queue[:l.sent]...)
	w.counts = append(w.counts, l.sent)
	c.begunN -= l.sent
	c.sentN += l.sent
}

// takeBack takes back what was begun and not started.
func (c *consumer) takeBack() {
	for c.begun.len() > 0 {
		c.takeBackLane(c.begun.pop())
	}
	if !c.stepping {
		for _, l := range c.beginning {
			c.takeBackLane(l)
		}
		c.beginning = nil
	}
	for l := range c.open {
		if l.phase == underWay && l.begun > l.sent {
			c.begunN -= l.begun - l.sent
			l.begun = l.sent
		}
	}
}

// takeBackExact takes back the lane whose try is counted before it begins, unless it has begun.
func (c *consumer) takeBackExact() {
	l := c.exact
	if l == nil || l.phase != begun {
		return
	}
	isIt := func(other *lane) bool { return other == l }
	c.beginning = slices.DeleteFunc(c.beginning, isIt)
	c.begun.remove(isIt)
	c.takeBackLane(l)
	c.rest(l)
}

func (c *consumer) takeBackLane(l *lane) {
	c.begunN -= l.begun
	l.begun, l.charged, l.phase = 0, false, ready
	if l.burned {
		c.askLater(l)
	}
	if c.exact == l {
		c.exact = nil
	}
	c.note(l)
}

// askLater stores that the dead letter of a lane, which was begun, is still to be tried.
func (c *consumer) askLater(l *lane) {
	l.burned = false
	d := l.dead[0]
	d.Retry = true
	c.pending.Return = append(c.pending.Return, d)
	c.found = true // by the next look, though the last one may have found none
	if c.endedDead != nil {
		c.endedDead[d.Number] = true
	}
	c.dropLetter(l)
}

// dropLetter takes the first dead letter out of a lane.
func (c *consumer) dropLetter(l *lane) {
	l.dead = l.dead[1:]
	c.letters--
}

// askAgain looks for dead letters that are to be tried again. Since a look finds only some, the next
// one follows at once when these are done.
func (c *consumer) askAgain(ctx context.Context, now time.Time) {
	if c.asking || c.ending || now.Sub(c.asked) < askTime && !(c.found && c.lettersStored()) {
		return
	}
	c.asking, c.asked, c.endedDead = true, now, map[int64]bool{}
	c.running.Go(func() {
		dead, err := c.cfg.Store.AskedAgain(ctx)
		if ctx.Err() != nil {
			err = context.Cause(ctx)
		}
		c.again <- askedAgain{dead, err}
	})
}

// lettersStored reports whether the results of all dead letters are stored.
func (c *consumer) lettersStored() bool {
	return c.letters == 0 && !c.stepping && len(c.pending.Return) == 0 && len(c.pending.Remove) == 0
}

func (c *consumer) takeAgain(a askedAgain) {
	// Those that were not stored may be asked for again, which the look did not see.
	c.asking, c.found = false, len(a.dead) > 0 || len(c.endedDead) > 0 || !c.lettersStored()
	if a.err != nil {
		c.fail(a.err)
		return
	}
	for _, d := range a.dead {
		if c.endedDead[d.Number] {
			continue // since then
		}
		l := c.lanes[d.Event.Storage()]
		if l == nil {
			l = &lane{storage: d.Event.Storage()}
			c.lanes[l.storage] = l
			l.dead = append(l.dead, d)
			c.letters++
			c.rest(l)
			continue
		}
		if !hasDead(l, d.Number) {
			l.dead = append(l.dead, d)
			c.letters++
			c.stopWaiting(l)
		}
	}
}

// stopWaiting lets the dead letters of a lane be tried while its events still wait.
func (c *consumer) stopWaiting(l *lane) {
	if l.phase != waiting {
		return
	}
	heap.Remove(&c.waiting, slices.Index(c.waiting, l))
	c.await(l)
}

func hasDead(l *lane, number int64) bool {
	for i := range l.dead {
		if l.dead[i].Number == number {
			return true
		}
	}
	return false
}
