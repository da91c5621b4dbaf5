//go:build unix

package main

import (
	"bufio"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"maps"
	"math/rand/v2"
	"net"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"github.com/rstream-dev/rstream/client"
	"github.com/rstream-dev/rstream/internal/longtest"
	"github.com/rstream-dev/rstream/internal/sse"
)

// A nodeWire is a TCP proxy between a node and its board that counts bytes and can be cut.
type nodeWire struct {
	l      net.Listener
	target atomic.Value // address

	toBoard, toNode atomic.Int64

	mu    sync.Mutex
	down  bool
	conns map[net.Conn]struct{}
}

func newNodeWire(t *testing.T) *nodeWire {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	w := &nodeWire{l: l, conns: map[net.Conn]struct{}{}}
	var running sync.WaitGroup
	running.Go(func() {
		for {
			conn, err := l.Accept()
			if err != nil {
				return
			}
			running.Go(func() { w.forward(conn) })
		}
	})
	t.Cleanup(func() { l.Close(); w.cut(true); running.Wait() })
	return w
}

func (w *nodeWire) forward(node net.Conn) {
	defer node.Close()
	board, err := net.Dial("tcp", w.target.Load().(string))
	if err != nil {
		return
	}
	defer board.Close()
	w.mu.Lock()
	down := w.down
	w.conns[node], w.conns[board] = struct{}{}, struct{}{}
	w.mu.Unlock()
	if down {
		return
	}
	var copying sync.WaitGroup
	copying.Go(func() {
		_, _ = io.Copy(&countedWriter{board, &w.toBoard}, node)
		board.Close()
	})
	_, _ = io.Copy(&countedWriter{node, &w.toNode}, board)
	node.Close()
	copying.Wait()
	w.mu.Lock()
	defer w.mu.Unlock()
	delete(w.conns, node)
	delete(w.conns, board)
}

type countedWriter struct {
	io.Writer
	n *atomic.Int64
}

func (w *countedWriter) Write(b []byte) (int, error) {
	n, err := w.Writer.Write(b)
	w.n.Add(int64(n))
	return n, err
}

func (w *nodeWire) cut(down bool) {
	w.mu.Lock()
	defer w.mu.Unlock()
	if w.down = down; down {
		for c := range w.conns {
			c.Close()
		}
	}
}

// A nodeServer is a process of rstream serve, with readers of this test.
type nodeServer struct {
	s       *boardStory
	name    string
	args    []string
	wire    *nodeWire // nil of the board
	process *exec.Cmd
	url     string

	mu      sync.Mutex
	readers map[int]*nodeReader
	next    int
}

type nodeReader struct {
	topic string
	stop  func()
}

// A boardStory is a board, its nodes and those who look.
type boardStory struct {
	t       *testing.T
	dir     string
	program string
	board   *nodeServer
	nodes   []*nodeServer
	began   time.Time
}

func newBoardStory(t *testing.T, names ...string) *boardStory {
	self, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	s := &boardStory{t: t, dir: t.TempDir(), began: time.Now()}
	s.program = filepath.Join(s.dir, "rstream")
	if err := os.Symlink(self, s.program); err != nil { // under this name, the test binary is the program
		t.Fatal(err)
	}
	s.board = &nodeServer{s: s, name: "main", args: []string{"--node", "main"}, readers: map[int]*nodeReader{}}
	s.board.start()
	s.board.args = append(s.board.args, "--listen", strings.TrimPrefix(s.board.url, "http://"))
	for _, name := range names {
		n := &nodeServer{s: s, name: name, wire: newNodeWire(t), readers: map[int]*nodeReader{}}
		n.wire.target.Store(strings.TrimPrefix(s.board.url, "http://"))
		n.args = []string{"--node", name, "--board", "http://" + n.wire.l.Addr().String()}
		n.start()
		s.nodes = append(s.nodes, n)
	}
	return s
}

