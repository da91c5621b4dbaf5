package sse

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"math"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"testing/iotest"
	"testing/synctest"
	"time"

	"github.com/r3labs/sse/v2"
)

// sessionOver opens a session whose server answers with src.
func sessionOver(src io.Reader, cfg Config) *Session {
	body, ok := src.(io.ReadCloser)
	if !ok {
		body = io.NopCloser(src)
	}
	cfg.URL = "http://a/"
	cfg.HTTP = &http.Client{Transport: roundTrip(func(req *http.Request) (*http.Response, error) {
		return streamOf(req, body), nil
	})}
	s, err := Open(context.Background(), cfg)
	if err != nil {
		panic(err) // an answer that is a stream is accepted
	}
	return s
}

type roundTrip func(*http.Request) (*http.Response, error)

func (fn roundTrip) RoundTrip(req *http.Request) (*http.Response, error) { return fn(req) }

func streamOf(req *http.Request, body io.ReadCloser) *http.Response {
	header := http.Header{"Content-Type": {"text/event-stream"}}
	return &http.Response{StatusCode: http.StatusOK, Status: "200 OK", Header: header, Body: body, Request: req}
}

// readSession reads src to its end.
func readSession(src io.Reader, limit int) specResult {
	s := sessionOver(src, Config{MaxEvent: limit})
	defer func() { _ = s.Close() }()
	var res specResult
	for {
		f, err := s.Next()
		if err != nil {
			res.err = err
			res.retry, res.retried = s.Retry()
			return res
		}
		res.frames = append(res.frames, specFrame{f.Cursor, f.Type, string(f.Data), f.Data != nil})
		res.own = append(res.own, f.OwnID)
	}
}

type streamFile struct {
	name string
	body []byte
	want specResult
}

// streamFiles are the bodies in testdata/stream. Next to each is a file with its expected
// frames as JSON lines: a line for each frame, with null data if it only moves the
// cursor, and finally the delay, if the stream asks for one.
func streamFiles(t testing.TB) []streamFile {
	paths, err := filepath.Glob("../../testdata/stream/*.sse")
	if err != nil || len(paths) == 0 {
		t.Fatalf("no stream files: %v", err)
	}
	var files []streamFile
	for _, path := range paths {
		body, err := os.ReadFile(path)
		if err != nil {
			t.Fatal(err)
		}
		base := strings.TrimSuffix(path, ".sse")
		files = append(files, streamFile{filepath.Base(base), body, readWant(t, base+".want")})
	}
	return files
}

func readWant(t testing.TB, path string) specResult {
	text, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	want := specResult{err: io.EOF}
	for line := range bytes.Lines(text) {
		var rec struct {
			Cursor, Type string
			Data         *string
			Retry        *int64 `json:"retry_ms"`
		}
		dec := json.NewDecoder(bytes.NewReader(line))
		dec.DisallowUnknownFields()
		if err := dec.Decode(&rec); err != nil {
			t.Fatalf("read %s: %v", path, err)
		}
		if rec.Retry != nil {
			want.retry, want.retried = time.Duration(*rec.Retry)*time.Millisecond, true
			continue
		}
		f := specFrame{cursor: rec.Cursor, kind: rec.Type}
		if rec.Data != nil {
			f.data, f.event = *rec.Data, true
		}
		want.frames = append(want.frames, f)
	}
	return want
}

func TestStreamFiles(t *testing.T) {
	for _, file := range streamFiles(t) {
		t.Run(file.name, func(t *testing.T) {
			check := func(how string, got specResult) {
				if diff := file.want.diff(got); diff != "" {
					t.Errorf("%s: %s", how, diff)
				}
			}
			check("by the oracle", specParse(string(file.body), 1<<20))
			check("in one piece", readSession(bytes.NewReader(file.body), 1<<20))
			check("byte by byte", readSession(iotest.OneByteReader(bytes.NewReader(file.body)), 1<<20))
			check("end with the last byte", readSession(iotest.DataErrReader(bytes.NewReader(file.body)), 1<<20))
			for i := range file.body {
				check(fmt.Sprintf("split at %d", i), readSession(splitAt(file.body, i), 1<<20))
			}
		})
	}
}

