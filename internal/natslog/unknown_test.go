package natslog

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/rstream-dev/rstream/event"
)

// A proxy stands between a node and its NATS server.
type proxy struct {
	listener net.Listener

	mu       sync.Mutex
	server   string
	mute     bool // what the server says is swallowed
	refusing bool // no connection is made
	conns    []net.Conn
}

func newProxy(t testing.TB, url string) *proxy {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	p := &proxy{listener: l, server: strings.TrimPrefix(url, "nats://")}
	var serving sync.WaitGroup
	serving.Go(func() {
		for {
			c, err := l.Accept()
			if err != nil {
				return
			}
			serving.Go(func() { p.pass(c) })
		}
	})
	t.Cleanup(func() {
		l.Close()
		p.cut(false)
		serving.Wait()
	})
	return p
}

func (p *proxy) url() string { return "nats://" + p.listener.Addr().String() }

func (p *proxy) pass(client net.Conn) {
	defer client.Close()
	p.mu.Lock()
	refusing, address := p.refusing, p.server
	p.mu.Unlock()
	if refusing {
		return
	}
	server, err := net.Dial("tcp", address)
	if err != nil {
		return
	}
	defer server.Close()
	p.mu.Lock()
	p.conns = append(p.conns, client, server)
	p.mu.Unlock()
	go func() {
		_, _ = io.Copy(server, client)
		server.Close()
	}()
	b := make([]byte, 32<<10)
	for {
		n, err := server.Read(b)
		if err != nil {
			return
		}
		p.mu.Lock()
		mute := p.mute
		p.mu.Unlock()
		if mute {
			continue
		}
		if _, err := client.Write(b[:n]); err != nil {
			return
		}
	}
}

func (p *proxy) setServer(url string) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.server = strings.TrimPrefix(url, "nats://")
}

func (p *proxy) setMute() {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.mute = true
}

// cut ends all connections, and says whether new ones are refused.
func (p *proxy) cut(refuse bool) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.mute, p.refusing = false, refuse
	for _, c := range p.conns {
		c.Close()
	}
	p.conns = nil
}

// An append whose answer is lost is sent again, and its first attempt counts: the receipt is
// that of a new event.
func TestLostAnswer(t *testing.T) {
	t.Parallel()
	p := newProxy(t, sharedURL(t))
	cfg := newConfig(t, p.url(), "a")
	cfg.AppendWait, cfg.LeaseTime = 3*time.Second, 10*time.Second
	a := startNode(t, cfg, nil)
	a.mustAppend(drafts(5, "x")...)
	p.setMute()
	type result struct {
		receipts []event.Receipt
		err      error
	}
	done := make(chan result)
	go func() {
		receipts, err := a.append(drafts(5, "y")...)
		done <- result{receipts, err}
	}()
	await(t, "the batch was sent again", func() bool { return a.log.Status().Counters.Repeats > 0 })
	p.cut(false)
	r := <-done
	if r.err != nil {
		t.Fatal(r.err)
	}
	for i := range r.receipts {
		if r.receipts[i].ID != event.ID(i+6) || r.receipts[i].Duplicate {
			t.Errorf("receipt %d is for %s, duplicate %v", i, r.receipts[i].ID, r.receipts[i].Duplicate)
		}
	}
	awaitHead(t, 10, a)
	checkEqual(t, 10, a)
	if n := a.log.Status().Counters.Unknown; n != 0 {
		t.Errorf("%d outcomes are unknown", n)
	}
}

// A committer that gets no answers says after a while that it does not know, and gives up the
// lease. Another node takes over, and what was stored is there once.
func TestUnknownOutcome(t *testing.T) {
	t.Parallel()
	url := sharedURL(t)
	p := newProxy(t, url)
	cfg := newConfig(t, p.url(), "a")
	cfg.AppendWait = time.Second
	a := startNode(t, cfg, nil)
	a.mustAppend(drafts(5, "x")...)
	b := startNode(t, newConfig(t, url, "b"), nil)
	awaitHead(t, 5, b)
	p.setMute()
	if _, err := a.append(drafts(5, "y")...); err == nil || !strings.Contains(err.Error(), "unknown") {
		t.Errorf("the append got %v", err)
	}
	await(t, "the node has given up the lease", func() bool { return !a.log.lease.isMine() })
	again := b.mustAppend(drafts(6, "y")...)
	if again[0].ID != 6 || !again[0].Duplicate || again[5].ID != 11 || again[5].Duplicate {
		t.Errorf("the receipts are %+v", again)
	}
	p.cut(false)
	awaitHead(t, 11, a, b)
	checkEqual(t, 11, a, b)
	if r := a.mustAppend(draft("p", "last")); r[0].ID != 12 {
		t.Errorf("the last append got %s", r[0].ID)
	}
}

// While there is no NATS server, appends say that nothing was appended, and reads go on.
func TestNoServer(t *testing.T) {
	t.Parallel()
	p := newProxy(t, sharedURL(t))
	cfg := newConfig(t, p.url(), "a")
	cfg.AppendWait = 300 * time.Millisecond
	a := startNode(t, cfg, nil)
	a.mustAppend(drafts(5, "x")...)
	p.cut(true)
	await(t, "the node has noticed", func() bool { return a.log.Status().Server == "" })
	if _, err := a.append(draft("p", "lost")); err == nil || !strings.Contains(err.Error(), "; this server does not follow the log now: ") {
		t.Errorf("the append got %v, without the cause", err)
	}
	if n := strings.Count(a.lines(), "\n"); n != 5 {
		t.Errorf("there are %d events", n)
	}
	p.cut(false)
	await(t, "an append goes through", func() bool {
		_, err := a.append(draft("p", "found"))
		return err == nil
	})
	a.stop()
	p.cut(true)
	a.cfg.Later, a.cfg.AppendWait = true, 20*time.Second
	a.start() // it has its file
	p.cut(false)
	a.mustAppend(draft("p", "found"))
	checkEqual(t, strings.Count(a.lines(), "\n"), a)
	if n := strings.Count(a.lines(), `"found"`); n != 2 { // key and value of one event
		t.Errorf("the event is there %d times: %s", n, fmt.Sprint(a.lines()))
	}
}

// If no answer comes, the stream may have been created. If there is an answer, that is known.
func TestCreateUnknown(t *testing.T) {
	t.Parallel()
	p := newProxy(t, sharedURL(t))
	cfg := newConfig(t, p.url(), "a")
	l, err := Connect(t.Context(), cfg)
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	l.cfg.Replicas = 7
	var wrong *SetupError
	if _, created, err := l.Create(t.Context(), Creation{}); created || !errors.As(err, &wrong) || errors.Is(err, ErrMaybeCreated) {
		t.Errorf("created %t, %v", created, err)
	}
	l.cfg.Replicas = 1
	p.setMute()
	ctx, cancel := context.WithTimeout(t.Context(), 100*time.Millisecond)
	defer cancel()
	if _, created, err := l.Create(ctx, Creation{}); created || !errors.Is(err, ErrMaybeCreated) {
		t.Errorf("created %t, %v", created, err)
	}
}
