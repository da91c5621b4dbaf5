package server

import (
	"bufio"
	"context"
	"fmt"
	"io"
	"log"
	"net"
	"net/http"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/rstream-dev/rstream/event"
	"github.com/rstream-dev/rstream/internal/wire"
)

// A pipeListener is a network within the test: deadlines work, nothing is buffered
// and time may be synctest's.
type pipeListener struct {
	conns chan net.Conn
	done  chan struct{}
	once  sync.Once
}

func (l *pipeListener) Accept() (net.Conn, error) {
	select {
	case c := <-l.conns:
		return c, nil
	case <-l.done:
		return nil, net.ErrClosed
	}
}

func (l *pipeListener) Close() error {
	l.once.Do(func() { close(l.done) })
	return nil
}

func (l *pipeListener) Addr() net.Addr { return &net.UnixAddr{Name: "pipe"} }

// A served is a server within the test, with the client that reaches it.
type served struct {
	*Server
	t    *testing.T
	l    *pipeListener
	http *http.Client

	conns atomic.Int32 // that are open
}

// quiet discards what net/http logs about aborted connections.
var quiet = log.New(io.Discard, "", 0)

// serve serves l until the test ends or the returned function is called.
func serve(t *testing.T, l Log, cfg Config) (*served, func()) {
	t.Helper()
	srv := New(l, cfg)
	pipes := &pipeListener{conns: make(chan net.Conn), done: make(chan struct{})}
	s := &served{Server: srv, t: t, l: pipes}
	transport := &http.Transport{
		DialContext:        func(context.Context, string, string) (net.Conn, error) { return s.dial(), nil },
		DisableCompression: true,
	}
	s.http = &http.Client{Transport: transport}
	hs := &http.Server{Handler: srv, ConnState: func(_ net.Conn, state http.ConnState) {
		switch state {
		case http.StateNew:
			s.conns.Add(1)
		case http.StateClosed:
			s.conns.Add(-1)
		}
	}, ErrorLog: quiet}
	var serving sync.WaitGroup
	serving.Go(func() { _ = hs.Serve(srv.Patient(pipes)) })
	return s, sync.OnceFunc(func() {
		transport.CloseIdleConnections()
		srv.Stop()
		_ = hs.Close()
		serving.Wait()
	})
}

func (s *served) dial() net.Conn {
	client, server := net.Pipe()
	select {
	case s.l.conns <- server:
	case <-s.l.done:
		_ = server.Close()
	}
	return client
}

// get makes a request with the headers in pairs.
func (s *served) get(target string, header ...string) *http.Response {
	s.t.Helper()
	resp, err := s.tryGet(s.t.Context(), target, header...)
	if err != nil {
		s.t.Fatal(err)
	}
	return resp
}

func (s *served) tryGet(ctx context.Context, target string, header ...string) (*http.Response, error) {
	r, err := http.NewRequestWithContext(ctx, http.MethodGet, "http://localhost"+target, nil)
	if err != nil {
		return nil, err
	}
	for i := 0; i+1 < len(header); i += 2 {
		r.Header.Add(header[i], header[i+1])
	}
	return s.http.Do(r)
}

// body reads all of a response.
func body(t interface{ Fatal(...any) }, resp *http.Response) string {
	defer resp.Body.Close()
	b, err := io.ReadAll(resp.Body)
	if err != nil {
		t.Fatal(err)
	}
	return string(b)
}

// raw sends the bytes of one request and reads the response. Line feeds of the
// head may stand for CRLF.
func (s *served) raw(request string) (*http.Response, string) {
	s.t.Helper()
	head, rest, _ := strings.Cut(request, "\n\n")
	conn := s.dial()
	defer conn.Close()
	var sending sync.WaitGroup
	sending.Go(func() {
		// The server may answer before it has read everything.
		_, _ = io.WriteString(conn, strings.ReplaceAll(head, "\n", "\r\n")+"\r\n\r\n"+rest)
	})
	method, _, _ := strings.Cut(head, " ")
	resp, err := http.ReadResponse(bufio.NewReader(conn), &http.Request{Method: method})
	if err != nil {
		s.t.Fatalf("%.200q: %v", request, err)
	}
	b, err := io.ReadAll(resp.Body)
	if err != nil {
		s.t.Fatalf("%.200q: %v", request, err)
	}
	_ = conn.Close()
	sending.Wait()
	return resp, string(b)
}

// A frame is one block of an SSE stream.
type frame struct{ id, event, data, rest string }

// position returns the position in a frame's id.
func (f frame) position(t interface{ Fatal(...any) }) event.ID {
	c, err := event.ParseCursor(f.id)
	if err != nil || c.Log != logName[:event.LogSuffixLen] {
		t.Fatal("frame", f, "has no cursor of the log:", err)
	}
	return c.ID
}

// frames reads a stream block by block.
type frames struct{ r *bufio.Reader }

func newFrames(r io.Reader) *frames { return &frames{bufio.NewReader(r)} }

// next returns the next complete block, with io.EOF only between blocks.
func (fs *frames) next() (f frame, err error) {
	for begun := false; ; begun = true {
		line, err := fs.r.ReadString('\n')
		if err == io.EOF && (begun || line != "") {
			err = io.ErrUnexpectedEOF
		}
		if err != nil {
			return f, err
		}
		line = strings.TrimSuffix(line, "\n")
		if line == "" {
			return f, nil
		}
		if line == "id:" {
			continue // the first line of a state
		}
		switch name, value, _ := strings.Cut(line, ": "); name {
		case "id":
			f.id = value
		case "event":
			f.event = value
		case "data":
			f.data = value
		default:
			f.rest += line + "\n"
		}
	}
}

// nextBefore is next for a loop that waits for a block, which would read heartbeats for ever if
// that block never came.
func (fs *frames) nextBefore(deadline time.Time) (f frame, err error) {
	if f, err = fs.next(); err == nil && time.Now().After(deadline) {
		err = fmt.Errorf("the stream goes on with %q after the deadline", f)
	}
	return f, err
}

// stream opens a stream and reads its preamble.
func (s *served) stream(target string, header ...string) (*frames, io.Closer) {
	s.t.Helper()
	resp := s.get(target, append(header, "Accept", wire.SSE)...)
	if resp.StatusCode != http.StatusOK || resp.Header.Get("Content-Type") != wire.SSE {
		s.t.Fatalf("GET %s = %s: %s", target, resp.Status, body(s.t, resp))
	}
	fs := newFrames(resp.Body)
	if f, err := fs.next(); err != nil || f != (frame{rest: "retry: 1000\n: rstream\n"}) {
		s.t.Fatalf("a stream begins with %q, %v", f, err)
	}
	return fs, resp.Body
}

// want reads the next frame and checks its event and position.
func (fs *frames) want(t *testing.T, name string, at event.ID) {
	t.Helper()
	f, err := fs.next()
	if err != nil {
		t.Fatalf("next frame: %v, want %q at %s", err, name, at)
	}
	if f.event != name || f.position(t) != at || (f.data == "") != (name == "") {
		t.Fatalf("next frame is %q, want %q at %s", f, name, at)
	}
}
