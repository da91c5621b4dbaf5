package mirror_test

import (
	"bufio"
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"runtime/debug"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/rstream-dev/rstream/cache"
	"github.com/rstream-dev/rstream/event"
	"github.com/rstream-dev/rstream/internal/auth"
	"github.com/rstream-dev/rstream/internal/longtest"
	"github.com/rstream-dev/rstream/internal/mirror"
	"github.com/rstream-dev/rstream/internal/server"
	"github.com/rstream-dev/rstream/internal/testfile"
	"github.com/rstream-dev/rstream/internal/wire"
)

func TestMain(m *testing.M) {
	debug.SetGCPercent(400) // the heap is small
	longtest.TempInMemory()
	os.Exit(m.Run())
}

// newLog and newMirror are new files as cache.Open creates them.
var (
	newLog    = testfile.New(func(path string) (string, error) { return makeFile(path, cache.Config{Role: cache.Server}) })
	newMirror = testfile.New(func(path string) (string, error) {
		return makeFile(path, cache.Config{Role: cache.Server, Log: "ZZZZZZZZZZZZZZZZ", Mirror: &cache.Mirrored{}})
	})
)

func makeFile(path string, cfg cache.Config) (log string, err error) {
	db, err := cache.Open(context.Background(), path, cfg)
	if err != nil {
		return "", err
	}
	return db.Log(), db.Close()
}

// writeFile makes a new file, if it is one that a template has.
func writeFile(path string, cfg cache.Config) error {
	switch m := cfg.Mirror; {
	case m == nil:
		return newLog.WriteNew(path, cfg.Log)
	case cfg.Log != "" && m.Parent == "" && len(m.Topics) == 0:
		return newMirror.WriteNew(path, cfg.Log)
	}
	return nil
}

// A node is a server, of a log of its own or of a mirror. Its address stays when its log is
// replaced, and while it is away.
type node struct {
	url     string
	handler atomic.Pointer[http.Handler] // nil: it is away
	front   *httptest.Server
	path    string
	guard   *auth.Guard

	sent    atomic.Int64 // bytes of bodies of responses
	streams atomic.Int64 // requests for streams
	cut     atomic.Int64 // if not 0, after how many bytes bodies end

	db     *cache.DB
	srv    *server.Server
	mirror *mirror.Mirror
	stop   func()
}

func newNode(t *testing.T) *node {
	t.Helper()
	n := &node{path: filepath.Join(t.TempDir(), "log.db"), stop: func() {}}
	n.front = httptest.NewServer(http.HandlerFunc(n.answer))
	n.url = n.front.URL
	t.Cleanup(func() {
		n.stop()
		n.front.CloseClientConnections()
		n.front.Close()
	})
	return n
}

// answer passes a request on to the server.
func (n *node) answer(w http.ResponseWriter, r *http.Request) {
	h := n.handler.Load()
	if h == nil {
		panic(http.ErrAbortHandler)
	}
	if strings.Contains(r.Header.Get("Accept"), wire.SSE) {
		n.streams.Add(1)
	}
	(*h).ServeHTTP(&meteredWriter{ResponseWriter: w, n: n, left: n.cut.Load()}, r)
}

// A meteredWriter counts bytes, and may end a body early.
type meteredWriter struct {
	http.ResponseWriter
	n    *node
	left int64 // 0: all
}

func (w *meteredWriter) Unwrap() http.ResponseWriter { return w.ResponseWriter }

func (w *meteredWriter) Write(b []byte) (int, error) {
	w.n.sent.Add(int64(len(b)))
	if w.left > 0 {
		if w.left -= int64(len(b)); w.left <= 0 {
			_, _ = w.ResponseWriter.Write(b[:len(b)+int(w.left)])
			_ = http.NewResponseController(w.ResponseWriter).Flush()
			panic(http.ErrAbortHandler)
		}
	}
	return w.ResponseWriter.Write(b)
}

// serve serves a file as a log of its own.
func (n *node) serve(t *testing.T) *node {
	t.Helper()
	return n.start(t, cache.Config{Role: cache.Server}, nil)
}

