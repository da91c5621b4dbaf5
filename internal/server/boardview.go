package server

import (
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
	leftEvent   = "left"   // a node
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
	view, problem := s.mayViewBoard(w)
	if problem != nil {
		return problem
	}
	if form == wire.Stream {
		return s.prepareBoardStream(w, r, view, ends)
	}
	return s.whileOpen(w, r, func() *wire.Error {
		viewer := s.board.Look(board.Cursor{}, view, func() {})
		defer viewer.Close()
		awaitLists(r, viewer)
		s.board.Sample()
		batch := viewer.Next()
		return writeJSON(w, connectionList{batch.Nodes, board.CountTopics(batch.State), batch.State})
	})
}

// prepareBoardStream prepares a stream of the board. If ends, it ends after the state.
func (s *Server) prepareBoardStream(w http.ResponseWriter, r *http.Request, view board.View, ends bool) *wire.Error {
	// A cursor that is of no board is none: the stream then begins with the state.
	after, err := board.ParseCursor(r.Header.Get(wire.HeaderLastEventID))
	if ends && err == nil {
		// An EventSource would reconnect for ever; 204 stops it.
		w.WriteHeader(http.StatusNoContent)
		return nil
	}
	return s.prepareControlStream(w, r, func(c controlStream) stream {
		return &boardStream{controlStream: c, view: view, after: after, ends: ends}
	})
}

// A boardStream sends the board to one viewer.
type boardStream struct {
	controlStream
	view  board.View
	after board.Cursor
	ends  bool

	begun   bool                             // the viewer has the state
	counted map[event.Topic]board.TopicCount // as the viewer has them, nil if it has none
	stale   bool                             // connections have come or gone since
}

// countEvery is how often the counts of topics are sent, at most.
const countEvery = time.Second

// runStream sends the stream to its end.
func (c *boardStream) runStream() { c.run(c.follow) }

func (c *boardStream) follow() error {
	viewer := c.s.board.Look(c.after, c.view, c.wake)
	defer viewer.Close()
	if c.ends {
		awaitLists(c.r, viewer)
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
		wait := c.patience(c.s.cfg.Heartbeat)
		if c.stale {
			wait = min(wait, time.Until(nextCount))
		}
		timer.Reset(wait)
		if err := c.await(timer); err != nil {
			return err
		}
	}
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
	if change.Kind == board.NodeLeft {
		return leftEvent, struct {
			Node string `json:"node"`
		}{change.Node.Name}
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
