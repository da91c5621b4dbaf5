package client

import (
	"bufio"
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"math/rand/v2"
	"net"
	"net/http"
	"net/http/httptest"
	"net/url"
	"os"
	"path/filepath"
	"runtime"
	"runtime/debug"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/rstream-dev/rstream/cache"
	"github.com/rstream-dev/rstream/event"
	"github.com/rstream-dev/rstream/internal/longtest"
	"github.com/rstream-dev/rstream/internal/server"
	"github.com/rstream-dev/rstream/internal/testfile"
)

func TestMain(m *testing.M) {
	runChild()
	debug.SetGCPercent(400) // the heap is small
	longtest.TempInMemory()
	os.Exit(m.Run())
}

// A fixture is a log and the server of it.
type fixture struct {
	t    testing.TB
	path string
	db   *cache.DB
	srv  *server.Server
	http *httptest.Server

	puts    atomic.Int64
	mutex   sync.Mutex
	wrap    func(http.Handler) http.Handler // set by through
	handler http.Handler                    // srv, or what wrap made of it
}

func newFixture(t testing.TB) *fixture {
	f := &fixture{t: t, path: filepath.Join(t.TempDir(), "log.db")}
	f.start()
	t.Cleanup(f.stop)
	return f
}

// newLog and newCopy are new files as cache.Open creates them.
var (
	newLog  = testfile.New(func(path string) (string, error) { return makeFile(path, cache.Config{Role: cache.Server}) })
	newCopy = testfile.New(func(path string) (string, error) {
		return makeFile(path, cache.Config{Role: cache.Client, Log: otherLog})
	})
)

func makeFile(path string, cfg cache.Config) (log string, err error) {
	db, err := cache.Open(context.Background(), path, cfg)
	if err != nil {
		return "", err
	}
	return db.Log(), db.Close()
}

func (f *fixture) start() {
	if err := newLog.WriteNew(f.path, ""); err != nil {
		f.t.Fatal(err)
	}
	db, err := cache.Open(f.t.Context(), f.path, cache.Config{Role: cache.Server})
	if err != nil {
		f.t.Fatal(err)
	}
	f.db = db
	f.srv = server.New(db, server.Config{Heartbeat: 20 * time.Millisecond, Retry: time.Millisecond})
	f.through(f.wrap)
	f.http = httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		f.mutex.Lock()
		h := f.handler
		f.mutex.Unlock()
		// A request that follows sees what this one has done, even if this one ends without an
		// answer, in which case the network does not order them for the race detector.
		defer f.mutex.Unlock()
		defer f.mutex.Lock()
		h.ServeHTTP(w, r)
	}))
}

func (f *fixture) stop() {
	f.srv.Stop()
	f.http.CloseClientConnections()
	f.http.Close()
	if err := f.db.Close(); err != nil {
		f.t.Error(err)
	}
}

// through puts a handler in front of the server, and of those that start later. wrap is called
// once for each; nil is the server alone.
func (f *fixture) through(wrap func(http.Handler) http.Handler) {
	f.mutex.Lock()
	defer f.mutex.Unlock()
	f.wrap, f.handler = wrap, f.srv
	if wrap != nil {
		f.handler = wrap(f.srv)
	}
}

// put appends n events to storage.
func (f *fixture) put(storage string, n int) {
	of, err := event.ParseStorage(storage)
	if err != nil {
		f.t.Error(err)
		return
	}
	var drafts []event.Draft
	for range n {
		key := fmt.Sprint(f.puts.Add(1))
		drafts = append(drafts, event.Draft{User: of.User, Path: of.Path, Type: event.Put, Key: key,
			Value: fmt.Appendf(nil, `{"n":%s,"pad":"%0*d"}`, key, rand.IntN(120), 0)})
	}
	if _, err := f.db.Append(f.t.Context(), drafts); err != nil {
		f.t.Error(err)
	}
}

// A plainEvent is an event as the slow reader sees it. It shares no code with the
// client.
type plainEvent struct {
	ID   string `json:"id"`
	User string `json:"user"`
	Path string `json:"path"`
	line string
}

