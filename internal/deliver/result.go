package deliver

import (
	"errors"
	"time"

	"github.com/rstream-dev/rstream/cache"
	"github.com/rstream-dev/rstream/event"
)

// takeResult takes the result of a try.
func (c *consumer) takeResult(r result) {
	c.trying--
	c.idle = append(c.idle, r.slot)
	if c.acked.IsZero() {
		c.acked = time.Now()
	}
	var end *EndError
	var again *AgainError
	switch {
	case errors.As(r.err, &end):
		c.fail(r.err)
	case errors.As(r.err, &again):
		c.holdBack(r.work, time.Now(), again)
	case !c.heldUntil.After(time.Now()): // otherwise it was under way when another was held back
		c.heldBack = 0
	}
	if r.work.dead {
		c.endDead(r.work.lanes[0], r.err)
		return
	}
	for i, l := range r.work.lanes {
		c.sentN -= r.work.counts[i]
		if r.err == nil {
			c.finishLane(l, r.work.counts[i])
		}
	}
	if r.err != nil {
		c.endFailed(r.work, r.err)
	}
}

// finishLane takes that the first n events of a lane are done.
func (c *consumer) finishLane(l *lane, n int) {
	c.done += int64(n)
	l.sent, l.begun = 0, l.begun-n
	l.tries, l.err, l.limit = 0, "", 0
	c.pop(l, n)
	if l.begun > 0 && l.careful == 0 && len(l.dead) == 0 && !c.ending {
		l.phase = begun
		c.begun.push(l)
		c.note(l)
		return
	}
	c.begunN -= l.begun
	l.begun = 0
	c.rest(l)
}

// pop drops the first n events of a lane, which are done or dead.
func (c *consumer) pop(l *lane, n int) {
	c.drop(l.queue[:n])
	l.first, l.isEvent = l.queue[n-1].ID+1, false
	clear(l.queue[:n]) // the array stays
	if l.queue = l.queue[n:]; len(l.queue) > 0 {
		l.first, l.isEvent = l.queue[0].ID, true
	}
	l.careful = max(0, l.careful-n)
	l.charged = false
	if c.exact == l {
		c.exact = nil
	}
}

// endFailed takes that a try has failed, or was cut off at the end.
func (c *consumer) endFailed(w *work, err error) {
	for _, l := range w.lanes {
		c.begunN -= l.begun - l.sent
		l.sent, l.begun, l.charged = 0, 0, false
		if c.exact == l {
			c.exact = nil
		}
	}
	now := time.Now()
	var again *AgainError
	var end *EndError
	switch {
	case errors.Is(err, errEnding), errors.As(err, &end):
		for _, l := range w.lanes {
			c.note(l)
		}
	case errors.As(err, &again):
		for _, l := range w.lanes {
			c.rest(l)
		}
	case len(w.try.Events) > 1:
		c.halve(w, now, err)
	default:
		c.failed++
		c.endTry(w.lanes[0], now, err)
	}
}

// holdBack lets all lanes wait, since the destination is busy, and does not count the try.
func (c *consumer) holdBack(w *work, now time.Time, again *AgainError) {
	if !c.heldUntil.After(now) { // otherwise it was under way when another was held back
		c.heldBack++
	}
	pause := max(again.After, pauseAfter(c.heldBack))
	c.takeBackExact()
	if until := now.Add(pause); until.After(c.heldUntil) {
		c.heldUntil = until
		c.tell(Failure{Event: w.try.Events[0], Events: len(w.try.Events), Try: w.try.Number, Err: again.Err, Pause: pause})
	}
}

// halve makes the lanes of a try of several events take part in smaller ones, in which each
// has one event.
func (c *consumer) halve(w *work, now time.Time, err error) {
	c.failed++
	var refused *RefusedError
	pause := pauseAfter(1)
	if errors.As(err, &refused) {
		pause = 0
	}
	c.tell(Failure{Event: w.try.Events[0], Events: len(w.try.Events), Try: 1, Err: err, Pause: pause})
	for _, l := range w.lanes {
		l.limit = max(1, len(w.try.Events)/2)
		if pause == 0 {
			c.rest(l)
		} else {
			c.pause(l, now, pause)
		}
	}
}

// endTry counts a failed try of the first event of a lane.
func (c *consumer) endTry(l *lane, now time.Time, err error) {
	l.tries++
	l.err = err.Error()
	f := Failure{Event: l.queue[0], Events: 1, Try: l.tries, Err: err}
	if c.cfg.Tries > 0 && l.tries >= c.cfg.Tries {
		f.Dead = true
		c.tell(f)
		c.bury(l, l.err)
		c.rest(l)
		return
	}
	f.Pause = pauseAfter(l.tries)
	c.tell(f)
	c.pause(l, now, f.Pause)
}

// pause lets a lane wait, without its events.
func (c *consumer) pause(l *lane, now time.Time, d time.Duration) {
	l.retry = now.Add(d)
	c.shed(l)
	c.rest(l)
}

// bury makes a dead letter of the first event of a lane.
func (c *consumer) bury(l *lane, reason string) {
	c.pending.Bury = append(c.pending.Bury, cache.DeadLetter{Event: *l.queue[0], Tries: l.tries, Time: event.TimeOf(time.Now()), Error: reason})
	l.tries, l.err, l.limit = 0, "", 0
	c.pop(l, 1)
}

// endDead takes the result of a try of a dead letter.
func (c *consumer) endDead(l *lane, err error) {
	c.exact, l.burned = nil, false
	d := l.dead[0]
	var end *EndError
	var again *AgainError
	switch {
	case errors.Is(err, errEnding), errors.As(err, &end), errors.As(err, &again):
		d.Retry = true
		c.pending.Return = append(c.pending.Return, d)
		c.found = true // by the next look, though the last one may have found none
	case err == nil:
		c.done++
		c.pending.Remove = append(c.pending.Remove, d.Number)
	default:
		c.failed++
		d.Tries, d.Time, d.Error, d.Retry = d.Tries+1, event.TimeOf(time.Now()), err.Error(), false
		c.pending.Return = append(c.pending.Return, d)
		c.tell(Failure{Event: &d.Event, Events: 1, Try: d.Tries, Err: err, Dead: true})
	}
	if c.endedDead != nil {
		c.endedDead[d.Number] = true
	}
	c.dropLetter(l)
	c.rest(l)
}

func (c *consumer) tell(f Failure) {
	if c.cfg.OnFail != nil {
		c.cfg.OnFail(f)
	}
}
