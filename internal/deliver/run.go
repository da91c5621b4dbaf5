package deliver

import (
	"cmp"
	"container/heap"
	"context"
	"errors"
	"fmt"
	"slices"
	"sync"
	"time"

	"github.com/rstream-dev/rstream/cache"
	"github.com/rstream-dev/rstream/event"
)

// A consumer is one call of Run. Its fields are owned by the goroutine of Run.
type consumer struct {
	cfg      Config
	position event.ID // all events up to here were read
	lanes    map[event.Storage]*lane
	open     map[*lane]struct{} // lanes that the state names
	dirty    map[*lane]struct{} // lanes whose row is to be changed
	ready    fifo               // lanes with events that may be begun
	alone    fifo               // lanes whose next try is exact
	unread   fifo               // lanes whose next events are to be read
	begun    fifo               // lanes that a worker may take
	waiting  waitHeap
	rows     int       // lanes with a row
	queued   int       // events in queues
	bytes    int       // of their lines
	begunN   int       // events that are begun and not under way
	quota    int       // how many may be
	allotted time.Time // when some were last begun
	limited  bool      // the quota kept more from being begun
	starved  bool      // workers waited, since it did
	exact    *lane     // the one lane whose try is stored alone
	loadingN int

	idle    []*slot
	sentN   int // events under way
	trying  int // tries under way
	results chan result
	loaded  chan loaded
	stepped chan error

	stepping  bool
	beginning []*lane            // begun with the step that is being stored
	pending   cache.ConsumerStep // what the next step adds to the dead letters
	sent      *cache.ConsumerStep
	moved     time.Time // when the position first differed from the stored one; zero if it does not
	acked     time.Time // when something was first done that is not stored; zero for nothing
	saved     time.Time // of the last step
	asked     time.Time // when dead letters were last looked for
	asking    bool
	found     bool // there may be dead letters that are to be tried: the last look found some, or some were given back
	letters   int  // dead letters in lanes
	again     chan askedAgain
	endedDead map[int64]bool // dead letters that have ended since the last look began

	heldBack  int       // how often in a row the destination was busy
	heldUntil time.Time // until then nothing is tried

	done, failed int64
	meter        meter
	scanned      bool // there are no more batches
	ending       bool
	err          error

	running sync.WaitGroup // all goroutines
}

// A slot is the goroutine of one worker.
type slot struct{ tries chan *work }

// work is a try with the lanes that its events are of.
type work struct {
	try    Try
	lanes  []*lane
	counts []int // events of each lane
	dead   bool
}

type result struct {
	slot *slot
	work *work
	err  error
}

// A loaded has the next events of a lane.
type loaded struct {
	lane  *lane
	evs   []event.Event
	until event.ID // was to be read
	next  event.ID // was read
	err   error
}

type askedAgain struct {
	dead []cache.DeadLetter
	err  error
}

// A scanResult is a batch, or the end of all.
type scanResult struct {
	batch Batch
	err   error
	last  bool
}

// Run consumes events until there are no more and all are done, ctx ends, or there is an
// error. Before it returns, it lets the tries that are under way end, within Config.Grace,
// and stores what they have done.
func Run(ctx context.Context, cfg Config) error {
	cfg.Workers, cfg.Batch, cfg.Grace = max(cfg.Workers, 1), max(cfg.Batch, 1), cmp.Or(cfg.Grace, 10*time.Second)
	c := &consumer{cfg: cfg, position: cfg.Store.Position(), lanes: map[event.Storage]*lane{}, open: map[*lane]struct{}{}, dirty: map[*lane]struct{}{},
		quota: cfg.Workers * cfg.Batch, results: make(chan result, cfg.Workers), loaded: make(chan loaded, maxLoading), stepped: make(chan error, 1), again: make(chan askedAgain, 1), saved: time.Now()}
	if err := c.restore(ctx); err != nil {
		return err
	}
	working, cut := context.WithCancelCause(context.WithoutCancel(ctx))
	defer c.running.Wait()
	defer cut(errEnding)
	for range cfg.Workers {
		s := &slot{make(chan *work, 1)}
		c.idle = append(c.idle, s)
		c.running.Go(func() { s.run(working, cfg, c.results) })
		defer close(s.tries)
	}
	scanning, stop := context.WithCancel(ctx)
	defer stop()
	batches := make(chan scanResult)
	c.running.Go(func() { scan(scanning, cfg, c.position, batches) })
	return c.loop(ctx, batches, stop, func() { cut(errEnding) })
}

