package natslog

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"runtime"
	"slices"
	"sync"
	"time"

	"github.com/rstream-dev/rstream/cache"
	"github.com/rstream-dev/rstream/event"
)

// errNotCommitter means that this node does not commit, and that nothing was appended.
var errNotCommitter = errors.New("this node is not the committer")

// Bounds of one batch, apart from its last request.
const (
	maxBatchEvents = 8192
	maxBatchBytes  = 8 << 20
)

// A request waits for the committer.
type request struct {
	cache.Assignment
	bound event.ID // a new horizon, in place of drafts
	ctx   context.Context
	bytes int
	alone bool // there was no room for it together with others
	done  chan error
}

// A committer assigns ids and publishes, while this node has the lease.
type committer struct {
	l    *Log
	work chan *request

	mu     sync.Mutex
	flying []*batch // those that were published, and that the stream has not shown yet

	waiting []*request // owned by run: to be assigned again
}

func newCommitter(l *Log) *committer { return &committer{l: l, work: make(chan *request)} }

// submit passes a request to the committer and waits for its outcome.
func (c *committer) submit(ctx context.Context, r *request) error {
	r.ctx, r.done = ctx, make(chan error, 1)
	for i := range r.Drafts {
		r.bytes += len(r.Drafts[i].Value)
	}
	for {
		now, changed := c.l.lease.watch()
		if !now.mine {
			return errNotCommitter
		}
		select {
		case c.work <- r:
			select {
			case err := <-r.done:
				return err
			case <-ctx.Done():
				return fmt.Errorf("%w: %w", errUnknown, ctx.Err())
			}
		case <-changed:
		case <-ctx.Done():
			return errNotCommitter
		}
	}
}

// run commits whenever this node has the lease, until ctx ends.
func (c *committer) run(ctx context.Context) {
	for ctx.Err() == nil {
		now, changed := c.l.lease.watch()
		if now.mine {
			c.lead(ctx)
			continue
		}
		select {
		case <-changed:
		case <-ctx.Done():
		}
	}
}

// lead commits until the lease is lost or ctx ends.
func (c *committer) lead(ctx context.Context) {
	defer func() { c.finish(c.takeWaiting(), errNotCommitter) }()
	for ctx.Err() == nil && c.l.lease.isMine() {
		p, ready := c.begin(ctx)
		if !ready {
			continue
		}
		err := p.commit(ctx)
		var refused *refusal
		switch {
		case errors.Is(err, errUnknown):
			c.l.count(func(n *Counters) { n.Unknown++ })
			c.l.news("the outcome of a commit is unknown: this node gives up committing")
		case errors.Is(err, errNotCommitter):
			c.l.news("%v: this node gives up committing", errUnheard)
		case errors.Is(err, errFence):
			c.l.count(func(n *Counters) { n.Conflicts++ })
			c.awaitOther(ctx, p.seq)
		case errors.As(err, &refused):
			c.l.noteRefused(refused)
		}
	}
}

// awaitOther waits until the message of another node is in the file, for a while: the server
// may also have been wrong about its last sequence.
func (c *committer) awaitOther(ctx context.Context, seq uint64) {
	limit := time.After(time.Second)
	for {
		at, changed := c.l.state()
		if at.seq > seq {
			return
		}
		select {
		case <-changed:
		case <-limit:
			return
		case <-ctx.Done():
			return
		}
	}
}

// begin returns a pipeline that goes on from what is in the file. ready is false if the file has
// just changed.
func (c *committer) begin(ctx context.Context) (p *pipeline, ready bool) {
	at, changed := c.l.state()
	a, err := c.l.db.NewAssigner()
	if err != nil || a.Head() != at.at.ID { // Follow is storing something
		select {
		case <-changed:
		case <-time.After(repeatPause):
		case <-ctx.Done():
		}
		return nil, false
	}
	return &pipeline{c: c, assigner: a, log: c.l.logID(), seq: at.seq, end: at.at}, true
}

func (c *committer) takeWaiting() []*request {
	w := c.waiting
	c.waiting = nil
	return w
}

func (c *committer) finish(requests []*request, err error) {
	for _, r := range requests {
		if err != nil {
			r.Receipts = nil
		}
		r.done <- err
	}
}

