package client

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"log"
	"net"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/rstream-dev/rstream/cache"
	"github.com/rstream-dev/rstream/event"
	"github.com/rstream-dev/rstream/internal/server"
	"github.com/rstream-dev/rstream/internal/wire"
)

// A mesh is a log and several servers of it, reached over pipes within the test: time may be
// synctest's. Each server is a handler in front of the log's one.
type mesh struct {
	t      *testing.T
	path   string
	db     *cache.DB
	server *server.Server
	pipes  map[string]chan net.Conn // by host
	stop   context.CancelFunc
	done   <-chan struct{}
	all    sync.WaitGroup
	hosts  []*http.Server
	puts   atomic.Int64
	older  func() error // ends the older server

	mu    sync.Mutex
	asked map[string][]*http.Request // by host
	conns map[net.Conn]struct{}
}

// A front makes the handler of one server from that of the log.
type front func(m *mesh, next http.Handler) http.Handler

// good is a front that changes nothing.
func good(_ *mesh, next http.Handler) http.Handler { return next }

// newMesh starts a log of n events of about 300 bytes and servers of it. The hosts are called
// a, b and so on.
func newMesh(t *testing.T, n int, fronts ...front) *mesh {
	t.Helper()
	path := filepath.Join(t.TempDir(), "log.db")
	if err := newLog.WriteNew(path, ""); err != nil {
		t.Fatal(err)
	}
	db, err := cache.Open(t.Context(), path, cache.Config{Role: cache.Server})
	if err != nil {
		t.Fatal(err)
	}
	ctx, stop := context.WithCancel(context.Background())
	m := &mesh{t: t, db: db, path: path, stop: stop, done: ctx.Done(), pipes: map[string]chan net.Conn{}, asked: map[string][]*http.Request{}, conns: map[net.Conn]struct{}{}}
	m.put("alice/x", n)
	m.server = server.New(db, server.Config{Heartbeat: 15 * time.Second, Retry: time.Millisecond})
	for i, f := range fronts {
		m.serve(string(rune('a'+i)), f(m, m.server))
	}
	return m
}

// put appends n events.
func (m *mesh) put(storage string, n int) {
	m.t.Helper()
	of, err := event.ParseStorage(storage)
	if err != nil {
		m.t.Fatal(err)
	}
	var drafts []event.Draft
	for range n {
		drafts = append(drafts, event.Draft{User: of.User, Path: of.Path, Type: event.Put, Key: fmt.Sprint(m.puts.Add(1)), Value: []byte(`"` + strings.Repeat("x", 150) + `"`)})
	}
	if _, err := m.db.Append(m.t.Context(), drafts); err != nil && len(drafts) > 0 {
		m.t.Fatal(err)
	}
}

// serve serves a handler as a host, and records its requests.
func (m *mesh) serve(host string, h http.Handler) {
	pipe := make(chan net.Conn)
	m.pipes[host] = pipe
	recorded := http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		m.mu.Lock()
		m.asked[host] = append(m.asked[host], r.Clone(context.Background()))
		m.mu.Unlock()
		h.ServeHTTP(w, r)
	})
	srv := &http.Server{Handler: recorded, ErrorLog: log.New(io.Discard, "", 0)}
	m.hosts = append(m.hosts, srv)
	m.all.Go(func() { _ = srv.Serve(&pipeListener{pipe, m.done}) })
}

// close ends the servers and the log.
func (m *mesh) close() {
	m.stop()
	m.server.Stop()
	for _, srv := range m.hosts {
		_ = srv.Close()
	}
	m.mu.Lock()
	for conn := range m.conns {
		conn.Close()
	}
	m.mu.Unlock()
	m.all.Wait()
	if m.older != nil {
		if err := m.older(); err != nil {
			m.t.Error(err)
		}
	}
	if err := m.db.Close(); err != nil {
		m.t.Error(err)
	}
}

