package source

import (
	"strings"
	"testing"
)

// largeFrames returns frames that take 1 MiB each, all of it in one of their parts.
func largeFrames() map[string]Frame {
	large := strings.Repeat("x", 1<<20)
	return map[string]Frame{"data": {Event: true, Data: []byte(large)}, "type": {Event: true, Type: large}, "id": {Event: true, ID: large}, "cursor": {Cursor: large}}
}

// A queue is full when its frames are large, whatever makes them so.
func TestQueueCountsBytes(t *testing.T) {
	for part, f := range largeFrames() {
		q, n := newFrameQueue(), 1
		for !q.put(f, nil) && n < 10 {
			n++
		}
		if n != maxQueuedBytes>>20 {
			t.Errorf("%s: full after %d MiB", part, n)
		}
		if q.take(); q.isFull() {
			t.Errorf("%s: full while empty", part)
		}
	}
}

// Events that wait for a cursor are stored without one if they are large.
func TestTakeCountsBytes(t *testing.T) {
	for part, frame := range largeFrames() {
		if frame.Cursor != "" {
			continue
		}
		db := newLog(t)
		f, err := newFollower(t.Context(), followConfig(t, "http://127.0.0.1:1", "sse", db))
		if err != nil {
			t.Fatal(err)
		}
		f.state.Cursor = "1"
		frame.Data = append([]byte("0"), frame.Data...)
		n := 0
		for ; n < 10 && db.Head() == 0; n++ {
			if err := f.take(t.Context(), []Frame{frame}, false); err != nil {
				t.Fatal(err)
			}
		}
		if n != maxQueuedBytes>>20 || len(f.waiting) > 0 || !f.state.Loose {
			t.Errorf("%s: stored after %d MiB, %d frames still wait, state %+v", part, n, len(f.waiting), f.state)
		}
	}
}
