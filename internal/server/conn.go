package server

import (
	"errors"
	"net"
	"os"
	"time"
)

// Patient returns l with connections that are cut when nothing of what waits could be
// sent for the write timeout, and not before: whoever takes something, however
// little, is served. Without it nobody is cut.
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

// A patientConn begins its write timeout anew whenever a byte has gone out. A deadline
// around a whole write would cut a slow line for the size of what is written.
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

// CloseWrite lets net/http end an answer before it cuts what is still being sent.
func (c *patientConn) CloseWrite() error {
	if half, ok := c.Conn.(interface{ CloseWrite() error }); ok {
		return half.CloseWrite()
	}
	return nil
}
