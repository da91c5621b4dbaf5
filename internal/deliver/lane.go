package deliver

import (
	"slices"
	"time"

	"github.com/rstream-dev/rstream/cache"
	"github.com/rstream-dev/rstream/event"
)

// A phase is what a lane waits for.
type phase int

const (
	ready    phase = iota // to be begun
	loading               // for its events to be read
	begun                 // for a worker
	underWay              // for the worker that has its events
	waiting               // for the time of its next try
)

// A lane is a storage that has unfinished events among those that were read, or a dead letter
// to be tried again.
type lane struct {
	storage event.Storage
	phase   phase
	first   event.ID // events of the storage before it are done
	isEvent bool     // first is the id of an event, of this storage
	queue   []*event.Event
	// behind: events of the storage after those in the queue and up to skipped were read
	// and dropped. The lane then has a row.
	behind  bool
	skipped event.ID

	begun   int // of the queue, how many may be started
	sent    int // of these, how many are under way
	since   time.Time
	limit   int  // how many events a try may have, since a larger one has failed; 0 for any number
	careful int  // how many events may have been under way when a process ended: each try is stored alone
	charged bool // the row counts the try that is under way

	tries int // of the first event
	retry time.Time
	err   string // of its last try

	dead   []cache.DeadLetter // to be tried again, before the queue
	burned bool               // the first of dead is begun

	stored *cache.BlockedStorage // the lane's row, nil if there is none
}

// unfinished reports whether the storage has events that are not done.
func (l *lane) unfinished() bool { return len(l.queue) > 0 || l.behind }

// busy reports whether the lane's first event may have been started.
func (l *lane) busy() bool { return l.begun > 0 || l.sent > 0 }

// row returns the row that the lane should have, nil for none.
func (l *lane) row() *cache.BlockedStorage {
	if !l.behind {
		return nil
	}
	b := &cache.BlockedStorage{Storage: l.storage, First: l.first, Tries: l.tries, Error: l.err}
	if l.charged {
		b.Tries++
	}
	if !l.retry.IsZero() {
		b.Retry = event.TimeOf(l.retry)
	}
	return b
}

// A fifo is a queue of lanes.
type fifo struct {
	lanes []*lane
	head  int
}

func (q *fifo) len() int { return len(q.lanes) - q.head }

func (q *fifo) push(l *lane) { q.lanes = append(q.lanes, l) }

func (q *fifo) peek() *lane { return q.lanes[q.head] }

func (q *fifo) pop() *lane {
	l := q.lanes[q.head]
	q.lanes[q.head] = nil
	q.head++
	switch {
	case q.head == len(q.lanes):
		q.lanes, q.head = q.lanes[:0], 0
	case q.head > 1024 && q.head > len(q.lanes)/2:
		rest := copy(q.lanes, q.lanes[q.head:])
		clear(q.lanes[rest:])
		q.lanes = q.lanes[:rest]
		q.head = 0
	}
	return l
}

// remove removes the lanes that match.
func (q *fifo) remove(match func(*lane) bool) {
	rest := slices.DeleteFunc(q.lanes[q.head:], match)
	q.lanes = q.lanes[:q.head+len(rest)]
}

// A waitHeap orders waiting lanes by the time of their next try.
type waitHeap []*lane

func (h waitHeap) Len() int           { return len(h) }
func (h waitHeap) Less(i, j int) bool { return h[i].retry.Before(h[j].retry) }
func (h waitHeap) Swap(i, j int)      { h[i], h[j] = h[j], h[i] }
func (h *waitHeap) Push(x any)        { *h = append(*h, x.(*lane)) }
func (h *waitHeap) Pop() any {
	old := *h
	l := old[len(old)-1]
	old[len(old)-1] = nil
	*h = old[:len(old)-1]
	return l
}
