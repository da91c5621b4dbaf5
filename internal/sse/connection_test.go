package sse

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"slices"
	"strings"
	"sync/atomic"
	"testing"
	"testing/iotest"
	"testing/synctest"
	"time"
)

// answering opens a session whose requests are answered by fn.
func answering(t *testing.T, cfg Config, fn roundTrip) (*Session, error) {
	t.Helper()
	if cfg.URL == "" {
		cfg.URL = "http://a/events?x=y"
	}
	cfg.HTTP = &http.Client{Transport: fn}
	s, err := Open(t.Context(), cfg)
	if (s == nil) != (err != nil) {
		t.Fatalf("Open = %v, %v", s, err)
	}
	return s, err
}

func closeSession(t *testing.T, s *Session) {
	t.Helper()
	if err := s.Close(); err != nil {
		t.Errorf("Close: %v", err)
	}
}

func TestOpenRequest(t *testing.T) {
	header := http.Header{"Rstream-Held": {"0000000000001"}, "X-Two": {"a", "b"}}
	s, err := answering(t, Config{Header: header, Cursor: "12…"}, func(req *http.Request) (*http.Response, error) {
		for name, want := range map[string]string{
			"Accept": "text/event-stream", "Cache-Control": "no-cache", "Last-Event-Id": "12…",
			"Rstream-Held": "0000000000001", "X-Two": "a, b",
		} {
			if got := req.Header[name]; len(got) != 1 || got[0] != want {
				t.Errorf("%s: %q, want %q", name, got, want)
			}
		}
		if req.Method != http.MethodGet || req.URL.String() != "http://a/events?x=y" || req.Body != nil {
			t.Errorf("%s %s with body %v", req.Method, req.URL, req.Body)
		}
		return streamOf(req, io.NopCloser(strings.NewReader(""))), nil
	})
	if err != nil {
		t.Fatal(err)
	}
	closeSession(t, s)
}

// Without a cursor no Last-Event-ID is sent: some servers treat an empty one differently.
func TestOpenWithoutCursor(t *testing.T) {
	s, err := answering(t, Config{}, func(req *http.Request) (*http.Response, error) {
		if got, ok := req.Header["Last-Event-Id"]; ok {
			t.Errorf("Last-Event-ID: %q", got)
		}
		return streamOf(req, io.NopCloser(strings.NewReader(""))), nil
	})
	if err != nil {
		t.Fatal(err)
	}
	closeSession(t, s)
}

func TestOpenRefusesCursors(t *testing.T) {
	for _, cursor := range []string{"a\nb", "a\rb", "a\x00", "\x7f", "\t"} {
		_, err := answering(t, Config{Cursor: cursor}, func(*http.Request) (*http.Response, error) {
			t.Errorf("cursor %q was sent", cursor)
			return nil, errors.New("no")
		})
		if err == nil {
			t.Errorf("cursor %q was taken", cursor)
		}
	}
}

// A session that begins with a cursor has it in force until an id comes.
func TestSessionBeginsWithCursor(t *testing.T) {
	body := "data: a\n\nid: 2\ndata: b\n\nid\ndata: c\n\n"
	for cursor, want := range map[string][]string{"1": {"1", "2", ""}, "": {"", "2", ""}} {
		s := sessionOver(strings.NewReader(body), Config{Cursor: cursor})
		for i := range want {
			if f, err := s.Next(); err != nil || f.Cursor != want[i] {
				t.Errorf("from %q: cursor %d = %q, %v, want %q", cursor, i, f.Cursor, err, want[i])
			}
		}
		closeSession(t, s)
	}
}