// run tries what the consumer sends.
func (s *slot) run(ctx context.Context, cfg Config, results chan<- result) {
	w := cfg.NewWorker()
	defer w.Close()
	for t := range s.tries {
		results <- result{s, t, try(ctx, cfg.TryTimeout, w, &t.try)}
	}
}

func try(ctx context.Context, limit time.Duration, w Worker, t *Try) error {
	if limit > 0 {
		var cancel context.CancelFunc
		ctx, cancel = context.WithTimeoutCause(ctx, limit, &TimeoutError{limit})
		defer cancel()
	}
	err := w.Do(ctx, t)
	cause := context.Cause(ctx)
	var again *AgainError
	if err == nil || cause == nil || errors.As(err, &again) && !errors.Is(cause, errEnding) {
		return err
	}
	return cause
}

// scan sends batches until ctx ends or there are no more.
func scan(ctx context.Context, cfg Config, after event.ID, to chan<- scanResult) {
	send := func(r scanResult) bool {
		select {
		case to <- r:
			return true
		case <-ctx.Done():
			return false
		}
	}
	for b, err := range cfg.Batches(ctx, after) {
		if ctx.Err() != nil {
			return // the error, if there is one, is only that
		}
		b.Events = slices.Clone(b.Events) // the slice is used again
		if !send(scanResult{batch: b, err: err, last: err != nil}) || err != nil {
			return
		}
	}
	if ctx.Err() == nil {
		send(scanResult{last: true})
	}
}

// loop is the consumer's one owner of time.
func (c *consumer) loop(ctx context.Context, batches <-chan scanResult, stopScan, cut func()) error {
	timer := time.NewTimer(time.Hour)
	defer timer.Stop()
	ended := ctx.Done()
	var slow, deadline <-chan time.Time // of the end
	for {
		if c.ending {
			c.takeBack()
		}
		now := time.Now()
		c.wake(now)
		c.dispatch(now)
		if c.over() {
			return c.finish(ctx)
		}
		if !c.ending {
			c.readUnread(ctx)
			c.allot(now)
			if c.stepDue(now) {
				c.step(ctx, now)
			}
		}
		c.askAgain(ctx, now)
		timer.Reset(c.nextWake(now))
		scan := batches
		if !c.wantsMore() || c.scanned || c.ending {
			scan = nil
		}
		select {
		case r := <-scan:
			c.takeScan(r)
		case r := <-c.results:
			c.takeResult(r)
			for len(c.results) > 0 {
				c.takeResult(<-c.results)
			}
		case l := <-c.loaded:
			c.takeLoaded(l)
		case err := <-c.stepped:
			c.takeStepped(err)
			if errors.Is(err, cache.ErrLost) {
				cut() // the successor tries the same events
			}
		case a := <-c.again:
			c.takeAgain(a)
		case <-timer.C:
			c.shedSlow(time.Now())
		case <-ended:
			ended = nil
			c.fail(context.Cause(ctx))
		case <-slow:
			if c.trying > 0 && c.cfg.OnEnding != nil {
				c.cfg.OnEnding(max(c.sentN, c.trying))
			}
		case <-deadline:
			for len(c.results) > 0 {
				c.takeResult(<-c.results)
			}
			if c.trying > 0 {
				c.err = errors.Join(c.err, &AbandonedError{max(c.sentN, c.trying), c.cfg.Grace})
			}
			cut()
		}
		if c.ending && deadline == nil {
			stopScan()
			deadline, slow = time.After(c.cfg.Grace), time.After(slowTime)
		}
	}
}

// An AbandonedError means that tries went on for longer than Config.Grace, and were broken off. Their
// events are tried again by the next Run.
type AbandonedError struct {
	Events int
	After  time.Duration
}

func (e *AbandonedError) Error() string {
	if e.Events == 1 {
		return fmt.Sprintf("1 event was still under way after %s, and was broken off: it is tried again", e.After)
	}
	return fmt.Sprintf("%d events were still under way after %s, and were broken off: they are tried again", e.Events, e.After)
}

// fail ends the consumer for a reason. The first one counts.
func (c *consumer) fail(err error) {
	if err != nil && c.err == nil {
		c.err, c.ending = err, true
	}
}

// over reports whether all events are done, or the consumer ends and nothing is under way.
func (c *consumer) over() bool {
	if c.stepping || c.trying > 0 {
		return false
	}
	return c.ending || c.scanned && len(c.lanes) == 0 && !c.asking && !c.found
}

// finish stores the last step.
func (c *consumer) finish(ctx context.Context) error {
	if errors.Is(c.err, cache.ErrLost) {
		return c.err
	}
	c.takeBack()
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), stepTime)
	defer cancel()
	s, status := c.makeStep(time.Now())
	if err := c.cfg.Store.Step(ctx, s); err != nil {
		return errors.Join(c.err, err)
	}
	c.report(status)
	return c.err
}