// start starts the server, again with the same log.
func (n *nodeServer) start() {
	t := n.s.t
	t.Helper()
	file := filepath.Join(n.s.dir, n.name+".url")
	_ = os.Remove(file) // of the process before
	args := append([]string{"serve", "--listen", "127.0.0.1:0", "--db", filepath.Join(n.s.dir, n.name+".db"), "--url-file", file}, n.args...)
	cmd := exec.Command(n.s.program, args...)
	cmd.Env = append(os.Environ(), "HOME="+n.s.dir, "XDG_CONFIG_HOME=", "XDG_DATA_HOME=", "RSTREAM_SERVER=", "RSTREAM_TOKEN=")
	cmd.Stderr = os.Stderr
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	n.process = cmd
	t.Cleanup(func() { n.kill(cmd) })
	n.s.until(patience, n.name+" serves", func() bool {
		b, err := os.ReadFile(file)
		n.url = strings.TrimSpace(string(b))
		return err == nil && n.url != ""
	})
}

func (n *nodeServer) kill(cmd *exec.Cmd) {
	if cmd.ProcessState == nil {
		_ = cmd.Process.Kill()
		_ = cmd.Wait() // it was killed
	}
}

func (n *nodeServer) signal(sig syscall.Signal) {
	if err := n.process.Process.Signal(sig); err != nil {
		n.s.t.Error(err)
	}
}

// until waits for a condition, which may have to be asked for.
func (s *boardStory) until(most time.Duration, what string, holds func() bool) time.Duration {
	s.t.Helper()
	ticker := time.NewTicker(50 * time.Millisecond)
	defer ticker.Stop()
	for began := time.Now(); ; <-ticker.C {
		if holds() {
			return time.Since(began)
		}
		if time.Since(began) > most {
			s.t.Fatalf("not within %s: %s", most, what)
		}
	}
}

// get returns the body of a response, "" if there is none.
func (s *boardStory) get(url string) string {
	ctx, cancel := context.WithTimeout(s.t.Context(), 5*time.Second)
	defer cancel()
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, url, nil)
	if err != nil {
		s.t.Fatal(err)
	}
	req.Close = true
	resp, err := http.DefaultClient.Do(req)
	if err != nil {
		return ""
	}
	defer resp.Body.Close()
	b, _ := io.ReadAll(resp.Body)
	return string(b)
}

// read opens a stream, which leaves when its server does.
func (n *nodeServer) read(topic string) {
	conn, err := net.Dial("tcp", strings.TrimPrefix(n.url, "http://"))
	if err != nil {
		return
	}
	fmt.Fprintf(conn, "GET /events?since=now&topic=%s HTTP/1.1\r\nHost: localhost\r\nAccept: text/event-stream\r\n\r\n", topic)
	br := bufio.NewReaderSize(conn, 512)
	for {
		line, err := br.ReadString('\n')
		if err != nil {
			conn.Close()
			return
		}
		if strings.Contains(line, `"live"`) { // it is on the registry
			break
		}
	}
	n.mu.Lock()
	defer n.mu.Unlock()
	id := n.next
	n.next++
	n.readers[id] = &nodeReader{topic, func() { conn.Close() }}
	go func() {
		_, _ = io.Copy(io.Discard, br)
		conn.Close()
		n.mu.Lock()
		defer n.mu.Unlock()
		delete(n.readers, id)
	}()
}

// stopReaders ends the readers of a topic.
func (n *nodeServer) stopReaders(topic string) {
	n.mu.Lock()
	defer n.mu.Unlock()
	for _, r := range n.readers {
		if r.topic == topic {
			r.stop()
		}
	}
}

var boardTopics = []string{"*", "alice", "alice/posts", "bob/notes$"}

// churn opens and closes readers, and leaves size of them.
func (n *nodeServer) churn(ctx context.Context, size int) {
	for i := 0; ctx.Err() == nil && i < 3*size; i++ {
		n.read(boardTopics[rand.N(len(boardTopics))])
		n.mu.Lock()
		over := len(n.readers) > size
		for _, r := range n.readers {
			if over || rand.N(3) == 0 {
				r.stop()
			}
			break
		}
		n.mu.Unlock()
	}
}

// A boardCount counts connections by node and topic.
type boardCount map[string]int

// counted returns the readers that this test has open, of the servers that run.
func (s *boardStory) counted() boardCount {
	all := boardCount{}
	for _, n := range append([]*nodeServer{s.board}, s.nodes...) {
		n.mu.Lock()
		for _, r := range n.readers {
			all[n.name+" "+r.topic]++
		}
		n.mu.Unlock()
	}
	return all
}

