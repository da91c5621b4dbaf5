package main

import (
	"bytes"
	"context"
	"errors"
	"io"
	"net"
	"net/http"
	"path/filepath"
	"strings"
	"testing"

	"github.com/rstream-dev/rstream/cache"
	"github.com/rstream-dev/rstream/internal/server"
)

// A pipeListener accepts one connection, which has no buffers.
type pipeListener struct {
	conns chan net.Conn
	done  chan struct{}
}

func (l *pipeListener) Accept() (net.Conn, error) {
	select {
	case c := <-l.conns:
		return c, nil
	case <-l.done:
		return nil, net.ErrClosed
	}
}

func (l *pipeListener) Close() error   { close(l.done); return nil }
func (l *pipeListener) Addr() net.Addr { return &net.TCPAddr{} }

// A reader that takes nothing does not turn the stop of a server into a failure.
func TestStopWithStalledReader(t *testing.T) {
	log, err := cache.Open(t.Context(), filepath.Join(t.TempDir(), "log.db"), cache.Config{Role: cache.Server})
	if err != nil {
		t.Fatal(err)
	}
	defer log.Close()
	var said bytes.Buffer
	say := newServeLog(&app{err: &said}, &logFlags{logFormat: "text", logLevel: "info"})
	srv := server.New(log, server.Config{})
	answering, ended := make(chan struct{}), make(chan struct{})
	hs := newHTTPServer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
		close(answering)
		_, _ = w.Write(make([]byte, 1<<20)) // until the connection is closed
		close(ended)
	}), nil, say)
	l := &pipeListener{make(chan net.Conn, 1), make(chan struct{})}
	ours, theirs := net.Pipe()
	defer ours.Close()
	l.conns <- theirs
	stopped := errors.New("stopped")
	ctx, stop := context.WithCancelCause(t.Context())
	go func() {
		_, _ = io.WriteString(ours, "GET / HTTP/1.1\r\nHost: localhost\r\n\r\n")
		<-answering
		stop(stopped)
	}()
	s := serving{hs: hs, srv: srv, say: say}
	if err := s.serveUntil(ctx, l); err != stopped {
		t.Errorf("the server ended with %v", err)
	}
	<-ended
	if !strings.Contains(said.String(), "cut off") || !strings.Contains(said.String(), "connections=1") {
		t.Errorf("log %q", said.String())
	}
}