// follow serves the mirror of another node, or of some topics of it.
func (n *node) follow(t *testing.T, of *node, token string, topics ...string) *node {
	t.Helper()
	hc := mirror.HTTPConfig{URL: of.url, Token: func(context.Context) (string, error) { return token, nil }, Compress: len(topics) > 1}
	for _, name := range topics {
		topic, err := event.ParseTopic(name)
		if err != nil {
			t.Fatal(err)
		}
		hc.Topics = append(hc.Topics, topic)
	}
	up, err := mirror.NewHTTP(hc)
	if err != nil {
		t.Fatal(err)
	}
	cfg := cache.Config{Role: cache.Server, Mirror: &cache.Mirrored{Topics: hc.Topics}}
	if _, err := os.Stat(n.path); err != nil {
		d, err := up.Describe(t.Context(), mirror.Position{})
		if err != nil {
			t.Fatal(err)
		}
		cfg.Log, cfg.Mirror = d.Log, &cache.Mirrored{Parent: d.Parent, ParentHead: d.ParentHead, Topics: hc.Topics}
	}
	return n.start(t, cfg, up)
}

func (n *node) start(t *testing.T, cfg cache.Config, up *mirror.HTTP) *node {
	t.Helper()
	if err := writeFile(n.path, cfg); err != nil {
		t.Fatal(err)
	}
	db, err := cache.Open(context.Background(), n.path, cfg)
	if err != nil {
		t.Fatal(err)
	}
	n.db, n.mirror = db, nil
	sc := server.Config{Retry: time.Millisecond, Guard: n.guard}
	ctx, cancel := context.WithCancel(context.Background())
	var running sync.WaitGroup
	if up != nil {
		n.mirror = mirror.New(db, mirror.Config{Upstream: up, Name: up.String(), OnTrouble: logTrouble(t), RetryMin: time.Millisecond, RetryMax: 20 * time.Millisecond, ApplyWait: 2 * time.Second, Refresh: 20 * time.Millisecond})
		sc.Mirror = n.mirror
	}
	n.srv = server.New(db, sc)
	if n.mirror != nil {
		running.Go(func() { n.mirror.Run(ctx) })
	}
	n.back()
	n.stop = sync.OnceFunc(func() {
		n.handler.Store(nil)
		n.srv.Stop()
		n.front.CloseClientConnections()
		cancel()
		running.Wait()
		if up != nil {
			up.Close()
		}
		if err := db.Close(); err != nil {
			t.Error(err)
		}
	})
	return n
}

// logTrouble logs each cause once in a row.
func logTrouble(t *testing.T) func(error, time.Duration) {
	last := ""
	return func(err error, _ time.Duration) {
		if text := fmt.Sprint(err); text != last {
			last = text
			t.Log("trouble: ", text)
		}
	}
}

// leave makes the node answer nothing, until back.
func (n *node) leave() {
	n.handler.Store(nil)
	n.front.CloseClientConnections()
}

func (n *node) back() {
	var h http.Handler = n.srv
	n.handler.Store(&h)
}

// until waits until a condition holds. The server says when its state may have changed.
func until(t *testing.T, what string, is func() bool) {
	t.Helper()

	deadline := time.NewTimer(20 * time.Second)
	defer deadline.Stop()
	tick := time.NewTicker(time.Millisecond)
	defer tick.Stop()
	for !is() {
		select {
		case <-tick.C:
		case <-deadline.C:
			t.Fatalf("%s: did not happen", what)
		}
	}
}

func (n *node) awaitReady(t *testing.T) {
	t.Helper()
	until(t, "ready", func() bool { return n.mirror.Ready() == nil })
}

// awaitHead waits until the node has the events of another one.
func (n *node) awaitHead(t *testing.T, of *node) {
	t.Helper()
	until(t, "the same head", func() bool { return n.db.HeadPoint() == of.db.HeadPoint() })
}

