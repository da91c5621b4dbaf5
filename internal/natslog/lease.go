package natslog

import (
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"math/rand/v2"
	"sync"
	"time"

	"github.com/nats-io/nats.go"

	"github.com/rstream-dev/rstream/event"
)

// A lease is the knowledge of this node about which node commits. The newest claim in the
// stream counts. What nodes say of themselves only spares others from claiming the role: the
// fence protects the log from two of them.
type lease struct {
	l    *Log
	look chan struct{} // has an element if the committer should be asked for now

	mu        sync.Mutex
	holder    claim
	seq       uint64 // the message of its claim
	read      uint64 // the newest claim that came from the stream
	givenUp   uint64 // this node commits no more by claims up to here
	seen      bool   // this node's claim came from the stream
	heard     time.Time
	following bool
	since     time.Time     // when following became what it is
	barred    bool          // NATS does not allow this node what a committer does
	untold    bool          // which node commits has changed, and nobody was told
	unclaimed error         // why the last claim of this node failed; nil while a node commits
	changed   chan struct{} // closed when the above changes, except heard
}

// A presence is the answer of a committer to those who ask whether there is one.
type presence struct {
	claim
	Log string `json:"log"`
	Seq uint64 `json:"seq"` // of its claim; 0 while it claims
}

func (e *lease) init(l *Log) { e.l, e.look, e.changed = l, make(chan struct{}, 1), make(chan struct{}) }

// lookSoon has run ask for the committer at once: an append did not reach it.
func (e *lease) lookSoon() {
	select {
	case e.look <- struct{}{}:
	default:
	}
}

func (e *lease) wakeLocked() {
	close(e.changed)
	e.changed = make(chan struct{})
}

// current returns the node that commits, as far as is known, and the message of its claim.
func (e *lease) current() (claim, uint64) {
	e.mu.Lock()
	defer e.mu.Unlock()
	return e.holder, e.seq
}

// A role is which node commits, and by which claim.
type role struct {
	holder claim
	seq    uint64
	mine   bool
}

// watch returns the role, as far as is known, with a channel that is closed when the answer changes.
func (e *lease) watch() (role, <-chan struct{}) {
	e.mu.Lock()
	defer e.mu.Unlock()
	return role{e.holder, e.seq, e.mineLocked()}, e.changed
}

func (e *lease) isMine() bool {
	e.mu.Lock()
	defer e.mu.Unlock()
	return e.mineLocked()
}

func (e *lease) mineLocked() bool {
	return e.seen && e.holder.Boot == e.l.boot && e.seq > e.givenUp && !e.barred
}

func (e *lease) isFollowing() bool {
	e.mu.Lock()
	defer e.mu.Unlock()
	return e.following
}

// setBarred says whether this node must not become the committer. One that is it gives up.
func (e *lease) setBarred(is bool) {
	e.mu.Lock()
	defer e.mu.Unlock()
	if e.barred == is {
		return
	}
	if e.barred = is; is {
		e.givenUp = e.seq
	}
	e.wakeLocked()
}

func (e *lease) isBarred() bool {
	e.mu.Lock()
	defer e.mu.Unlock()
	return e.barred
}

func (e *lease) setFollowing(is bool) {
	e.mu.Lock()
	defer e.mu.Unlock()
	if e.following != is {
		e.following, e.since, e.unclaimed = is, time.Now(), nil
		e.wakeLocked()
	}
}

// noteClaim notes a claim of the stream, once everything before it is in the file.
func (e *lease) noteClaim(c claim, seq uint64) {
	e.mu.Lock()
	own := c.Boot == e.l.boot
	if seq < e.read || e.l.forced && !own && e.mineLocked() {
		e.mu.Unlock()
		return
	}
	e.untold = e.untold || e.holder != c
	e.holder, e.seq, e.read, e.heard, e.seen, e.unclaimed = c, seq, seq, time.Now(), own, nil
	e.wakeLocked()
	e.mu.Unlock()
}

// tell says which node commits now, if that has changed. It is called once the end of the stream is
// reached: claims before it are history.
func (e *lease) tell() {
	e.mu.Lock()
	untold, node := e.untold, e.holder.Node
	e.untold = false
	e.mu.Unlock()
	if untold {
		e.l.news("%s commits now", node)
	}
}