// hubs checks that the hub of each server has the readers that this test has open.
func (s *boardStory) hubs() bool {
	for _, n := range append([]*nodeServer{s.board}, s.nodes...) {
		if n.process.ProcessState != nil { // it was killed
			continue
		}
		n.mu.Lock()
		want := fmt.Sprintf("\nrstream_readers %d\n", len(n.readers))
		n.mu.Unlock()
		if !strings.Contains(s.get(n.url+"/metrics"), want) {
			return false
		}
	}
	return true
}

// A boardPage is one who looks, as an EventSource does.
type boardPage struct {
	mu    sync.Mutex
	conns map[string]string // topic by node and id
	nodes map[string]bool
	last  string
}

// look makes a page look until stop.
func (s *boardStory) look() (p *boardPage, stop func()) {
	p = &boardPage{}
	ctx, cancel := context.WithCancel(s.t.Context())
	var looking sync.WaitGroup
	looking.Go(func() {
		for ctx.Err() == nil {
			p.connect(ctx, s.board.url)
			select {
			case <-time.After(time.Second):
			case <-ctx.Done():
			}
		}
	})
	stop = func() { cancel(); looking.Wait() }
	s.t.Cleanup(stop)
	return p, stop
}

func (p *boardPage) connect(ctx context.Context, url string) {
	p.mu.Lock()
	last := p.last
	p.mu.Unlock()
	session, err := sse.Open(ctx, sse.Config{URL: url + "/api/events", Cursor: last})
	if err != nil {
		return
	}
	defer session.Close()
	for {
		f, err := session.Next()
		if err != nil {
			return
		}
		p.take(&f)
	}
}

func (p *boardPage) take(f *sse.Frame) {
	p.mu.Lock()
	defer p.mu.Unlock()
	var data struct {
		client.BoardConnection
		Nodes []client.BoardNode `json:"nodes"`
	}
	if len(f.Data) > 0 {
		_ = json.Unmarshal(f.Data, &data) // what is missing shows in the counts
	}
	p.last = f.Cursor
	key := fmt.Sprint(data.Node, " ", data.ID)
	switch f.Type {
	case "state":
		p.conns, p.nodes = map[string]string{}, map[string]bool{}
		for _, n := range data.Nodes {
			p.nodes[n.Name] = true
		}
	case "opened":
		p.conns[key] = data.Node + " " + data.Topics[0].String()
	case "closed":
		delete(p.conns, key)
	case "node":
		p.nodes[data.Node] = true
	case "left":
		delete(p.nodes, data.Node)
	}
}

func (p *boardPage) counted() boardCount {
	p.mu.Lock()
	defer p.mu.Unlock()
	all := boardCount{}
	for _, name := range p.conns {
		all[name]++
	}
	return all
}

// agree waits until all pages have what the servers have, and so has GET /api/connections.
func (s *boardStory) agree(most time.Duration, what string, pages ...*boardPage) {
	s.t.Helper()
	took := s.until(most, what, func() bool {
		want := s.counted()
		for _, p := range pages {
			if !maps.Equal(p.counted(), want) {
				return false
			}
		}
		return s.hubs() && maps.Equal(want, s.counted())
	})
	var list client.Board
	if err := json.Unmarshal([]byte(s.get(s.board.url+"/api/connections")), &list); err != nil {
		s.t.Fatal(err)
	}
	got := boardCount{}
	for i := range list.Connections {
		got[list.Connections[i].Node+" "+list.Connections[i].Topics[0].String()]++
	}
	if want := s.counted(); !maps.Equal(got, want) {
		s.t.Errorf("%s: the list has %v, want %v", what, got, want)
	}
	s.note("%s, after %s: %d connections", what, took.Round(10*time.Millisecond), len(list.Connections))
}

// note prints a line of the story, and the traffic since the last one if there was any.
func (s *boardStory) note(format string, args ...any) {
	var traffic strings.Builder
	for _, n := range s.nodes {
		fmt.Fprintf(&traffic, "  %s→board %d B, board→%s %d B", n.name, n.wire.toBoard.Load(), n.name, n.wire.toNode.Load())
	}
	s.t.Logf("%6.1f s  %s\n         %s", time.Since(s.began).Seconds(), fmt.Sprintf(format, args...), traffic.String())
}