// ask makes a request; headers alternate in names and values.
func (n *node) ask(t *testing.T, method, path, body string, headers ...string) (*http.Response, string) {
	t.Helper()
	req, err := http.NewRequestWithContext(t.Context(), method, n.url+path, strings.NewReader(body))
	if err != nil {
		t.Fatal(err)
	}
	for i := 0; i < len(headers); i += 2 {
		req.Header.Set(headers[i], headers[i+1])
	}
	resp, err := http.DefaultClient.Do(req)
	if err != nil {
		t.Fatal(err)
	}
	defer resp.Body.Close()
	b, err := io.ReadAll(resp.Body)
	if err != nil {
		t.Fatal(err)
	}
	return resp, string(b)
}

// want makes a GET and checks the status and a part of the body.
func (n *node) want(t *testing.T, path string, status int, part string, headers ...string) *http.Response {
	t.Helper()
	resp, body := n.ask(t, http.MethodGet, path, "", headers...)
	if resp.StatusCode != status || !strings.Contains(body, part) {
		t.Errorf("GET %s: %s %s, want %d with %q", path, resp.Status, body, status, part)
	}
	return resp
}

// put appends n events through a node, in one batch, and returns the response.
func (n *node) put(t *testing.T, key string, count int, headers ...string) (*http.Response, string) {
	t.Helper()
	var b bytes.Buffer
	for i := range count {
		fmt.Fprintf(&b, "{\"user\":\"u%d\",\"path\":\"p/%d\",\"key\":\"%s-%d\",\"value\":{\"n\":%d}}\n", i%3, i%11, key, i, i)
	}
	return n.ask(t, http.MethodPost, "/set", b.String(), append([]string{"Content-Type", wire.NDJSON}, headers...)...)
}

func (n *node) mustPut(t *testing.T, key string, count int, headers ...string) {
	t.Helper()
	if resp, body := n.put(t, key, count, headers...); resp.StatusCode != http.StatusOK {
		t.Fatalf("put %s: %s %s", key, resp.Status, body)
	}
}

// questions are what a server and its mirror answer alike.
var questions = []string{
	"/events?topic=*&limit=10000", "/events?topic=u1/p/3&since=0000000000004", "/events?topic=*&last=7", "/get?id=u2/p/5",
	"/windows?topic=*&since=0", "/windows?topic=u1&since=0&sum=1", "/windows?topic=*/p/2&at=now", "/snapshot?topic=*", "/snapshot?topic=u0&at=0000000000010",
	"/storages?topic=u1", "/bloom?topic=u1",
}

// sameAnswers checks that two nodes answer alike, the heads in their headers included.
func sameAnswers(t *testing.T, a, b *node) {
	t.Helper()
	for _, q := range questions {
		for _, accept := range []string{wire.JSON, wire.NDJSON} {
			ra, ba := a.ask(t, http.MethodGet, q, "", "Accept", accept)
			rb, bb := b.ask(t, http.MethodGet, q, "", "Accept", accept)
			if strings.HasPrefix(q, "/bloom") { // it has a random salt
				ba, bb = "", ""
			}
			if ra.StatusCode != rb.StatusCode || ba != bb {
				t.Errorf("GET %s as %s: the mirror answers %s\n%.500s\nwant %s\n%.500s", q, accept, rb.Status, bb, ra.Status, ba)
			}
			for _, name := range []string{wire.HeaderLog, wire.HeaderHead, wire.HeaderFrom, wire.HeaderTo, wire.HeaderNext, "ETag"} {
				if ra.Header.Get(name) != rb.Header.Get(name) {
					t.Errorf("GET %s as %s: %s is %s, want %s", q, accept, name, rb.Header.Get(name), ra.Header.Get(name))
				}
			}
		}
	}
}

