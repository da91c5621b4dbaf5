package server

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"maps"
	"math/rand/v2"
	"net"
	"net/http"
	"net/url"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/rstream-dev/rstream/internal/board"
	"github.com/rstream-dev/rstream/internal/longtest"
	"github.com/rstream-dev/rstream/internal/report"
	"github.com/rstream-dev/rstream/internal/wire"
)

// A link is the network between one node and the board. It counts bytes, can be cut, and can
// lose everything without a word.
type link struct {
	to *atomic.Pointer[served]

	sent, received atomic.Int64 // by the node

	mu    sync.Mutex
	down  bool
	open  chan struct{} // closed while something comes through
	conns map[*linkConn]struct{}
}

type linkConn struct {
	net.Conn
	l      *link
	closed chan struct{}
	once   sync.Once
}

func newLink(to *atomic.Pointer[served]) *link {
	l := &link{to: to, conns: map[*linkConn]struct{}{}, open: make(chan struct{})}
	close(l.open)
	return l
}

func (l *link) dial(context.Context, string, string) (net.Conn, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.down {
		return nil, errors.New("the link is down")
	}
	c := &linkConn{Conn: l.to.Load().dial(), l: l, closed: make(chan struct{})}
	l.conns[c] = struct{}{}
	return c, nil
}

// cut closes all connections and lets none through, or lets them through again.
func (l *link) cut(down bool) {
	l.mu.Lock()
	l.down = down
	conns := slices.Collect(maps.Keys(l.conns))
	l.mu.Unlock()
	if down {
		for _, c := range conns {
			_ = c.Close()
		}
	}
}

// stall stops all bytes, or lets them through again.
func (l *link) stall(stalled bool) {
	l.mu.Lock()
	defer l.mu.Unlock()
	select {
	case <-l.open:
		if stalled {
			l.open = make(chan struct{})
		}
	default:
		if !stalled {
			close(l.open)
		}
	}
}

func (c *linkConn) pass() error {
	c.l.mu.Lock()
	open := c.l.open
	c.l.mu.Unlock()
	select {
	case <-open:
		return nil
	case <-c.closed:
		return net.ErrClosed
	}
}

func (c *linkConn) Read(b []byte) (int, error) {
	n, err := c.Conn.Read(b)
	if failed := c.pass(); failed != nil {
		return 0, failed
	}
	c.l.received.Add(int64(n))
	return n, err
}

func (c *linkConn) Write(b []byte) (int, error) {
	if err := c.pass(); err != nil {
		return 0, err
	}
	n, err := c.Conn.Write(b)
	c.l.sent.Add(int64(n))
	return n, err
}

func (c *linkConn) Close() error {
	c.once.Do(func() {
		c.l.mu.Lock()
		delete(c.l.conns, c)
		c.l.mu.Unlock()
		close(c.closed)
	})
	return c.Conn.Close()
}

// A testNode is a server that reports to a board, with its readers.
type testNode struct {
	*served
	name  string
	link  *link
	meter report.Meter

	readers  map[uint64]io.Closer
	topics   map[uint64]string
	reading  sync.WaitGroup
	stopNode func()
}

// startNode starts a node. Its readers have the ids of its registry.
func startNode(t *testing.T, name string, to *atomic.Pointer[served]) *testNode {
	n := &testNode{name: name, link: newLink(to), readers: map[uint64]io.Closer{}, topics: map[uint64]string{}}
	s, stop := serve(t, newLog(), Config{Node: name})
	n.served = s
	transport := &http.Transport{DialContext: n.link.dial, DisableCompression: true}
	ctx, cancel := context.WithCancel(t.Context())
	var reporting sync.WaitGroup
	reporter := report.New(report.Config{Board: "http://board", Registry: s.Readers(), Node: s.Node, HTTP: &http.Client{Transport: transport}, Meter: &n.meter, OnError: func(err error) { t.Log(err) }})
	reporting.Go(func() { reporter.Run(ctx) })
	n.stopNode = sync.OnceFunc(func() {
		cancel()
		reporting.Wait()
		transport.CloseIdleConnections()
		n.link.cut(true)
		for _, r := range n.readers {
			_ = r.Close()
		}
		stop()
		n.reading.Wait()
	})
	return n
}

