package client

import (
	"context"
	"errors"
	"fmt"
	"io"
	"iter"
	"net/http"

	"github.com/rstream-dev/rstream/event"
	"github.com/rstream-dev/rstream/internal/wire"
)

// Snapshot returns the server's state of topic at position at: the event that set the
// value of each storage, in order of users and paths. The events are checked but not
// stored. If the connection is cut, Snapshot resumes after the last storage. An error is
// the last value.
func (c *Client) Snapshot(ctx context.Context, topic event.Topic, at event.ID) iter.Seq2[*event.Event, error] {
	return c.readSnapshot(ctx, topic, at, func(event.Mark) {})
}

// readSnapshot is Snapshot that also calls marked with the mark of the position.
func (c *Client) readSnapshot(ctx context.Context, topic event.Topic, at event.ID, marked func(event.Mark)) iter.Seq2[*event.Event, error] {
	return func(yield func(*event.Event, error) bool) {
		if err := c.needCopy(); err != nil {
			yield(nil, fmt.Errorf("state of %s at %s: %w", topic, at, err))
			return
		}
		s := snapshot{c: c, topic: topic, at: at, marked: marked, yield: yield, b: c.newBackoff()}
		err := c.retryWith(ctx, s.b, s.readSnapshotLines)
		if err != nil && !s.stopped {
			yield(nil, fmt.Errorf("state of %s at %s: %w", topic, at, err))
		}
	}
}

// A snapshot is one call of Snapshot.
type snapshot struct {
	c       *Client
	topic   event.Topic
	at      event.ID
	marked  func(event.Mark)
	yield   func(*event.Event, error) bool
	b       *backoff
	stopped bool
	given   event.Storage // the last one that was yielded
}

func (s *snapshot) readSnapshotLines(ctx context.Context) error {
	q := wire.SnapshotQuery{Topic: s.topic, At: s.c.momentAt(s.at), After: s.given}
	resp, err := s.c.askServers(ctx, http.MethodGet, "/snapshot?"+q.Values().Encode(), http.Header{"Accept": {wire.JSON}}, nil)
	if err != nil {
		return err
	}
	defer resp.Body.Close()
	base := resp.base
	if resp.StatusCode != http.StatusOK {
		return refusalError(readStatus(resp.Response), s.at)
	}
	if err := s.c.checkIsRstream(base, resp.Header, wire.JSON); err != nil {
		return err
	}
	to, ok := wire.CursorIn(resp.Header, wire.HeaderTo)
	if !ok || to.ID != s.at {
		return &ProtocolError{base, fmt.Sprintf("did not return the state at %s", s.at)}
	}
	s.marked(to.Mark)
	lines := newObjectLines(base, resp.Body)
	for !s.stopped {
		line, err := lines.Next()
		if errors.Is(err, io.EOF) {
			return nil
		}
		if err != nil {
			return err
		}
		if err := s.yieldLine(base, line); err != nil {
			return err
		}
		s.b.resetPauses()
	}
	return nil
}

// yieldLine checks one event and yields it.
func (s *snapshot) yieldLine(base string, line []byte) error {
	ev, err := s.c.parseReceived(base, line, []event.Topic{s.topic})
	if err != nil {
		return err
	}
	this := ev.Storage()
	if ev.ID > s.at || ev.Type != event.Put || this.Compare(s.given) <= 0 {
		return &ProtocolError{base, fmt.Sprintf("sent event %s, which is not in the state at %s or is out of order", ev.ID, s.at)}
	}
	s.c.stats.events.Add(1)
	s.given = this
	s.stopped = !s.yield(&ev, nil)
	return nil
}