// A mirror, and one of that one, answer as their server does, and pass appends on to it: who
// appends through the last one can read there what was appended.
func TestMirror(t *testing.T) {
	origin := newNode(t).serve(t)
	origin.mustPut(t, "a", 50)
	near := newNode(t).follow(t, origin, "")
	near.awaitReady(t)
	far := newNode(t).follow(t, near, "")
	far.awaitReady(t)
	for i := range 20 {
		resp, body := far.ask(t, http.MethodPost, "/set/u1/p/3", fmt.Sprintf(`{"key":"k%d","value":%d}`, i, i))
		if resp.StatusCode != http.StatusCreated || resp.Header.Get(wire.HeaderBehind) != "" {
			t.Fatalf("append: %s %s, behind %q", resp.Status, body, resp.Header.Get(wire.HeaderBehind))
		}
		ev, err := event.ParseLine([]byte(strings.TrimSpace(body)))
		if err != nil {
			t.Fatal(err)
		}
		if _, got := far.ask(t, http.MethodGet, "/get?id=u1/p/3&last=1", ""); !strings.Contains(got, ev.ID.String()) {
			t.Fatalf("the append of %s is not there: %s", ev.ID, got)
		}
	}
	if resp, body := far.ask(t, http.MethodPost, "/set/u1/p/3", `{"key":"k7","value":7}`); resp.StatusCode != http.StatusOK || !strings.Contains(body, `"key":"k7"`) {
		t.Errorf("the same append again: %s %s", resp.Status, body)
	}
	if resp, body := far.ask(t, http.MethodPost, "/set", `{"user":"x/y","path":"p","value":1}`); resp.StatusCode != http.StatusBadRequest {
		t.Errorf("a bad append: %s %s", resp.Status, body)
	}
	far.awaitHead(t, origin)
	sameAnswers(t, origin, near)
	sameAnswers(t, origin, far)
	far.want(t, "/readyz", http.StatusOK, "ready")
	far.want(t, "/origin?id=0000000000001", http.StatusMisdirectedRequest, near.url)
	far.want(t, "/sources", http.StatusMisdirectedRequest, "a mirror does not have /sources")
	far.want(t, "/metrics", http.StatusOK, "\nrstream_mirror_behind_events 0\n")
	far.want(t, "/metrics", http.StatusOK, fmt.Sprintf("\nrstream_mirror_events_total %d\n", origin.db.Head()))
	far.want(t, "/metrics", http.StatusOK, "\nrstream_mirror_appends_total 21\n")
}

// However many readers a mirror has, its server has one stream. Each reader gets each event.
func TestOneStream(t *testing.T) {
	origin := newNode(t).serve(t)
	origin.mustPut(t, "a", 5)
	near := newNode(t).follow(t, origin, "")
	near.awaitReady(t)
	const readers = 10
	var reading sync.WaitGroup
	for range readers {
		lines := stream(t, near, "/events?topic=*", "")
		reading.Go(func() {
			for want := event.ID(1); want <= 15; want++ {
				if ev := lines.next(t); ev.ID != want {
					t.Errorf("event %s, want %s", ev.ID, want)
					return
				}
			}
		})
	}
	origin.mustPut(t, "b", 10)
	reading.Wait()
	if n := origin.streams.Load(); n != 1 {
		t.Errorf("the server has had %d streams", n)
	}
}

// An eventStream is an open stream of events.
type eventStream struct {
	lines *bufio.Scanner
	close func()
	last  string // the id
}

// stream opens a stream.
func stream(t *testing.T, n *node, path, after string) *eventStream {
	t.Helper()
	ctx, cancel := context.WithCancel(t.Context())
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, n.url+path, nil)
	if err != nil {
		t.Fatal(err)
	}
	req.Header.Set("Accept", wire.SSE)
	if after != "" {
		req.Header.Set(wire.HeaderLastEventID, after)
	}
	resp, err := http.DefaultClient.Do(req)
	if err != nil || resp.StatusCode != http.StatusOK {
		t.Fatalf("stream %s: %v %v", path, resp, err)
	}
	t.Cleanup(func() { cancel(); resp.Body.Close() })
	return &eventStream{lines: bufio.NewScanner(resp.Body), close: cancel}
}

