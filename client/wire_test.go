package client

import (
	"bufio"
	"bytes"
	"errors"
	"io"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/rstream-dev/rstream/event"
	"github.com/rstream-dev/rstream/internal/sse"
	"github.com/rstream-dev/rstream/internal/wire"
	"github.com/rstream-dev/rstream/reconcile"
	"github.com/rstream-dev/rstream/window"
)

// exampleLog is the log of the examples in testdata/wire.
const exampleLog = "K7Q2M4X9C0V3B8RT"

// A wireExample is a request and the bytes that a server answers it with.
type wireExample struct {
	target string // "GET /events?…"
	body   string // of the request
	head   string
	answer string
}

func readWireExample(t *testing.T, name string) wireExample {
	t.Helper()
	b, err := os.ReadFile(filepath.Join("../testdata/wire", name))
	if err != nil {
		t.Fatal(err)
	}
	text := string(b)
	for strings.HasPrefix(text, "#") {
		_, text, _ = strings.Cut(text, "\n")
	}
	request, response, ok := strings.Cut(text, "--- response\n")
	if !ok {
		t.Fatalf("%s has no response", name)
	}
	line, _, _ := strings.Cut(request, " HTTP/1.1")
	_, body, _ := strings.Cut(request, "\n\n")
	head, answer, _ := strings.Cut(response, "\n\n")
	// The body stands here with its chunks put together.
	head = strings.ReplaceAll(head, "Transfer-Encoding: chunked\n", "") + "\n"
	head = strings.ReplaceAll(head, "\nTransfer-Encoding: chunked\n", "\n")
	return wireExample{line, body, head, answer}
}

// response returns the example's response as a client receives it.
func (ex *wireExample) response(t *testing.T) *http.Response {
	t.Helper()
	resp, err := http.ReadResponse(bufio.NewReader(strings.NewReader(strings.ReplaceAll(ex.head, "\n", "\r\n")+"\r\n"+ex.answer)), nil)
	if err != nil {
		t.Fatal(err)
	}
	return resp
}

// serve answers every request with the example and returns a client of it.
func (ex *wireExample) serve(t *testing.T) *Client {
	t.Helper()
	srv := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		resp := ex.response(t)
		for name, values := range resp.Header {
			w.Header()[name] = values
		}
		w.Header().Del("Content-Length")
		w.WriteHeader(resp.StatusCode)
		io.WriteString(w, ex.answer)
	}))
	t.Cleanup(srv.Close)
	f := newFixture(t)
	cfg := hasty(srv.URL)
	cfg.OnRetry = func(err error, _ time.Duration) { t.Errorf("the answer is not understood: %v", err) }
	return newTestClient(t, exampleStore{storeOf(f.newCache())}, cfg)
}

// An exampleStore is a store of the examples' log.
type exampleStore struct{ store }

func (exampleStore) Log() string { return exampleLog }

// The client reads every example correctly: problems with their status, streams frame by
// frame, lines event by event.
func TestWireExamples(t *testing.T) {
	files, err := filepath.Glob("../testdata/wire/*.http")
	if err != nil || len(files) < 30 {
		t.Fatal(len(files), err)
	}
	streams, lines, problems := 0, 0, 0
	for _, file := range files {
		ex := readWireExample(t, filepath.Base(file))
		resp := ex.response(t)
		switch kind := resp.Header.Get("Content-Type"); {
		case kind == wire.Problem:
			problems++
			if e := wire.ReadError(resp); e.Status != resp.StatusCode || e.Detail == "" || !e.Final() {
				t.Errorf("%s: %+v", file, e)
			}
		case strings.HasPrefix(filepath.Base(file), "board-"), strings.HasPrefix(filepath.Base(file), "snapshot-stream"): // no client reads these
		case strings.Contains(ex.target, "values=0"): // TestNoticesAreNoEvents
		case kind == wire.SSE && !strings.HasPrefix(ex.target, "HEAD") && ex.answer != "":
			streams++
			checkStream(t, file, resp)
		case kind == wire.NDJSON && !strings.Contains(ex.target, "/set") && !strings.Contains(ex.target, "stubs"):
			lines++
			for line := range strings.Lines(ex.answer) {
				if _, err := event.ParseLine([]byte(strings.TrimSuffix(line, "\n"))); err != nil {
					t.Errorf("%s: %v", file, err)
				}
			}
		}
	}
	if streams < 3 || lines < 3 || problems < 8 {
		t.Errorf("%d streams, %d of lines, %d problems", streams, lines, problems)
	}
}

