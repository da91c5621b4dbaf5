package hub

import (
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
	// Read returns the events of topics with after < id ≤ until, each once,
	// oldest first: at most limit of them and about 1 MiB. It also returns the
	// position up to which it has looked, which may lie beyond the last of the
	// events, and beyond after without any event, but never beyond until or
	// beyond what the Source holds. If next is after, the Source has nothing
	// there yet. The caller keeps the events.
	Read(ctx context.Context, topics []event.Topic, after, until event.ID, limit int) (evs []event.Event, next event.ID, err error)
}

// A Config sets the limits of a Hub.
type Config struct {
	// Queue is how many events may wait for a reader before it is sent to the
	// Source. The events of one Publish may together exceed it sixteenfold, so
	// that a large commit does not send every reader there at once. If not
	// positive, 256.
	Queue int
	// QueueBytes is the same for the bytes of the waiting events, which all
	// queues share. If not positive, 1 MiB.
	QueueBytes int
	// Chunk is how many events are read from the Source at a time. If not
	// positive, 1,000.
	Chunk int
}

const (
	burst = 16 // by how much one Publish may exceed the limits of a queue
	round = 64 // after how many events of one Publish the readers are woken
)

// ErrClosed is returned by Next of a closed subscription.
var ErrClosed = errors.New("subscription is closed")

// ErrQuiet is returned by Next after a Nudge when there was nothing.
var ErrQuiet = errors.New("nothing has happened")

// A Hub tells subscriptions what happens to a log. Its methods may be called from
// any goroutine; publishing is meant to be done by one, which knows the order.
type Hub struct {
	src Source
	cfg Config

	// What is announced is committed and about to be queued; what the head has
	// reached is queued. A subscription joins at the first, so that it misses
	// nothing, and takes the second for its position, so that it passes nothing.
	announced atomic.Uint64
	head      atomic.Pointer[event.Point]
	err       atomic.Pointer[error] // set once the hub is closed
	overflows atomic.Uint64         // queues that were emptied, ever

	table table

	stalls struct {
		sync.Mutex
		version uint64 // counts the calls of Publish and Advance
		subs    map[*Subscription]struct{}
	}

	pub struct {
		sync.Mutex
		hits  []ref           // of one event
		woken []*Subscription // to be rung
	}
}

// New returns a hub beside src, whose end is head.
func New(src Source, head event.ID, cfg Config) *Hub {
	h := &Hub{src: src, cfg: Config{
		Queue:      orDefault(cfg.Queue, 256),
		QueueBytes: orDefault(cfg.QueueBytes, 1<<20),
		Chunk:      orDefault(cfg.Chunk, 1000),
	}}
	h.announced.Store(uint64(head))
	h.head.Store(&event.Point{ID: head})
	h.stalls.subs = make(map[*Subscription]struct{})
	return h
}

func orDefault(n, otherwise int) int {
	if n <= 0 {
		return otherwise
	}
	return n
}

// Head returns the position up to which the subscriptions have been told.
func (h *Hub) Head() event.ID { return h.point().ID }

// point is Head with its mark, if the event at that position was published.
func (h *Hub) point() event.Point { return *h.head.Load() }

// Publish says that evs have been committed and that the log now ends at head. It
// must be called after the commit, and evs must be all that lies between the old
// and the new head of any topic that is subscribed to; events at or before the old
// head are ignored. No events at all, but not nil, means that there is nothing in
// between. If evs is nil, or not in the order of ids, Publish is Advance.
//
// Publish never waits for a reader. It keeps copies of the events, not evs.
func (h *Hub) Publish(evs []event.Event, head event.ID) {
	h.pub.Lock()
	defer h.pub.Unlock()
	old := h.point()
	last, ordered := survey(evs)
	head = max(head, last)
	if evs == nil || !ordered {
		h.advance(head)
		return
	}
	known := sort.Search(len(evs), func(i int) bool { return evs[i].ID > old.ID })
	h.queue(evs[known:], old, head)
	h.retryStalled()
}

// survey returns the largest id of evs and whether the ids ascend.
func survey(evs []event.Event) (last event.ID, ordered bool) {
	ordered = true
	for i := range evs {
		ordered = ordered && evs[i].ID > last
		last = max(last, evs[i].ID)
	}
	return last, ordered
}