// reporting reports whether a node that runs sends its readers.
func (s *boardStory) reporting() bool {
	for _, n := range s.nodes {
		if n.process.ProcessState == nil && !strings.Contains(s.get(n.url+"/metrics"), "rstream_node_reporting{board=\"http://"+n.wire.l.Addr().String()+"\"} 0\n") {
			return true
		}
	}
	return false
}

// sent returns how many bytes the nodes have sent.
func (s *boardStory) sent() (n int64) {
	for _, node := range s.nodes {
		n += node.wire.toBoard.Load()
	}
	return n
}

// silent checks that no node sends anything for a while.
func (s *boardStory) silent(d time.Duration) {
	s.t.Helper()
	before := s.sent()
	<-time.After(d)
	if got := s.sent() - before; got != 0 {
		s.t.Errorf("the nodes sent %d bytes, and nobody looked", got)
	}
	s.note("%s in which nobody looked", d)
}

// TestBoardOfThreeServers is the story of three servers, one board and two who look, with the
// traffic between them. Then everything that can break breaks, first one after the other.
func TestBoardOfThreeServers(t *testing.T) {
	t.Parallel()
	size := longtest.Scale(20, 150, 700) // readers of each of three servers
	s := newBoardStory(t, "b", "c")
	servers := append([]*nodeServer{s.board}, s.nodes...)
	s.until(patience, "two nodes wait", func() bool {
		return strings.Contains(s.get(s.board.url+"/metrics"), "\nrstream_board_nodes 2\n")
	})
	for _, n := range servers {
		for i := range size {
			n.read(boardTopics[i%len(boardTopics)])
		}
	}
	s.note("three servers with %d readers each", size)
	s.silent(time.Duration(longtest.Size(1, 2)) * time.Second)
	first, leaveFirst := s.look()
	s.agree(2*time.Second, "the first page looks", first)
	second, leaveSecond := s.look()
	s.agree(2*time.Second, "the second page looks", first, second)
	s.nodes[0].read("carol")
	s.agree(2*time.Second, "a reader of b has come", first, second)

	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	var churning sync.WaitGroup
	for _, n := range servers {
		churning.Go(func() { n.churn(ctx, size) })
	}
	churning.Wait()
	s.agree(5*time.Second, "readers have come and gone", first, second)

	leaveSecond()
	s.note("the second page leaves")
	leaveFirst()
	took := s.until(20*time.Second, "the nodes stop", func() bool { return !s.reporting() })
	s.note("%s after the last page has left, the nodes stop", took.Round(time.Second))
	s.silent(time.Duration(longtest.Size(1, 2)) * time.Second)

	first, _ = s.look()
	second, _ = s.look()
	b, c := s.nodes[0], s.nodes[1]
	s.agree(2*time.Second, "two pages look again", first, second)
	b.kill(b.process)
	s.agree(20*time.Second, "b was killed", first, second)
	b.start()
	b.read("alice")
	s.agree(20*time.Second, "b was started again", first, second)
	s.board.kill(s.board.process)
	s.board.start()
	s.board.read("alice")
	s.agree(20*time.Second, "the board was killed and started again", first, second)
	if !longtest.Enabled() {
		return
	}
	c.signal(syscall.SIGSTOP)
	s.until(20*time.Second, "c is gone", func() bool {
		first.mu.Lock()
		defer first.mu.Unlock()
		return !first.nodes["c"]
	})
	s.note("c was stopped, and is gone")
	c.signal(syscall.SIGCONT)
	s.agree(20*time.Second, "c runs again", first, second)
	c.wire.cut(true)
	c.read("carol")
	<-time.After(3 * time.Second)
	c.wire.cut(false)
	s.agree(20*time.Second, "c had lost its connection", first, second)

	for _, n := range servers {
		churning.Go(func() { n.churn(ctx, size) })
	}
	b.kill(b.process)
	s.board.signal(syscall.SIGSTOP)
	c.wire.cut(true)
	<-time.After(2 * time.Second)
	s.board.kill(s.board.process)
	c.signal(syscall.SIGSTOP)
	s.board.start()
	b.start()
	c.wire.cut(false)
	<-time.After(17 * time.Second)
	c.signal(syscall.SIGCONT)
	churning.Wait()
	for _, n := range servers {
		for range size / 2 {
			n.read(boardTopics[rand.N(len(boardTopics))])
		}
	}
	s.agree(20*time.Second, "all at once", first, second)
}