// next returns the next event.
func (s *eventStream) next(t *testing.T) (ev event.Event) {
	id := ""
	for s.lines.Scan() {
		line := s.lines.Text()
		if rest, ok := strings.CutPrefix(line, "id: "); ok {
			id = rest
		}
		if rest, ok := strings.CutPrefix(line, "data: "); ok && strings.Contains(rest, `"hash"`) {
			ev, err := event.ParseLine([]byte(rest))
			if err != nil {
				t.Error(err)
			}
			s.last = id
			return ev
		}
	}
	t.Errorf("the stream has ended: %v", s.lines.Err())
	return ev
}

// While the server is away, reads go on and appends say why they cannot. Then the mirror goes
// on where it was.
func TestUpstreamAway(t *testing.T) {
	origin := newNode(t).serve(t)
	origin.mustPut(t, "a", 30)
	near := newNode(t).follow(t, origin, "")
	near.awaitReady(t)
	head := origin.db.HeadPoint().Cursor(origin.db.Log()).String()
	origin.leave()
	until(t, "away", func() bool { return near.mirror.Report().Trouble != "" })
	near.want(t, "/events?topic=*&last=1", http.StatusOK, `"key":"a-29"`)
	near.want(t, "/readyz", http.StatusOK, "ready")
	near.want(t, "/metrics", http.StatusOK, "\nrstream_mirror_connected 0\n")
	near.want(t, "/events?topic=*&since="+head, http.StatusOK, `"live":true`)
	ahead := "0000000000020" + head[event.IDLen:len(head)-event.MarkLen-1]
	near.want(t, "/events?topic=*", http.StatusServiceUnavailable, "has not reached 0000000000020", wire.HeaderLastEventID, ahead)
	if resp, body := near.put(t, "b", 1); resp.StatusCode != http.StatusServiceUnavailable || !strings.Contains(body, origin.url) || resp.Header.Get("Retry-After") == "" {
		t.Errorf("append: %s %s", resp.Status, body)
	}
	origin.back()
	until(t, "back", func() bool { return near.mirror.Report().Connected })
	near.mustPut(t, "b", 1)
	near.want(t, "/events?topic=*", http.StatusConflict, `"reason":"ahead"`, wire.HeaderLastEventID, ahead)
	near.awaitHead(t, origin)
	sameAnswers(t, origin, near)
}

// An upstream that was rolled back, restored or is another log is named. Reads go on, nothing
// is mixed, and when the right file is back, all goes on.
func TestWrongUpstream(t *testing.T) {
	origin := newNode(t).serve(t)
	origin.mustPut(t, "a", 20)
	old := filepath.Join(t.TempDir(), "old.db")
	backup := filepath.Join(t.TempDir(), "backup.db")
	origin.stop()
	copyFile(t, origin.path, old)
	origin.serve(t)
	if err := origin.db.BackupTo(t.Context(), backup); err != nil {
		t.Fatal(err)
	}
	origin.mustPut(t, "b", 20)
	near := newNode(t).follow(t, origin, "")
	near.awaitReady(t)
	right := origin.path
	_, want := near.ask(t, http.MethodGet, "/events?topic=*", "")
	for _, c := range []struct {
		name, path, reason, cause string
		more                      int // appends to the wrong log
	}{
		{"rolled back", old, wire.ReasonAhead, "was rolled back", 0},
		{"outgrown", old, wire.ReasonMark, "was rolled back", 30},
		{"restored", backup, wire.ReasonLog, "was restored", 0},
		{"foreign", filepath.Join(t.TempDir(), "foreign.db"), wire.ReasonLog, "serves the log", 3},
	} {
		origin.stop()
		origin.path = c.path
		origin.serve(t)
		if c.more > 0 {
			origin.mustPut(t, "wrong", c.more)
		}
		until(t, c.name, func() bool {
			err := near.mirror.Ready()
			return near.mirror.Report().Conflict == c.reason && err != nil && strings.Contains(err.Error(), c.cause)
		})
		near.want(t, "/readyz", http.StatusServiceUnavailable, c.cause)
		near.want(t, "/metrics", http.StatusOK, fmt.Sprintf("\nrstream_mirror_conflict{reason=%q} 1\n", c.reason))
		if resp, body := near.put(t, "lost", 1); resp.StatusCode != http.StatusServiceUnavailable || !strings.Contains(body, c.cause) || !strings.Contains(body, wire.NothingAppended) {
			t.Errorf("%s: append: %s %s", c.name, resp.Status, body)
		}
		if _, got := near.ask(t, http.MethodGet, "/events?topic=*", ""); got != want {
			t.Errorf("%s: the mirror has\n%s\nwant\n%s", c.name, got, want)
		}
	}
	origin.stop()
	origin.path = right
	origin.serve(t)
	until(t, "the right log", func() bool { return near.mirror.Ready() == nil })
	near.mustPut(t, "c", 5)
	near.awaitHead(t, origin)
	sameAnswers(t, origin, near)
}