// notePresence notes that a committer has said that it is there.
func (e *lease) notePresence(p presence) {
	e.mu.Lock()
	defer e.mu.Unlock()
	switch {
	case p.Seq == 0 || p.Boot == e.holder.Boot && p.Seq == e.seq:
		e.heard, e.unclaimed = time.Now(), nil
	case p.Seq > e.seq && !e.l.forced:
		e.untold = e.untold || e.holder != p.claim
		e.holder, e.seq, e.heard, e.seen, e.unclaimed = p.claim, p.Seq, time.Now(), false, nil
		e.wakeLocked()
	}
}

// giveUp ends the role of this node by all claims so far.
func (e *lease) giveUp() {
	e.mu.Lock()
	defer e.mu.Unlock()
	if e.mineLocked() {
		e.givenUp = e.seq
		e.wakeLocked()
	}
}

// giveUpBlind gives up if this node has not followed the stream for a while: what it commits
// would never be in its file.
func (e *lease) giveUpBlind() {
	e.mu.Lock()
	blind := !e.following && time.Since(e.since) > e.l.cfg.LeaseTime
	e.mu.Unlock()
	if blind {
		e.giveUp()
	}
}

// run claims the role when nobody has it, and answers those who ask while this node has it.
func (e *lease) run(ctx context.Context) {
	var answering *nats.Subscription
	stop := func() {
		if answering != nil {
			_ = answering.Unsubscribe() // the connection may be closed
			answering = nil
		}
	}
	defer stop()
	defer e.giveUp()
	vacant := 0 // times in a row that nobody answered
	var changed <-chan struct{}
	for first := true; first || e.pause(ctx, vacant, changed); first = false {
		changed = e.changes() // from before this looks, so that no change is missed
		e.giveUpBlind()
		if e.isMine() {
			vacant = 0
			continue
		}
		stop()
		_, seen := e.current()
		if e.isBarred() || !e.isVacant(ctx, vacant > 0) {
			vacant = 0
			continue
		}
		if vacant++; vacant == 1 && e.isClaimed() {
			continue // another node may be about to answer, or to claim
		}
		var err error
		if answering, err = e.l.conn.Subscribe(e.l.subject("committer"), e.answer); err == nil {
			err = e.claimWhole(ctx, seen)
		}
		if err != nil {
			stop()
			e.noteUnclaimed(err)
			changed = e.changes() // that was one itself
			if errors.As(err, new(*refusal)) || errors.As(err, new(*aheadError)) {
				vacant = 0 // there is no hurry: the next claim will hardly be taken, either
			}
		}
	}
}

// noteUnclaimed notes why this node did not get the role, although no other node has it.
func (e *lease) noteUnclaimed(err error) {
	var refused *refusal
	switch {
	case errors.Is(err, errFence) || errors.Is(err, context.Canceled):
		return // another node commits, this one stops, or the connection has ended
	case errors.As(err, new(*aheadError)):
		if why := e.whyUnclaimed(); why == nil || why.Error() != err.Error() {
			e.l.news("%v; this node does not commit", err)
		}
	case errors.As(err, &refused):
		e.l.noteRefused(refused)
	case errors.Is(err, context.DeadlineExceeded):
		err = errUnknown
	}
	e.mu.Lock()
	defer e.mu.Unlock()
	e.unclaimed = err
	e.wakeLocked()
}

// fullRefusal returns the refusal of the last claim if there is no room for one, nil otherwise.
func (e *lease) fullRefusal() *refusal {
	var refused *refusal
	if errors.As(e.whyUnclaimed(), &refused) && isFull(refused.err) {
		return refused
	}
	return nil
}

// whyUnclaimed returns why no node commits, nil if this node does not know it.
func (e *lease) whyUnclaimed() error {
	e.mu.Lock()
	defer e.mu.Unlock()
	return e.unclaimed
}

// isClaimed reports whether the stream has a claim, as far as is known.
func (e *lease) isClaimed() bool {
	e.mu.Lock()
	defer e.mu.Unlock()
	return e.seq > 0
}

// changes returns a channel that is closed at the next change.
func (e *lease) changes() <-chan struct{} {
	e.mu.Lock()
	defer e.mu.Unlock()
	return e.changed
}