func TestOpenForm(t *testing.T) {
	form := "topic=" + strings.Repeat("a", 9000)
	s, err := answering(t, Config{Form: form}, func(req *http.Request) (*http.Response, error) {
		body, err := io.ReadAll(req.Body)
		again, _ := req.GetBody()
		second, _ := io.ReadAll(again)
		kind := req.Header.Get("Content-Type")
		if req.Method != http.MethodPost || err != nil || string(body) != form || string(second) != form ||
			req.ContentLength != int64(len(form)) || kind != "application/x-www-form-urlencoded" {
			t.Errorf("%s of %d bytes (%d) as %s, %v", req.Method, len(body), req.ContentLength, kind, err)
		}
		return streamOf(req, io.NopCloser(strings.NewReader(""))), nil
	})
	if err != nil {
		t.Fatal(err)
	}
	closeSession(t, s)
}

// A redirect keeps a POST or makes a GET of it, as net/http does for a POST of its own.
func TestOpenRedirects(t *testing.T) {
	for _, tt := range []struct {
		form     string
		statuses []int
		want     string
	}{
		{"", []int{301, 307, 302}, "GET"},
		{"a=b", []int{307}, "POST"},
		{"a=b", []int{308, 307}, "POST"},
		{"a=b", []int{302}, "GET"},
		{"a=b", []int{303, 307}, "GET"},
		{"a=b", []int{307, 301}, "GET"},
	} {
		t.Run(fmt.Sprint(tt.form, tt.statuses), func(t *testing.T) {
			var step atomic.Int64
			srv := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
				if i := int(step.Add(1)) - 1; i < len(tt.statuses) {
					http.Redirect(w, r, fmt.Sprintf("/%d", i), tt.statuses[i])
					return
				}
				body, err := io.ReadAll(r.Body)
				wantBody := tt.form
				if tt.want == http.MethodGet {
					wantBody = ""
				}
				if err != nil || r.Method != tt.want || string(body) != wantBody || r.Header.Get("Last-Event-ID") != "7" {
					t.Errorf("%s %q, %v, from %q", r.Method, body, err, r.Header.Get("Last-Event-ID"))
				}
				w.Header().Set("Content-Type", "text/event-stream")
			}))
			defer srv.Close()
			s, err := Open(t.Context(), Config{URL: srv.URL, Form: tt.form, HTTP: srv.Client(), Cursor: "7"})
			if err != nil {
				t.Fatal(err)
			}
			closeSession(t, s)
		})
	}
}

// The body of a redirect may be anything, even comments without end.
func TestOpenRedirectBody(t *testing.T) {
	const size = 1 << 20
	comments := &io.LimitedReader{R: &loopReader{body: []byte(":\n")}, N: size}
	s, err := answering(t, Config{}, func(req *http.Request) (*http.Response, error) {
		if req.URL.Host == "b" {
			return streamOf(req, io.NopCloser(strings.NewReader(""))), nil
		}
		resp := streamOf(req, io.NopCloser(comments))
		resp.StatusCode, resp.ContentLength = http.StatusFound, -1
		resp.Header.Set("Location", "http://b/")
		return resp, nil
	})
	if err != nil {
		t.Fatal(err)
	}
	closeSession(t, s)
	if n := size - comments.N; n > 64<<10 {
		t.Errorf("%d bytes of a redirect were read", n)
	}
}

// What http.Client tolerates of a transport, Open does too.
func TestOpenTolerates(t *testing.T) {
	for name, fn := range map[string]func(*http.Request) *http.Response{
		"no response": func(*http.Request) *http.Response { return nil },
		"no body":     func(req *http.Request) *http.Response { return streamOf(req, nil) },
		"no request": func(req *http.Request) *http.Response {
			resp := streamOf(nil, nil)
			if hops := len(req.URL.Path); hops < 4 {
				resp.StatusCode = http.StatusTemporaryRedirect
				resp.Header.Set("Location", "/"+strings.Repeat("x", hops))
			}
			return resp
		},
	} {
		s, err := answering(t, Config{URL: "http://a/", Form: "a=b"}, func(req *http.Request) (*http.Response, error) { return fn(req), nil })
		if (err == nil) == (name == "no response") {
			t.Errorf("%s: %v", name, err)
		}
		if err == nil {
			if f, err := s.Next(); err != io.EOF {
				t.Errorf("%s: Next = %+v, %v", name, f, err)
			}
			closeSession(t, s)
		}
	}
}

