package source

import (
	"context"
	"time"
)

// The tail of a connection are the events after its last cursor that still waited for one when the
// connection ended, or was ended here. They are stored, since some servers do not keep events without
// ids. Other servers send them again after the cursor, so those without ids are remembered by their
// place after it.
type tail struct {
	after string // the last cursor of the connection
	place int    // how many events without a name have come after it
	ends  bool   // the connection has ended, or is ended: what is stored is its tail
	late  bool   // what is stored has waited for too long
}

// isNameless reports whether an event has nothing but its place by which it would be known again.
func (fr *Frame) isNameless() bool { return fr.Event && fr.Cursor == "" && fr.ID == "" }

// pass counts a frame.
func (t *tail) pass(fr *Frame) {
	switch {
	case fr.Cursor != "":
		t.after, t.place = fr.Cursor, 0
	case fr.isNameless():
		t.place++
	}
}

// storeTail stores what waits for a cursor when a connection ends. A server that has cursors in events
// of their own sends what precedes one again, perhaps grouped in another way.
func (f *follower) storeTail(ctx context.Context) error {
	if f.cfg.Knobs.Cursor.In == InEvent {
		return nil
	}
	f.tail.ends = true
	return f.take(ctx, nil, true)
}

// stopTime bounds how long a follower that is stopped takes to store what has come.
const stopTime = 2 * time.Second

// stop stores what has come when ctx ends the connection, and its tail. It returns why ctx has ended:
// what could not be stored, the server may send again.
func (f *follower) stop(ctx context.Context, queue *frameQueue) error {
	cause := context.Cause(ctx)
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), stopTime)
	defer cancel()
	frames, _ := queue.take()
	if f.take(ctx, frames, false) == nil {
		_ = f.storeTail(ctx)
	}
	return cause
}

// tailKey returns the key of the next event without a name. No id has a zero byte.
func (f *follower) tailKey() repeatKey {
	return repeatKeyOf(f.state.Generation, "\x00"+f.tail.after, f.tail.place)
}

// rememberTail remembers an event of the tail.
func (f *follower) rememberTail(fr *Frame) {
	if f.tail.ends && f.tail.after != "" && fr.isNameless() {
		f.repeats.add(f.tailKey(), sumOf(fr))
	}
}

// isTailAgain reports whether an event is one of the tail of another connection. If no cursor has
// followed in time, the event is forgotten: a server that does not send events again may send
// equal ones with each connection, and loses only one of them.
func (f *follower) isTailAgain(fr *Frame) bool {
	if !fr.isNameless() {
		return false
	}
	key, sum := f.tailKey(), sumOf(fr)
	if before, known := f.repeats.sums[key]; !known || before != sum {
		return false
	}
	if f.tail.late {
		f.repeats.add(key, ^sum)
	}
	return true
}