// A large event crosses every buffer on the way, and small ones follow it.
func TestSessionLargeEvent(t *testing.T) {
	for _, size := range []int{rawSize - 7, rawSize, 64 << 10, 1 << 20} {
		large := strings.Repeat("x", size)
		body := "id: 1\ndata: " + large + "\n\nid: 2\r\ndata: a\r\ndata: " + large + "\r\n\r\nid: 3\ndata: b\n\n"
		want := specParse(body, 2<<20)
		for _, i := range []int{0, size / 2, size + 12, size + 13, size + 14} {
			if diff := want.diff(readSession(splitAt([]byte(body), i), 2<<20)); diff != "" {
				t.Errorf("%d bytes split at %d: the frames differ", size, i)
			}
		}
	}
}

// The bytes that the normalizer adds to a block must not exceed the parser's own limit.
func TestSessionNormalizedGrowth(t *testing.T) {
	limit := 1000
	body := "id:" + strings.Repeat("i", limit-4) + "\n\n" + strings.Repeat("data\n", limit/5) + "\n"
	want := specResult{err: io.EOF, frames: []specFrame{
		{cursor: strings.Repeat("i", limit-4)},
		{strings.Repeat("i", limit-4), "", strings.Repeat("\n", limit/5-1), true},
	}}
	if diff := want.diff(readSession(strings.NewReader(body), limit)); diff != "" {
		t.Error(diff)
	}
}

// The reader owns the data of a frame: it may keep it and append to it.
func TestSessionDataIsKept(t *testing.T) {
	s := sessionOver(strings.NewReader("data: a\ndata: b\n\ndata: c\n\n"), Config{})
	defer func() { _ = s.Close() }()
	first, err := s.Next()
	if err != nil {
		t.Fatal(err)
	}
	_ = append(first.Data, "xyz"...)
	if f, err := s.Next(); err != nil || string(f.Data) != "c" || string(first.Data) != "a\nb" {
		t.Errorf("frames = %q, %q, %v", first.Data, f.Data, err)
	}
}

func TestSessionEnds(t *testing.T) {
	reset := errors.New("connection reset by peer")
	for _, end := range []error{io.EOF, io.ErrUnexpectedEOF, reset} {
		for _, tail := range []string{"", "id: 2\ndata: b", "id: 2\ndata: b\n", "id: 2\r\ndata: b\r\n", "id: 2"} {
			src := io.MultiReader(strings.NewReader("id: 1\ndata: a\n\n"+tail), iotest.ErrReader(end))
			s := sessionOver(src, Config{})
			if f, err := s.Next(); err != nil || f.Cursor != "1" || string(f.Data) != "a" {
				t.Errorf("next = %+v, %v, want the event before the end", f, err)
			}
			for range 2 {
				if f, err := s.Next(); err != end || f.Cursor != "" || f.Data != nil {
					t.Errorf("next after %q = %+v, %v, want %v", tail, f, err, end)
				}
			}
		}
	}
}

// Each event must be out before another byte arrives. Were one to wait, the
// stream would look silent, since time passes only when all wait.
func TestSessionGivesEventsAtOnce(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		pr, pw := io.Pipe()
		s := sessionOver(pr, Config{})
		for _, block := range []string{
			"data\n\n", "data: a\r\r", "data: b\r\n\r", "\ndata: c\n\n", "id: 1\n\n", ": c\n\ndata\n\n",
			"data: " + strings.Repeat("x", 100_000) + "\n\n", "data: d\n\n",
		} {
			go func() { _, _ = io.WriteString(pw, block) }()
			if _, err := s.Next(); err != nil {
				t.Fatalf("next after %.20q: %v", block, err)
			}
		}
		if err := s.Close(); err != nil {
			t.Errorf("close: %v", err)
		}
	})
}

func TestSessionIdle(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		pr, pw := io.Pipe()
		s := sessionOver(pr, Config{Idle: 10 * time.Second})
		start := time.Now()
		go func() {
			_, _ = io.WriteString(pw, "data: a\n\ndata: b\n")
			for range 5 {
				time.Sleep(9 * time.Second)
				_, _ = io.WriteString(pw, ":")
			}
		}()
		if f, err := s.Next(); err != nil || string(f.Data) != "a" {
			t.Fatalf("next = %q, %v, want the event", f.Data, err)
		}
		for range 2 {
			if _, err := s.Next(); err != ErrIdle {
				t.Errorf("next = %v, want %v", err, ErrIdle)
			}
		}
		if got, want := time.Since(start), 55*time.Second; got != want {
			t.Errorf("idle after %v, want %v", got, want)
		}
		if _, err := pw.Write([]byte("x")); err != io.ErrClosedPipe {
			t.Errorf("write = %v, want the body closed", err)
		}
		if err := s.Close(); err != nil {
			t.Errorf("close: %v", err)
		}
	})
}