// Secrets in headers do not follow a redirect to another host.
func TestOpenKeepsSecrets(t *testing.T) {
	header := http.Header{"Authorization": {"Bearer x"}, "X-Plain": {"y"}}
	asked := 0
	s, err := answering(t, Config{Header: header}, func(req *http.Request) (*http.Response, error) {
		asked++
		if got := req.Header.Get("Authorization") != ""; got != (asked == 1) || req.Header.Get("X-Plain") != "y" {
			t.Errorf("request %d to %s has the header %v", asked, req.URL, req.Header)
		}
		if asked == 1 {
			return &http.Response{StatusCode: http.StatusFound, Header: http.Header{"Location": {"http://b/"}}, Body: http.NoBody, Request: req}, nil
		}
		return streamOf(req, io.NopCloser(strings.NewReader(""))), nil
	})
	if err != nil || asked != 2 {
		t.Fatalf("%d requests, %v", asked, err)
	}
	closeSession(t, s)
}

type closeCounter struct {
	io.Reader
	closed atomic.Int64
}

func (c *closeCounter) Close() error {
	c.closed.Add(1)
	return nil
}

// A refused response costs one request, its body is closed, and Check reads the body as it
// came.
func TestOpenRefused(t *testing.T) {
	const text = ": not normalized\r\n\r\n"
	want := errors.New("not this one")
	asked, body := 0, &closeCounter{Reader: strings.NewReader(text)}
	cfg := Config{Check: func(resp *http.Response) error {
		b, err := io.ReadAll(resp.Body)
		if string(b) != text || err != nil || resp.StatusCode != http.StatusTeapot {
			t.Errorf("Check reads %d %q, %v", resp.StatusCode, b, err)
		}
		return want
	}}
	_, err := answering(t, cfg, func(req *http.Request) (*http.Response, error) {
		asked++
		resp := streamOf(req, body)
		resp.StatusCode = http.StatusTeapot
		return resp, nil
	})
	if err != want || asked != 1 || body.closed.Load() != 1 {
		t.Errorf("Open = %v after %d requests, body closed %d times", err, asked, body.closed.Load())
	}
}

func TestOpenChecksByItself(t *testing.T) {
	for _, tt := range []struct {
		status int
		media  string
		ok     bool
	}{
		{200, "text/event-stream", true}, {200, "Text/Event-Stream; charset=utf-8", true}, {200, "text/event-stream;", true},
		{200, "text/html", false}, {200, "", false}, {200, "text/event-streams", false},
		{200, "text/x-bogus", false}, {200, "x bogus", false},
		{204, "text/event-stream", false}, {205, "text/event-stream", false}, {210, "text/event-stream", false}, {299, "text/event-stream", false},
		{404, "text/event-stream", false}, {401, "text/event-stream", false}, {410, "text/event-stream", false}, {503, "text/event-stream", false},
	} {
		s, err := answering(t, Config{}, func(req *http.Request) (*http.Response, error) {
			resp := streamOf(req, io.NopCloser(strings.NewReader("")))
			resp.StatusCode, resp.Header = tt.status, http.Header{"Content-Type": {tt.media}}
			return resp, nil
		})
		if (err == nil) != tt.ok {
			t.Errorf("%d %q: %v", tt.status, tt.media, err)
		}
		if err == nil {
			closeSession(t, s)
		}
	}
}

