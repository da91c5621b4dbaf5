package server

import (
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"time"

	"github.com/rstream-dev/rstream/event"
	"github.com/rstream-dev/rstream/internal/board"
	"github.com/rstream-dev/rstream/internal/wire"
)

// Types of the events of a stream of the board. None is one that EventSource fires itself.
const (
	openedEvent = "opened" // a connection
	closedEvent = "closed"
	lagEvent    = "lag"
	nodeEvent   = "node"
	topicsEvent = "topics" // the counts of some topics
)

// A connectionList is the response to GET /api/connections.
type connectionList struct {
	Nodes       []board.Node        `json:"nodes"`
	Topics      []board.TopicCount  `json:"topics"`
	Connections []*board.Connection `json:"connections"`
}

// getConnections sends the open connections, as JSON or as a stream that continues with their
// changes: GET /api/connections.
func (s *Server) getConnections(w http.ResponseWriter, r *http.Request) *wire.Error {
	return s.showBoard(w, r, r.Header.Values("Accept"))
}

// getChanges sends the stream of GET /api/connections to all clients that do not prefer
// another form: GET /api/events.
func (s *Server) getChanges(w http.ResponseWriter, r *http.Request) *wire.Error {
	return s.showBoard(w, r, append(r.Header.Values("Accept"), wire.SSE))
}

func (s *Server) showBoard(w http.ResponseWriter, r *http.Request, accept []string) *wire.Error {
	w.Header().Add("Vary", "Accept")
	form, ok := wire.NegotiateForm(accept)
	if !ok || form == wire.Lines {
		return wire.Errorf(http.StatusNotAcceptable, "Accept must allow %s or %s", wire.JSON, wire.SSE)
	}
	ends, err := wire.ParseBoard(r.URL.RawQuery)
	if err != nil {
		return badParameters(err)
	}
	sees, problem := s.mayViewBoard(w)
	if problem != nil {
		return problem
	}
	if form == wire.Stream {
		return s.prepareBoardStream(w, r, sees, ends)
	}
	viewer := s.board.Look(board.Cursor{}, sees, func() {})
	defer viewer.Close()
	s.board.Sample()
	batch := viewer.Next()
	return writeJSON(w, connectionList{batch.Nodes, board.CountTopics(batch.State), batch.State})
}

// prepareBoardStream prepares a stream of the board. If ends, it ends after the state.
func (s *Server) prepareBoardStream(w http.ResponseWriter, r *http.Request, sees func(*board.Connection) bool, ends bool) *wire.Error {
	// A cursor that is of no board is none: the stream then begins with the state.
	after, err := board.ParseCursor(r.Header.Get(wire.HeaderLastEventID))
	if ends && err == nil {
		// An EventSource would reconnect for ever; 204 stops it.
		w.WriteHeader(http.StatusNoContent)
		return nil
	}
	h := w.Header()
	h.Set("Content-Type", wire.SSE)
	h.Set("Cache-Control", "no-cache, no-transform")
	h.Set("X-Accel-Buffering", "no") // else nginx delays events
	if r.Method == http.MethodHead {
		return nil
	}
	done, problem := s.openStream(w, r)
	if problem != nil {
		return problem
	}
	rec := recorderOf(w)
	rec.stream = &boardStream{s: s, w: w, rc: http.NewResponseController(w), r: r, to: rec, done: done, sees: sees, after: after, ends: ends, age: s.streamAge()}
	return nil
}

// A boardStream sends the board to one viewer.
type boardStream struct {
	s     *Server
	w     http.ResponseWriter
	rc    *http.ResponseController
	r     *http.Request
	to    *recorder
	done  func() // gives its place to another stream of its client
	sees  func(*board.Connection) bool
	after board.Cursor
	ends  bool
	age   time.Duration // age at which it ends; 0 is never

	news    chan struct{}                    // has an element if there may be something to send
	begun   bool                             // the viewer has the state
	counted map[event.Topic]board.TopicCount // as the viewer has them, nil if it has none
	stale   bool                             // connections have come or gone since
	buf     []byte
	written time.Time
}

// countEvery is how often the counts of topics are sent, at most.
const countEvery = time.Second

// runStream sends the stream to its end.
func (c *boardStream) runStream() {
	defer c.done()
	defer c.to.limitWrites()()
	c.news = make(chan struct{}, 1)
	c.to.noteEnd(c.r, c.follow())
}

// wake makes follow look for news. It may be called from any goroutine.
func (c *boardStream) wake() {
	select {
	case c.news <- struct{}{}:
	default:
	}
}

func (c *boardStream) follow() error {
	viewer := c.s.board.Look(c.after, c.sees, c.wake)
	defer viewer.Close()
	if g := c.to.grant; g != nil {
		defer g.Watch(c.wake)()
	}
	timer := time.NewTimer(0)
	defer timer.Stop()
	var nextCount time.Time
	c.buf = wire.AppendPreamble(c.buf, c.s.cfg.Retry)
	for {
		if err := c.checkEnd(); err != nil {
			return err
		}
		if err := c.gatherBatch(viewer); err != nil {
			return err
		}
		if now := time.Now(); c.stale && !now.Before(nextCount) {
			if err := c.gatherCounts(viewer.CountTopics()); err != nil {
				return err
			}
			nextCount = now.Add(countEvery)
		}
		if err := c.flush(); err != nil || c.ends {
			return err
		}
		wait := c.patience()
		if c.stale {
			wait = min(wait, time.Until(nextCount))
		}
		timer.Reset(wait)
		select {
		case <-c.news:
		case <-timer.C:
		case <-c.s.stopped:
		case <-c.r.Context().Done():
			return c.r.Context().Err()
		}
	}
}

