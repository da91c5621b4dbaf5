package server

import (
	"bufio"
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"

	"github.com/rstream-dev/rstream/cache"
	"github.com/rstream-dev/rstream/event"
	"github.com/rstream-dev/rstream/internal/wire"
)

// A retainedLog is a log on disk that is served over TCP. It is much larger than the buffers of a
// connection whose reader stalls.
type retainedLog struct {
	*testing.T
	db   *cache.DB
	http *httptest.Server
	n    int // storages so far
}

const retainedBlocks = 1

// retainedFile returns a file with retainedBlocks, which is filled once.
var retainedFile = sync.OnceValues(func() ([]byte, error) {
	dir, err := os.MkdirTemp("", "server")
	if err != nil {
		return nil, err
	}
	defer os.RemoveAll(dir)
	path := filepath.Join(dir, "log.db")
	db, err := cache.Open(context.Background(), path, cache.Config{Role: cache.Server, Log: logName})
	if err != nil {
		return nil, err
	}
	_, err = db.Append(context.Background(), retainedDrafts(0, retainedBlocks*event.BlockSize))
	if err := errors.Join(err, db.Close()); err != nil { // which moves all into one file
		return nil, err
	}
	return os.ReadFile(path)
})

// retainedDrafts returns events of half a kilobyte, each of another storage, after the first n.
func retainedDrafts(n, count int) (ds []event.Draft) {
	value := []byte(`"` + strings.Repeat("x", 512) + `"`)
	for i := range count {
		ds = append(ds, event.Draft{User: "alice", Path: fmt.Sprint("p/", n+i+1), Type: event.Put, Key: "k", Value: value})
	}
	return ds
}

func newRetainedLog(t *testing.T) *retainedLog {
	path := filepath.Join(t.TempDir(), "log.db")
	file, err := retainedFile()
	if err == nil {
		err = os.WriteFile(path, file, 0o600)
	}
	if err != nil {
		t.Fatal(err)
	}
	db, err := cache.Open(t.Context(), path, cache.Config{Role: cache.Server, Log: logName})
	if err != nil {
		t.Fatal(err)
	}
	l := &retainedLog{T: t, db: db, n: retainedBlocks * event.BlockSize}
	srv := New(db, Config{})
	l.http = httptest.NewUnstartedServer(srv)
	l.http.Config.ErrorLog = quiet
	l.http.Config.ConnState = func(c net.Conn, s http.ConnState) {
		if tcp, ok := c.(*net.TCPConn); ok && s == http.StateNew {
			tcp.SetWriteBuffer(64 << 10) // or it would grow
		}
	}
	l.http.Start()
	t.Cleanup(func() {
		srv.Stop()
		l.http.Close()
		if err := db.Close(); err != nil {
			t.Error(err)
		}
	})
	return l
}

// fill appends blocks of events of half a kilobyte, each to another storage.
func (l *retainedLog) fill(blocks int) {
	l.Helper()
	for range blocks {
		if _, err := l.db.Append(l.Context(), retainedDrafts(l.n, event.BlockSize)); err != nil {
			l.Fatal(err)
		}
		l.n += event.BlockSize
	}
}

// retain drops all history that can be dropped and returns the horizon.
func (l *retainedLog) retain() event.ID {
	l.Helper()
	if err := l.db.RetainOnce(context.Background(), cache.Retention{MaxBytes: 1}); err != nil {
		l.Fatal(err)
	}
	horizon, err := l.db.Horizon(l.Context())
	if err != nil || horizon != l.db.Head()/event.BlockSize*event.BlockSize {
		l.Fatalf("the horizon is %s, %v", horizon, err)
	}
	return horizon
}

// get makes a request and reads only as much of the response as the caller reads.
func (l *retainedLog) get(path, accept, last string) *http.Response {
	l.Helper()
	transport := &http.Transport{
		DisableCompression: true,
		ReadBufferSize:     4096,
		DialContext: func(ctx context.Context, network, addr string) (net.Conn, error) {
			c, err := (&net.Dialer{}).DialContext(ctx, network, addr)
			if tcp, ok := c.(*net.TCPConn); ok {
				tcp.SetReadBuffer(64 << 10)
			}
			return c, err
		},
	}
	l.Cleanup(transport.CloseIdleConnections)
	r, err := http.NewRequestWithContext(l.Context(), http.MethodGet, l.http.URL+path, nil)
	if err != nil {
		l.Fatal(err)
	}
	r.Header.Set("Accept", accept)
	if last != "" {
		r.Header.Set("Last-Event-ID", last)
	}
	resp, err := (&http.Client{Transport: transport}).Do(r)
	if err != nil {
		l.Fatal(err)
	}
	l.Cleanup(func() { resp.Body.Close() })
	return resp
}

