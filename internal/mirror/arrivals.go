package mirror

import (
	"sync"

	"github.com/rstream-dev/rstream/internal/sse"
)

// arrivals hold the blocks of a stream that have arrived while others are stored, so that one
// transaction stores many. If there are too many, the stream waits, and so does the server.
type arrivals struct {
	mu      sync.Mutex
	frames  []sse.Frame
	bytes   int
	err     error // why no more will come
	stopped bool

	room *sync.Cond    // of mu
	more chan struct{} // has an element if there is news
}

func newArrivals() *arrivals {
	a := &arrivals{more: make(chan struct{}, 1)}
	a.room = sync.NewCond(&a.mu)
	return a
}

// fill reads the blocks of a stream until it ends.
func (a *arrivals) fill(from *sse.Session) {
	for {
		f, err := from.Next()
		if !a.put(f, err) {
			return
		}
	}
}

// put adds a block, or the error for which no more come, and waits until there is room for
// another one. It returns false if there is none to wait for.
func (a *arrivals) put(f sse.Frame, err error) bool {
	a.mu.Lock()
	defer a.mu.Unlock()
	if a.err = err; err == nil {
		a.frames = append(a.frames, f)
		a.bytes += len(f.Cursor) + len(f.Type) + len(f.Data)
	}
	select {
	case a.more <- struct{}{}:
	default:
	}
	for !a.stopped && a.isFull() {
		a.room.Wait()
	}
	return err == nil && !a.stopped
}

// isFull reports whether the stream must wait. mu must be held.
func (a *arrivals) isFull() bool { return len(a.frames) >= maxBatch || a.bytes >= maxBatchBytes }

// take returns the blocks that have arrived and, after the last of them, the error for which
// no more come.
func (a *arrivals) take() (frames []sse.Frame, err error) {
	a.mu.Lock()
	defer a.mu.Unlock()
	frames, a.frames, a.bytes = a.frames, nil, 0
	a.room.Signal()
	return frames, a.err
}

// stop ends fill once its stream is closed.
func (a *arrivals) stop() {
	a.mu.Lock()
	defer a.mu.Unlock()
	a.stopped = true
	a.room.Signal()
}
