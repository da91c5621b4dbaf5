package server

import (
	"context"
	"errors"
	"io"
	"net"
	"net/http"
	"net/netip"
	"net/url"
	"strings"
	"sync"
	"time"

	"github.com/rstream-dev/rstream/event"
	"github.com/rstream-dev/rstream/internal/board"
	"github.com/rstream-dev/rstream/internal/wire"
)

// A Peer is another server that may have a room: a board to which this one reports.
type Peer struct {
	URL string
	// HTTP makes the requests. It follows no redirects.
	HTTP *http.Client
}

// peerWait is how long another server may take to begin its answer.
const peerWait = 2 * time.Second

// nodeClient asks the nodes of the board. Their addresses come from reports.
var nodeClient = &http.Client{
	Transport: &http.Transport{
		DialContext: (&net.Dialer{Timeout: peerWait}).DialContext, TLSHandshakeTimeout: peerWait, ResponseHeaderTimeout: peerWait,
		MaxResponseHeaderBytes: 64 << 10, IdleConnTimeout: 90 * time.Second, DisableCompression: true,
	},
	CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse },
}

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
// a board that is asked by a node asks the others, and a node that is asked by a board nobody.
func (s *Server) roomElsewhere(w http.ResponseWriter, r *http.Request, topic event.Topic) (*http.Response, *wire.Error) {
	asked := r.Header.Get(wire.HeaderAsk)
	if asked == "" && len(s.cfg.Peers) == 0 && s.board.Lookouts() == 0 {
		return nil, nil
	}
	if has, err := s.hasTopic(r.Context(), topic); err != nil {
		return nil, s.internalProblem(r, err)
	} else if has {
		return nil, nil
	}
	if asked != wire.AskNobody {
		for _, node := range s.otherNodes(r) {
			if resp := s.askPeer(w, r, &Peer{node, nodeClient}, wire.AskNobody); resp != nil {
				return resp, nil
			}
		}
	}
	if asked != "" {
		return nil, wire.Errorf(http.StatusMisdirectedRequest, "this server has no events of %s", topic)
	}
	for i := range s.cfg.Peers {
		if resp := s.askPeer(w, r, &s.cfg.Peers[i], wire.AskNodes); resp != nil {
			return resp, nil
		}
	}
	return nil, nil
}

// nodesReturn is how long the nodes of a board that has started may take to reach it.
const nodesReturn = 20 * time.Second

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

// An awayRoom is a stream that ends at once, so that an EventSource asks again with its cursor. One
// that gets an error would never ask again.
type awayRoom struct{ controlStream }

func (c *awayRoom) runStream() {
	c.run(func() error {
		c.buf = wire.AppendPreamble(c.buf, c.s.cfg.Retry)
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

// askPeer asks another server for the room of r, with the token of the request and never with one of
// this server. It returns nil if that has no such room for the bearer.
func (s *Server) askPeer(w http.ResponseWriter, r *http.Request, peer *Peer, ask string) *http.Response {
	token := s.tokenFor(w, r)
	if token != "" && !isPrivate(peer.URL) {
		s.cfg.Logger.Warn("a room is not asked for without TLS", "url", peer.URL)
		return nil
	}
	target := peer.URL + rawPath(r)
	if r.URL.RawQuery != "" {
		target += "?" + r.URL.RawQuery
	}
	ctx, cancel := context.WithCancel(r.Context())
	req, err := http.NewRequestWithContext(ctx, r.Method, target, nil)
	if err != nil {
		cancel()
		return nil
	}
	for _, name := range []string{"Accept", wire.HeaderLastEventID} {
		if values := r.Header.Values(name); len(values) > 0 {
			req.Header[name] = values
		}
	}
	req.Header.Set("User-Agent", "rstream")
	req.Header.Set(wire.HeaderAsk, ask)
	if token != "" {
		req.Header.Set("Authorization", "Bearer "+token)
	}
	resp, err := peer.HTTP.Do(req)
	if err != nil {
		cancel()
		s.cfg.Logger.Debug("no answer about a room", "url", peer.URL, "error", err)
		return nil
	}
	resp.Body = &endedBody{resp.Body, cancel}
	if wire.LogOf(resp.Header) == "" || resp.StatusCode != http.StatusOK && resp.StatusCode != http.StatusNoContent {
		_ = resp.Body.Close()
		return nil
	}
	return resp
}

// An endedBody ends its request when it is closed, also while it is read.
type endedBody struct {
	io.ReadCloser
	cancel context.CancelFunc
}

func (b *endedBody) Close() error {
	b.cancel()
	return b.ReadCloser.Close()
}

// tokenFor returns the token of a request that was admitted with it.
func (s *Server) tokenFor(w http.ResponseWriter, r *http.Request) string {
	rec := recorderOf(w)
	if rec.grant == nil || rec.grant.IsPublic() {
		return ""
	}
	token, _ := bearerToken(r)
	if rec.byCookie {
		token, _ = s.cookieToken(r)
	}
	return token
}

// isPrivate reports whether nobody on the way to a URL can read a token.
func isPrivate(text string) bool {
	u, err := url.Parse(text)
	if err != nil || u.Scheme == "https" {
		return err == nil
	}
	ip, err := netip.ParseAddr(u.Hostname())
	return u.Hostname() == "localhost" || err == nil && ip.IsLoopback()
}

// relayed are the headers of a room that the response of another server has. The rest is of this
// server.
var relayed = []string{"Content-Type", "Cache-Control", "X-Accel-Buffering", wire.HeaderLog, wire.HeaderHead, wire.HeaderFrom, wire.HeaderTo, wire.HeaderEvents}

// relayRoom sends the response of another server.
func (s *Server) relayRoom(w http.ResponseWriter, r *http.Request, resp *http.Response) *wire.Error {
	h := w.Header()
	for _, name := range relayed {
		h.Del(name)
		if values := resp.Header.Values(name); len(values) > 0 {
			h[name] = values
		}
	}
	done := func() {}
	if h.Get("Content-Type") == wire.SSE && r.Method != http.MethodHead {
		var problem *wire.Error
		if done, problem = s.openStream(w, r); problem != nil {
			_ = resp.Body.Close()
			return problem
		}
	}
	rec := recorderOf(w)
	w.WriteHeader(resp.StatusCode)
	rec.stream = &relayedRoom{controlStream: controlStream{s: s, w: w, rc: http.NewResponseController(w), r: r, to: rec, done: done, age: s.streamAge(), news: make(chan struct{}, 1)}, body: resp.Body}
	return nil
}

// A relayedRoom sends the body of another server's response.
type relayedRoom struct {
	controlStream
	body io.ReadCloser
}

func (c *relayedRoom) runStream() { c.run(c.copy) }

// relaySilence is the shortest silence of another server after which its stream is lost: it may be
// stopped, and then closes nothing. Its heartbeats come every 15 seconds.
const relaySilence = 45 * time.Second

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
	silence := max(relaySilence, 3*c.s.cfg.Heartbeat)
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