// requests returns how many requests a host got whose URL contains part.
func (m *mesh) requests(host, part string) (n int) {
	m.mu.Lock()
	defer m.mu.Unlock()
	for _, r := range m.asked[host] {
		if strings.Contains(r.URL.String(), part) {
			n++
		}
	}
	return n
}

// transport returns a transport that reaches the hosts.
func (m *mesh) transport() *http.Transport {
	return &http.Transport{DisableCompression: true, ResponseHeaderTimeout: 30 * time.Second,
		DialContext: func(ctx context.Context, _, addr string) (net.Conn, error) {
			host, _, _ := net.SplitHostPort(addr)
			if m.pipes[host] == nil {
				return nil, errors.New("connection refused")
			}
			ours, theirs := net.Pipe()
			m.mu.Lock()
			m.conns[ours] = struct{}{}
			m.mu.Unlock()
			select {
			case m.pipes[host] <- theirs:
				return ours, nil
			case <-ctx.Done():
				return nil, ctx.Err()
			}
		}}
}

// config returns a configuration with all hosts as servers.
func (m *mesh) config() (cfg Config, closeIdle func()) {
	over := m.transport()
	cfg = Config{HTTP: &http.Client{Transport: over}}
	for i := range m.pipes {
		cfg.Servers = append(cfg.Servers, "http://"+i)
	}
	slices.Sort(cfg.Servers)
	return cfg, over.CloseIdleConnections
}

// newCopy opens a new copy of the log.
func (m *mesh) newCopy() *cache.DB {
	m.t.Helper()
	path := filepath.Join(m.t.TempDir(), "copy.db")
	if err := newCopy.WriteNew(path, m.db.Log()); err != nil {
		m.t.Fatal(err)
	}
	db, err := cache.Open(m.t.Context(), path, cache.Config{Role: cache.Client, Log: m.db.Log()})
	if err != nil {
		m.t.Fatal(err)
	}
	return db
}

// use calls fn with a client of all hosts and its copy, and closes everything.
func (m *mesh) use(change func(*Config), fn func(c *Client, db *cache.DB)) {
	m.t.Helper()
	defer m.close()
	db := m.newCopy()
	defer db.Close()
	cfg, closeIdle := m.config()
	defer closeIdle()
	if change != nil {
		change(&cfg)
	}
	c := newTestClient(m.t, db, cfg)
	defer c.Close()
	fn(c, db)
}

// lines returns the events of the log, or of a copy of it, as lines.
func lines(t *testing.T, db *cache.DB, topic event.Topic) (lines []string) {
	t.Helper()
	evs, _, err := db.Read(t.Context(), []event.Topic{topic}, event.Beginning, db.Head(), 1<<20)
	if err != nil {
		t.Fatal(err)
	}
	for i := range evs {
		lines = append(lines, string(evs[i].Line()))
	}
	return lines
}

// A pipeListener accepts connections from a channel.
type pipeListener struct {
	conns <-chan net.Conn
	done  <-chan struct{}
}

func (l *pipeListener) Accept() (net.Conn, error) {
	select {
	case c := <-l.conns:
		return c, nil
	case <-l.done:
		return nil, net.ErrClosed
	}
}

func (l *pipeListener) Close() error   { return nil }
func (l *pipeListener) Addr() net.Addr { return &net.UnixAddr{Name: "pipe"} }

// isPage reports whether a request is for events that are pulled.
func isPage(r *http.Request) bool {
	return strings.HasPrefix(r.URL.Path, "/events") && r.Header.Get("Accept") == wire.NDJSON && r.URL.Query().Get("limit") != "0"
}

// record returns the answer of next to a request.
func record(next http.Handler, r *http.Request) *httptest.ResponseRecorder {
	answer := httptest.NewRecorder()
	next.ServeHTTP(answer, r)
	return answer
}

// silent is a front that accepts requests and never answers.
func silent(m *mesh, _ http.Handler) http.Handler {
	return http.HandlerFunc(func(_ http.ResponseWriter, r *http.Request) { hang(m, r) })
}

