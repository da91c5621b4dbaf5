package demo

import (
	"context"
	"io"
	"net"
	"sync"
	"sync/atomic"
)

// A BadWire is a connection to a server that breaks: it passes on bytes and cuts
// each connection after a while, in the middle of whatever is being said.
type BadWire struct {
	l      net.Listener
	target string
	limit  atomic.Int64 // bytes of answers after which a connection is cut; 0 never cuts
	broken atomic.Int64

	mu     sync.Mutex
	conns  map[net.Conn]bool
	closed bool
	open   sync.WaitGroup
}

// NewBadWire returns a connection to the server at target that is not cut yet.
func NewBadWire(ctx context.Context, target string) (*BadWire, error) {
	l, err := (&net.ListenConfig{}).Listen(ctx, "tcp", "127.0.0.1:0")
	if err != nil {
		return nil, err
	}
	w := &BadWire{l: l, target: target, conns: map[net.Conn]bool{}}
	w.open.Go(w.accept)
	return w, nil
}

// Addr returns the address to connect to.
func (w *BadWire) Addr() string { return w.l.Addr().String() }

// CutAfter sets after how many bytes connections are cut, and cuts those that there
// are.
func (w *BadWire) CutAfter(n int64) {
	w.limit.Store(n)
	w.mu.Lock()
	defer w.mu.Unlock()
	for c := range w.conns {
		c.Close()
	}
}

// Cuts returns how many connections were cut.
func (w *BadWire) Cuts() int64 { return w.broken.Load() }

func (w *BadWire) accept() {
	for {
		near, err := w.l.Accept()
		if err != nil {
			return
		}
		far, err := net.Dial("tcp", w.target)
		if err != nil {
			near.Close()
			continue
		}
		if !w.keep(near, far) {
			return
		}
		w.open.Go(func() { defer w.drop(near, far); io.Copy(far, near) })
		w.open.Go(func() { defer w.drop(near, far); w.answer(near, far) })
	}
}

// answer passes on what the server says until the limit is reached.
func (w *BadWire) answer(near, far net.Conn) {
	limit := w.limit.Load()
	if limit == 0 {
		io.Copy(near, far)
		return
	}
	if n, _ := io.CopyN(near, far, limit); n == limit {
		w.broken.Add(1)
	}
}

func (w *BadWire) keep(conns ...net.Conn) bool {
	w.mu.Lock()
	defer w.mu.Unlock()
	for _, c := range conns {
		if w.closed {
			c.Close()
			continue
		}
		w.conns[c] = true
	}
	return !w.closed
}

func (w *BadWire) drop(conns ...net.Conn) {
	w.mu.Lock()
	defer w.mu.Unlock()
	for _, c := range conns {
		c.Close()
		delete(w.conns, c)
	}
}

// Close cuts all connections and takes no more.
func (w *BadWire) Close() {
	w.l.Close()
	w.mu.Lock()
	w.closed = true
	w.mu.Unlock()
	w.CutAfter(0)
	w.open.Wait()
}