// truth reads a topic's events from the server in the simplest way: one GET, one line for
// each event.
func (f *fixture) truth(topic, since, until string) (evs []plainEvent) {
	f.t.Helper()
	q := url.Values{"topic": {topic}}
	if since != "" {
		q.Set("since", since)
	}
	if until != "" {
		q.Set("until", until)
	}
	req, err := http.NewRequestWithContext(f.t.Context(), http.MethodGet, f.http.URL+"/events?"+q.Encode(), nil)
	if err != nil {
		f.t.Fatal(err)
	}
	req.Header.Set("Accept", "application/x-ndjson")
	resp, err := http.DefaultClient.Do(req)
	if err != nil {
		f.t.Fatal(err)
	}
	defer resp.Body.Close()
	body, err := io.ReadAll(resp.Body)
	if err != nil || resp.StatusCode != http.StatusOK {
		f.t.Fatalf("slow reader: %s %v\n%s", resp.Status, err, body)
	}
	scan := bufio.NewScanner(bytes.NewReader(body))
	scan.Buffer(nil, 4<<20)
	for scan.Scan() {
		ev := plainEvent{line: scan.Text()}
		if err := json.Unmarshal(scan.Bytes(), &ev); err != nil {
			f.t.Fatal(err)
		}
		evs = append(evs, ev)
	}
	return evs
}

// newCache opens a new cache of the log.
func (f *fixture) newCache() *cache.DB {
	return f.openCache(filepath.Join(f.t.TempDir(), "copy.db"), nil)
}

func (f *fixture) openCache(path string, now func() time.Time) *cache.DB {
	f.t.Helper()
	if err := newCopy.WriteNew(path, f.db.Log()); err != nil {
		f.t.Fatal(err)
	}
	db, err := cache.Open(f.t.Context(), path, cache.Config{Role: cache.Client, Log: f.db.Log(), Now: now})
	if err != nil {
		f.t.Fatal(err)
	}
	f.t.Cleanup(func() {
		if err := db.Close(); err != nil {
			f.t.Error(err)
		}
	})
	return db
}

// hasty is a configuration that loses no time between attempts.
func hasty(servers ...string) Config {
	return Config{Servers: servers, RetryMin: time.Millisecond, RetryMax: 10 * time.Millisecond,
		Idle: 10 * time.Second, PageLimit: 100}
}

// nervous is hasty and takes a short silence for the end of a connection. Every stall
// costs that long, but the limit must still be longer than a loaded machine takes.
func nervous(servers ...string) Config {
	cfg := hasty(servers...)
	cfg.Idle = 200 * time.Millisecond
	return cfg
}

// newTestClient returns a client of copied, a *cache.DB, a store with faults or nil.
func newTestClient(t testing.TB, copied any, cfg Config) *Client {
	t.Helper()
	cfg, err := cfg.checked()
	if err != nil {
		t.Fatal(err)
	}
	var st store
	switch copied := copied.(type) {
	case *cache.DB:
		st = storeOf(copied)
	case store:
		st = copied
	case nil:
	default:
		t.Fatalf("a %T is no store", copied)
	}
	c := newClient(st, cfg)
	t.Cleanup(c.Close)
	return c
}

// syncNew is a Sync that calls fresh with the new events.
func syncNew(ctx context.Context, c *Client, topic event.Topic, r Range, fresh func([]event.Event) error) (Synced, error) {
	return c.Sync(ctx, topic, SyncOptions{Range: r, OnNew: fresh})
}

// syncAt is a Sync of the window around a moment.
func syncAt(ctx context.Context, c *Client, topic event.Topic, at event.Moment) (Synced, error) {
	return c.Sync(ctx, topic, SyncOptions{At: &at})
}

func mustTopic(t testing.TB, s string) event.Topic {
	t.Helper()
	topic, err := event.ParseTopic(s)
	if err != nil {
		t.Fatal(err)
	}
	return topic
}

// sameEvents compares the events that a reader received with the truth.
func sameEvents(t testing.TB, what string, got []string, want []plainEvent) {
	t.Helper()
	for i := range min(len(got), len(want)) {
		if got[i] != want[i].line {
			t.Fatalf("%s: event %d is\n%s\nwant\n%s", what, i, got[i], want[i].line)
		}
	}
	if len(got) != len(want) {
		t.Fatalf("%s: %d events, want %d", what, len(got), len(want))
	}
}