// maxFlying bounds the batches that are remembered until the stream shows them.
const maxFlying = 8

func (c *committer) addFlying(b *batch) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if len(c.flying) == maxFlying {
		c.flying = c.flying[1:] // it was stored, or b would not follow it
	}
	c.flying = append(c.flying, b)
}

func (c *committer) clearFlying() {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.flying = nil
}

// hasFlying reports whether a batch was published in the place of a message.
func (c *committer) hasFlying(seq uint64) bool {
	c.mu.Lock()
	defer c.mu.Unlock()
	for _, b := range c.flying {
		if seq > b.seq && seq <= b.last() {
			return true
		}
	}
	return false
}

// observe compares a message of the stream with the batch that was published in its place, and
// returns the message of the batch if it is that.
func (c *committer) observe(seq uint64, m *message) *message {
	c.mu.Lock()
	defer c.mu.Unlock()
	for len(c.flying) > 0 && c.flying[0].last() < seq {
		c.flying = c.flying[1:]
	}
	if len(c.flying) == 0 || seq <= c.flying[0].seq {
		return nil
	}
	b := c.flying[0]
	own := &b.messages[seq-b.seq-1]
	same := own.subject == m.subject && own.after == m.after && bytes.Equal(own.payload, m.payload)
	if !same || seq == b.last() {
		b.stored = same
		c.flying = c.flying[1:]
		close(b.settled)
	}
	if same {
		return own
	}
	return nil
}

// A pipeline publishes one batch while it prepares the next one.
type pipeline struct {
	c        *committer
	assigner *cache.Assigner
	log      string
	seq      uint64      // the last message of the batches that were prepared
	end      event.Point // after them

	flight, next *batch
	broken       error // nothing more is prepared
}

// commit commits until the lease is lost or ctx ends, when it returns nil, or until a batch
// could not be stored. What was not stored then waits, unless its outcome is unknown.
func (p *pipeline) commit(ctx context.Context) error {
	for {
		now, changed := p.c.l.lease.watch()
		// A node that does not follow the stream does not know whether it is another one by now.
		if p.flight == nil && p.next != nil && p.c.l.lease.isFollowing() {
			p.flight, p.next = p.next, nil
			p.launch(ctx)
		}
		if p.next == nil && p.broken == nil && len(p.c.waiting) > 0 {
			p.broken = p.prepare(p.c.collect(nil))
			continue
		}
		stopped := !now.mine || ctx.Err() != nil || p.broken != nil
		if stopped && p.flight == nil {
			return p.abandon(p.broken)
		}
		work, result, done := p.c.work, (<-chan error)(nil), ctx.Done()
		at, advanced := p.c.l.state()
		if p.next != nil || stopped {
			work, advanced = nil, nil
			if p.flight != nil {
				changed, done = nil, nil
			}
		} else if at.at.ID+maxAhead < p.end.ID {
			work = nil
		} else {
			advanced = nil
		}
		if p.flight != nil {
			result = p.flight.result
		}
		select {
		case r := <-work:
			p.broken = p.prepare(p.c.collect(r))
		case err := <-result:
			if err := p.settle(err); err != nil {
				return p.abandon(err)
			}
		case <-changed:
		case <-advanced:
		case <-done:
		}
	}
}

// maxAhead is how many events may be in the stream, or on the way to it, and not in the file:
// they are in memory.
const maxAhead = 100_000

// collect returns the requests that wait, up to the bounds of a batch.
func (c *committer) collect(first *request) []*request {
	requests := c.takeWaiting()
	if i := slices.IndexFunc(requests, func(r *request) bool { return r.alone }); i >= 0 {
		i = max(i, 1) // the one that is alone, or those before it
		c.waiting = append(c.waiting, requests[i:]...)
		if first != nil {
			c.waiting = append(c.waiting, first)
		}
		return requests[:i:i]
	}
	if first != nil {
		requests = append(requests, first)
	}
	events, size := 0, 0
	for _, r := range requests {
		events, size = events+len(r.Drafts), size+r.bytes
	}
	for yielded := false; events < maxBatchEvents && size < maxBatchBytes; {
		select {
		case r := <-c.work:
			requests = append(requests, r)
			events, size = events+len(r.Drafts), size+r.bytes
		default:
			if yielded {
				return requests
			}
			runtime.Gosched() // so that more appends join the batch
			yielded = true
		}
	}
	return requests
}