// read opens a stream of a topic.
func (n *testNode) read(topic string) (id uint64) {
	before := n.served.Readers().Open()
	fs, r := n.stream("/events?since=now&topic=" + url.QueryEscape(topic))
	n.reading.Go(func() { _, _ = io.Copy(io.Discard, fs.r) })
	synctest.Wait()
	if n.served.Readers().Open() != before+1 {
		n.t.Fatal("a reader is not on the registry")
	}
	n.served.Readers().Watch(&board.Watcher{List: func(conns []*board.Connection) { id = conns[len(conns)-1].ID }})()
	n.readers[id], n.topics[id] = r, topic
	return id
}

func (n *testNode) leave(id uint64) {
	_ = n.readers[id].Close()
	delete(n.readers, id)
	delete(n.topics, id)
}

// key names a connection of the board.
func key(node string, id uint64) string { return fmt.Sprint(node, " ", id) }

// addReaders adds the readers of the node to all, by key.
func (n *testNode) addReaders(all map[string]string) {
	for id, topic := range n.topics {
		all[key(n.name, id)] = topic
	}
}

// A lookedBoard is the board as a page has it, which follows GET /api/events as an EventSource.
type lookedBoard struct {
	t *testing.T

	mu     sync.Mutex
	conns  map[string]string
	nodes  map[string]bool
	last   string
	states int
	events int
}

// look follows the board until ctx ends.
func (v *lookedBoard) look(ctx context.Context, at *atomic.Pointer[served]) {
	for ctx.Err() == nil {
		v.connect(ctx, at.Load())
		select {
		case <-time.After(time.Second):
		case <-ctx.Done():
		}
	}
}

func (v *lookedBoard) connect(ctx context.Context, s *served) {
	v.mu.Lock()
	header := []string{"Accept", wire.SSE}
	if v.last != "" {
		header = append(header, "Last-Event-ID", v.last)
	}
	v.mu.Unlock()
	resp, err := s.tryGet(ctx, wire.PathChanges, header...)
	if err != nil {
		return
	}
	defer resp.Body.Close()
	for fs := newFrames(resp.Body); ; {
		f, err := fs.next()
		if err != nil {
			return
		}
		v.take(f)
	}
}

func (v *lookedBoard) take(f frame) {
	v.mu.Lock()
	defer v.mu.Unlock()
	var data struct {
		Node   string
		ID     uint64
		Topics []any
		Nodes  []board.Node
	}
	if f.data != "" {
		if err := json.Unmarshal([]byte(f.data), &data); err != nil {
			v.t.Errorf("%s: %v", f.data, err)
		}
	}
	if f.id != "" {
		v.last = f.id
	}
	k := key(data.Node, data.ID)
	v.events++
	switch f.event {
	case wire.StateEvent:
		v.last, v.conns, v.nodes = "", map[string]string{}, map[string]bool{}
		v.states++
		for _, n := range data.Nodes {
			v.nodes[n.Name] = true
		}
	case openedEvent:
		if v.conns[k] != "" {
			v.t.Errorf("%s was opened twice", k)
		}
		v.conns[k] = fmt.Sprint(data.Topics[0])
	case closedEvent:
		if v.conns[k] == "" {
			v.t.Errorf("%s was closed and is not known", k)
		}
		delete(v.conns, k)
	case nodeEvent:
		v.nodes[data.Node] = true
	case leftEvent:
		delete(v.nodes, data.Node)
		for k := range v.conns {
			if strings.HasPrefix(k, data.Node+" ") {
				v.t.Errorf("%s has left, and %s has not", data.Node, k)
			}
		}
	}
}

func (v *lookedBoard) check(want map[string]string) {
	v.t.Helper()
	v.mu.Lock()
	defer v.mu.Unlock()
	if !maps.Equal(v.conns, want) {
		v.t.Errorf("the board has\n%v\nwant\n%v", v.conns, want)
	}
}