// pause waits until it is time to look again. It returns false once ctx has ended.
func (e *lease) pause(ctx context.Context, vacant int, changed <-chan struct{}) bool {
	wait, look := e.l.cfg.LeaseTime/5, e.look
	if vacant > 0 { // the first of many nodes to wake up spares the others the work
		wait = rand.N(wait/2 + 1)
		changed, look = nil, nil
	}
	select {
	case <-time.After(wait):
		return true
	case <-look:
		return true
	case <-changed:
		return ctx.Err() == nil
	case <-ctx.Done():
		return false
	}
}

// answer answers one who asks whether there is a committer.
func (e *lease) answer(msg *nats.Msg) {
	p := presence{claim: claim{e.l.cfg.Node, e.l.boot}, Log: e.l.logID()}
	if _, seq := e.current(); e.isMine() {
		p.Seq = seq
	}
	b, err := json.Marshal(p)
	if err == nil {
		_ = msg.Respond(b) // the one who asks asks again
	}
}

// isVacant asks for the committer, and reports whether this node may claim its role. It waits for
// an answer for a shorter time if there was none before: the fence protects the log from a claim
// that was wrong.
func (e *lease) isVacant(ctx context.Context, again bool) bool {
	wait := e.l.cfg.LeaseTime / 2
	if again {
		wait = e.l.cfg.LeaseTime / 10
	}
	ctx, cancel := context.WithTimeout(ctx, wait)
	defer cancel()
	ctx, done := e.l.whileAllowed(ctx, e.l.subject("committer"))
	defer done()
	msg, err := e.l.conn.RequestWithContext(ctx, e.l.subject("committer"), nil)
	var p presence
	if err == nil && json.Unmarshal(msg.Data, &p) == nil && p.Boot != "" && p.Log == e.l.logID() {
		e.notePresence(p)
		return false
	}
	e.mu.Lock()
	defer e.mu.Unlock()
	if !e.following || e.barred {
		return false
	}
	return errors.Is(err, nats.ErrNoResponders) || time.Since(e.heard) > e.l.cfg.LeaseTime
}

// An aheadError means that a node has events which the stream has lost.
type aheadError struct {
	node      string
	has, ends event.ID
}

func (e *aheadError) Error() string {
	return fmt.Sprintf("node %s has events up to %s, and the stream ends at %s: it was put back to an older state", e.node, e.has, e.ends)
}

// claimWhole is claim, unless another node says that the stream has lost events: the next ones would
// get their ids. Nodes that do not answer cannot be asked. It fails if there was a claim after seen,
// the newest one when the role had nobody.
func (e *lease) claimWhole(ctx context.Context, seen uint64) error {
	l := e.l
	answers, err := l.askNodes(ctx, nil, min(l.cfg.LeaseTime/16, 300*time.Millisecond), nil)
	if err != nil || l.forced {
		return e.claim(ctx)
	}
	at, _ := l.state()
	for i := range answers {
		a := &answers[i]
		if a.Log != l.logID() || a.Head <= at.at.ID {
			continue
		}
		if info, err := l.info(ctx); err != nil || info.State.LastSeq > at.seq {
			return cmp.Or(err, errFence) // there is more to read first
		}
		return &aheadError{a.Node, a.Head, at.at.ID}
	}
	if _, now := e.current(); now != seen {
		return errFence
	}
	return e.claim(ctx)
}

// claim claims the role: that succeeds only if this node has everything in its file, and
// nobody commits at the same time.
func (e *lease) claim(ctx context.Context) error {
	l := e.l
	at, _ := l.state()
	payload, err := json.Marshal(claim{l.cfg.Node, l.boot})
	if err != nil {
		return err
	}
	m := message{subject: l.subject(partClaim), log: l.logID(), after: at.at, payload: payload}
	if _, err := l.publish(ctx, at.seq, []*nats.Msg{m.encode()}); err != nil {
		return err
	}
	l.noteStored()
	l.count(func(c *Counters) { c.Claims++ })
	ctx, cancel := context.WithTimeout(ctx, l.cfg.LeaseTime)
	defer cancel()
	for { // until it comes back from the stream
		now, changed := e.watch()
		if now.mine {
			return nil
		}
		select {
		case <-changed:
		case <-ctx.Done():
			return ctx.Err()
		}
	}
}
