package server

import (
	"encoding/json"
	"fmt"
	"net/http"
	"strings"

	"github.com/rstream-dev/rstream/event"
	"github.com/rstream-dev/rstream/internal/board"
	"github.com/rstream-dev/rstream/internal/wire"
)

// readersEvent is the type of the SSE control event with the readers of a room.
const readersEvent = "readers"

// getRoom returns the state of a topic and the connections of its readers, as JSON or as a
// stream that continues with the changes of both: GET /api/room/TOPIC.
func (s *Server) getRoom(w http.ResponseWriter, r *http.Request) *wire.Error {
	w.Header().Add("Vary", "Accept")
	form, ok := wire.NegotiateForm(r.Header.Values("Accept"))
	if !ok || form == wire.Lines {
		return wire.Errorf(http.StatusNotAcceptable, "Accept must allow %s or %s", wire.JSON, wire.SSE)
	}
	topic, err := wire.ParseRoomPath(rawPath(r))
	if err != nil {
		return badParameters(err)
	}
	q, err := wire.ParseRoom(topic, r.URL.RawQuery)
	if err != nil {
		return badParameters(err)
	}
	view, problem := s.mayViewBoard(w)
	if problem == nil {
		problem = s.mayRead(w, topic)
	}
	if problem != nil {
		return problem
	}
	other, away, problem := s.roomElsewhere(w, r, topic)
	if problem != nil {
		return problem
	}
	if other != nil {
		return s.relayRoom(w, r, other)
	}
	if away && form != wire.Stream {
		return awayProblem(topic)
	}
	if form == wire.Stream {
		if why, problem := s.whyAway(r, topic, away); problem != nil {
			return problem
		} else if why != "" {
			return s.prepareControlStream(w, r, func(c controlStream) stream { return &awayRoom{c, why} })
		}
	}
	sees := view.Sees
	view.Sees = func(c *board.Connection) bool {
		return c.Log == s.log.Log() && c.Reads(topic) && (sees == nil || sees(c))
	}
	room := &room{topic: topic, view: view}
	if form == wire.Stream {
		if problem := s.prepareStateStream(w, r, q); problem != nil {
			return problem
		}
		if c, ok := recorderOf(w).stream.(*connection); ok {
			c.room = room
		}
		return nil
	}
	if q.Until != nil {
		return wire.Errorf(http.StatusBadRequest, "until: only a stream has an end; leave it out, or request %s", wire.SSE)
	}
	return s.sendRoom(w, r, q, room)
}

// sendRoom sends a room as JSON: the readers, and then what /snapshot sends.
func (s *Server) sendRoom(w http.ResponseWriter, r *http.Request, q *wire.SnapshotQuery, room *room) *wire.Error {
	viewer := s.board.Look(board.Cursor{}, room.view, func() {})
	defer viewer.Close()
	awaitLists(r, viewer)
	s.board.Sample()
	head, err := json.Marshal(struct {
		Topic       event.Topic `json:"topic"`
		Connections any         `json:"connections"`
	}{q.Topic, viewer.Next().State})
	if err != nil {
		return s.internalProblem(r, err)
	}
	return s.sendState(w, r, q, wire.Page, strings.TrimSuffix(string(head), "}")+",")
}

// A room is what a stream of a room sends besides the events of its topic.
type room struct {
	topic  event.Topic
	view   board.View
	viewer *board.Viewer
	begun  bool // the readers were sent
}

// sendReaders sends the readers of the room, and then which of them have come and gone.
func (c *connection) sendReaders() error {
	if err := c.gatherReaders(); err != nil || c.buf == nil && !c.waits {
		return err
	}
	return c.flushOrEnd()
}

// gatherReadersNow appends the readers to the output of a stream that ends.
func (c *connection) gatherReadersNow() error {
	c.room.viewer = c.s.board.Look(board.Cursor{}, c.room.view, func() {})
	defer c.room.viewer.Close()
	awaitLists(c.r, c.room.viewer)
	return c.gatherReaders()
}

// gatherReaders appends to the output which readers have come and gone. The events have no
// ids, since those are positions of the log.
func (c *connection) gatherReaders() error {
	batch := c.room.viewer.Next()
	if batch.Begins || !c.room.begun {
		c.room.begun = true
		return c.gatherControl(readersEvent, struct {
			Connections []*board.Connection `json:"connections"`
		}{append([]*board.Connection{}, batch.State...)})
	}
	for i := range batch.Changes {
		if name, data := changeEvent(&batch.Changes[i]); name != nodeEvent && name != leftEvent {
			if err := c.gatherControl(name, data); err != nil {
				return err
			}
		}
	}
	return nil
}

// gatherControl appends a control event without an id to the output.
func (c *connection) gatherControl(name string, data any) error {
	b, err := json.Marshal(data)
	if err == nil {
		c.gatherBytes(fmt.Appendf(c.gatherRoom(), "event: %s\ndata: %s\n\n", name, b))
	}
	return err
}