func TestSessionIdleDefault(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		pr, _ := io.Pipe()
		s := sessionOver(pr, Config{})
		start := time.Now()
		if _, err := s.Next(); err != ErrIdle || time.Since(start) != 45*time.Second {
			t.Errorf("next = %v after %v, want %v after 45s", err, time.Since(start), ErrIdle)
		}
	})
}

// A handler that takes an hour for one event has not lost its connection.
func TestSessionSlowReader(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		pr, pw := io.Pipe()
		s := sessionOver(pr, Config{Idle: 10 * time.Second})
		go func() {
			for range 3 {
				_, _ = io.WriteString(pw, "data: a\n\n")
			}
			_ = pw.Close()
		}()
		for range 3 {
			if _, err := s.Next(); err != nil {
				t.Fatalf("next: %v", err)
			}
			time.Sleep(time.Hour)
		}
		if _, err := s.Next(); err != io.EOF {
			t.Errorf("next = %v, want %v", err, io.EOF)
		}
	})
}

// The bubble ends only when each goroutine has, and the timer runs on an idle
// that ends at the very moment of the close.
func TestSessionClose(t *testing.T) {
	for _, after := range []time.Duration{0, time.Second, 10 * time.Second} {
		synctest.Test(t, func(t *testing.T) {
			pr, _ := io.Pipe()
			s := sessionOver(pr, Config{Idle: 10 * time.Second})
			ended := make(chan error)
			go func() {
				_, err := s.Next()
				ended <- err
			}()
			synctest.Wait()
			time.Sleep(after)
			go func() { _ = s.Close() }()
			if err := s.Close(); err != nil {
				t.Errorf("close: %v", err)
			}
			err := <-ended
			if err != ErrClosed && (err != ErrIdle || after < 10*time.Second) {
				t.Errorf("next closed after %v = %v", after, err)
			}
			if _, again := s.Next(); again != err {
				t.Errorf("next once more = %v, want %v", again, err)
			}
		})
	}
}

// Of the blocks that had arrived before the close, those that are returned are the first.
func TestSessionCloseDropsTheRest(t *testing.T) {
	var body strings.Builder
	const blocks = 100
	for i := range blocks {
		fmt.Fprintf(&body, "id: %d\n\n", i+1)
	}
	for after := range blocks {
		s := sessionOver(iotest.DataErrReader(strings.NewReader(body.String())), Config{})
		closed := make(chan error, 1)
		for got := 1; ; got++ {
			if got == after {
				go func() { closed <- s.Close() }()
			}
			f, err := s.Next()
			if err == nil && f.Cursor == fmt.Sprint(got) {
				continue
			}
			if err != ErrClosed && (err != io.EOF || got <= blocks) {
				t.Errorf("after %d blocks, and Close after %d: Next = %q, %v", got-1, after-1, f.Cursor, err)
			}
			break
		}
		if after == 0 {
			closeSession(t, s)
		} else if err := <-closed; err != nil {
			t.Errorf("Close: %v", err)
		}
	}
}

func TestSessionCloseFirst(t *testing.T) {
	want := errors.New("close failed")
	pr, _ := io.Pipe()
	body := &failingCloser{ReadCloser: pr, err: want}
	s := sessionOver(body, Config{})
	for range 2 {
		if err := s.Close(); err != want {
			t.Errorf("close = %v, want %v", err, want)
		}
	}
	if body.closed != 1 {
		t.Errorf("body closed %d times, want once", body.closed)
	}
	if _, err := s.Next(); err != ErrClosed {
		t.Errorf("next = %v, want %v", err, ErrClosed)
	}
}

type failingCloser struct {
	io.ReadCloser
	err    error
	closed int
}

func (c *failingCloser) Close() error {
	c.closed++
	_ = c.ReadCloser.Close()
	return c.err
}

// A timer that fires too late to be stopped must end neither the pause after
// its read nor the next read.
func TestIdleBodyStaleTimer(t *testing.T) {
	b := NewIdleBody(io.NopCloser(strings.NewReader("x")), time.Hour)
	if n, err := b.Read(make([]byte, 1)); n != 1 || err != nil {
		t.Fatalf("Read = %d, %v", n, err)
	}
	b.idle = 0
	if b.isOverdue() {
		t.Error("overdue between reads")
	}
	b.idle, b.since = time.Hour, time.Now()
	if b.isOverdue() {
		t.Error("overdue at the start of a read")
	}
}