// prepare assigns ids to requests, and makes the next batch of them.
func (p *pipeline) prepare(requests []*request) error {
	live := requests[:0]
	var some []*cache.Assignment
	for _, r := range requests {
		if err := r.ctx.Err(); err != nil {
			r.done <- fmt.Errorf("append: %w", err)
			continue
		}
		live = append(live, r)
		some = append(some, &r.Assignment)
	}
	evs, err := p.assigner.Assign(context.Background(), some)
	if err != nil {
		p.c.finish(live, err)
		return err
	}
	b := &batch{seq: p.seq, ready: make(chan struct{}), settled: make(chan struct{}), result: make(chan error, 1)}
	l := p.c.l
	if b.messages, err = paginate(l.subject(partEvents), p.log, p.end, evs, l.pageBytes, int(l.conn.MaxPayload())-headerRoom); err != nil {
		p.c.finish(live, err)
		return err
	}
	if n := len(b.messages); n > 0 {
		p.end = b.messages[n-1].end()
	}
	for _, r := range live {
		if r.Err != nil {
			r.done <- r.Err
			continue
		}
		b.requests = append(b.requests, r)
		if r.bound == 0 || r.bound > p.end.ID {
			continue
		}
		payload, err := json.Marshal(bound{event.CursorOf(r.bound, p.log)})
		if err != nil {
			return err
		}
		b.messages = append(b.messages, message{subject: l.subject(partBound), log: p.log, after: p.end, payload: payload})
	}
	go b.encode()
	p.seq += uint64(len(b.messages))
	p.next, b.end = b, p.end
	return nil
}

// headerRoom is how much of max_payload is left for headers.
const headerRoom = 4 << 10

// launch publishes the batch in flight.
func (p *pipeline) launch(ctx context.Context) {
	b, c := p.flight, p.c
	if len(b.messages) == 0 { // only repeated appends; the events are in the stream by now
		b.result <- nil
		return
	}
	go func() {
		<-b.ready
		c.addFlying(b)
		b.result <- c.publishUntilKnown(context.WithoutCancel(ctx), b)
	}()
}

// last returns the last message of b.
func (b *batch) last() uint64 { return b.seq + uint64(len(b.messages)) }

// settle ends the batch in flight with its outcome.
func (p *pipeline) settle(err error) error {
	b := p.flight
	if err != nil {
		return err
	}
	p.flight = nil
	p.c.finish(b.requests, nil)
	events, size := 0, 0
	for i := range b.messages {
		events, size = events+len(b.messages[i].events), size+len(b.messages[i].payload)
	}
	if len(b.messages) > 0 {
		p.c.l.noteStored()
		p.c.l.count(func(n *Counters) {
			n.Batches++
			n.Messages += int64(len(b.messages))
			n.Events += int64(events)
			n.Bytes += int64(size)
		})
	}
	return nil
}

// abandon ends the pipeline. What was certainly not stored waits, to be assigned again.
func (p *pipeline) abandon(err error) error {
	var refused *refusal
	p.c.clearFlying()
	if b := p.flight; b != nil {
		switch {
		case errors.Is(err, errUnknown), errors.Is(err, errNotCommitter):
			p.c.l.lease.giveUp()
			p.c.finish(b.requests, err)
		case errors.As(err, &refused) && isFull(refused.err) && len(b.requests) > 1: // there may be room for some of them
			for _, r := range b.requests {
				r.alone = true
			}
			p.c.waiting = append(p.c.waiting, b.requests...)
		case errors.As(err, &refused):
			p.c.finish(b.requests, problemOf(refused))
		default:
			p.c.waiting = append(p.c.waiting, b.requests...)
		}
		p.seq = b.seq
	}
	if p.next != nil {
		<-p.next.ready
		p.c.waiting = append(p.c.waiting, p.next.requests...)
	}
	p.flight, p.next = nil, nil
	return err
}
