package server

import (
	"context"
	"errors"
	"io"
	"net/http"
	"strings"
	"sync"
	"time"

	"github.com/rstream-dev/rstream/event"
	"github.com/rstream-dev/rstream/internal/board"
	"github.com/rstream-dev/rstream/internal/wire"
)

// errFound ends a search.
var errFound = errors.New("found")

// hasTopic reports whether the log has an event of a topic. Nearly each topic has a state, which is
// looked for first: the usage of a storage counts all of its events.
func (s *Server) hasTopic(ctx context.Context, topic event.Topic) (bool, error) {
	head := s.log.Head()
	err := s.log.StateAfter(ctx, topic, head, event.Storage{}, func(*event.Event) error { return errFound })
	if errors.Is(err, errFound) {
		return true, nil
	}
	if err != nil {
		return false, err
	}
	list, err := s.log.Usage(ctx, topic, event.Storage{}, head, 1)
	return len(list.Usages) > 0, err
}

// roomElsewhere returns the response of another server to a request for a room whose topic this
// log does not have, nil if this server answers. The board asks its nodes, and a node its boards;
// a board that is asked by a node asks the others, and a node that is asked by a board nobody. away
// reports that no server has answered with the room, and that one could not be asked: it may have it.
func (s *Server) roomElsewhere(w http.ResponseWriter, r *http.Request, topic event.Topic) (resp *http.Response, away bool, problem *wire.Error) {
	asked := r.Header.Get(wire.HeaderAsk)
	if asked == "" && len(s.cfg.Peers) == 0 && s.board.Lookouts() == 0 {
		return nil, false, nil
	}
	if has, err := s.hasTopic(r.Context(), topic); err != nil {
		return nil, false, s.internalProblem(r, err)
	} else if has {
		return nil, false, nil
	}
	if asked != wire.AskNobody {
		for _, node := range s.otherNodes(r) {
			resp, err := s.askPeer(w, r, &Peer{URL: node, HTTP: s.nodeHTTP}, wire.AskNobody)
			if resp != nil {
				return resp, false, nil
			}
			away = away || err != nil
		}
	}
	if asked != "" && away {
		return nil, false, awayProblem(topic)
	} else if asked != "" {
		return nil, false, wire.Errorf(http.StatusMisdirectedRequest, "this server has no events of %s", topic)
	}
	for i := range s.cfg.Peers {
		resp, err := s.askPeer(w, r, &s.cfg.Peers[i], wire.AskNodes)
		if resp != nil {
			return resp, false, nil
		}
		away = away || err != nil
	}
	return nil, away, nil
}

// Why there is no room now.
const (
	mayBeAway = "a server that may have this room is away"
	ownerAway = "the server that has this room is away"
)

// awayProblem is the response to a request for a room that a server may have which cannot be asked:
// without it, the room would be empty.
func awayProblem(topic event.Topic) *wire.Error {
	problem := wire.Errorf(http.StatusServiceUnavailable, "%s: %s", mayBeAway, topic)
	problem.RetryAfter = time.Second
	return problem
}

// nodesReturn is how long the nodes of a board that has started may take to reach it.
const nodesReturn = 20 * time.Second

// whyAway returns why a stream of a room gets no state now, "" if it does. away says that a server could
// not be asked for the room.
func (s *Server) whyAway(r *http.Request, topic event.Topic, away bool) (string, *wire.Error) {
	resumes, problem := s.isAway(r, topic)
	switch {
	case resumes:
		return ownerAway, nil
	case away:
		return mayBeAway, nil
	}
	return "", problem
}

// isAway reports whether the stream of r resumes a room of another server that cannot be reached now.
// An empty room would take the place of all that the reader has, for good.
func (s *Server) isAway(r *http.Request, topic event.Topic) (bool, *wire.Error) {
	c, err := event.ParseCursor(r.Header.Get(wire.HeaderLastEventID))
	if err != nil || c.Of(s.log.Log()) {
		return false, nil
	}
	if len(s.cfg.Peers) == 0 && !s.hadNodes.Load() && time.Since(s.began) > nodesReturn {
		return false, nil // the cursor is of an older log of this server
	}
	has, err := s.hasTopic(r.Context(), topic)
	if err != nil {
		return false, s.internalProblem(r, err)
	}
	return !has, nil
}

// awayEvent is the type of the SSE control event that says why a stream of a room ends.
const awayEvent = "away"

// An awayRoom is a stream that says so and ends at once, so that an EventSource asks again with its
// cursor. One that gets an error would never ask again.
type awayRoom struct {
	controlStream
	why string
}

func (c *awayRoom) runStream() {
	c.run(func() error {
		c.buf = wire.AppendPreamble(c.buf, c.s.cfg.Retry)
		if err := c.gather(awayEvent, struct {
			Detail string `json:"detail"`
		}{c.why}); err != nil {
			return err
		}
		return c.flush()
	})
}