// Mirrors that follow each other in a circle say so, pass no append round, and go on once one
// of them follows the server again.
func TestLoop(t *testing.T) {
	origin := newNode(t).serve(t)
	origin.mustPut(t, "a", 3)
	near := newNode(t).follow(t, origin, "")
	near.awaitReady(t)
	far := newNode(t).follow(t, near, "")
	far.awaitReady(t)
	resp, _ := far.ask(t, http.MethodGet, "/", "")
	via := resp.Header.Get(wire.HeaderVia)
	if resp, body := far.put(t, "b", 1, wire.HeaderVia, "OTHER, "+via); resp.StatusCode != http.StatusServiceUnavailable || !strings.Contains(body, wire.NothingAppended) {
		t.Errorf("append that comes back: %s %s", resp.Status, body)
	}
	if resp, body := far.put(t, "b", 1, wire.HeaderVia, "OTHER"+strings.Repeat(", OTHER", 15)); resp.StatusCode != http.StatusServiceUnavailable {
		t.Errorf("append by 16 mirrors: %s %s", resp.Status, body)
	}
	near.stop()
	near.follow(t, far, "")
	var found, other *node
	until(t, "the loop", func() bool {
		for i, n := range []*node{near, far} {
			if n.mirror.Report().Conflict == wire.ReasonLoop {
				found, other = n, []*node{far, near}[i]
			}
		}
		return found != nil
	})
	found.want(t, "/readyz", http.StatusServiceUnavailable, "mirrors this mirror")
	for _, n := range []*node{found, other} {
		if resp, body := n.put(t, "b", 1); resp.StatusCode != http.StatusServiceUnavailable || !strings.Contains(body, "mirrors this mirror") {
			t.Errorf("append: %s %s", resp.Status, body)
		}
	}
	near.stop()
	near.follow(t, origin, "")
	near.awaitReady(t)
	far.awaitReady(t)
	far.mustPut(t, "c", 3)
	sameAnswers(t, origin, far)
}

func copyFile(t *testing.T, from, to string) {
	t.Helper()
	b, err := os.ReadFile(from)
	if err == nil {
		err = os.WriteFile(to, b, 0o600)
	}
	if err != nil {
		t.Fatal(err)
	}
}

// A mirror that was stopped asks only for what it lacks.
func TestRestart(t *testing.T) {
	origin := newNode(t).serve(t)
	origin.mustPut(t, "a", 3000)
	near := newNode(t).follow(t, origin, "")
	near.awaitReady(t)
	all := origin.sent.Load()
	near.stop()
	origin.mustPut(t, "b", 3)
	origin.sent.Store(0)
	near.follow(t, origin, "")
	near.awaitReady(t)
	near.awaitHead(t, origin)
	if sent := origin.sent.Load(); sent > 4000 || all < 5e5 {
		t.Errorf("%d bytes at first, and %d after the restart", all, sent)
	}
	t.Logf("%d bytes at first, %d after the restart", all, origin.sent.Load())
	sameAnswers(t, origin, near)
}

// A connection that breaks anywhere costs nothing but another one.
func TestTornHistory(t *testing.T) {
	origin := newNode(t).serve(t)
	for i := range 4 {
		origin.mustPut(t, fmt.Sprint("a", i), 400)
	}
	origin.cut.Store(40_000)
	near := newNode(t).follow(t, origin, "")
	until(t, "all but the rest", func() bool { return near.db.Head() > 1500 })
	origin.cut.Store(0)
	near.awaitReady(t)
	near.awaitHead(t, origin)
	sameAnswers(t, origin, near)
}