// listBoard returns the connections of GET /api/connections.
func listBoard(t *testing.T, s *served) map[string]string {
	t.Helper()
	var list connectionList
	if err := json.Unmarshal([]byte(body(t, s.get(wire.PathConnections))), &list); err != nil {
		t.Fatal(err)
	}
	all := map[string]string{}
	for _, c := range list.Connections {
		all[key(c.Node, c.ID)] = c.Topics[0].String()
	}
	return all
}

// TestNodeSilence counts the bytes of a node. While nobody looks it sends nothing; with the first
// viewer it sends its list, then each change; ten viewers cost it what one does, a viewer that
// reconnects costs it nothing, and after the last one it stops.
func TestNodeSilence(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var at atomic.Pointer[served]
		s, stop := serve(t, newLog(), Config{Node: "main"})
		defer stop()
		at.Store(s)
		n := startNode(t, "b", &at)
		defer n.stopNode()
		for range 3 {
			n.read("a/p")
		}
		time.Sleep(time.Second)
		silent := func(d time.Duration) {
			t.Helper()
			sent, received := n.link.sent.Load(), n.link.received.Load()
			time.Sleep(d)
			if got := n.link.sent.Load() - sent; got != 0 {
				t.Errorf("the node sent %d bytes in %s, and nobody looked", got, d)
			}
			if got := n.link.received.Load() - received; got > 10*int64(d/lookSilence) {
				t.Errorf("the node got %d bytes in %s, and nobody looked", got, d)
			}
		}
		silent(time.Hour)
		s.wantMetric(t, "rstream_board_nodes 1")

		ctx, leave := context.WithCancel(t.Context())
		v := &lookedBoard{t: t}
		var looking sync.WaitGroup
		looking.Go(func() { v.look(ctx, &at) })
		want := map[string]string{}
		arrived := func() {
			t.Helper()
			time.Sleep(time.Second)
			clear(want)
			n.addReaders(want)
			v.check(want)
		}
		arrived()
		id := n.read("*")
		arrived()
		n.leave(id)
		arrived()

		cost := func() (bytes, reports int64) {
			bytes, reports = n.link.sent.Load(), n.meter.Reports.Load()
			for range 30 {
				id := n.read("a/q")
				time.Sleep(time.Second)
				n.leave(id)
				time.Sleep(time.Second)
			}
			return n.link.sent.Load() - bytes, n.meter.Reports.Load() - reports
		}
		bytes, reports := cost()
		for range 9 {
			more := &lookedBoard{t: t}
			looking.Go(func() { more.look(ctx, &at) })
		}
		time.Sleep(time.Second)
		if more, again := cost(); again > reports+2 || more > bytes+bytes/20 {
			t.Errorf("with ten viewers the node sent %d bytes in %d reports, with one %d in %d", more, again, bytes, reports)
		}
		t.Logf("30 readers that came and went cost %d reports of %d bytes in all", reports, bytes)
		leave()
		looking.Wait()
		time.Sleep(9 * time.Second)

		// It comes back in time: nothing begins again.
		ctx, leave = context.WithCancel(t.Context())
		states := v.states
		bytes = n.link.sent.Load()
		looking.Go(func() { v.look(ctx, &at) })
		arrived()
		if more := n.link.sent.Load() - bytes; v.states != states || more > 2000 {
			t.Errorf("a viewer that came back got %d states more, and cost the node %d bytes", v.states-states, more)
		}
		leave()
		looking.Wait()
		time.Sleep(20 * time.Second)
		silent(time.Hour)
		if got := listBoard(t, s); !maps.Equal(got, want) {
			t.Errorf("a look of a moment shows %v, want %v", got, want)
		}
	})
}

// TestNodes starts, kills, cuts off and restarts nodes and the board at random, while readers come
// and go. Twenty seconds later the board has the readers of all nodes, and no others; it never has
// a reader of a node that is gone for longer.
func TestNodes(t *testing.T) {
	seed := rand.Uint64()
	t.Logf("seed %d", seed)
	for round := range longtest.Size(6, 150) {
		synctest.Test(t, func(t *testing.T) { runNodes(t, rand.New(rand.NewPCG(seed, uint64(round)))) })
	}
}

