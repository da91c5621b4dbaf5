package client

import (
	"errors"
	"fmt"
	"io"
	"sync"

	"github.com/rstream-dev/rstream/event"
	"github.com/rstream-dev/rstream/internal/sse"
)

// A receiver reads and checks a stream beside the goroutine that stores it.
type receiver struct {
	c      *Client
	base   string
	topics []event.Topic
	s      *sse.Session
	at     event.ID // what is at or before it has come
}

// A received is one step of a stream: an event, or only a position.
type received struct {
	ev    event.Event
	isPos bool
	at    event.Point
}

// errEnded means that a server has ended a stream, as it may at any time.
var errEnded = errors.New("the server ended the stream")

// errRotated is errEnded of a stream that has told at least where it was: nothing is
// wrong.
var errRotated = errors.New("the server ended a stream that worked")

// run puts what comes into in and returns why nothing more does.
func (r *receiver) run(in *inbox) error {
	for {
		f, err := r.s.Next()
		switch {
		case errors.Is(err, io.EOF):
			return dropped(r.base, errEnded)
		case err != nil:
			return dropped(r.base, err)
		}
		got, err := r.read(f)
		if err != nil {
			return err
		}
		// A heartbeat at the same position is passed on: it keeps the lease alive.
		if got.at.ID > r.at || got.isPos && got.at.ID == r.at {
			r.at = got.at.ID
			in.put(got)
		}
	}
}

// read checks one frame. A block without data moves the position; so does the live
// event, and any control event that a later version may send. The event that the
// reader came back with may come again; one before it may be new, and nobody could
// tell, so it is refused.
func (r *receiver) read(f sse.Frame) (received, error) {
	isEvent := f.Data != nil && (f.Type == string(event.Put) || f.Type == string(event.Del))
	if f.Cursor == "" && !isEvent {
		return received{isPos: true}, nil // moves nothing
	}
	cursor, err := event.ParseCursor(f.Cursor)
	if err != nil {
		return received{}, &ProtocolError{r.base, fmt.Sprintf("sent the id %.40q: %v", f.Cursor, err)}
	}
	if !cursor.Of(r.c.store.Log()) {
		return received{}, &OtherLogError{URL: r.base, Got: cursor.Log, Want: r.c.store.Log()}
	}
	if !isEvent {
		return received{isPos: true, at: cursor.Point()}, nil
	}
	ev, err := r.c.accept(r.base, f.Data, r.topics)
	switch {
	case err != nil:
		return received{}, err
	case ev.ID != cursor.ID || string(ev.Type) != f.Type:
		return received{}, &ProtocolError{r.base, fmt.Sprintf("sent event %s, a %s, as %s %s", ev.ID, ev.Type, f.Type, cursor)}
	case ev.ID < r.at:
		return received{}, &ProtocolError{r.base, fmt.Sprintf("sent event %s after %s", ev.ID, r.at)}
	}
	r.c.stats.events.Add(1)
	return received{ev: ev, at: cursor.Point()}, nil
}

// What waits to be stored is bounded, in events and in bytes.
const (
	maxInbox      = 2000
	maxInboxBytes = 4 << 20
	maxAhead      = 2 << 20 // bytes of pages
)

// An inbox holds what has been received and not yet been stored: one goroutine puts,
// another takes all there is, which is then one transaction.
type inbox struct {
	mu      sync.Mutex
	changed sync.Cond

	// Guarded by mu.
	evs   []event.Event
	at    event.Point
	bytes int
	moved bool  // there is something to take
	err   error // why nothing more will come
	shut  bool  // nobody takes any more
}

func newInbox() *inbox {
	in := &inbox{}
	in.changed.L = &in.mu
	return in
}

// put adds one step, waiting while there is too much.
func (in *inbox) put(got received) {
	in.mu.Lock()
	defer in.mu.Unlock()
	for !in.shut && (len(in.evs) >= maxInbox || in.bytes >= maxInboxBytes) {
		in.changed.Wait()
	}
	if in.shut {
		return
	}
	if !got.isPos {
		in.evs = append(in.evs, got.ev)
		in.bytes += len(got.ev.Line())
	}
	in.at, in.moved = got.at, true
	in.changed.Broadcast()
}

// putPage adds a page, waiting while there are too many bytes. There are never more of
// them than that and one page.
func (in *inbox) putPage(p page) {
	in.mu.Lock()
	defer in.mu.Unlock()
	for !in.shut && in.bytes >= maxAhead {
		in.changed.Wait()
	}
	if in.shut {
		return
	}
	in.evs = append(in.evs, p.events...)
	in.bytes += p.size
	in.at, in.moved = p.next, true
	in.changed.Broadcast()
}

// end says that nothing more will come, and why.
func (in *inbox) end(err error) {
	in.mu.Lock()
	defer in.mu.Unlock()
	in.err = err
	in.changed.Broadcast()
}

// drop lets the one who puts go on: what it puts is forgotten.
func (in *inbox) drop() {
	in.mu.Lock()
	defer in.mu.Unlock()
	in.shut = true
	in.changed.Broadcast()
}

// take waits for something to come and returns all there is. evs is never nil,
// which to a hub would mean that they are unknown. With err nothing more will come;
// what came before is returned with it.
func (in *inbox) take() (evs []event.Event, at event.Point, err error) {
	in.mu.Lock()
	defer in.mu.Unlock()
	for !in.moved && in.err == nil {
		in.changed.Wait()
	}
	evs, at = in.evs, in.at
	in.evs, in.bytes, in.moved = nil, 0, false
	in.changed.Broadcast()
	if evs == nil {
		evs = []event.Event{}
	}
	return evs, at, in.err
}
