package client

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"github.com/rstream-dev/rstream/cache"
	"github.com/rstream-dev/rstream/event"
	"github.com/rstream-dev/rstream/internal/sse"
	"github.com/rstream-dev/rstream/internal/wire"
	"github.com/rstream-dev/rstream/window"
)

// The liveCursor is the one connection over which a Client follows the topics of all its
// tails. It starts with the first tail and ends with the last. Topics join and leave at
// the cursor's own position: the cursor closes the connection, changes the set and
// reconnects from there, so no event is missed and none comes twice. A follower of topics
// that are followed already only joins.
type liveCursor struct {
	c       *Client
	running sync.WaitGroup // the goroutines of startFollowing

	mu     sync.Mutex
	closed bool
	topics map[event.Topic]int // the number of followers of each
	all    map[*follower]struct{}
	lease  *cache.Lease // owned by the running goroutine, by the holder of mu while none runs
	stop   context.CancelFunc
	done   chan struct{} // closed when the running goroutine has ended
	failed error         // why it ended, if not by stop; valid after done
	came   *arrival      // of the running goroutine; replaced while none runs
	hasty  int           // how many goroutines in a row were stopped before they had
	behind bool          // owned like lease: the connection has ended; pull the events since then
	lost   bool          // owned like lease: it did not end as planned
	missed int           // owned like lease: the events pulled since it was lost

	// Written by the running goroutine, read by all.
	at      atomic.Uint64             // how far the lease is filled
	history atomic.Pointer[following] // the connection, while there is one
}

// An arrival says whether a goroutine that follows has stored anything.
type arrival struct {
	once   sync.Once
	stored chan struct{} // closed once it has
}

func newArrival() *arrival { return &arrival{stored: make(chan struct{})} }

func (a *arrival) note() { a.once.Do(func() { close(a.stored) }) }

// A following is one connection of the cursor. It is about to bring all events of topics
// up to head, the head of the log when it was made.
type following struct {
	topics []event.Topic
	head   event.ID
}

func (f *following) brings(topics []event.Topic) bool {
	return !slices.ContainsFunc(topics, func(topic event.Topic) bool {
		return !slices.ContainsFunc(f.topics, func(t event.Topic) bool { return t.Contains(topic) })
	})
}

// A follower is a tail that follows topics over the live cursor.
type follower struct {
	topics []event.Topic
	fail   context.CancelCauseFunc
}

// reachedPosition returns the position of the cursor, which may have advanced by the time it
// returns.
func (l *liveCursor) reachedPosition() event.ID { return event.ID(l.at.Load()) }

// comingRange returns the range of the topics' history that the current connection is about
// to bring, empty if there is none, and the position of the cursor before it looked.
func (l *liveCursor) comingRange(topics []event.Topic) (coming window.Span, from event.ID) {
	from = l.reachedPosition()
	f := l.history.Load()
	if f == nil || !f.brings(topics) {
		return window.Span{}, from
	}
	return window.Span{From: from, To: f.head}, from
}

// addFollower adds f's topics to the cursor and returns the position from which they
// are live: the cursor's own, or start if f is the first follower.
func (l *liveCursor) addFollower(ctx context.Context, f *follower, start event.ID) (event.ID, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.closed {
		return 0, ErrClosed
	}
	fresh := l.withoutFollower(f.topics)
	if n := len(l.topics) + len(fresh); n > wire.MaxTopics {
		// The server would refuse a request with more, and the other followers would fail.
		return 0, fmt.Errorf("follow %d topics: at most %d are allowed", n, wire.MaxTopics)
	}
	if l.lease == nil || len(fresh) > 0 {
		if err := l.widenLease(ctx, f.topics, start); err != nil {
			return 0, storeError(err)
		}
	}
	for _, t := range f.topics {
		l.topics[t]++
	}
	l.all[f] = struct{}{}
	if l.done == nil {
		l.startFollowing()
	}
	return l.reachedPosition(), nil
}

// withoutFollower returns those of topics that have no follower yet.
func (l *liveCursor) withoutFollower(topics []event.Topic) []event.Topic {
	return slices.DeleteFunc(slices.Clone(topics), func(t event.Topic) bool { return l.topics[t] > 0 })
}

const (
	// maxHasty is how many connections in a row may be closed for other topics before they have
	// brought anything.
	maxHasty = 8
	// comeTime is the longest that topics wait until the next one has.
	comeTime = time.Second
)

// letCome waits until the connection has brought something, if too many before were closed for
// other topics before they had: or tails that come and go faster than a connection is made would
// keep all others from their events. The caller holds mu.
func (l *liveCursor) letCome() {
	if l.done == nil || l.hasty < maxHasty {
		return
	}
	patience := time.NewTimer(comeTime)
	defer patience.Stop()
	select {
	case <-l.came.stored:
	case <-l.done:
	case <-patience.C:
	}
}