// held returns the events that a cache holds in a range.
func held(t testing.TB, db *cache.DB, topic event.Topic, s Synced) (lines []string) {
	t.Helper()
	err := db.Each(t.Context(), []event.Topic{topic}, s.Span, func(ev *event.Event) error {
		lines = append(lines, string(ev.Line()))
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	return lines
}

// A tearingProxy passes bytes on and cuts connections at random bytes, in either
// direction and in several ways.
type tearingProxy struct {
	l      net.Listener
	target atomic.Pointer[string]
	whole  atomic.Bool // cut nothing any more
	cuts   atomic.Int64
	all    sync.WaitGroup

	mu    sync.Mutex
	rng   *rand.Rand
	most  int // bytes that a connection passes at most
	conns map[net.Conn]struct{}
}

// The ways of cutting a connection.
const (
	cutClean = iota
	cutReset
	cutStall // nothing passes any more, until the other side gives up
	cutWays
)

func newTearingProxy(t testing.TB, target string, seed uint64, most int) *tearingProxy {
	l, err := net.Listen("tcp", "127.0.0.1:0") //nolint:noctx // closed by Cleanup
	if err != nil {
		t.Fatal(err)
	}
	p := &tearingProxy{l: l, rng: rand.New(rand.NewPCG(seed, 1)), most: most, conns: map[net.Conn]struct{}{}}
	p.point(target)
	p.all.Go(p.accept)
	t.Cleanup(func() {
		l.Close()
		p.mu.Lock()
		for c := range p.conns {
			c.Close()
		}
		p.mu.Unlock()
		p.all.Wait()
	})
	return p
}

func (p *tearingProxy) url() string { return "http://" + p.l.Addr().String() }

// point makes new connections go to the server at the URL target.
func (p *tearingProxy) point(target string) {
	addr := target[len("http://"):]
	p.target.Store(&addr)
}

func (p *tearingProxy) accept() {
	for {
		c, err := p.l.Accept()
		if err != nil {
			return
		}
		p.all.Go(func() { p.serve(c) })
	}
}

// track registers c to be closed with the proxy, and returns a function that closes it.
func (p *tearingProxy) track(c net.Conn) func() {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.conns[c] = struct{}{}
	return func() {
		p.mu.Lock()
		defer p.mu.Unlock()
		delete(p.conns, c)
		c.Close()
	}
}

func (p *tearingProxy) draw() (up, down int64, way int) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.whole.Load() {
		return 1 << 40, 1 << 40, cutClean
	}
	// Now and then in the middle of the request, else in the answer.
	most := p.most
	if p.cuts.Load() < 3 {
		most = min(most, 2000) // a client that gives a connection up makes no cut of it
	}
	up, down, way = 1<<40, int64(p.rng.IntN(most)), p.rng.IntN(cutWays)
	if p.rng.IntN(8) == 0 {
		up = int64(p.rng.IntN(400))
	}
	if way == cutStall && p.rng.IntN(8) > 0 {
		way = cutClean // each stall costs the client's patience
	}
	return up, down, way
}

func (p *tearingProxy) serve(in net.Conn) {
	defer p.track(in)()
	out, err := net.Dial("tcp", *p.target.Load()) //nolint:noctx // loopback
	if err != nil {
		return
	}
	defer p.track(out)()
	up, down, way := p.draw()
	ended := make(chan bool, 2)
	copyUpTo := func(dst, src net.Conn, most int64) {
		n, _ := io.CopyN(dst, src, most)
		ended <- n == most
	}
	p.all.Go(func() { copyUpTo(out, in, up) })
	p.all.Go(func() { copyUpTo(in, out, down) })
	if cut := <-ended; !cut {
		return
	}
	p.cuts.Add(1)
	switch way {
	case cutReset:
		_ = in.(*net.TCPConn).SetLinger(0)
	case cutStall:
		out.Close()
		_, _ = io.Copy(io.Discard, in)
	}
}

// eventually waits, without sleeping, until ok.
func eventually(t testing.TB, what string, ok func() bool) {
	t.Helper()
	tick := time.NewTicker(time.Millisecond)
	defer tick.Stop()
	deadline := time.After(30 * time.Second)
	for !ok() {
		select {
		case <-tick.C:
		case <-deadline:
			buf := make([]byte, 1<<20)
			t.Fatalf("%s does not happen\n%s", what, buf[:runtime.Stack(buf, true)])
		}
	}
}

// noLeaks checks at the end that no goroutine of the test is left.
func noLeaks(t testing.TB) {
	before := runtime.NumGoroutine()
	t.Cleanup(func() {
		http.DefaultClient.CloseIdleConnections()
		eventually(t, fmt.Sprintf("the end of all but %d goroutines", before), func() bool {
			return runtime.NumGoroutine() <= before
		})
	})
}