// otherNodes returns the URLs of the nodes of the board that can be asked.
func (s *Server) otherNodes(r *http.Request) (urls []string) {
	if s.board.Lookouts() == 0 {
		return nil
	}
	viewer := s.board.Look(board.Cursor{}, board.View{Sees: func(*board.Connection) bool { return false }}, func() {})
	defer viewer.Close()
	awaitLists(r, viewer)
	for _, n := range viewer.Next().Nodes {
		if n.URL != "" && n.Name != s.cfg.Node {
			urls = append(urls, strings.TrimRight(n.URL, "/"))
		}
	}
	return urls
}

// relayed are the headers of a room that the response of another server has. The rest is of this
// server.
var relayed = []string{"Content-Type", "Cache-Control", "X-Accel-Buffering", wire.HeaderLog, wire.HeaderHead, wire.HeaderFrom, wire.HeaderTo, wire.HeaderEvents}

// relayRoom sends the response of another server.
func (s *Server) relayRoom(w http.ResponseWriter, r *http.Request, resp *http.Response) *wire.Error {
	if resp.StatusCode == http.StatusNoContent || r.Method == http.MethodHead {
		_ = resp.Body.Close()
		beginRelay(w, resp)
		return nil
	}
	if resp.Header.Get("Content-Type") != wire.SSE {
		defer resp.Body.Close()
		return s.whileOpen(w, r, func() *wire.Error {
			beginRelay(w, resp)
			s.relayBody(w, r, resp.Body)
			return nil
		})
	}
	done, problem := s.openStream(w, r)
	if problem != nil {
		_ = resp.Body.Close()
		return problem
	}
	beginRelay(w, resp)
	rec := recorderOf(w)
	rec.stream = &relayedRoom{controlStream: controlStream{s: s, w: w, rc: http.NewResponseController(w), r: r, to: rec, done: done, age: s.streamAge(), news: make(chan struct{}, 1)}, body: resp.Body}
	return nil
}

// beginRelay sends the headers of the response of another server.
func beginRelay(w http.ResponseWriter, resp *http.Response) {
	h := w.Header()
	for _, name := range relayed {
		h.Del(name)
		if values := resp.Header.Values(name); len(values) > 0 {
			h[name] = values
		}
	}
	h.Set("Content-Security-Policy", "default-src 'none'") // whatever another server sends is no page of this one
	w.WriteHeader(resp.StatusCode)
}

// relayBody sends a body that is one whole. If that cannot be read to its end, the connection is
// aborted, so that no client takes a part for the whole.
func (s *Server) relayBody(w http.ResponseWriter, r *http.Request, body io.ReadCloser) {
	rec := recorderOf(w)
	defer rec.limitWrites(nil)()
	silence := s.relaySilence()
	lost := time.AfterFunc(silence, func() { _ = body.Close() }) // which ends Read
	defer lost.Stop()
	b := make([]byte, 16<<10)
	for {
		lost.Reset(silence)
		n, err := body.Read(b)
		lost.Stop()
		if n > 0 {
			if rec.checkGrant() != nil {
				panic(http.ErrAbortHandler)
			}
			if _, err := w.Write(b[:n]); err != nil {
				return // the reader is gone
			}
		}
		if err == io.EOF {
			return
		}
		if err != nil {
			s.cfg.Logger.Debug("the room of another server was cut", "path", r.URL.Path, "error", err)
			panic(http.ErrAbortHandler)
		}
	}
}

// A relayedRoom sends the stream of another server.
type relayedRoom struct {
	controlStream
	body io.ReadCloser
}

func (c *relayedRoom) runStream() { c.run(c.copy) }

// relaySilence is the shortest silence of another server after which its stream is lost: it may be
// stopped, and then closes nothing. Its heartbeats come every 15 seconds.
const relaySilence = 45 * time.Second

// relaySilence returns the silence after which another server is lost to this one.
func (s *Server) relaySilence() time.Duration { return max(relaySilence, 3*s.cfg.Heartbeat) }

// copy sends the body as it comes, until it ends or must end.
func (c *relayedRoom) copy() error {
	pieces, ended := make(chan []byte), make(chan struct{})
	var reading sync.WaitGroup
	reading.Go(func() {
		defer close(pieces)
		for {
			b := make([]byte, 16<<10)
			n, err := c.body.Read(b)
			select {
			case pieces <- b[:n]:
			case <-ended:
				return
			}
			if err != nil {
				return
			}
		}
	})
	defer func() {
		close(ended)
		_ = c.body.Close()
		reading.Wait()
	}()
	timer := time.NewTimer(0)
	defer timer.Stop()
	silence := c.s.relaySilence()
	c.written = time.Now()
	for {
		if err := c.checkEnd(); err != nil {
			return err
		}
		if time.Since(c.written) >= silence {
			return nil
		}
		timer.Reset(c.patience(silence))
		select {
		case b, ok := <-pieces:
			if !ok { // it may also be that the other server was lost: an EventSource asks again
				return nil
			}
			if err := c.checkEnd(); err != nil { // it may have come long after the last check
				return err
			}
			c.buf = append(c.buf, b...)
			if err := c.flush(); err != nil {
				return err
			}
		case <-c.news:
		case <-timer.C:
		case <-c.s.stopped:
		case <-c.r.Context().Done():
			return c.r.Context().Err()
		}
	}
}
