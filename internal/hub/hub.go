package hub

import (
	"cmp"
	"context"
	"errors"
	"slices"
	"sort"
	"sync"
	"sync/atomic"

	"github.com/rstream-dev/rstream/event"
)

// A Source is an ordered log that can be read from any position.
type Source interface {
	// Read returns the events of topics with after < id ≤ until, each once, oldest
	// first: at most limit of them, and about 1 MiB. next is the position up to
	// which it searched. It may be beyond the last of the events, and beyond after
	// even without events, but never beyond until or the end of the Source. If
	// next equals after, the Source does not hold later positions yet. The caller
	// may keep the events.
	Read(ctx context.Context, topics []event.Topic, after, until event.ID, limit int) (evs []event.Event, next event.ID, err error)
}

// A Config sets the limits of a Hub.
type Config struct {
	// Queue is how many events may wait for a reader before its queue overflows and
	// it must read the Source. The events of one Publish may exceed it sixteenfold,
	// so that a large commit does not send all readers to the Source at once. If not
	// positive, 256.
	Queue int
	// QueueBytes is the same limit in bytes of waiting events, for each queue. All
	// queues share the memory of an event. If not positive, 1 MiB.
	QueueBytes int
	// Chunk is how many events are read from the Source at a time. If not
	// positive, 1,000.
	Chunk int
}

const (
	burst = 16 // factor by which one Publish may exceed the limits of a queue
	round = 64 // number of events of one Publish after which readers are woken
)

// ErrClosed is returned by Next of a closed subscription.
var ErrClosed = errors.New("subscription is closed")

// ErrQuiet is returned by Next after a Nudge if there are no events.
var ErrQuiet = errors.New("no new events")

// A Hub passes the events of a log on to subscriptions. Its methods are safe for
// concurrent use, but one goroutine should publish, to keep the order of commits.
type Hub struct {
	src Source
	cfg Config

	// Events up to announced are committed and about to be queued; events up to head
	// are queued. A subscription joins at announced, so that it misses nothing, and
	// takes its position from head, so that it skips nothing.
	announced atomic.Uint64
	head      atomic.Pointer[event.Point]
	err       atomic.Pointer[error] // set once the hub is closed
	overflows atomic.Uint64         // queues that were emptied, ever

	table table

	stalls struct {
		sync.Mutex
		version uint64 // number of calls of Publish and Advance
		subs    map[*Subscription]struct{}
	}

	pub struct {
		sync.Mutex
		hits  []ref           // the matches of one event
		woken []*Subscription // readers to signal
	}
}

// New returns a hub of the log src, which ends at head.
func New(src Source, head event.ID, cfg Config) *Hub {
	h := &Hub{src: src, cfg: Config{
		Queue:      cmp.Or(max(cfg.Queue, 0), 256),
		QueueBytes: cmp.Or(max(cfg.QueueBytes, 0), 1<<20),
		Chunk:      cmp.Or(max(cfg.Chunk, 0), 1000),
	}}
	h.announced.Store(uint64(head))
	h.head.Store(&event.Point{ID: head})
	h.stalls.subs = make(map[*Subscription]struct{})
	return h
}

// Head returns the position up to which events were delivered to the subscriptions.
func (h *Hub) Head() event.ID { return h.headPoint().ID }

// headPoint returns Head with its mark, if the event at that position was published.
func (h *Hub) headPoint() event.Point { return *h.head.Load() }

// Publish announces that evs are committed and that the log now ends at head. It must
// be called after the commit. evs must contain all events between the old and the new
// head whose topic has a subscription; events at or before the old head are ignored. An
// empty evs that is not nil means that there are none. If evs is nil, or not in the
// order of ids, Publish does the same as Advance.
//
// Publish never waits for a reader. It keeps copies of the events, not evs.
func (h *Hub) Publish(evs []event.Event, head event.ID) {
	h.pub.Lock()
	defer h.pub.Unlock()
	old := h.headPoint()
	last, ordered := surveyIDs(evs)
	head = max(head, last)
	if evs == nil || !ordered {
		h.advanceTo(head)
		return
	}
	known := sort.Search(len(evs), func(i int) bool { return evs[i].ID > old.ID })
	h.queue(evs[known:], old, head)
	h.retryStalled()
}

// surveyIDs returns the largest id of evs, and whether the ids are ascending.
func surveyIDs(evs []event.Event) (last event.ID, ordered bool) {
	ordered = true
	for i := range evs {
		ordered = ordered && evs[i].ID > last
		last = max(last, evs[i].ID)
	}
	return last, ordered
}

// queue delivers evs to their subscriptions. It wakes readers once per round, for
// all events of the round together.
func (h *Hub) queue(evs []event.Event, old event.Point, head event.ID) {
	if head <= old.ID || h.closed() {
		return
	}
	h.announced.Store(uint64(head))
	for some := range slices.Chunk(evs, round) {
		for i := range some {
			h.deliverEvent(&some[i], old)
		}
		last := &some[len(some)-1]
		h.head.Store(&event.Point{ID: last.ID, Mark: last.Mark()})
		h.signalWoken()
	}
	if head > h.Head() {
		h.head.Store(&event.Point{ID: head})
	}
}