// hungFor is a front that never answers requests of a path.
func hungFor(path string) front {
	return func(m *mesh, next http.Handler) http.Handler {
		return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			if r.URL.Path == path {
				hang(m, r)
				return
			}
			next.ServeHTTP(w, r)
		})
	}
}

// late is a front that takes its time for appends.
func late(d time.Duration) front {
	return func(m *mesh, next http.Handler) http.Handler {
		return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			if r.URL.Path == "/set" {
				select {
				case <-time.After(d):
				case <-r.Context().Done():
				}
			}
			next.ServeHTTP(w, r)
		})
	}
}

// hang waits for the end of a request or of the mesh.
func hang(m *mesh, r *http.Request) {
	select {
	case <-r.Context().Done():
	case <-m.done:
	}
}

// silentForPages is a front that only answers requests without events.
func silentForPages(m *mesh, next http.Handler) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if isPage(r) {
			hang(m, r)
			return
		}
		next.ServeHTTP(w, r)
	})
}

// olderServer serves the log as it is now, whatever is appended later, until the test ends.
func (m *mesh) olderServer() http.Handler {
	m.t.Helper()
	path := filepath.Join(m.t.TempDir(), "older.db")
	for _, end := range []string{"", "-wal"} { // nobody writes now
		b, err := os.ReadFile(m.path + end)
		if err == nil {
			err = os.WriteFile(path+end, b, 0o600)
		}
		if err != nil {
			m.t.Fatal(err)
		}
	}
	db, err := cache.Open(m.t.Context(), path, cache.Config{Role: cache.Server})
	if err != nil {
		m.t.Fatal(err)
	}
	srv := server.New(db, server.Config{})
	m.older = func() error {
		srv.Stop()
		return db.Close()
	}
	return srv
}

// stuckAfter is a front that sends the first part of each page, some thousandths of it, and then
// nothing.
func stuckAfter(thousandths int) front {
	return func(m *mesh, next http.Handler) http.Handler {
		return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			if !isPage(r) {
				next.ServeHTTP(w, r)
				return
			}
			answer := record(next, r)
			copyHeader(w.Header(), answer.Header())
			w.WriteHeader(answer.Code)
			body := answer.Body.Bytes()
			_, _ = w.Write(body[:len(body)*thousandths/1000])
			_ = http.NewResponseController(w).Flush()
			hang(m, r)
		})
	}
}

// slow is a front that sends some bytes a second.
func slow(speed int) front {
	return func(m *mesh, next http.Handler) http.Handler {
		return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			answer := record(next, r)
			copyHeader(w.Header(), answer.Header())
			w.WriteHeader(answer.Code)
			for body := answer.Body.Bytes(); len(body) > 0; {
				n := min(len(body), speed/10)
				if _, err := w.Write(body[:n]); err != nil {
					return
				}
				_ = http.NewResponseController(w).Flush()
				body = body[n:]
				select {
				case <-time.After(time.Second / 10):
				case <-r.Context().Done():
					return
				case <-m.done:
					return
				}
			}
		})
	}
}

// lying is a front that changes the pages that it sends.
func lying(change func(h http.Header, body []byte) []byte) front {
	return func(_ *mesh, next http.Handler) http.Handler {
		return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			if !isPage(r) {
				next.ServeHTTP(w, r)
				return
			}
			answer := record(next, r)
			body := change(answer.Header(), bytes.Clone(answer.Body.Bytes()))
			answer.Header().Del("Content-Length")
			copyHeader(w.Header(), answer.Header())
			w.WriteHeader(answer.Code)
			_, _ = w.Write(body)
		})
	}
}

// refusingAll is a front that answers requests with a status, except about itself.
func refusingAll(status int) front {
	return func(m *mesh, next http.Handler) http.Handler {
		return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			if r.URL.Path == "/" {
				next.ServeHTTP(w, r)
				return
			}
			w.Header().Set(wire.HeaderLog, m.db.Log())
			wire.Errorf(status, "no").Write(w)
		})
	}
}