// widenLease halts the cursor and adds topics to its lease. The caller holds mu and restarts
// the cursor.
func (l *liveCursor) widenLease(ctx context.Context, topics []event.Topic, start event.ID) error {
	l.letCome()
	l.haltFollowing()
	if l.lease != nil {
		err := l.lease.Join(ctx, topics)
		if err != nil {
			l.startFollowing()
		}
		return err
	}
	lease, err := l.c.store.Follow(ctx, topics, start)
	if err != nil {
		return err
	}
	l.behind, l.lost, l.missed = false, false, 0
	l.lease, l.topics, l.all = lease, map[event.Topic]int{}, map[*follower]struct{}{}
	l.at.Store(uint64(start))
	l.c.hub.Advance(start)
	return nil
}

// releaseFollower removes f's topics from the cursor. When the last follower leaves,
// the live windows are committed where they are.
func (l *liveCursor) releaseFollower(f *follower) error {
	l.mu.Lock()
	defer l.mu.Unlock()
	if _, in := l.all[f]; !in {
		return nil // f has failed because the cursor ended
	}
	if !l.lastOf(f) {
		l.unlinkFollower(f)
		return nil
	}
	l.letCome()
	l.haltFollowing()
	defer l.restartFollowing()
	if _, in := l.all[f]; !in {
		return nil // f has failed before the cursor was halted
	}
	return l.leaveTopics(l.unlinkFollower(f))
}

// leaveTopics removes topics that have no follower from the lease, and ends the lease if
// there are no others. If it returns an error, they are removed all the same: the lease
// commits their windows later, and the other followers go on. The caller holds mu.
func (l *liveCursor) leaveTopics(gone []event.Topic) error {
	ctx, cancel := context.WithTimeout(context.Background(), releaseTime)
	defer cancel()
	if len(l.all) == 0 {
		lease := l.lease
		l.lease = nil
		return storeError(lease.Commit(ctx))
	}
	return storeError(l.lease.Leave(ctx, gone))
}

// lastOf reports whether f is the last follower of one of its topics.
func (l *liveCursor) lastOf(f *follower) bool {
	return slices.ContainsFunc(f.topics, func(t event.Topic) bool { return l.topics[t] == 1 })
}

// unlinkFollower removes f and returns the topics that no longer have a follower.
func (l *liveCursor) unlinkFollower(f *follower) (gone []event.Topic) {
	delete(l.all, f)
	for _, t := range f.topics {
		if l.topics[t]--; l.topics[t] == 0 {
			delete(l.topics, t)
			gone = append(gone, t)
		}
	}
	return gone
}

// closeCursor ends the cursor for good. Its followers fail with ErrClosed.
func (l *liveCursor) closeCursor() {
	l.mu.Lock()
	l.closed = true
	l.haltFollowing()
	l.endWith(ErrClosed)
	l.mu.Unlock()
	l.running.Wait()
}

// startFollowing starts following from the position of the lease. The caller holds mu.
func (l *liveCursor) startFollowing() {
	ctx, stop := context.WithCancel(context.Background())
	var topics []event.Topic
	for t := range l.topics {
		topics = append(topics, t)
	}
	slices.SortFunc(topics, func(a, b event.Topic) int { return strings.Compare(a.String(), b.String()) })
	lease, done := l.lease, make(chan struct{})
	l.stop, l.done, l.came, l.failed = stop, done, newArrival(), nil
	l.running.Go(func() {
		err := l.keepFollowing(ctx, lease, topics)
		stopped := ctx.Err() != nil
		if !stopped {
			l.failed = err
		}
		close(done)
		if !stopped {
			l.endIfDead(done)
		}
	})
}

// restartFollowing starts following again if the cursor was halted and still has followers.
// The caller holds mu.
func (l *liveCursor) restartFollowing() {
	if l.done == nil && l.lease != nil {
		l.startFollowing()
	}
}

// haltFollowing stops following and waits for it. If it had failed before, the
// followers fail, or those of the topics that were refused. The caller holds mu.
func (l *liveCursor) haltFollowing() {
	if l.done == nil {
		return
	}
	l.stop()
	<-l.done
	l.done = nil
	select {
	case <-l.came.stored:
		l.hasty = 0
	default:
		l.hasty++
	}
	var refused refusedTopics
	switch {
	case errors.As(l.failed, &refused):
		l.endRefused(refused)
	case l.failed != nil:
		l.endWith(l.failed)
	}
}

// endRefused fails the followers of refused topics. The others stay. The caller holds mu.
func (l *liveCursor) endRefused(refused refusedTopics) {
	var gone []event.Topic
	causes := map[*follower]error{}
	for f := range l.all {
		if err := refused.ofAny(f.topics); err != nil {
			causes[f] = err
			gone = append(gone, l.unlinkFollower(f)...)
		}
	}
	err := l.leaveTopics(gone)
	for f, cause := range causes {
		f.fail(joinErrors(cause, err))
	}
}