// queue gives evs to those who asked for them. Readers are woken now and then, each
// for all that has come together.
func (h *Hub) queue(evs []event.Event, old event.Point, head event.ID) {
	if head <= old.ID || h.closed() {
		return
	}
	h.announced.Store(uint64(head))
	for some := range slices.Chunk(evs, round) {
		for i := range some {
			h.deliver(&some[i], old)
		}
		last := &some[len(some)-1]
		h.head.Store(&event.Point{ID: last.ID, Mark: last.Mark()})
		h.ringWoken()
	}
	if head > h.Head() {
		h.head.Store(&event.Point{ID: head})
	}
}

// deliver puts ev into the queues of those who asked for it.
func (h *Hub) deliver(ev *event.Event, old event.Point) {
	h.pub.hits = h.table.match(h.pub.hits[:0], ev.User, ev.Path)
	if len(h.pub.hits) == 0 {
		return
	}
	// A queue must not keep the other events of the commit alive.
	own := new(event.Event)
	*own = *ev
	own.KeepMark() // once for all readers
	for _, hit := range h.pub.hits {
		if hit.sub.push(own, old) {
			h.pub.woken = append(h.pub.woken, hit.sub)
		}
	}
	clear(h.pub.hits)
}

func (h *Hub) ringWoken() {
	for _, s := range h.pub.woken {
		s.ring()
	}
	clear(h.pub.woken)
	h.pub.woken = h.pub.woken[:0]
}

// Advance says that the log now ends at head and that everyone must read the Source
// to learn what is new: after a commit whose outcome was uncertain, or when the
// events are not at hand. If head is not new, it says that the Source may hold more
// than before, and wakes those who wait for that.
func (h *Hub) Advance(head event.ID) {
	h.pub.Lock()
	defer h.pub.Unlock()
	h.advance(head)
}

func (h *Hub) advance(head event.ID) {
	if old := h.point(); head > old.ID && !h.closed() {
		h.announced.Store(uint64(head))
		h.table.all.each(func(s *Subscription) { s.lose(old) })
		h.head.Store(&event.Point{ID: head})
	}
	h.retryStalled()
}

// retryStalled wakes those for whom the Source had nothing.
func (h *Hub) retryStalled() {
	h.stalls.Lock()
	defer h.stalls.Unlock()
	h.stalls.version++
	for s := range h.stalls.subs {
		s.rouse()
	}
	clear(h.stalls.subs)
}

// version names what the Source may hold at present; see stalled.
func (h *Hub) version() uint64 {
	h.stalls.Lock()
	defer h.stalls.Unlock()
	return h.stalls.version
}

// stalled enters s among those to be woken when the Source may hold more. It
// reports false if that has happened since version.
func (h *Hub) stalled(s *Subscription, version uint64) bool {
	h.stalls.Lock()
	defer h.stalls.Unlock()
	if h.stalls.version != version {
		return false
	}
	h.stalls.subs[s] = struct{}{}
	return true
}

// Subscribe returns a subscription to the events of topics after the position
// after, which may lie beyond the head: then what comes up to it is not given. The
// caller must call its Close.
func (h *Hub) Subscribe(topics []event.Topic, after event.ID) *Subscription {
	s := &Subscription{
		hub:    h,
		topics: slices.Clone(topics),
		places: make([]int32, len(topics)),
		pos:    after,
		goal:   after,
		seen:   after,
	}
	h.table.add(s)
	return s
}

// Matches returns how many topics of subscriptions hold a storage.
func (h *Hub) Matches(user, path string) int {
	var hits [64]ref
	return len(h.table.match(hits[:0], user, path))
}

// Stats is what a hub's subscriptions are at, at one moment.
type Stats struct {
	Readers   int    // subscriptions
	Behind    int    // those that read the Source
	MaxLag    uint64 // by how many ids the last of them is behind the head
	Overflows uint64 // how often a queue was emptied because it was full, ever
}

// Stats looks at every subscription.
func (h *Hub) Stats() Stats {
	st := Stats{Overflows: h.overflows.Load()}
	head := h.Head()
	h.table.all.each(func(s *Subscription) {
		lag, behind := s.lag(head)
		st.Readers++
		if behind {
			st.Behind++
		}
		st.MaxLag = max(st.MaxLag, lag)
	})
	return st
}

// Close ends every subscription with err, which must not be nil: a reader that has
// caught up is still given what is in its queue, one that is reading the Source
// stops where it is; then Next returns err for good. Publishing has no effect any
// more. Only the first Close counts.
func (h *Hub) Close(err error) {
	h.pub.Lock() // no commit is half queued when a reader sees err
	defer h.pub.Unlock()
	if h.err.CompareAndSwap(nil, &err) {
		h.table.all.each((*Subscription).rouse)
	}
}

func (h *Hub) closed() bool { return h.err.Load() != nil }
