package doctor

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/url"
	"strings"
	"sync"
	"syscall"
	"testing"
	"testing/synctest"
	"time"
)

// pipes is a listener in memory.
type pipes struct {
	conns chan net.Conn
	done  chan struct{}
	once  sync.Once
}

func (p *pipes) Accept() (net.Conn, error) {
	select {
	case c := <-p.conns:
		return c, nil
	case <-p.done:
		return nil, net.ErrClosed
	}
}

func (p *pipes) Close() error {
	p.once.Do(func() { close(p.done) })
	return nil
}

func (p *pipes) Addr() net.Addr { return pipeAddr{} }

type pipeAddr struct{}

func (pipeAddr) Network() string { return "pipe" }
func (pipeAddr) String() string  { return "pipe" }

// Addresses that pipes do not connect.
const (
	silentAddress = "192.0.2.1:80" // never answers
	closedAddress = "192.0.2.2:80" // refuses
)

func (p *pipes) dial(ctx context.Context, _, address string) (net.Conn, error) {
	switch address {
	case silentAddress:
		<-ctx.Done()
		return nil, ctx.Err()
	case closedAddress:
		return nil, syscall.ECONNREFUSED
	}
	ours, theirs := net.Pipe()
	select {
	case p.conns <- theirs:
		return ours, nil
	case <-ctx.Done():
		return nil, ctx.Err()
	}
}

// examine examines a server in the time of a synctest bubble.
func examine(t *testing.T, listen time.Duration, h http.HandlerFunc) (report Report) {
	t.Helper()
	return examineAt(t, Config{URL: mustParse("http://127.0.0.1/stream"), Listen: listen}, h)
}

func examineAt(t *testing.T, cfg Config, h http.HandlerFunc) (report Report) {
	t.Helper()
	synctest.Test(t, func(t *testing.T) {
		began := time.Now()
		l := &pipes{conns: make(chan net.Conn), done: make(chan struct{})}
		var serving sync.WaitGroup
		srv := &http.Server{Handler: http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			serving.Add(1)
			defer serving.Done()
			h(w, r)
		})}
		serving.Go(func() {
			if err := srv.Serve(l); !errors.Is(err, http.ErrServerClosed) {
				t.Error(err)
			}
		})
		cfg.Dial = l.dial
		var err error
		if report, err = Examine(t.Context(), cfg); err != nil {
			t.Error(err)
		}
		if d := time.Since(began); d > cfg.Listen+2*time.Minute {
			t.Errorf("it took %s", d)
		}
		srv.Close()
		serving.Wait()
	})
	if report.Requests > 15 {
		t.Errorf("it made %d requests", report.Requests)
	}
	return report
}

func mustParse(s string) *url.URL {
	u, err := url.Parse(s)
	if err != nil {
		panic(err)
	}
	return u
}

// find returns the findings of a check.
func (r *Report) find(check string) (all []Finding) {
	for _, f := range r.Findings {
		if f.Check == check {
			all = append(all, f)
		}
	}
	return all
}

// want checks that one finding of a check is as bad, says the text, and, if it is a warning or
// worse, what to do.
func (r *Report) want(t *testing.T, check string, s Severity, text string) {
	t.Helper()
	if !wanted(r.find(check), s, text) {
		t.Errorf("no %s of %s says %q in\n%s", s, check, text, r)
	}
	if r.Severity < s {
		t.Errorf("the report is only %s", r.Severity)
	}
}

func wanted(all []Finding, s Severity, text string) bool {
	for _, f := range all {
		if f.Severity == s && strings.Contains(f.Detail, text) && (s < Warning || f.Advice != "") {
			return true
		}
	}
	return false
}

func (r *Report) String() string {
	var b strings.Builder
	for _, f := range r.Findings {
		fmt.Fprintf(&b, "%s %s: %s (%s)\n", f.Severity, f.Check, f.Detail, f.Advice)
	}
	return b.String()
}

// A stream is what a handler writes.
type stream struct {
	w http.ResponseWriter
	r *http.Request
}

// begin answers with the head of a stream.
func begin(w http.ResponseWriter, r *http.Request) *stream {
	h := w.Header()
	h.Set("Content-Type", "text/event-stream")
	h.Set("Cache-Control", "no-cache, no-transform")
	h.Set("X-Accel-Buffering", "no")
	s := &stream{w, r}
	s.send("")
	return s
}

func (s *stream) send(text string) {
	io.WriteString(s.w, text)
	s.w.(http.Flusher).Flush()
}

// wait reports whether the reader is still there after d.
func (s *stream) wait(d time.Duration) bool {
	select {
	case <-time.After(d):
		return true
	case <-s.r.Context().Done():
		return false
	}
}

// beat sends text every so often until the reader goes.
func (s *stream) beat(every time.Duration, text string) {
	for s.wait(every) {
		s.send(text)
	}
}

// hold keeps the stream open until the reader goes.
func (s *stream) hold() { <-s.r.Context().Done() }

// raw answers with bytes that are not net/http's.
func raw(t *testing.T, w http.ResponseWriter, fn func(*bufio.ReadWriter)) {
	t.Helper()
	c, rw, err := http.NewResponseController(w).Hijack()
	if err != nil {
		t.Error(err)
		return
	}
	defer c.Close()
	fn(rw)
	rw.Flush()
}

// message is an event with an id.
func message(id int) string { return fmt.Sprintf("id: %d\ndata: {\"n\":%d}\n\n", id, id) }

// messages are those from one id to another.
func messages(from, to int) (s string) {
	for id := from; id <= to; id++ {
		s += message(id)
	}
	return s
}