// Empty lines and line ends of each kind give the same events, however small the pieces
// in which they arrive.
func TestPieces(t *testing.T) {
	for _, end := range []string{"\n", "\r\n", "\r"} {
		for _, tt := range []struct {
			name, body string
			want       []string
		}{
			{"one line", "data: a||", []string{"a"}},
			{"two lines", "data: a||data: b|data: c||", []string{"a", "b\nc"}},
			{"an empty first line", "data:|data: b|data: c||", []string{"\nb\nc"}},
			{"an empty line between", "data: a|data:|data: c||", []string{"a\n\nc"}},
			{"one more blank line", "data: a|||data: b||", []string{"a", "b"}},
			{"two more blank lines", "data: a||||data: b||", []string{"a", "b"}},
			{"a BOM", "\uFEFFdata: a||", []string{"a"}},
			{"characters of several bytes", "data: é€豆😀||", []string{"é€豆😀"}},
			{"many events", strings.Repeat("data: a||data: b||", 50), slices.Repeat([]string{"a", "b"}, 50)},
		} {
			body := []byte(strings.ReplaceAll(tt.body, "|", end))
			for size := 1; size <= 3; size++ {
				src := &piecesReader{pieces: slices.Collect(slices.Chunk(body, size))}
				var got []string
				for _, f := range readSession(src, 1<<20).frames {
					got = append(got, f.data)
				}
				if !slices.Equal(got, tt.want) {
					t.Errorf("%s, ending in %q, in pieces of %d: %q, want %q", tt.name, end, size, got, tt.want)
				}
			}
		}
	}
}

// A server may send any length at once and then wait. The event must not wait with it for
// a buffer to fill.
func TestSizesArriveAtOnce(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		pr, pw := io.Pipe()
		s := sessionOver(pr, Config{MaxEvent: 2 << 20})
		for _, around := range []int{1, 128, 1 << 10, 2 << 10, 4 << 10, 8 << 10, 16 << 10, rawSize, 64 << 10, 256 << 10, 1 << 20} {
			for _, size := range []int{max(around-8, 1), around - 1, around, around + 1, around + 8} {
				go func() { _, _ = io.WriteString(pw, "data: "+strings.Repeat("x", size)+"\n\n") }()
				if f, err := s.Next(); err != nil || len(f.Data) != size {
					t.Fatalf("an event of %d bytes arrives with %d, %v", size, len(f.Data), err)
				}
			}
		}
		closeSession(t, s)
	})
}

// A stream is UTF-8, whatever the media type says.
func TestOpenIgnoresCharset(t *testing.T) {
	s, err := answering(t, Config{}, func(req *http.Request) (*http.Response, error) {
		resp := streamOf(req, io.NopCloser(strings.NewReader("data:ok…\n\n")))
		resp.Header = http.Header{"Content-Type": {"text/event-stream;charset=windows-1252"}}
		return resp, nil
	})
	if err != nil {
		t.Fatal(err)
	}
	if f, err := s.Next(); err != nil || string(f.Data) != "ok…" {
		t.Errorf("Next = %q, %v", f.Data, err)
	}
	closeSession(t, s)
}

// The library would retry forever: one Open is one request, however it fails.
func TestOpenFails(t *testing.T) {
	want := errors.New("connection refused")
	asked := 0
	_, err := answering(t, Config{}, func(*http.Request) (*http.Response, error) {
		asked++
		return nil, want
	})
	if !errors.Is(err, want) || asked != 1 {
		t.Errorf("Open = %v after %d requests, want %v after 1", err, asked, want)
	}
}

// However a stream ends, there is no second request.
func TestSessionDoesNotReconnect(t *testing.T) {
	for _, end := range []error{io.EOF, io.ErrUnexpectedEOF, errors.New("reset"), ErrIdle} {
		synctest.Test(t, func(t *testing.T) {
			asked := 0
			s, err := answering(t, Config{}, func(req *http.Request) (*http.Response, error) {
				asked++
				return streamOf(req, io.NopCloser(io.MultiReader(strings.NewReader("retry: 1\nid: 1\n\nid: 2\ndata: cut"), iotest.ErrReader(end)))), nil
			})
			if err != nil {
				t.Fatal(err)
			}
			if f, err := s.Next(); err != nil || f.Cursor != "1" {
				t.Errorf("Next = %+v, %v", f, err)
			}
			for range 2 {
				if _, err := s.Next(); err != end {
					t.Errorf("Next = %v, want %v", err, end)
				}
				time.Sleep(time.Hour) // of the bubble: nothing may be waiting to ask again
			}
			if d, ok := s.Retry(); asked != 1 || d != time.Millisecond || !ok {
				t.Errorf("%d requests, retry %v %v", asked, d, ok)
			}
			closeSession(t, s)
		})
	}
}