// restore makes the lanes that the store names.
func (c *consumer) restore(ctx context.Context) error {
	state, err := decodeState(c.cfg.Store.State())
	switch {
	case err != nil && state.Consumer != 0:
		return err // it may name open events
	case state.Consumer == 0:
		state = storedState{} // of another kind of reader
	}
	c.done, c.failed = state.Done, state.Failed
	blocked, err := c.cfg.Store.Blocked(ctx)
	if err != nil {
		return err
	}
	for i := range blocked {
		b := &blocked[i]
		l := &lane{storage: b.Storage, first: b.First, behind: true, skipped: c.position, tries: b.Tries, err: b.Error, stored: b}
		if b.Retry != 0 {
			// The clock may have been set back.
			l.retry = time.Now().Add(min(time.Until(b.Retry.Time()), pauseAfter(100)))
		}
		c.lanes[b.Storage] = l
		c.rows++
	}
	open, err := decodeOpen(state.Open)
	if err != nil {
		return err
	}
	if err := c.restoreOpen(ctx, open); err != nil {
		return err
	}
	list := make([]*lane, 0, len(c.lanes))
	for _, l := range c.lanes {
		list = append(list, l)
	}
	slices.SortFunc(list, func(a, b *lane) int { return cmp.Compare(a.first, b.first) })
	for _, l := range list {
		c.note(l)
		c.rest(l)
	}
	return nil
}

// restoreOpen makes the lanes of the first unfinished events of their storages.
func (c *consumer) restoreOpen(ctx context.Context, open []openEvent) error {
	ids := make([]event.ID, len(open))
	for i := range open {
		ids[i] = open[i].id
	}
	evs, err := c.cfg.Store.EventsByID(ctx, ids)
	if err != nil {
		return fmt.Errorf("read unfinished events: %w", err)
	}
	found := 0
	for _, o := range open {
		if found == len(evs) || evs[found].ID != o.id {
			// The event is gone, and so nothing tells which events after it are unfinished:
			// all of them are read again.
			c.restart(o.id - 1)
			return nil
		}
		st := evs[found].Storage()
		found++
		l := c.lanes[st]
		if l == nil {
			l = &lane{storage: st, first: o.id, behind: true, skipped: c.position}
			c.lanes[st] = l
			c.rows++
		}
		l.careful, l.isEvent = o.begun, true
	}
	return nil
}

// restart sets the position back, so that all events after it are tried again.
func (c *consumer) restart(at event.ID) {
	c.position = at
	for st, l := range c.lanes {
		l.skipped = at
		if l.first > at {
			l.behind = false
			c.rows--
			delete(c.lanes, st)
			if l.stored != nil {
				c.pending.Unblock = append(c.pending.Unblock, st)
			}
		}
	}
}

// takeScan takes a batch of events that were read.
func (c *consumer) takeScan(r scanResult) {
	if r.err != nil {
		c.fail(r.err)
		return
	}
	if r.last {
		c.scanned = true
		return
	}
	for _, ev := range r.batch.Events {
		if ev.ID > c.position && !c.addEvent(ev) {
			return
		}
	}
	if r.batch.Position > c.position {
		c.position = r.batch.Position
		if c.moved.IsZero() {
			c.moved = time.Now()
		}
	}
}

// wants applies Config.Want.
func (c *consumer) wants(ev *event.Event) bool {
	if c.cfg.Want == nil {
		return true
	}
	ok, err := c.cfg.Want(ev)
	c.fail(err)
	return ok && err == nil
}

// addEvent adds an event to its lane. It returns false if the consumer has failed.
func (c *consumer) addEvent(ev *event.Event) bool {
	l := c.lanes[ev.Storage()]
	if l != nil && l.behind {
		l.skipped = ev.ID
		return true
	}
	if !c.wants(ev) {
		return c.err == nil
	}
	if l == nil {
		l = &lane{storage: ev.Storage(), first: ev.ID, isEvent: true}
		c.lanes[l.storage] = l
		c.enqueue(l, ev)
		c.rest(l)
		return true
	}
	if len(l.queue) == 0 {
		l.first, l.isEvent = ev.ID, true
	}
	c.enqueue(l, ev)
	c.note(l)
	return true
}

// enqueue adds a copy of ev to the queue of a lane: ev is one of many in an array, which would
// stay in memory as long as one of them.
func (c *consumer) enqueue(l *lane, ev *event.Event) {
	own := *ev
	l.queue = append(l.queue, &own)
	c.queued++
	c.bytes += len(ev.Line())
}