// wantGone checks that a response is 410 with the oldest position.
func wantGone(t *testing.T, resp *http.Response, oldest event.ID) {
	t.Helper()
	if resp.StatusCode != http.StatusGone {
		t.Fatalf("status %s", resp.Status)
	}
	if e := wire.ReadError(resp); e.Oldest == nil || *e.Oldest != oldest {
		t.Errorf("the answer is %+v, want the horizon %s", e, oldest)
	}
}

// A stalled reader whose history is dropped gets every event up to some point, in order, then the
// end of the stream between two blocks. When it reconnects, it gets the gap.
func TestRetainOvertakesStream(t *testing.T) {
	l := newRetainedLog(t)
	resp := l.get("/events?topic=*&since=beginning", wire.SSE, "")
	in := bufio.NewReader(resp.Body)
	if _, err := in.Peek(1 << 12); err != nil { // events have arrived
		t.Fatal(err)
	}
	horizon := l.retain()
	all, err := io.ReadAll(in)
	if err != nil || !bytes.HasSuffix(all, []byte("\n\n")) {
		t.Fatalf("the stream ends with %v, after %.80q", err, all[max(0, len(all)-80):])
	}
	var at event.ID
	cursor := ""
	for block := range strings.SplitSeq(string(all), "\n\n") {
		id, data, ok := strings.Cut(block, "\ndata: ")
		if !ok {
			continue
		}
		ev, err := event.ParseLine([]byte(data))
		if err != nil || ev.ID != at+1 {
			t.Fatalf("event %s, %v, after %s", ev.ID, err, at)
		}
		at = ev.ID
		cursor, _, _ = strings.Cut(strings.TrimPrefix(id, "id: "), "\n")
	}
	if at == event.Beginning || at >= horizon {
		t.Fatalf("the last event is %s, the horizon %s", at, horizon)
	}
	wantGone(t, l.get("/events?topic=*", wire.SSE, cursor), horizon)
}

// A response of lines cannot continue then: it is aborted, so that no client takes it for
// complete.
func TestRetainOvertakesLines(t *testing.T) {
	l := newRetainedLog(t)
	resp := l.get("/events?topic=*&since=beginning", wire.NDJSON, "")
	horizon := l.retain()
	at := wantCut(t, resp, func(ev, before *event.Event) bool {
		return before == nil && ev.ID == 1 || before != nil && ev.ID == before.ID+1
	})
	wantGone(t, l.get("/events?topic=*&since="+at.ID.String(), wire.NDJSON, ""), horizon)
}

// wantCut reads lines in order that must end with an error, and returns the last complete one.
func wantCut(t *testing.T, resp *http.Response, follows func(ev, before *event.Event) bool) *event.Event {
	t.Helper()
	var last *event.Event
	in := bufio.NewReader(resp.Body)
	for {
		line, err := in.ReadBytes('\n')
		switch {
		case errors.Is(err, io.EOF) || err == nil && len(line) == 0:
			t.Fatal("it ends as if it were whole")
		case err != nil && last == nil:
			t.Fatal(err)
		case err != nil:
			return last
		}
		ev, err := event.ParseLine(bytes.TrimSuffix(line, []byte("\n")))
		if err != nil || !follows(&ev, last) {
			t.Fatalf("%.100q, %v", line, err)
		}
		last = &ev
	}
}

// A state can be read until the horizon passes its position, whatever is dropped below. Then the
// response is aborted, and another request gets 410.
func TestRetainOvertakesSnapshot(t *testing.T) {
	l := newRetainedLog(t)
	inOrder := func(ev, before *event.Event) bool { return before == nil || ev.Path > before.Path }
	whole := l.get("/snapshot?topic=*", wire.NDJSON, "")
	if to, _ := wire.PositionIn(whole.Header, wire.HeaderTo); to != l.retain() {
		t.Fatalf("the state is that at %s", to)
	}
	b, err := io.ReadAll(whole.Body)
	if n := bytes.Count(b, []byte("\n")); err != nil || n != l.n {
		t.Fatalf("the state at the horizon has %d members, %v, want %d", n, err, l.n)
	}
	resp := l.get("/snapshot?topic=*", wire.NDJSON, "")
	at := resp.Header.Get(wire.HeaderTo)
	l.fill(1)
	horizon := l.retain()
	last := wantCut(t, resp, inOrder)
	wantGone(t, l.get("/snapshot?topic=*&at="+at+"&after="+last.Storage().String(), wire.NDJSON, ""), horizon)
}
