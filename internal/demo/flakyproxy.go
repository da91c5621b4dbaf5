package demo

import (
	"context"
	"io"
	"net"
	"sync"
	"sync/atomic"
)

// A FlakyProxy forwards connections to a server, and cuts each one after a number of
// bytes, in the middle of a response.
type FlakyProxy struct {
	l      net.Listener
	target string
	limit  atomic.Int64 // bytes of responses after which to cut a connection; 0 means never
	broken atomic.Int64

	mu     sync.Mutex
	conns  map[net.Conn]bool
	closed bool
	holds  bool          // from a cut until Resume, nothing is forwarded
	held   chan struct{} // closed by Resume; nil if nothing is held
	open   sync.WaitGroup
}

// NewFlakyProxy returns a proxy for the server at target. It cuts nothing until
// CutAfter is called.
func NewFlakyProxy(ctx context.Context, target string) (*FlakyProxy, error) {
	l, err := (&net.ListenConfig{}).Listen(ctx, "tcp", "127.0.0.1:0")
	if err != nil {
		return nil, err
	}
	p := &FlakyProxy{l: l, target: target, conns: map[net.Conn]bool{}}
	p.open.Go(p.acceptConns)
	return p, nil
}

// Addr returns the address of the proxy.
func (p *FlakyProxy) Addr() string { return p.l.Addr().String() }

// CutAfter sets after how many bytes of responses to cut a connection, and cuts all
// open ones. 0 means never.
func (p *FlakyProxy) CutAfter(n int64) {
	p.limit.Store(n)
	p.mu.Lock()
	defer p.mu.Unlock()
	for c := range p.conns {
		c.Close()
	}
}

// HoldAfterCut makes every cut hold the responses of all connections until Resume.
func (p *FlakyProxy) HoldAfterCut() {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.holds = true
}

// Resume forwards the responses that are held.
func (p *FlakyProxy) Resume() {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.held != nil {
		close(p.held)
		p.held = nil
	}
}

// Cuts returns how many connections were cut.
func (p *FlakyProxy) Cuts() int64 { return p.broken.Load() }

func (p *FlakyProxy) acceptConns() {
	for {
		near, err := p.l.Accept()
		if err != nil {
			return
		}
		far, err := net.Dial("tcp", p.target)
		if err != nil {
			near.Close()
			continue
		}
		if !p.keepConns(near, far) {
			return
		}
		p.open.Go(func() { defer p.dropConns(near, far); io.Copy(far, near) })
		p.open.Go(func() { defer p.dropConns(near, far); p.forwardResponse(near, far) })
	}
}

// forwardResponse forwards the server's response until the limit is reached.
func (p *FlakyProxy) forwardResponse(near, far net.Conn) {
	limit := p.limit.Load()
	if limit == 0 {
		io.Copy(near, far)
		return
	}
	if n, _ := io.CopyN(heldWriter{p, near}, far, limit); n == limit {
		p.noteCut()
	}
}

func (p *FlakyProxy) noteCut() {
	p.broken.Add(1)
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.holds && p.held == nil && !p.closed {
		p.held = make(chan struct{})
	}
}

// A heldWriter writes a response unless the proxy holds it.
type heldWriter struct {
	p *FlakyProxy
	w io.Writer
}

func (h heldWriter) Write(b []byte) (int, error) {
	h.p.mu.Lock()
	held := h.p.held
	h.p.mu.Unlock()
	if held != nil {
		<-held
	}
	return h.w.Write(b)
}

func (p *FlakyProxy) keepConns(conns ...net.Conn) bool {
	p.mu.Lock()
	defer p.mu.Unlock()
	for _, c := range conns {
		if p.closed {
			c.Close()
			continue
		}
		p.conns[c] = true
	}
	return !p.closed
}

func (p *FlakyProxy) dropConns(conns ...net.Conn) {
	p.mu.Lock()
	defer p.mu.Unlock()
	for _, c := range conns {
		c.Close()
		delete(p.conns, c)
	}
}

// Close cuts all connections and accepts no more.
func (p *FlakyProxy) Close() {
	p.l.Close()
	p.mu.Lock()
	p.closed = true
	p.mu.Unlock()
	p.Resume()
	p.CutAfter(0)
	p.open.Wait()
}
