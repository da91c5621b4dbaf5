package server

import (
	"errors"
	"net"
	"os"
	"sync/atomic"
	"time"
)

// Patient wraps l. Its connections are closed if no byte of the pending data could be sent
// for the write timeout, so that a reader that makes any progress is never cut off. Without
// Patient, no connection is closed for being slow.
func (s *Server) Patient(l net.Listener) net.Listener {
	return &patientListener{l, s.cfg.WriteTimeout, &s.connected}
}

// Connected returns how many connections of Patient are open.
func (s *Server) Connected() int { return int(s.connected.Load()) }

type patientListener struct {
	net.Listener
	patience time.Duration
	open     *atomic.Int64
}

// Accept waits for the next connection.
func (l *patientListener) Accept() (net.Conn, error) {
	c, err := l.Listener.Accept()
	if err != nil {
		return nil, err
	}
	l.open.Add(1)
	return &patientConn{Conn: c, patience: l.patience, open: l.open}, nil
}

// A patientConn restarts its write timeout after each byte sent. A deadline for a whole
// write would close slow connections only because the write is large.
type patientConn struct {
	net.Conn
	patience time.Duration
	last     atomic.Int64 // Unix nanoseconds after which nothing is written, 0 for no such time
	open     *atomic.Int64
	closed   atomic.Bool
}

// Close closes the connection.
func (c *patientConn) Close() error {
	if c.closed.CompareAndSwap(false, true) {
		c.open.Add(-1)
	}
	return c.Conn.Close()
}

// looks is how often a write that waits looks for progress while it is patient: its error comes by
// so much of the patience late.
const looks = 10

func (c *patientConn) Write(b []byte) (n int, err error) {
	for progress := time.Now(); ; {
		deadline, last := time.Now().Add(c.patience/looks), c.last.Load()
		if last != 0 && last < deadline.UnixNano() {
			deadline = time.Unix(0, last)
		}
		if err := c.Conn.SetWriteDeadline(deadline); err != nil {
			return n, err
		}
		if c.last.Load() != last { // it was set meanwhile, and the deadline with it
			continue
		}
		k, err := c.Conn.Write(b[n:])
		n += k
		now := time.Now()
		isLast := last != 0 && now.UnixNano() >= last
		if !errors.Is(err, os.ErrDeadlineExceeded) || k == 0 && (isLast || now.Sub(progress) >= c.patience) {
			return n, err
		}
		if k > 0 {
			progress = now
		}
	}
}

// SetWriteDeadline sets a time after which nothing is written, however fast the reader is.
// It also holds for a write that is waiting.
func (c *patientConn) SetWriteDeadline(t time.Time) error {
	if t.IsZero() {
		c.last.Store(0)
		return nil
	}
	c.last.Store(t.UnixNano())
	return c.Conn.SetWriteDeadline(t)
}

// CloseWrite lets net/http end a response while the client is still sending.
func (c *patientConn) CloseWrite() error {
	if half, ok := c.Conn.(interface{ CloseWrite() error }); ok {
		return half.CloseWrite()
	}
	return nil
}
