package server

import (
	"errors"
	"net"
	"os"
	"time"
)

// Patient wraps l. Its connections are closed if no byte of the pending data could be sent
// for the write timeout, so that a reader that makes any progress is never cut off. Without
// Patient, no connection is closed for being slow.
func (s *Server) Patient(l net.Listener) net.Listener {
	return &patientListener{l, s.cfg.WriteTimeout}
}

type patientListener struct {
	net.Listener
	patience time.Duration
}

// Accept waits for the next connection.
func (l *patientListener) Accept() (net.Conn, error) {
	c, err := l.Listener.Accept()
	if err != nil {
		return nil, err
	}
	return &patientConn{c, l.patience}, nil
}

// A patientConn restarts its write timeout after each byte sent. A deadline for a whole
// write would close slow connections only because the write is large.
type patientConn struct {
	net.Conn
	patience time.Duration
}

func (c *patientConn) Write(b []byte) (n int, err error) {
	for {
		if err := c.SetWriteDeadline(time.Now().Add(c.patience)); err != nil {
			return n, err
		}
		k, err := c.Conn.Write(b[n:])
		if n += k; k == 0 || !errors.Is(err, os.ErrDeadlineExceeded) {
			return n, err
		}
	}
}

// CloseWrite lets net/http end a response while the client is still sending.
func (c *patientConn) CloseWrite() error {
	if half, ok := c.Conn.(interface{ CloseWrite() error }); ok {
		return half.CloseWrite()
	}
	return nil
}