func runNodes(t *testing.T, r *rand.Rand) {
	var at atomic.Pointer[served]
	s, stopBoard := serve(t, newLog(), Config{Node: "main"})
	at.Store(s)
	defer func() { stopBoard() }()
	nodes := map[string]*testNode{}
	names := []string{"b", "c", "d"}
	defer func() {
		for _, n := range nodes {
			n.stopNode()
		}
	}()
	ctx, cancel := context.WithCancel(t.Context())
	var looking sync.WaitGroup
	defer looking.Wait()
	defer cancel()
	v := &lookedBoard{t: t}
	looking.Go(func() { v.look(ctx, &at) })
	gone, restarted := map[string]time.Time{}, time.Now()
	topics := []string{"*", "a", "a/p", "b/q"}
	for range 60 {
		name := names[r.IntN(len(names))]
		n := nodes[name]
		switch k := r.IntN(20); {
		case n == nil:
			nodes[name] = startNode(t, name, &at)
			delete(gone, name)
		case k < 8:
			n.read(topics[r.IntN(len(topics))])
		case k < 12 && len(n.readers) > 0:
			n.leave(slices.Sorted(maps.Keys(n.readers))[r.IntN(len(n.readers))])
		case k == 12:
			n.link.cut(true)
		case k == 13:
			n.link.stall(true)
		case k < 16:
			n.link.stall(false)
			n.link.cut(false)
		case k == 16: // it is killed, or ends
			if r.IntN(2) == 0 {
				n.link.cut(true)
			}
			n.link.stall(false)
			n.stopNode()
			delete(nodes, name)
			gone[name] = time.Now()
		case k == 17:
			stopBoard()
			time.Sleep(time.Duration(r.IntN(20)) * time.Second)
			s, stopBoard = serve(t, newLog(), Config{Node: "main"})
			at.Store(s)
			restarted = time.Now()
		default:
			time.Sleep(time.Duration(r.IntN(10_000)) * time.Millisecond)
		}
		synctest.Wait()
		v.mu.Lock()
		for name, since := range gone {
			if time.Since(since) > 20*time.Second && time.Since(restarted) > 3*time.Second && v.nodes[name] { // the page has reconnected
				t.Errorf("%s is gone for %s and on the board", name, time.Since(since))
			}
		}
		v.mu.Unlock()
	}
	want := map[string]string{}
	for _, n := range nodes {
		n.link.stall(false)
		n.link.cut(false)
		n.addReaders(want)
	}
	time.Sleep(20 * time.Second)
	v.check(want)
	if got := listBoard(t, s); !maps.Equal(got, want) {
		t.Errorf("the list has\n%v\nwant\n%v", got, want)
	}
}

// TestTwoBoards: a node that reports to two boards tells each what its own viewers want to know, and
// the end at one is not that at the other.
func TestTwoBoards(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		boards := make([]atomic.Pointer[served], 2)
		for i := range boards {
			s, stop := serve(t, newLog(), Config{Node: "main"})
			defer stop()
			boards[i].Store(s)
		}
		n := startNode(t, "b", &boards[0])
		defer n.stopNode()
		other := newLink(&boards[1])
		transport := &http.Transport{DialContext: other.dial, DisableCompression: true}
		defer transport.CloseIdleConnections()
		ctx, cancel := context.WithCancel(t.Context())
		var running sync.WaitGroup
		defer running.Wait()
		defer cancel()
		second := report.New(report.Config{Board: "http://other", Registry: n.served.Readers(), Node: n.served.Node, HTTP: &http.Client{Transport: transport}})
		running.Go(func() { second.Run(ctx) })
		n.read("a")
		time.Sleep(time.Second)
		v := &lookedBoard{t: t}
		running.Go(func() { v.look(ctx, &boards[0]) })
		before := other.sent.Load()
		looked := func() {
			t.Helper()
			time.Sleep(time.Second)
			want := map[string]string{}
			n.addReaders(want)
			v.check(want)
		}
		looked()
		time.Sleep(time.Minute)
		if got := other.sent.Load() - before; got != 0 {
			t.Errorf("the board that nobody looks at was sent %d bytes", got)
		}
		if got := listBoard(t, boards[1].Load()); len(got) != 1 {
			t.Errorf("the other board has %v", got)
		}
		time.Sleep(time.Minute) // the look at the other one has ended
		n.read("b")
		looked()
	})
}