// A notice cannot be checked, so it must not be stored.
func TestNoticesAreNoEvents(t *testing.T) {
	ex := readWireExample(t, "events-notices-stream.http")
	resp := ex.response(t)
	c := newTestClient(t, exampleStore{storeOf(newFixture(t).newCache())}, hasty("http://127.0.0.1:0"))
	s := sessionOf(t, resp)
	defer s.Close()
	r := receiver{c: c, base: "server", topics: []event.Topic{event.All}, s: s}
	for refused := 0; ; {
		frame, err := s.Next()
		if errors.Is(err, io.EOF) {
			if refused != 3 {
				t.Errorf("%d notices were refused, want 3", refused)
			}
			return
		}
		if err != nil {
			t.Fatal(err)
		}
		_, err = r.readFrame(frame)
		var protocol *ProtocolError
		if named := frame.Type == "PUT" || frame.Type == "DEL"; named != errors.As(err, &protocol) {
			t.Errorf("%s %s: %v", frame.Type, frame.Data, err)
		} else if named {
			refused++
		}
	}
}

// sessionOf opens a session that is answered with resp.
func sessionOf(t *testing.T, resp *http.Response) *sse.Session {
	t.Helper()
	over := &http.Client{Transport: stub(func(r *http.Request) (*http.Response, error) {
		resp.Request = r
		return resp, nil
	})}
	s, err := sse.Open(t.Context(), sse.Config{URL: "http://a/events", HTTP: over})
	if err != nil {
		t.Fatal(err)
	}
	return s
}

func checkStream(t *testing.T, file string, resp *http.Response) {
	t.Helper()
	f := newFixture(t)
	c := newTestClient(t, exampleStore{storeOf(f.newCache())}, hasty("http://127.0.0.1:0"))
	raw, err := io.ReadAll(resp.Body)
	if err != nil {
		t.Fatal(err)
	}
	resp.Body = io.NopCloser(bytes.NewReader(raw))
	s := sessionOf(t, resp)
	defer s.Close()
	r := receiver{c: c, base: file, topics: []event.Topic{event.All}, s: s}
	events := 0
	for {
		frame, err := s.Next()
		if errors.Is(err, io.EOF) {
			break
		}
		if err != nil {
			t.Fatalf("%s: %v", file, err)
		}
		got, err := r.readFrame(frame)
		if err != nil {
			t.Fatalf("%s: %v", file, err)
		}
		if !got.isPos {
			events++
		}
		r.at = got.at.ID
	}
	if want := bytes.Count(raw, []byte("\nevent: PUT")) + bytes.Count(raw, []byte("\nevent: DEL")); events != want {
		t.Errorf("%s: %d events, want %d", file, events, want)
	}
}

func TestWireExamplePage(t *testing.T) {
	ex := readWireExample(t, "events-lines-page.http")
	c := ex.serve(t)
	p, err := c.readPage(c.requestPage(t.Context(), []event.Topic{mustTopic(t, "alice/posts")}, nil, window.Span{From: 0, To: 5}))
	if err != nil || p.next.ID != 2 || p.next.Mark == 0 || len(p.events) != 2 {
		t.Fatalf("page = %d events up to %v, %v", len(p.events), p.next, err)
	}
	var got []byte
	for i := range p.events {
		got = append(p.events[i].AppendLine(got), '\n')
	}
	if string(got) != ex.answer {
		t.Errorf("page holds\n%s, want\n%s", got, ex.answer)
	}
}

// The example's sum is the digest of the log's lines, computed from them here.
func TestWireExampleSum(t *testing.T) {
	ex := readWireExample(t, "windows-sum.http")
	c := ex.serve(t)
	until := c.momentAt(6)
	w, err := c.requestSum(t.Context(), mustTopic(t, "alice/posts"), Range{Since: c.momentAt(2), Until: &until})
	if err != nil {
		t.Fatal(err)
	}
	log, err := os.ReadFile("../testdata/wire/log.ndjson")
	if err != nil {
		t.Fatal(err)
	}
	var l window.Leafer
	for line := range bytes.Lines(log) {
		ev, err := event.ParseLine(bytes.TrimSpace(line))
		if err != nil {
			t.Fatal(err)
		}
		if ev.ID > 2 && ev.ID <= 6 && mustTopic(t, "alice/posts").Matches(ev.User, ev.Path) {
			l.Add(ev.ID, ev.Time, ev.Hash)
		}
	}
	if digest, count := window.DigestOf(l.Leaves()); w.Digest != digest || w.Count != count {
		t.Errorf("sum = %d events %s, want %d %s", w.Count, w.Digest, count, digest)
	}
}

// Drafts that a log has appended and dropped since are acknowledged as known.
func TestWireExampleDropped(t *testing.T) {
	ex := readWireExample(t, "set-dropped.http")
	var drafts []event.Draft
	for line := range strings.Lines(ex.body) {
		d, err := event.ParseDraft([]byte(line))
		if err != nil {
			t.Fatal(err)
		}
		drafts = append(drafts, d)
	}
	rs, err := ex.serve(t).Put(t.Context(), drafts)
	if err != nil || len(rs) != 2 || !rs[0].Duplicate || !rs[0].Dropped || rs[0].ID != 1 || rs[0].Hash != drafts[0].Hash() || !rs[1].Duplicate || rs[1].Dropped {
		t.Errorf("Put = %+v, %v", rs, err)
	}
}

