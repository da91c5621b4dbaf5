//go:build unix

package main

import (
	"net"
	"sync"
	"testing"
)

// A link is a TCP proxy in front of a process. A test breaks it as networks break: it refuses
// connections, or it delivers nothing, in both directions or in one.
type link struct {
	listener net.Listener

	mu       sync.Mutex
	target   string // the address of the process, "" while there is none
	refusing bool
	held     [2]chan struct{} // of each direction: closed when it delivers again; nil if it does
	pairs    map[*linkedPair]struct{}
}

// Directions of a link.
const (
	toTarget   = 0
	fromTarget = 1
)

// A linkedPair is a connection to the link, and the one to the process.
type linkedPair struct {
	here, there net.Conn // there is nil before it is made
	done        chan struct{}
	once        sync.Once
}

func (p *linkedPair) close() {
	p.once.Do(func() { close(p.done) })
	p.here.Close()
	if p.there != nil {
		p.there.Close()
	}
}

func newLink(t testing.TB) *link {
	t.Helper()
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	l := &link{listener: listener, pairs: map[*linkedPair]struct{}{}}
	var serving sync.WaitGroup
	serving.Go(func() {
		for {
			c, err := listener.Accept()
			if err != nil {
				return
			}
			serving.Go(func() { l.serve(c) })
		}
	})
	t.Cleanup(func() {
		listener.Close()
		l.refuse()
		serving.Wait()
	})
	return l
}

func (l *link) address() string { return l.listener.Addr().String() }

// setTarget sets the address of the process, which has a new one each time it starts.
func (l *link) setTarget(address string) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.target = address
}

// refuse ends all connections, and makes no new ones.
func (l *link) refuse() {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.refusing = true
	l.closeLocked()
}

func (l *link) closeLocked() {
	for p := range l.pairs {
		p.close()
	}
}

// hold keeps what is sent in some directions, until restore.
func (l *link) hold(directions ...int) {
	l.mu.Lock()
	defer l.mu.Unlock()
	for _, d := range directions {
		if l.held[d] == nil {
			l.held[d] = make(chan struct{})
		}
	}
}

// restore makes the link whole. What was held is delivered, unless the connections end.
func (l *link) restore(ended bool) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.refusing = false
	if ended {
		l.closeLocked()
	}
	for d, held := range l.held {
		if held != nil {
			close(held)
			l.held[d] = nil
		}
	}
}

// await waits until a direction delivers. It returns false if the pair was closed.
func (l *link) await(direction int, p *linkedPair) bool {
	for {
		l.mu.Lock()
		held := l.held[direction]
		l.mu.Unlock()
		if held == nil {
			select {
			case <-p.done:
				return false
			default:
				return true
			}
		}
		select {
		case <-held:
		case <-p.done:
			return false
		}
	}
}

// serve passes a connection on.
func (l *link) serve(here net.Conn) {
	p := &linkedPair{here: here, done: make(chan struct{})}
	defer here.Close()
	l.mu.Lock()
	if l.refusing {
		l.mu.Unlock()
		return
	}
	l.pairs[p] = struct{}{}
	l.mu.Unlock()
	defer func() {
		l.mu.Lock()
		defer l.mu.Unlock()
		p.close()
		delete(l.pairs, p)
	}()
	for d := range l.held { // no connection is made in one direction alone
		if !l.await(d, p) {
			return
		}
	}
	if !l.connect(p) {
		return
	}
	var passing sync.WaitGroup
	passing.Go(func() { l.pass(p, p.there, p.here, toTarget) })
	passing.Go(func() { l.pass(p, p.here, p.there, fromTarget) })
	passing.Wait()
}

// connect connects p to the process.
func (l *link) connect(p *linkedPair) bool {
	l.mu.Lock()
	target := l.target
	l.mu.Unlock()
	if target == "" {
		return false
	}
	there, err := net.Dial("tcp", target)
	if err != nil {
		return false
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	p.there = there
	select {
	case <-p.done: // meanwhile
		there.Close()
		return false
	default:
		return true
	}
}

// pass delivers what is sent in one direction, and then that no more comes: that is news, too.
func (l *link) pass(p *linkedPair, to, from net.Conn, direction int) {
	b := make([]byte, 32<<10)
	for {
		n, err := from.Read(b)
		if !l.await(direction, p) {
			return
		}
		if n > 0 {
			if _, err := to.Write(b[:n]); err != nil {
				return
			}
		}
		if err != nil {
			l.mu.Lock()
			defer l.mu.Unlock()
			p.close()
			return
		}
	}
}