// deliverEvent puts ev into the queues of the subscriptions that match it.
func (h *Hub) deliverEvent(ev *event.Event, old event.Point) {
	h.pub.hits = h.table.matchStorage(h.pub.hits[:0], ev.User, ev.Path)
	if len(h.pub.hits) == 0 {
		return
	}
	// A queue must not keep the other events of the commit alive.
	own := new(event.Event)
	*own = *ev
	own.KeepMark() // once for all readers
	for _, hit := range h.pub.hits {
		if hit.sub.enqueue(own, old) {
			h.pub.woken = append(h.pub.woken, hit.sub)
		}
	}
	clear(h.pub.hits)
}

func (h *Hub) signalWoken() {
	for _, s := range h.pub.woken {
		s.signalReader()
	}
	clear(h.pub.woken)
	h.pub.woken = h.pub.woken[:0]
}

// Advance announces that the log now ends at head, and makes all subscriptions read the
// new events from the Source. It is for a commit whose outcome was uncertain, or if the
// events are not at hand. If head is not new, Advance announces that the Source may hold
// more than before, and wakes the readers that wait for it.
func (h *Hub) Advance(head event.ID) {
	h.pub.Lock()
	defer h.pub.Unlock()
	h.advanceTo(head)
}

func (h *Hub) advanceTo(head event.ID) {
	if old := h.headPoint(); head > old.ID && !h.closed() {
		h.announced.Store(uint64(head))
		h.table.all.eachSubscription(func(s *Subscription) { s.fallBehind(old) })
		h.head.Store(&event.Point{ID: head})
	}
	h.retryStalled()
}

// retryStalled wakes the readers for which the Source had nothing.
func (h *Hub) retryStalled() {
	h.stalls.Lock()
	defer h.stalls.Unlock()
	h.stalls.version++
	for s := range h.stalls.subs {
		s.wakeReader()
	}
	clear(h.stalls.subs)
}

// sourceVersion identifies the current content of the Source; see addStalled.
func (h *Hub) sourceVersion() uint64 {
	h.stalls.Lock()
	defer h.stalls.Unlock()
	return h.stalls.version
}

// addStalled registers s to be woken when the Source may hold more. It returns false if
// the Source may already hold more than at version.
func (h *Hub) addStalled(s *Subscription, version uint64) bool {
	h.stalls.Lock()
	defer h.stalls.Unlock()
	if h.stalls.version != version {
		return false
	}
	h.stalls.subs[s] = struct{}{}
	return true
}

// Subscribe returns a subscription to the events of topics after the position after,
// which may be beyond the head: the events up to it are then skipped. The caller must
// close the subscription.
func (h *Hub) Subscribe(topics []event.Topic, after event.ID) *Subscription {
	return h.SubscribeTo(h.src, topics, after)
}

// SubscribeTo is Subscribe for a reader that reads src, the same log, in place of the hub's
// Source.
func (h *Hub) SubscribeTo(src Source, topics []event.Topic, after event.ID) *Subscription {
	s := &Subscription{
		hub:    h,
		src:    src,
		topics: slices.Clone(topics),
		places: make([]int32, len(topics)),
		pos:    after,
		goal:   after,
		seen:   after,
	}
	h.table.addSubscription(s)
	return s
}

// Matches returns the number of subscribed topics that contain the storage user/path.
func (h *Hub) Matches(user, path string) int {
	var hits [64]ref
	return len(h.table.matchStorage(hits[:0], user, path))
}

// Stats describes the subscriptions of a hub at one moment.
type Stats struct {
	Readers   int    // subscriptions
	Behind    int    // subscriptions that read the Source
	MaxLag    uint64 // the most ids by which a subscription is behind the head
	Overflows uint64 // total number of queues emptied because they were full
}

// Stats returns statistics about all subscriptions. It visits each of them.
func (h *Hub) Stats() Stats {
	st := Stats{Overflows: h.overflows.Load()}
	head := h.Head()
	h.table.all.eachSubscription(func(s *Subscription) {
		lag, behind := s.Lag(head)
		st.Readers++
		if behind {
			st.Behind++
		}
		st.MaxLag = max(st.MaxLag, lag)
	})
	return st
}

// Close ends every subscription with err, which must not be nil. A reader that has
// caught up still gets the events in its queue; one that is reading the Source stops
// at its position. From then on, Next returns err and publishing has no effect. Later
// calls of Close do nothing.
func (h *Hub) Close(err error) {
	h.pub.Lock() // no commit is half queued when a reader sees err
	defer h.pub.Unlock()
	if h.err.CompareAndSwap(nil, &err) {
		h.table.all.eachSubscription((*Subscription).wakeReader)
	}
}

func (h *Hub) closed() bool { return h.err.Load() != nil }