func TestMaxNormalized(t *testing.T) {
	for _, tt := range []struct{ limit, want int }{
		{0, 64}, {1000, 3064}, {math.MaxInt / 2, math.MaxInt}, {math.MaxInt, math.MaxInt},
	} {
		if got := maxNormalized(tt.limit); got != tt.want {
			t.Errorf("maxNormalized(%d) = %d, want %d", tt.limit, got, tt.want)
		}
	}
}

// The server half of the library is a peer that we did not write.
func TestSessionReadsR3labsServer(t *testing.T) {
	hub := sse.New()
	hub.SplitData = true
	gone := make(chan struct{})
	hub.OnUnsubscribe = func(string, *sse.Subscriber) { close(gone) }
	hub.CreateStream("s")
	srv := httptest.NewServer(hub)
	defer srv.Close()

	const events = 100
	go func() {
		for i := range events {
			hub.Publish("s", &sse.Event{
				Event: []byte("PUT"), Data: fmt.Appendf(nil, "line\n%d", i),
				Comment: []byte("c"), Retry: []byte("1500"),
			})
		}
		hub.Publish("s", &sse.Event{Comment: []byte("heartbeat")})
	}()
	s, err := Open(t.Context(), Config{URL: srv.URL + "?stream=s", HTTP: srv.Client()})
	if err != nil {
		t.Fatal(err)
	}
	for i := range events {
		f, err := s.Next()
		want := specFrame{fmt.Sprint(i), "PUT", fmt.Sprintf("line\n%d", i), true}
		if got := (specFrame{f.Cursor, f.Type, string(f.Data), f.Data != nil}); err != nil || got != want {
			t.Fatalf("next = %v, %v, want %v", got, err, want)
		}
	}
	if d, ok := s.Retry(); d != 1500*time.Millisecond || !ok {
		t.Errorf("retry = %v, %v, want 1.5s", d, ok)
	}
	hub.Publish("s", &sse.Event{}) // which its server takes for the end
	if f, err := s.Next(); err != io.EOF {
		t.Errorf("next = %+v, %v, want %v", f, err, io.EOF)
	}
	if err := s.Close(); err != nil {
		t.Errorf("close: %v", err)
	}
	<-gone
	hub.Close()
}

// Over a real connection close must unblock next, and a cut must show.
func TestSessionOverHTTP(t *testing.T) {
	for _, tt := range []struct {
		name string
		end  func(s *Session, srv *httptest.Server)
		want error
	}{
		{"close", func(s *Session, _ *httptest.Server) { _ = s.Close() }, ErrClosed},
		{"cut", func(_ *Session, srv *httptest.Server) { srv.CloseClientConnections() }, io.ErrUnexpectedEOF},
	} {
		t.Run(tt.name, func(t *testing.T) {
			srv := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
				w.Header().Set("Content-Type", "text/event-stream")
				_, _ = io.WriteString(w, "id: 1\ndata: a\n\nid: 2\ndata: b\n")
				_ = http.NewResponseController(w).Flush()
				<-r.Context().Done()
			}))
			defer srv.Close()
			s, err := Open(t.Context(), Config{URL: srv.URL, HTTP: srv.Client()})
			if err != nil {
				t.Fatal(err)
			}
			defer func() { _ = s.Close() }()
			if f, err := s.Next(); err != nil || f.Cursor != "1" {
				t.Fatalf("next = %+v, %v", f, err)
			}
			go tt.end(s, srv)
			if f, err := s.Next(); !errors.Is(err, tt.want) {
				t.Errorf("next = %+v, %v, want %v", f, err, tt.want)
			}
		})
	}
}

func BenchmarkSessionNext(b *testing.B) {
	for _, size := range []int{100, 300, 3000, 100_000} {
		b.Run(fmt.Sprint(size), func(b *testing.B) {
			body := benchBody(100, size)
			s := sessionOver(&loopReader{body: body}, Config{})
			defer func() { _ = s.Close() }()
			b.SetBytes(int64(len(body) / 100))
			b.ReportAllocs()
			for b.Loop() {
				if _, err := s.Next(); err != nil {
					b.Fatal(err)
				}
			}
			b.ReportMetric(float64(b.N)/b.Elapsed().Seconds(), "events/s")
		})
	}
}
