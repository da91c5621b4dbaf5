package source

import (
	"context"
	"sync"
)

const (
	maxQueuedFrames = 4096
	maxQueuedBytes  = 4 << 20
)

// A frameQueue holds the frames that have arrived while others are stored, so that one
// transaction stores many. A full queue stops the reader, and so the server.
type frameQueue struct {
	mu     sync.Mutex
	frames []Frame
	bytes  int
	err    error // why no more will come

	more, room chan struct{} // each has a token if there is news
}

func newFrameQueue() *frameQueue {
	return &frameQueue{more: make(chan struct{}, 1), room: make(chan struct{}, 1)}
}

// fill reads the frames of a connection until it ends.
func (q *frameQueue) fill(ctx context.Context, conn *connection) {
	for {
		f, err := conn.next()
		full := q.put(f, err)
		if err != nil {
			return
		}
		for full {
			select {
			case <-q.room:
				full = q.isFull()
			case <-ctx.Done():
				return
			}
		}
	}
}

func (q *frameQueue) put(f Frame, err error) (full bool) {
	q.mu.Lock()
	if err != nil {
		q.err = err
	} else {
		q.frames = append(q.frames, f)
		q.bytes += f.size()
	}
	full = q.overLimit()
	q.mu.Unlock()
	signal(q.more)
	return full
}

func (q *frameQueue) overLimit() bool {
	return len(q.frames) >= maxQueuedFrames || q.bytes >= maxQueuedBytes
}

func (q *frameQueue) isFull() bool {
	q.mu.Lock()
	defer q.mu.Unlock()
	return q.overLimit()
}

// take returns all frames that have arrived, and then the error for which no more come.
func (q *frameQueue) take() (frames []Frame, err error) {
	q.mu.Lock()
	defer q.mu.Unlock()
	frames, q.frames, q.bytes = q.frames, nil, 0
	signal(q.room)
	return frames, q.err
}

func signal(c chan struct{}) {
	select {
	case c <- struct{}{}:
	default:
	}
}