// The bubble ends only when each goroutine has.
func TestOpenCancelled(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		ctx, cancel := context.WithCancel(t.Context())
		time.AfterFunc(time.Minute, cancel)
		s, err := Open(ctx, Config{URL: "http://a/", HTTP: &http.Client{Transport: roundTrip(func(req *http.Request) (*http.Response, error) {
			<-req.Context().Done()
			return nil, req.Context().Err()
		})}})
		if s != nil || !errors.Is(err, context.Canceled) {
			t.Errorf("Open = %v, %v", s, err)
		}
	})
}

// A reader that pauses holds up the connection and loses no event, even if it never
// resumes.
func TestSessionReadsNoFurther(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		pr, pw := io.Pipe()
		s := sessionOver(pr, Config{})
		var written atomic.Int64
		go func() {
			for i := range 100 {
				if _, err := fmt.Fprintf(pw, "id: %d\ndata: a\n\n", i); err != nil {
					return
				}
				written.Add(1)
			}
		}()
		time.Sleep(time.Hour)
		if n := written.Load(); n > 5 {
			t.Errorf("%d events were read for nobody", n)
		}
		for i := range 50 {
			if f, err := s.Next(); err != nil || f.Cursor != fmt.Sprint(i) {
				t.Fatalf("frame %d = %+v, %v", i, f, err)
			}
		}
		closeSession(t, s)
	})
}

