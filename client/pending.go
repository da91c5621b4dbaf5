package client

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"time"

	"github.com/rstream-dev/rstream/cache"
	"github.com/rstream-dev/rstream/event"
	"github.com/rstream-dev/rstream/internal/wire"
	"github.com/rstream-dev/rstream/window"
)

// pendPause is how long to wait before checking again whether the pending window of
// another process has ended.
const pendPause = 20 * time.Millisecond

// windowAt returns the window around a moment. Concurrent calls, also in other processes
// of the copy, wait for each other: the answer for one is often the answer for the next. If
// again is true, only a server answers.
func (c *Client) windowAt(ctx context.Context, topic event.Topic, at event.Moment, again bool) (a windowAnswer, err error) {
	if err := c.pending.lock(ctx); err != nil {
		return a, err
	}
	defer c.pending.unlock()
	if again {
		c.pending.known = nil
	} else if a, ok := c.pending.findAnswer(topic, at); ok {
		return a, nil
	}
	// Between two attempts no window is pending: another process may have a server that
	// answers.
	err = c.tryServers(ctx, func(ctx context.Context) (err error) {
		a, err = c.pendingAt(ctx, topic, at, again)
		return err
	})
	if err != nil {
		return a, err
	}
	c.pending.keepAnswer(a)
	return a, nil
}

// pendingAt waits for its turn. It asks the servers once, unless a window that was answered
// meanwhile contains the moment, and again is false.
func (c *Client) pendingAt(ctx context.Context, topic event.Topic, at event.Moment, again bool) (a windowAnswer, err error) {
	p, waited, err := c.claimPending(ctx, topic, at)
	if err != nil {
		return a, err
	}
	a.topic = topic
	ok := false
	if !again {
		a.w, ok, err = answeredWindow(ctx, p, waited, at)
	}
	var body []byte
	if err == nil && !ok {
		a.w, a.from, body, err = c.askWindow(ctx, topic, at)
	}
	cleanup, cancel := context.WithTimeout(context.WithoutCancel(ctx), releaseTime)
	defer cancel()
	return a, errors.Join(err, storeError(p.End(cleanup, body)))
}

// claimPending makes a moment the copy's pending window. If it had to wait, waited is
// the number of the pending window that it found first.
func (c *Client) claimPending(ctx context.Context, topic event.Topic, at event.Moment) (p *cache.Pending, waited int64, err error) {
	for {
		p, busy, err := c.store.Pend(ctx, topic, at)
		if err != nil || p != nil {
			return p, waited, storeError(err)
		}
		if waited == 0 {
			waited = busy
		}
		if err := waitFor(ctx, pendPause); err != nil {
			return nil, 0, err
		}
	}
}

// answeredWindow returns the window around a moment, if a process has asked about it
// since the window with the number waited was pending.
func answeredWindow(ctx context.Context, p *cache.Pending, waited int64, at event.Moment) (w wire.Window, ok bool, err error) {
	if waited == 0 {
		return w, false, nil
	}
	answers, err := p.Answers(ctx, waited)
	if err != nil {
		return w, false, storeError(err)
	}
	for _, a := range answers {
		var w wire.Window // a member that one answer lacks must not come from another
		if err := json.Unmarshal(a.Body, &w); err != nil {
			continue // written in another form by another version
		}
		if coversMoment(&w, a.Moment == at.String(), at) {
			return w, true, nil
		}
	}
	return wire.Window{}, false, nil
}

// askWindow asks the servers for the window around a moment, and returns the one that answers.
func (c *Client) askWindow(ctx context.Context, topic event.Topic, at event.Moment) (w wire.Window, base string, body []byte, err error) {
	q := wire.WindowQuery{Topic: topic, At: &at}
	w, base, body, err = askOnce[wire.Window](c.preferFirst(ctx), c, &q)
	if err != nil {
		return w, "", nil, err
	}
	if id, ok := at.Cursor(); w.To.ID < w.From.ID || ok && (id.ID < w.From.ID || id.ID > w.To.ID) {
		return w, "", nil, &ProtocolError{base, fmt.Sprintf("was asked for the window around %s and answered %s", at, w.Span())}
	}
	return w, base, body, nil
}

// coversMoment reports whether w is certainly the window around a moment. w was the
// answer for the same moment, or for another one. Now, and a time after the newest
// event, must be asked again: they may be in a later window by now, or in a longer one.
func coversMoment(w *wire.Window, same bool, at event.Moment) bool {
	if id, ok := at.Cursor(); ok {
		return same || w.From.ID < id.ID && id.ID <= w.To.ID
	}
	t, ok := at.FixedTime()
	if !ok || w.End == nil || t >= *w.End {
		return false
	}
	// A time equal to its first event's may belong to the window before it.
	return same || w.From.ID == event.Beginning || w.Start != nil && *w.Start < t
}

// A pendingWindow serializes the requests for the bounds of windows and keeps the recent
// answers.
type pendingWindow struct {
	turn  chan struct{}  // holds one token
	known []windowAnswer // owned by the holder of the token
}

// A windowAnswer is a window of a topic and the server that has sent it, "" if it has sent it to
// another process.
type windowAnswer struct {
	topic event.Topic
	w     wire.Window
	from  string
}

// maxKnown is how many answered windows are kept.
const maxKnown = 64

func newPending() pendingWindow {
	p := pendingWindow{turn: make(chan struct{}, 1)}
	p.turn <- struct{}{}
	return p
}

func (p *pendingWindow) lock(ctx context.Context) error {
	select {
	case <-p.turn:
		return nil
	case <-ctx.Done():
		return context.Cause(ctx)
	}
}

func (p *pendingWindow) unlock() { p.turn <- struct{}{} }

func (p *pendingWindow) keepAnswer(a windowAnswer) {
	whole := window.BlockSpan(a.w.To.ID.Block())
	if a.w.Span() != whole {
		return // the open block is still growing
	}
	p.known = append(p.known, a)
	p.known = p.known[max(0, len(p.known)-maxKnown):]
}

// findAnswer returns an answered window that contains the moment.
func (p *pendingWindow) findAnswer(topic event.Topic, at event.Moment) (windowAnswer, bool) {
	for _, k := range p.known {
		if k.topic != topic {
			continue
		}
		if coversMoment(&k.w, false, at) {
			return k, true
		}
	}
	return windowAnswer{}, false
}