// endIfDead fails the followers with a final error, unless another goroutine has halted the
// cursor first and done so. It goes on for those that are left.
func (l *liveCursor) endIfDead(done chan struct{}) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.done == done {
		l.haltFollowing()
		l.restartFollowing()
	}
}

// endWith commits the lease where it is and fails every follower. The caller holds mu.
func (l *liveCursor) endWith(cause error) {
	if l.lease == nil {
		return
	}
	ctx, cancel := context.WithTimeout(context.Background(), releaseTime)
	defer cancel()
	cause = joinErrors(cause, storeError(l.lease.Commit(ctx)))
	for f := range l.all {
		f.fail(cause)
	}
	l.lease, l.all, l.topics = nil, nil, nil
}

// keepFollowing keeps a connection open and stores the events that arrive. It
// reconnects after every loss, and returns when ctx ends or at an error that retrying
// cannot help.
func (l *liveCursor) keepFollowing(ctx context.Context, lease *cache.Lease, topics []event.Topic) error {
	b := l.c.newBackoff()
	for {
		err := l.streamOnce(ctx, lease, topics, b)
		if ctx.Err() != nil {
			return ctx.Err()
		}
		refused, err := l.findRefused(ctx, topics, err)
		left := ctx.Err() == nil && refused == nil && !errors.Is(err, errRotated) && l.c.leaveServer(err)
		switch {
		case ctx.Err() != nil:
			return ctx.Err()
		case refused != nil:
			return refused
		case permanent(err) && !left:
			return err
		}
		l.behind = true
		switch {
		case errors.Is(err, errRotated):
			err = l.c.pauseIdle(ctx, b)
		case left:
			l.lost, err = true, nil
		default:
			l.lost = true
			err = l.c.pauseAfter(ctx, b, err)
		}
		if err != nil {
			return err
		}
	}
}

// A refusedTopics is why the cursor ended if a server refuses some of its topics: the error
// of each.
type refusedTopics map[event.Topic]error

func (r refusedTopics) Error() string { return fmt.Sprintf("%d topics were refused", len(r)) }

// ofAny returns the error of one of topics, nil if none was refused.
func (r refusedTopics) ofAny(topics []event.Topic) error {
	for _, t := range topics {
		if err := r[t]; err != nil {
			return err
		}
	}
	return nil
}

// findRefused returns the topics that a server refuses, if that is what err says: the one
// that it names or, since a proxy names none, those that are also refused one by one. The
// error that it returns is err, or the one that kept it from finding out.
func (l *liveCursor) findRefused(ctx context.Context, topics []event.Topic, err error) (refusedTopics, error) {
	var status *StatusError
	if !errors.As(err, &status) || !status.isForbidden() {
		return nil, err
	}
	if status.Topic != nil && slices.Contains(topics, *status.Topic) {
		return refusedTopics{*status.Topic: err}, err
	}
	if len(topics) == 1 || status.Status == http.StatusUnauthorized {
		return nil, err // it would be the same for each
	}
	refused := refusedTopics{}
	for _, t := range topics {
		_, alone := l.c.resolveOnce(ctx, []event.Topic{t}, Range{Since: l.c.momentAt(l.reachedPosition())})
		if alone != nil && !permanent(alone) {
			return nil, alone
		}
		if alone != nil {
			refused[t] = alone
		}
	}
	if len(refused) == 0 {
		return nil, err
	}
	return refused, err
}

// streamOnce makes one connection and stores the events that arrive until it ends. It always
// returns an error.
func (l *liveCursor) streamOnce(ctx context.Context, lease *cache.Lease, topics []event.Topic, b *backoff) error {
	if err := l.skipHeld(ctx, lease, topics); err != nil {
		return err
	}
	if l.behind {
		if err := l.catchUp(ctx, lease, topics, b); err != nil {
			return err
		}
		l.behind = false
	}
	s, err := l.openLive(ctx, lease.Reached(), topics)
	if err != nil {
		return err
	}
	defer s.release()
	base := s.base
	if l.lost {
		l.c.cfg.OnReconnect(publicURL(base), l.missed)
		l.lost, l.missed = false, 0
	}
	l.history.Store(&following{topics, s.head})
	defer l.history.Store(nil)
	r := receiver{c: l.c, base: base, topics: topics, s: s.Session, at: lease.Reached()}
	var reading sync.WaitGroup
	in := newInbox()
	reading.Go(func() { in.endSteps(r.receiveAll(in)) })
	defer reading.Wait()
	defer s.Close()
	defer in.dropSteps()
	defer func(since time.Time) {
		if time.Since(since) >= l.c.cfg.RetryMax {
			b.resetPauses() // the connection was healthy, only quiet
		}
	}(time.Now())
	err = l.storeArrivals(ctx, lease, in, s.Session, b)
	if ctx.Err() == nil && !errors.Is(err, errRotated) && !permanent(err) {
		l.c.recordFailure(base, err)
	}
	return err
}