// Formats that browsers are tested with, over connections each of which begins with
// the last id of the one before.
func TestFormats(t *testing.T) {
	type frame = specFrame
	for _, tt := range []struct {
		name   string
		bodies []string
		want   []frame
	}{
		{"a BOM is left out once", []string{"\uFEFFdata:1\n\n\uFEFFdata:2\n\ndata:3\n\n"}, []frame{{"", "", "1", true}, {"", "", "3", true}}},
		{"two BOMs", []string{"\uFEFF\uFEFFdata:1\n\ndata:2\n\ndata:3\n\n"}, []frame{{"", "", "2", true}, {"", "", "3", true}}},
		{"comments", []string{"data:1\n:\x00\n:\r\ndata:2\n:" + strings.Repeat("x", 2000) + "\rdata:3\n:data:fail\r:" + strings.Repeat("x", 2000) + "\ndata:4\n\n"}, []frame{{"", "", "1\n2\n3\n4", true}}},
		{"data before the last blank line", []string{"data:a\ndata:b", "data:c\n\n"}, []frame{{"", "", "c", true}}},
		{"fields without a colon", []string{"data:\n\ndata\ndata\n\ndata:test\n\n"}, []frame{{"", "", "", true}, {"", "", "\n", true}, {"", "", "test", true}}},
		{"types", []string{"event:test\ndata:x\n\ndata:x\n\n"}, []frame{{"", "test", "x", true}, {"", "", "x", true}}},
		{"an empty type", []string{"event: \ndata:data\n\n"}, []frame{{"", "", "data", true}}},
		{"an id, and a reader that returns with it", []string{"id:…\ndata:hello\n\n", "data:back\n\n", "data:again\n\n"}, []frame{{"…", "", "hello", true}, {"…", "", "back", true}, {"…", "", "again", true}}},
		{"an id persists", []string{"id: 1\ndata: a\n\ndata: b\n\n"}, []frame{{"1", "", "a", true}, {"1", "", "b", true}}},
		{"an id changes and persists", []string{"id: 1\ndata: a\n\nid: 2\ndata: b\n\ndata:c\n\n"}, []frame{{"1", "", "a", true}, {"2", "", "b", true}, {"2", "", "c", true}}},
		{"an id is reset", []string{"id: 1\ndata: a\n\nid: \ndata: b\n\n", "data:c\n\n"}, []frame{{"1", "", "a", true}, {"", "", "b", true}, {"", "", "c", true}}},
		{"an id with NUL does not count", []string{"id: 1\ndata: a\n\nid: 2\x00\ndata: b\n\n", "data:c\n\n"}, []frame{{"1", "", "a", true}, {"1", "", "b", true}, {"1", "", "c", true}}},
		{"an id without data counts", []string{"id: 1\n\n", "data:c\n\n"}, []frame{{cursor: "1"}, {"1", "", "c", true}}},
		{"an id of a block that is cut does not count", []string{"id: 1\ndata: a\n\nid: 2\ndata: b\n", "data:c\n\n"}, []frame{{"1", "", "a", true}, {"1", "", "c", true}}},
		{"parsing", []string{"data:\x00\ndata:  2\rData:1\ndata\x00:2\ndata:1\r\x00data:4\nda-ta:3\rdata_5\ndata:3\rdata:\r\n data:32\ndata:4\n\n"}, []frame{{"", "", "\x00\n 2\n1\n3\n\n4", true}}},
		{"unknown fields", []string{"data:test\n data\ndata\nfoobar:xxx\njustsometext\n:thisisacommentyay\ndata:test\n\n"}, []frame{{"", "", "test\n\ntest", true}}},
		{"one leading space", []string{"data:\ttest\rdata: \ndata:test\n\n"}, []frame{{"", "", "\ttest\n\ntest", true}}},
		{"line ends", []string{"data:test\r\ndata\ndata:test\r\n\r\n"}, []frame{{"", "", "test\n\ntest", true}}},
		{"NUL in data", []string{"data:\x00\n\n\n\n"}, []frame{{"", "", "\x00", true}}},
		{"UTF-8", []string{"data:ok…\n\n"}, []frame{{"", "", "ok…", true}}},
		{"a bogus retry", []string{"retry:3000\nretry:1000x\ndata:x\n\n"}, []frame{{"", "", "x", true}}},
		{"an empty retry", []string{"retry\ndata:test\n\n"}, []frame{{"", "", "test", true}}},
		{"only LF after CR", []string{"data:a\rdata:b\r\r"}, []frame{{"", "", "a\nb", true}}},
		{"fields in any order", []string{"data: v\nid: 7\nevent: set\n\n"}, []frame{{"7", "set", "v", true}}},
		{"a type keeps a second space", []string{"event:  set\ndata:  v\n\n"}, []frame{{"", " set", " v", true}}},
		{"blocks without data", []string{"data:1\n\n:\nother:x\n\nother:x\nDATA:y\n\ndata\n\ndata:2\n\n"}, []frame{{"", "", "1", true}, {"", "", "", true}, {"", "", "2", true}}},
		{"a BOM within data", []string{"\uFEFFdata: \uFEFFa\n\ndata:\uFEFFb\n\n"}, []frame{{"", "", "\uFEFFa", true}, {"", "", "\uFEFFb", true}}},
		{"a BOM before a comment", []string{"\uFEFF:c\ndata:a\n\n"}, []frame{{"", "", "a", true}}},
		{"a BOM before type and id", []string{"\uFEFFevent:set\nid:7\ndata:a\n\n"}, []frame{{"7", "set", "a", true}}},
		{"an id outlives events without one", []string{"id: 7\ndata:a\n\ndata:b\n\n", "", "data:c\n\n"}, []frame{{"7", "", "a", true}, {"7", "", "b", true}, {"7", "", "c", true}}},
	} {
		t.Run(tt.name, func(t *testing.T) {
			var got []frame
			cursor := ""
			for _, body := range tt.bodies {
				s := sessionOver(strings.NewReader(body), Config{Cursor: cursor})
				for {
					f, err := s.Next()
					if err == io.EOF {
						break
					}
					if err != nil {
						t.Fatal(err)
					}
					cursor = f.Cursor
					got = append(got, frame{f.Cursor, f.Type, string(f.Data), f.Data != nil})
				}
				closeSession(t, s)
			}
			if !slices.Equal(got, tt.want) {
				t.Errorf("got %v, want %v", got, tt.want)
			}
		})
	}
}