// checkEnd returns the reason for which the stream must end now, or nil.
func (c *boardStream) checkEnd() error {
	switch {
	case c.s.isStopped():
		return ErrStopped
	case c.age > 0 && time.Since(c.to.began) >= c.age:
		return errAged
	}
	return c.to.checkGrant()
}

// patience returns how long to wait for news: until the next heartbeat or the end is due.
func (c *boardStream) patience() time.Duration {
	d := c.s.cfg.Heartbeat - time.Since(c.written)
	if c.to.grant != nil {
		d = min(d, c.to.grant.Left())
	}
	if c.age > 0 {
		d = min(d, c.age-time.Since(c.to.began))
	}
	return d
}

// gatherBatch appends the news for the viewer to the output.
func (c *boardStream) gatherBatch(viewer *board.Viewer) error {
	batch := viewer.Next()
	if batch.Begins {
		if err := c.gatherState(&batch); err != nil {
			return err
		}
	}
	for i := range batch.Changes {
		change := &batch.Changes[i]
		c.stale = c.stale || change.Kind == board.Opened || change.Kind == board.Closed
		c.buf = fmt.Appendf(c.buf, "id: %s\n", change.At)
		name, data := changeEvent(change)
		if err := c.gather(name, data); err != nil {
			return err
		}
	}
	switch {
	case !c.begun || batch.Begins:
		c.begun = true
		if err := c.gatherCounts(viewer.CountTopics()); err != nil {
			return err
		}
		c.buf = fmt.Appendf(c.buf, "id: %s\nevent: %s\ndata: {\"type\":\"live\"}\n\n", batch.At, wire.LiveEvent)
	case len(c.buf) == 0 && time.Since(c.written) >= c.s.cfg.Heartbeat:
		c.buf = fmt.Appendf(c.buf, "id: %s\n\n", batch.At)
	}
	return nil
}

// gatherState appends the state. It has no ids, so that a viewer whose connection breaks
// before the end gets it again.
func (c *boardStream) gatherState(batch *board.Batch) error {
	c.counted = nil
	c.buf = append(c.buf, "id:\n"...) // the viewer has neither the old nor the new state before the end
	if err := c.gather(wire.StateEvent, struct {
		Nodes []board.Node `json:"nodes"`
	}{batch.Nodes}); err != nil {
		return err
	}
	for _, conn := range batch.State {
		if err := c.gather(openedEvent, conn); err != nil {
			return err
		}
	}
	return nil
}

// changeEvent returns the type and the data of the event of a change.
func changeEvent(change *board.Change) (name string, data any) {
	conn := change.Connection
	switch change.Kind {
	case board.Opened:
		return openedEvent, conn
	case board.Closed:
		return closedEvent, struct {
			Node string `json:"node"`
			ID   uint64 `json:"id"`
		}{conn.Node, conn.ID}
	case board.Lagged:
		return lagEvent, struct {
			Node string `json:"node"`
			ID   uint64 `json:"id"`
			board.Lag
		}{conn.Node, conn.ID, conn.Lag}
	}
	return nodeEvent, change.Node
}

// gatherCounts appends the counts of the topics that have changed.
func (c *boardStream) gatherCounts(counts []board.TopicCount) error {
	c.stale = false
	now := make(map[event.Topic]board.TopicCount, len(counts))
	changed := []board.TopicCount{}
	for _, n := range counts {
		now[n.Topic] = n
		if c.counted[n.Topic] != n {
			changed = append(changed, n)
		}
	}
	for t := range c.counted {
		if _, ok := now[t]; !ok {
			changed = append(changed, board.TopicCount{Topic: t})
		}
	}
	all := c.counted == nil
	c.counted = now
	if len(changed) == 0 && !all {
		return nil
	}
	return c.gather(topicsEvent, struct {
		All    bool               `json:"all,omitempty"` // of all other topics there are none
		Topics []board.TopicCount `json:"topics"`
	}{all, changed})
}

// gather appends an event, without an id or after its id.
func (c *boardStream) gather(name string, data any) error {
	b, err := json.Marshal(data)
	if err != nil {
		return err
	}
	c.buf = fmt.Appendf(c.buf, "event: %s\ndata: %s\n\n", name, b)
	if len(c.buf) < eventPiece {
		return nil
	}
	return c.write()
}

func (c *boardStream) write() error {
	_, err := c.w.Write(c.buf)
	c.buf = c.buf[:0]
	if err != nil {
		return errors.Join(errWrite, err)
	}
	return nil
}

// flush sends all output.
func (c *boardStream) flush() error {
	if len(c.buf) == 0 {
		return nil
	}
	if err := c.write(); err != nil {
		return err
	}
	if err := c.rc.Flush(); err != nil {
		return errors.Join(errWrite, err)
	}
	c.written = time.Now()
	return nil
}