// catchUp pulls the events that happened while there was no connection, as windows, like
// any history. So other processes can wait for it, it waits for windows that they are
// pulling, and events that are held for a part of topics are not requested.
func (l *liveCursor) catchUp(ctx context.Context, lease *cache.Lease, topics []event.Topic, b *backoff) error {
	from := lease.Reached()
	span, err := l.c.resolveOnce(ctx, topics, Range{Since: l.c.momentAt(from)})
	if err != nil {
		return err
	}
	err = l.c.pullMissing(ctx, topics, span, &Synced{}, func(evs []event.Event) error {
		l.missed += len(evs)
		return l.skipHeld(ctx, lease, topics)
	})
	if err == nil {
		err = l.skipHeld(ctx, lease, topics)
	}
	if lease.Reached() > from {
		b.resetPauses()
	}
	return err
}

// A liveStream is an open stream of one of the servers.
type liveStream struct {
	*sse.Session
	base    string   // of the server
	head    event.ID // of the log when it began
	release func()   // to be called after Close
}

// openLive opens a stream from position at on, of the first server that answers.
func (l *liveCursor) openLive(ctx context.Context, at event.ID, topics []event.Topic) (*liveStream, error) {
	r := race[*liveStream]{c: l.c, drop: func(s *liveStream) { s.Close() }, status: func(*liveStream) int { return 0 },
		subject: func() string { return topicsSubject(topics) },
		ask: func(ctx context.Context, base string) (*liveStream, error) {
			return l.openLiveOf(ctx, base, at, topics)
		}}
	a := r.run(ctx)
	if a.err != nil {
		a.release()
		return nil, a.err
	}
	a.got.release = a.release
	return a.got, nil
}

// openLiveOf is openLive of one server.
func (l *liveCursor) openLiveOf(ctx context.Context, base string, at event.ID, topics []event.Topic) (*liveStream, error) {
	cursor := event.CursorOf(at, l.c.store.Log())
	q := wire.Query{Topics: topics, Since: event.At(cursor)}
	live := &liveStream{base: base}
	var err error
	live.Session, err = l.c.openStream(ctx, base, &q, cursor, func(resp *http.Response) error {
		if from, ok := wire.PositionIn(resp.Header, wire.HeaderFrom); !ok || from != at {
			return &ProtocolError{base, fmt.Sprintf("was asked to continue from %s but begins at %s", at, from)}
		}
		live.head, _ = wire.PositionIn(resp.Header, wire.HeaderHead)
		return nil
	})
	return live, err
}

// skipHeld moves the lease over events that were stored another way since the connection
// was lost: another process may have fetched them.
func (l *liveCursor) skipHeld(ctx context.Context, lease *cache.Lease, topics []event.Topic) error {
	held, err := l.c.store.Held(ctx, topics...)
	if err != nil {
		return storeError(err)
	}
	end := held.EndAfter(lease.Reached())
	if end == lease.Reached() {
		return nil
	}
	if _, err := lease.Apply(context.WithoutCancel(ctx), nil, end); err != nil {
		return storeError(err)
	}
	l.at.Store(uint64(end))
	l.c.hub.Advance(end)
	return nil
}

// storeArrivals stores and publishes arriving events until the stream ends. It stores
// them even if ctx has ended, because received events need not be fetched again. Events
// that came together with a wrong answer are dropped.
func (l *liveCursor) storeArrivals(ctx context.Context, lease *cache.Lease, in *inbox, s *sse.Session, b *backoff) error {
	for moved := false; ; {
		evs, at, err := in.takeSteps()
		moved = moved || err == nil || at.ID > event.Beginning
		// A heartbeat renews the lease even if the position stays.
		if at.ID > lease.Reached() && !permanent(err) || at.ID == lease.Reached() && err == nil {
			b.resetPauses()
			lease.Marked(at)
			if _, err := lease.Apply(context.WithoutCancel(ctx), evs, at.ID); err != nil {
				return storeError(err)
			}
			l.at.Store(uint64(at.ID))
			l.c.hub.Publish(evs, at.ID)
			l.came.note()
		}
		if err != nil {
			if moved {
				b.moved = time.Now() // it was open until now
			}
			if d, ok := s.Retry(); ok {
				b.base = d
			}
			if moved && errors.Is(err, errEnded) {
				b.resetPauses()
				err = errRotated
			}
			return err
		}
	}
}