// A mirror begins at the horizon of its server, follows it, and begins again there when it was
// away for too long. Readers of what is gone learn so.
func TestHorizon(t *testing.T) {
	origin := newNode(t).serve(t)
	origin.mustPut(t, "a", 2*event.BlockSize+300)
	drop := func(n *node, at event.ID) {
		if err := n.db.RetainOnce(t.Context(), cache.Retention{Horizon: func() event.ID { return at }}); err != nil {
			t.Fatal(err)
		}
	}
	drop(origin, event.BlockSize)
	near := newNode(t).follow(t, origin, "")
	near.awaitReady(t)
	near.awaitHead(t, origin)
	sameAnswers(t, origin, near)
	drop(origin, 2*event.BlockSize)
	until(t, "the horizon", func() bool { return near.mirror.Horizon() == 2*event.BlockSize })
	drop(near, near.mirror.Horizon())
	sameAnswers(t, origin, near)
	at := near.db.HeadPoint().Cursor(near.db.Log()).String()
	near.stop()
	origin.mustPut(t, "b", event.BlockSize)
	drop(origin, 3*event.BlockSize)
	near.follow(t, origin, "")
	near.awaitReady(t)
	near.awaitHead(t, origin)
	sameAnswers(t, origin, near)
	near.want(t, "/events?topic=*", http.StatusGone, `"oldest"`, wire.HeaderLastEventID, at)
}

// A mirror checks tokens itself, and lends its own to nobody: neither to those who read, nor to
// those who append.
func TestRights(t *testing.T) {
	key, err := auth.NewKey(auth.EdDSA)
	if err != nil {
		t.Fatal(err)
	}
	b, err := auth.MarshalKeys([]auth.Key{key})
	if err != nil {
		t.Fatal(err)
	}
	keys := filepath.Join(t.TempDir(), "keys.json")
	if err := os.WriteFile(keys, b, 0o600); err != nil {
		t.Fatal(err)
	}
	guard := func() *auth.Guard {
		g, err := auth.NewGuard(t.Context(), auth.Config{Keys: keys})
		if err != nil {
			t.Fatal(err)
		}
		return g
	}
	token := func(read, write string) string {
		var r auth.Rights
		add := func(to *[]event.Topic, text string) {
			if text == "" {
				return
			}
			topic, err := event.ParseTopic(text)
			if err != nil {
				t.Fatal(err)
			}
			*to = append(*to, topic)
		}
		add(&r.Read, read)
		add(&r.Write, write)
		text, err := key.Sign(auth.NewClaims("tester", r, time.Now(), time.Hour))
		if err != nil {
			t.Fatal(err)
		}
		return text
	}
	origin := newNode(t)
	origin.guard = guard()
	origin.serve(t)
	origin.mustPut(t, "a", 9, "Authorization", "Bearer "+token("*", "*"))
	own := token("*", "*") // of the mirror: it could do everything
	near := newNode(t)
	near.guard = guard()
	near.follow(t, origin, own)
	near.awaitReady(t)
	for _, path := range append([]string{"/", "/origin?id=0000000000001", "/api/connections"}, questions...) {
		resp, body := near.ask(t, http.MethodGet, path, "")
		if resp.StatusCode != http.StatusUnauthorized || resp.Header.Get(wire.HeaderHead) != "" {
			t.Errorf("GET %s without a token: %s %s", path, resp.Status, body)
		}
	}
	if resp, body := near.put(t, "b", 1); resp.StatusCode != http.StatusUnauthorized {
		t.Errorf("append without a token: %s %s", resp.Status, body)
	}
	reader := "Bearer " + token("u1", "")
	near.want(t, "/events?topic=u1", http.StatusOK, `"key":"a-1"`, "Authorization", reader)
	near.want(t, "/events?topic=*", http.StatusForbidden, "does not allow to read *", "Authorization", reader)
	if resp, body := near.put(t, "b", 1, "Authorization", reader); resp.StatusCode != http.StatusForbidden {
		t.Errorf("append by a reader: %s %s", resp.Status, body)
	}
	near.mustPut(t, "b", 2, "Authorization", "Bearer "+token("", "*"))

	// A mirror whose keys accept more than those of its server: the server decides.
	loose := newNode(t).follow(t, origin, own)
	loose.awaitReady(t)
	before := origin.db.Head()
	for _, header := range []string{"", reader} {
		resp, body := loose.put(t, "c", 1, "Authorization", header)
		if want := map[bool]int{true: http.StatusUnauthorized, false: http.StatusForbidden}[header == ""]; resp.StatusCode != want || resp.Header.Get("WWW-Authenticate") == "" {
			t.Errorf("append with %.10q: %s %s", header, resp.Status, body)
		}
	}
	if head := origin.db.Head(); head != before {
		t.Errorf("the log has grown from %s to %s", before, head)
	}
}

