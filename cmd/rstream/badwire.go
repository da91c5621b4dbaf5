package main

import (
	"context"
	"io"
	"net"
	"sync"
	"sync/atomic"
)

// A badWire is a connection to a server that breaks: it passes on bytes and cuts
// each connection after a while, in the middle of whatever is being said.
type badWire struct {
	l      net.Listener
	target string
	limit  atomic.Int64 // bytes of answers after which a connection is cut; 0 never cuts
	broken atomic.Int64

	mu     sync.Mutex
	conns  map[net.Conn]bool
	closed bool
	open   sync.WaitGroup
}

func newBadWire(ctx context.Context, target string) (*badWire, error) {
	l, err := (&net.ListenConfig{}).Listen(ctx, "tcp", "127.0.0.1:0")
	if err != nil {
		return nil, err
	}
	w := &badWire{l: l, target: target, conns: map[net.Conn]bool{}}
	w.open.Go(w.accept)
	return w, nil
}

func (w *badWire) addr() string { return w.l.Addr().String() }

// cutAfter sets after how many bytes connections are cut, and cuts those that there
// are.
func (w *badWire) cutAfter(n int64) {
	w.limit.Store(n)
	w.mu.Lock()
	defer w.mu.Unlock()
	for c := range w.conns {
		c.Close()
	}
}

func (w *badWire) cuts() int64 { return w.broken.Load() }

func (w *badWire) accept() {
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
func (w *badWire) answer(near, far net.Conn) {
	limit := w.limit.Load()
	if limit == 0 {
		io.Copy(near, far)
		return
	}
	if n, _ := io.CopyN(near, far, limit); n == limit {
		w.broken.Add(1)
	}
}

func (w *badWire) keep(conns ...net.Conn) bool {
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

func (w *badWire) drop(conns ...net.Conn) {
	w.mu.Lock()
	defer w.mu.Unlock()
	for _, c := range conns {
		c.Close()
		delete(w.conns, c)
	}
}

func (w *badWire) close() {
	w.l.Close()
	w.mu.Lock()
	w.closed = true
	w.mu.Unlock()
	w.cutAfter(0)
	w.open.Wait()
}