// hasRoom reports whether more events may be read.
func (c *consumer) hasRoom() bool {
	return c.queued < maxQueued && c.bytes < maxBytes && c.rows < maxBlocked
}

// wantsMore reports whether workers could use more events. Each storage that waits for them is
// named by each step.
func (c *consumer) wantsMore() bool { return c.hasRoom() && c.ready.len() < max(minReady, 4*c.quota) }

// shed drops the events of a lane that are not under way, to be read again.
func (c *consumer) shed(l *lane) {
	c.begunN -= l.begun - l.sent
	l.begun = l.sent
	rest := l.queue[l.sent:]
	if len(rest) == 0 {
		return
	}
	if !l.behind {
		l.behind = true
		c.rows++
	}
	l.skipped = max(l.skipped, rest[len(rest)-1].ID)
	c.drop(rest)
	l.queue = slices.Clone(l.queue[:l.sent])
}

// drop counts events that leave a queue.
func (c *consumer) drop(evs []*event.Event) {
	c.queued -= len(evs)
	for _, ev := range evs {
		c.bytes -= len(ev.Line())
	}
}

// shedSlow drops the events that wait for slow tries, if they keep others from being read.
func (c *consumer) shedSlow(now time.Time) {
	if c.hasRoom() || c.trying == 0 {
		return
	}
	for l := range c.open {
		if l.phase == underWay && now.Sub(l.since) >= slowTime && len(l.queue) > l.sent {
			c.shed(l)
			c.note(l)
		}
	}
}

// note updates what follows from the state of a lane.
func (c *consumer) note(l *lane) {
	gone := c.lanes[l.storage] != l
	// A row has the first event, too. The state does not: an id that is not one of an event of
	// the storage would be that of another storage, or of none.
	if gone || l.behind && (!l.isEvent || !l.busy() && l.careful == 0) {
		delete(c.open, l)
	} else {
		c.open[l] = struct{}{}
	}
	row := l.row()
	if gone {
		row = nil
	}
	if same := row == nil && l.stored == nil || row != nil && l.stored != nil && *row == *l.stored; same {
		delete(c.dirty, l)
	} else {
		c.dirty[l] = struct{}{}
	}
}

// rest decides what a lane waits for after a change, unless it is busy. Of one that is behind, it
// drops the events if the queues are filling.
func (c *consumer) rest(l *lane) {
	if l.behind && c.queued > maxQueued/2 {
		c.shed(l)
	}
	c.restFull(l)
}

// restFull is rest that drops no events. Those that were just read must be tried before they
// are dropped: otherwise, the lane would be read again and again for as long as the queues
// are full.
func (c *consumer) restFull(l *lane) {
	switch {
	case len(l.queue) == 0 && !l.behind && len(l.dead) == 0:
		delete(c.lanes, l.storage)
	case !l.retry.IsZero() && len(l.dead) == 0:
		l.phase = waiting
		heap.Push(&c.waiting, l)
	default:
		c.await(l)
	}
	c.note(l)
}

// await puts a lane among those that are ready.
func (c *consumer) await(l *lane) {
	l.phase = ready
	switch {
	case len(l.dead) > 0:
		c.alone.push(l)
	case len(l.queue) == 0:
		c.unread.push(l)
	case l.careful > 0:
		c.alone.push(l)
	default:
		c.ready.push(l)
	}
}

// wake makes lanes ready whose pause is over.
func (c *consumer) wake(now time.Time) {
	for len(c.waiting) > 0 && !c.waiting[0].retry.After(now) {
		l := heap.Pop(&c.waiting).(*lane)
		l.retry = time.Time{}
		c.await(l)
		c.note(l)
	}
}

// nextWake returns how long the loop may sleep.
func (c *consumer) nextWake(now time.Time) time.Duration {
	until := renewTime - now.Sub(c.saved)
	sooner := func(at time.Time, after time.Duration) {
		if !at.IsZero() {
			until = min(until, at.Add(after).Sub(now))
		}
	}
	if len(c.waiting) > 0 && !c.ending {
		sooner(c.waiting[0].retry, 0)
	}
	if !c.stepping && !c.ending {
		sooner(c.acked, groupTime)
		sooner(c.moved, positionLag)
		if len(c.dirty) > 0 {
			sooner(c.saved, groupTime)
		}
	}
	if !c.ending && !c.asking {
		sooner(c.asked, askTime)
	}
	if c.heldUntil.After(now) {
		sooner(c.heldUntil, 0)
	}
	if !c.hasRoom() && c.trying > 0 {
		until = min(until, slowTime)
	}
	if c.stepping || c.ending {
		return max(until, slowTime)
	}
	return max(until, 0)
}