// A reader that comes from the server, and is a moment ahead of the mirror, waits for it.
func TestReaderAhead(t *testing.T) {
	origin := newNode(t).serve(t)
	origin.mustPut(t, "a", 10)
	slow := &slowUpstream{gate: make(chan struct{})}
	near := newNode(t)
	up, err := mirror.NewHTTP(mirror.HTTPConfig{URL: origin.url})
	if err != nil {
		t.Fatal(err)
	}
	slow.HTTP = up
	near.startWith(t, slow, origin.db.Log())
	slow.open(near, origin)
	near.awaitReady(t)
	origin.mustPut(t, "b", 5)
	at := origin.db.HeadPoint().Cursor(origin.db.Log()).String()
	answered := make(chan *http.Response, 1)
	go func() {
		resp, body := near.ask(t, http.MethodGet, "/events?topic=*", "", wire.HeaderHeld, at)
		if strings.Count(body, `"hash"`) != 15 {
			t.Errorf("the reader gets %s", body)
		}
		answered <- resp
	}()
	until(t, "the question", func() bool { return near.mirror.Report().Head == origin.db.Head() })
	if near.db.Head() != 10 {
		t.Fatalf("the mirror is at %s", near.db.Head())
	}
	slow.open(near, origin)
	if resp := <-answered; resp.StatusCode != http.StatusOK || resp.Header.Get(wire.HeaderHead) != at {
		t.Errorf("%s, head %s, want %s", resp.Status, resp.Header.Get(wire.HeaderHead), at)
	}
	wrong := strings.TrimSuffix(at, at[len(at)-event.MarkLen:]) + "000000"
	near.want(t, "/events?topic=*", http.StatusConflict, `"reason":"mark"`, wire.HeaderHeld, wrong)

	// An append whose events do not come in time is answered without them.
	resp, body := near.put(t, "c", 3)
	if resp.StatusCode != http.StatusOK || resp.Header.Get(wire.HeaderBehind) != "3" {
		t.Errorf("append: %s %s, behind %q", resp.Status, body, resp.Header.Get(wire.HeaderBehind))
	}
	slow.open(near, origin)
}

func TestNewHTTP(t *testing.T) {
	for _, url := range []string{"", "log.example.com", "ftp://log.example.com", "http://", "http://log.example.com?topic=*", "http://bob:Hunter2@log.example.com/#x"} {
		if _, err := mirror.NewHTTP(mirror.HTTPConfig{URL: url}); err == nil || strings.Contains(err.Error(), "Hunter2") {
			t.Errorf("%q: %v", url, err)
		}
	}
	u, err := mirror.NewHTTP(mirror.HTTPConfig{URL: "http://bob:Hunter2@127.0.0.1:1/base/"})
	if err != nil || u.String() != "http://127.0.0.1:1/base" {
		t.Errorf("%v, %v", u, err)
	}
	_, err = u.Describe(t.Context(), mirror.Position{})
	var away *mirror.UnreachableError
	if !errors.As(err, &away) || !away.Unsent || strings.Contains(err.Error(), "Hunter2") {
		t.Errorf("%v", err)
	}
}
