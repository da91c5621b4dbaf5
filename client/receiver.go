package client

import (
	"errors"
	"fmt"
	"io"
	"slices"
	"sync"

	"github.com/rstream-dev/rstream/event"
	"github.com/rstream-dev/rstream/internal/sse"
)

// A receiver reads and checks a stream, in a goroutine other than the one that stores it.
type receiver struct {
	c      *Client
	base   string
	topics []event.Topic
	s      *sse.Session
	at     event.ID // the events up to here have been received
}

// A received is one step of a stream: an event, or only a position.
type received struct {
	ev    event.Event
	isPos bool
	at    event.Point
}

// errEnded reports that a server has ended a stream, as it may at any time.
var errEnded = errors.New("the server ended the stream")

// errRotated is errEnded for a stream that has reported at least its position: nothing is
// wrong.
var errRotated = errors.New("the server ended a healthy stream")

// receiveAll puts the received events into in until the stream ends, and returns the reason.
func (r *receiver) receiveAll(in *inbox) error {
	for {
		f, err := r.s.Next()
		var large *sse.TooLargeError
		switch {
		case errors.Is(err, io.EOF):
			return droppedError(r.base, errEnded)
		case errors.As(err, &large): // it would come again
			return &ProtocolError{r.base, fmt.Sprintf("sent an event of more than %d bytes", large.Limit)}
		case err != nil:
			return droppedError(r.base, err)
		}
		got, err := r.readFrame(f)
		if err != nil {
			return err
		}
		// A heartbeat at the same position is passed on: it keeps the lease alive.
		if got.at.ID > r.at || got.isPos && got.at.ID == r.at {
			r.at = got.at.ID
			in.putStep(got)
		}
	}
}

// readFrame checks one frame. A block without data moves the position. So does the live
// event, and any control event that a later version may send. The event at the position
// from which the reader resumed may come again. An earlier event is refused, because it
// could be a new one.
func (r *receiver) readFrame(f sse.Frame) (received, error) {
	isEvent := f.Data != nil && (f.Type == string(event.Put) || f.Type == string(event.Del))
	if f.Cursor == "" && !isEvent {
		return received{isPos: true}, nil // moves nothing
	}
	cursor, err := event.ParseCursor(f.Cursor)
	if err != nil {
		return received{}, &ProtocolError{r.base, fmt.Sprintf("sent the invalid id %.40q: %v", f.Cursor, err)}
	}
	if !cursor.Of(r.c.store.Log()) {
		return received{}, &OtherLogError{URL: r.base, Got: cursor.Log, Want: r.c.store.Log()}
	}
	if !isEvent {
		return received{isPos: true, at: cursor.Point()}, nil
	}
	ev, err := r.c.parseReceived(r.base, f.Data, r.topics)
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

// Limits of the events that wait to be stored.
const (
	maxInbox      = 2000
	maxInboxBytes = 4 << 20
	maxAhead      = 2 << 20 // bytes of pages
)

// An inbox holds received events that are not yet stored. One goroutine puts events,
// another takes all of them at once and stores them in one transaction.
type inbox struct {
	mu      sync.Mutex
	changed sync.Cond

	// Guarded by mu.
	evs   []event.Event
	at    event.Point
	bytes int
	moved bool      // there is something to take
	err   error     // why no more events will come
	shut  bool      // the taker has left
	put   []pageEnd // of the pages in evs
	taken []pageEnd // of those that were taken last
}

// A pageEnd is where a page ends, the server that has sent it, and whether another one was to vouch
// for it and did not.
type pageEnd struct {
	at        event.ID
	base      string
	unvouched bool
}

func newInbox() *inbox {
	in := &inbox{}
	in.changed.L = &in.mu
	return in
}

// putStep adds one step. It waits while the inbox is full.
func (in *inbox) putStep(got received) {
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

// hasRoom reports whether putPage would not wait now. Only putPage changes that.
func (in *inbox) hasRoom() bool {
	in.mu.Lock()
	defer in.mu.Unlock()
	return in.shut || in.bytes < maxAhead
}

// putPage adds a page. It waits while the inbox has maxAhead bytes or more, so the inbox
// never holds more than maxAhead and one page.
func (in *inbox) putPage(p page) {
	in.mu.Lock()
	defer in.mu.Unlock()
	for !in.shut && in.bytes >= maxAhead {
		in.changed.Wait()
	}
	if in.shut {
		return
	}
	if len(in.evs) == 0 {
		in.evs = p.events // which nobody else uses
	} else {
		in.evs = append(in.evs, p.events...)
	}
	in.bytes += p.size
	in.put = append(in.put, pageEnd{p.next.ID, p.base, p.unvouched})
	in.at, in.moved = p.next, true
	in.changed.Broadcast()
}

// senderOf returns the server that has sent an event of those that were taken last, as a part of a
// page, "" if none has.
func (in *inbox) senderOf(id event.ID) string {
	in.mu.Lock()
	defer in.mu.Unlock()
	for _, end := range in.taken {
		if id <= end.at {
			return end.base
		}
	}
	return ""
}

// isVouched reports whether no page was taken last for which another server did not vouch.
func (in *inbox) isVouched() bool {
	in.mu.Lock()
	defer in.mu.Unlock()
	return !slices.ContainsFunc(in.taken, func(end pageEnd) bool { return end.unvouched })
}

// endSteps records that no more events will come, and why.
func (in *inbox) endSteps(err error) {
	in.mu.Lock()
	defer in.mu.Unlock()
	in.err = err
	in.changed.Broadcast()
}

// dropSteps discards all later events and unblocks the goroutine that puts them.
func (in *inbox) dropSteps() {
	in.mu.Lock()
	defer in.mu.Unlock()
	in.shut = true
	in.changed.Broadcast()
}

// takeSteps waits until there is something and returns all of it. evs is never nil, because
// nil events mean to a hub that they are unknown. If err is not nil no more events will
// come; those that came before are returned with it.
func (in *inbox) takeSteps() (evs []event.Event, at event.Point, err error) {
	in.mu.Lock()
	defer in.mu.Unlock()
	for !in.moved && in.err == nil {
		in.changed.Wait()
	}
	evs, at = in.evs, in.at
	in.evs, in.bytes, in.moved = nil, 0, false
	in.put, in.taken = nil, in.put
	in.changed.Broadcast()
	if evs == nil {
		evs = []event.Event{}
	}
	return evs, at, in.err
}