func TestWireExampleBatch(t *testing.T) {
	ex := readWireExample(t, "set-batch.http")
	c := ex.serve(t)
	var drafts []event.Draft
	for line := range strings.Lines(ex.body) {
		d, err := event.ParseDraft([]byte(line))
		if err != nil {
			t.Fatal(err)
		}
		drafts = append(drafts, d)
	}
	receipts, err := c.Put(t.Context(), drafts)
	if err != nil {
		t.Fatal(err)
	}
	var ids []event.ID
	for _, r := range receipts {
		ids = append(ids, r.ID)
	}
	if !slices.Equal(ids, []event.ID{7, 1, 8}) || receipts[0].Duplicate || !receipts[1].Duplicate {
		t.Errorf("receipts %v, %+v", ids, receipts)
	}
}

func TestWireExampleGone(t *testing.T) {
	ex := readWireExample(t, "events-gone.http")
	c := ex.serve(t)
	_, err := c.Sync(t.Context(), mustTopic(t, "alice"), SyncOptions{Range: Range{Since: c.momentAt(2)}})
	var gap *GapError
	if !errors.As(err, &gap) || gap.Oldest != 4 {
		t.Errorf("sync = %v, want a gap up to 4", err)
	}
}

func TestWireExampleRoot(t *testing.T) {
	ex := readWireExample(t, "root-parent.http")
	info, err := ex.serve(t).Info(t.Context())
	if err != nil || info.Log != exampleLog || info.Parent == nil || info.Parent.Head == nil {
		t.Errorf("Info = %+v, %v", info, err)
	}
}

// The frames of a comparison match the specification's example.
func TestWireExampleFrames(t *testing.T) {
	ex := readWireExample(t, "bloom-frames.http")
	c := ex.serve(t)
	sent := ""
	c.http.Transport = recorder{http.DefaultTransport, &sent}
	var items []reconcile.Item
	for _, ev := range exampleEvents(t)[:2] {
		items = append(items, reconcile.Item{ID: ev.ID, Time: ev.Time, Hash: ev.Hash})
	}
	set := reconcile.FromItems(window.Span{To: event.MaxID}, items)
	res, err := reconcile.Negotiate(t.Context(), set, framePeer{c, mustTopic(t, "alice/posts"), new(atomic.Value)}, reconcile.Config{})
	if err != nil || res.Outcome != reconcile.Prefix || res.Sum.Count != 4 || len(res.Pull) != 1 || res.Pull[0] != (window.Span{From: 2, To: 6}) {
		t.Errorf("%+v, %v", res, err)
	}
	if sent != strings.TrimSuffix(ex.body, "\n") {
		t.Errorf("sent %x, want %x", sent, ex.body)
	}
}

// A recorder keeps the last body that was sent.
type recorder struct {
	http.RoundTripper
	sent *string
}

func (r recorder) RoundTrip(req *http.Request) (*http.Response, error) {
	b, err := io.ReadAll(req.Body)
	if err != nil {
		return nil, err
	}
	*r.sent = string(b)
	req = req.Clone(req.Context())
	req.Body = io.NopCloser(bytes.NewReader(b))
	return r.RoundTripper.RoundTrip(req)
}

func TestWireExampleStubs(t *testing.T) {
	ex := readWireExample(t, "get-stubs.http")
	evs := exampleEvents(t)
	c := ex.serve(t)
	sent := ""
	c.http.Transport = recorder{http.DefaultTransport, &sent}
	unknown, err := event.ParseHash("e56b6673fa8ec0afbb6ea2b8ac90c08112cbaab5db1f5d89b426fa4e0f10d10b")
	if err != nil {
		t.Fatal(err)
	}
	stubs, err := c.requestStubs(t.Context(), []event.Hash{evs[5].Hash, unknown, evs[0].Hash}, &reconcile.Round{})
	if err != nil || len(stubs) != 2 || stubs[0].ID != 1 || stubs[1] != (wire.Stub{ID: 6, Time: evs[5].Time, Hash: evs[5].Hash}) {
		t.Errorf("%+v, %v", stubs, err)
	}
	if sent != strings.TrimSpace(ex.body) {
		t.Errorf("sent %s, want %s", sent, ex.body)
	}
}

// exampleEvents returns the log of the examples.
func exampleEvents(t *testing.T) (evs []event.Event) {
	t.Helper()
	log, err := os.ReadFile("../testdata/wire/log.ndjson")
	if err != nil {
		t.Fatal(err)
	}
	for line := range bytes.Lines(log) {
		ev, err := event.ParseLine(bytes.TrimSpace(line))
		if err != nil {
			t.Fatal(err)
		}
		evs = append(evs, ev)
	}
	return evs
}
