package client

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/rstream-dev/rstream/event"
	"github.com/rstream-dev/rstream/internal/longtest"
	"github.com/rstream-dev/rstream/internal/wire"
)

// A middlebox changes some responses in transit and corrects their length.
type middlebox struct {
	f      *fixture
	path   string // of the answers that it changes
	times  int64  // how many of them; -1 is all
	change func(h http.Header, body []byte) []byte

	changed atomic.Int64
}

func (m *middlebox) wrap(h http.Handler) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if r.URL.Path != m.path || r.FormValue("limit") == "0" || r.Header.Get("Accept") == wire.SSE {
			h.ServeHTTP(w, r)
			return
		}
		rec := httptest.NewRecorder()
		h.ServeHTTP(rec, r)
		body := rec.Body.Bytes()
		if n := m.changed.Add(1); rec.Code == http.StatusOK && (m.times < 0 || n <= m.times) {
			body = m.change(rec.Header(), body)
		}
		copyHeader(w.Header(), rec.Header())
		w.Header().Set("Content-Length", fmt.Sprint(len(body)))
		w.WriteHeader(rec.Code)
		_, _ = w.Write(body)
	})
}

func (f *fixture) behind(path string, times int64, change func(h http.Header, body []byte) []byte) {
	m := &middlebox{f: f, path: path, times: times, change: change}
	f.through(m.wrap)
}

// shortenings are the ways in which middleboxes change the lines and headers of a page.
var shortenings = map[string]func(h http.Header, body []byte) []byte{
	"nothing is left":       func(_ http.Header, _ []byte) []byte { return nil },
	"an empty line is left": func(_ http.Header, _ []byte) []byte { return []byte("\n") },
	"cut at a line":         func(_ http.Header, b []byte) []byte { return firstLines(b, 7) },
	"cut before the last":   func(_ http.Header, b []byte) []byte { return firstLines(b, bytes.Count(b, newline)-1) },
	"cut in a line":         func(_ http.Header, b []byte) []byte { return b[:len(b)/2] },
	"cut in the last line":  func(_ http.Header, b []byte) []byte { return b[:len(b)-10] },
	"the first is missing":  func(_ http.Header, b []byte) []byte { return b[bytes.IndexByte(b, '\n')+1:] },
	"one in the middle is missing": func(_ http.Header, b []byte) []byte {
		return append(bytes.Clone(firstLines(b, 3)), b[len(firstLines(b, 4)):]...)
	},
}

var newline = []byte("\n")

func firstLines(b []byte, n int) []byte {
	return bytes.Join(bytes.SplitAfterN(b, newline, n+1)[:n], nil)
}

func uncount(change func(h http.Header, body []byte) []byte) func(h http.Header, body []byte) []byte {
	return func(h http.Header, body []byte) []byte {
		h.Del(wire.HeaderEvents)
		return change(h, body)
	}
}

// A page that was shortened once is requested again, whatever is missing from it, and no
// event of it is held meanwhile. The count may be missing, too.
func TestShortenedOnce(t *testing.T) {
	noLeaks(t)
	f := newFixture(t)
	f.put("alice/x", 40)
	for name, change := range shortenings {
		for _, counted := range []bool{true, false} {
			t.Run(fmt.Sprintf("%s, counted %v", name, counted), func(t *testing.T) {
				if !counted {
					change = uncount(change)
				}
				f.behind("/events", 1, change)
				db := f.newCache()
				c := newTestClient(t, db, hasty(f.http.URL))
				c.cfg.OnRetry = func(error, time.Duration) {
					if n, err := db.Count(t.Context()); err != nil || n.Events > 0 {
						t.Errorf("%d events are stored of a page that is refused, %v", n.Events, err)
					}
				}
				s, err := c.Sync(t.Context(), mustTopic(t, "alice"), SyncOptions{})
				synced(t, f, db, s, err)
			})
		}
	}
}

// If every response is shortened, the call ends with an error that says so, and nothing
// that looks complete is left.
func TestShortenedAlways(t *testing.T) {
	noLeaks(t)
	f := newFixture(t)
	f.put("alice/x", 40)
	for name, change := range shortenings {
		for _, counted := range []bool{true, false}[:longtest.Size(1, 2)] {
			t.Run(fmt.Sprintf("%s, counted %v", name, counted), func(t *testing.T) {
				want := " of 40 events: something between here and the server shortened it"
				if !counted {
					// The JSON that is asked for then is one line, and has nothing to be left.
					change, want = uncount(func(_ http.Header, b []byte) []byte { return b[:len(b)/3] }), "the answer has no end: something"
				}
				f.behind("/events", -1, change)
				db := f.newCache()
				c := newTestClient(t, db, hasty(f.http.URL))
				_, err := c.Sync(t.Context(), mustTopic(t, "alice"), SyncOptions{})
				if !errors.As(err, new(*ShortenedError)) || !strings.Contains(err.Error(), want) {
					t.Errorf("sync = %v, want a ShortenedError with %q", err, want)
				}
				if err := tailError(t, c, "alice"); !errors.As(err, new(*ShortenedError)) {
					t.Errorf("tail = %v, want a ShortenedError", err)
				}
				held, err := db.Held(t.Context(), mustTopic(t, "alice"))
				if n, failed := db.Count(t.Context()); err != nil || failed != nil || n.Events > 0 || held.Count() > 0 {
					t.Errorf("%s held with %d events, %v, %v", held, n.Events, err, failed)
				}
				f.through(nil)
				s, err := c.Sync(t.Context(), mustTopic(t, "alice"), SyncOptions{})
				synced(t, f, db, s, err)
			})
		}
	}
}

// A count that is invalid or does not match the body is refused.
func TestFalseCounts(t *testing.T) {
	noLeaks(t)
	f := newFixture(t)
	f.put("alice/x", 40)
	count := func(values ...string) func(h http.Header, body []byte) []byte {
		return func(h http.Header, body []byte) []byte {
			h[wire.HeaderEvents] = values
			return body
		}
	}
	for name, tc := range map[string]struct {
		change func(h http.Header, body []byte) []byte
		want   any
	}{
		"more":      {count("41"), new(*ShortenedError)},
		"largest":   {count("2147483647"), new(*ShortenedError)},
		"less":      {count("39"), new(*ProtocolError)},
		"none":      {count("0"), new(*ProtocolError)},
		"negative":  {count("-1"), new(*ProtocolError)},
		"too large": {count("99999999999999999999"), new(*ProtocolError)},
		"garbage":   {count("many"), new(*ProtocolError)},
		"a list":    {count("40, 40"), new(*ProtocolError)},
		"twice":     {count("40", "41"), new(*ProtocolError)},
		"hex":       {count("0x28"), new(*ProtocolError)},
	} {
		t.Run(name, func(t *testing.T) {
			f.behind("/events", -1, tc.change)
			db := f.newCache()
			c := newTestClient(t, db, hasty(f.http.URL))
			if _, err := c.Sync(t.Context(), mustTopic(t, "alice"), SyncOptions{}); !errors.As(err, tc.want) {
				t.Errorf("sync = %v, want a %T", err, tc.want)
			}
			if n, err := db.Count(t.Context()); err != nil || n.Events > 0 {
				t.Errorf("%d events are stored, %v", n.Events, err)
			}
		})
	}
}

// An older server does not count lines. From then on it is asked for JSON, which has an
// end.
func TestServerThatDoesNotCount(t *testing.T) {
	noLeaks(t)
	f := newFixture(t)
	f.put("alice/x", 350)
	f.behind("/events", -1, uncount(func(_ http.Header, b []byte) []byte { return b }))
	db := f.newCache()
	c := newTestClient(t, db, hasty(f.http.URL))
	s, err := c.Sync(t.Context(), mustTopic(t, "alice"), SyncOptions{})
	synced(t, f, db, s, err)
	if got := c.Stats().Requests; got != 2+1+4+0 {
		t.Errorf("%d requests, want one that finds out and one for each of 4 pages", got-2)
	}
}

// A page over HTTP/1.0 without a length is whole if its count says so.
func TestPageWithoutLength(t *testing.T) {
	noLeaks(t)
	f := newFixture(t)
	f.put("alice/x", 40)
	for _, whole := range []bool{true, false} {
		t.Run(fmt.Sprint("whole ", whole), func(t *testing.T) {
			asked := 0
			f.through(func(h http.Handler) http.Handler {
				return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
					if requestKind(r) != asksPage || r.URL.Path != "/events" {
						h.ServeHTTP(w, r)
						return
					}
					rec := httptest.NewRecorder()
					h.ServeHTTP(rec, r)
					body := rec.Body.String()
					if asked++; asked == 1 && !whole {
						body = string(firstLines([]byte(body), 12))
					}
					conn, _, err := http.NewResponseController(w).Hijack()
					if err != nil {
						return
					}
					defer conn.Close()
					rec.Header().Del("Content-Length")
					fmt.Fprint(conn, "HTTP/1.0 200 OK\r\n")
					_ = rec.Header().Write(conn)
					fmt.Fprintf(conn, "\r\n%s", body)
				})
			})
			db := f.newCache()
			c := newTestClient(t, db, hasty(f.http.URL))
			s, err := c.Sync(t.Context(), mustTopic(t, "alice"), SyncOptions{})
			synced(t, f, db, s, err)
		})
	}
}

// A response about windows that has no end is requested again.
func TestShortenedWindows(t *testing.T) {
	noLeaks(t)
	f := newFixture(t)
	f.put("alice/x", 40)
	for _, left := range []int{0, 1, 50} {
		f.behind("/windows", 1, func(_ http.Header, b []byte) []byte { return b[:left] })
		db := f.newCache()
		c := newTestClient(t, db, hasty(f.http.URL))
		s, err := c.Sync(t.Context(), mustTopic(t, "alice"), SyncOptions{})
		synced(t, f, db, s, err)
	}
}

// A shortened state is never stored: the client resumes after the last storage received.
func TestShortenedSnapshots(t *testing.T) {
	noLeaks(t)
	f := newFixture(t)
	for i := range 30 {
		f.put(fmt.Sprintf("alice/%02d", i), 2)
	}
	f.put("bob/x", 1)
	at := event.At(event.CursorOf(f.db.Head()-1, f.db.Log()))
	topic := mustTopic(t, "alice")
	want := collectState(t, newTestClient(t, f.newCache(), hasty(f.http.URL)), topic, at)
	for name, change := range map[string]func(h http.Header, b []byte) []byte{
		"empty":        func(_ http.Header, _ []byte) []byte { return nil },
		"in an event":  func(_ http.Header, b []byte) []byte { return b[:len(b)/2] },
		"at an event":  func(_ http.Header, b []byte) []byte { return b[:max(bytes.LastIndex(b, []byte(`,{"id"`)), 0)] },
		"at the end":   func(_ http.Header, b []byte) []byte { return b[:len(b)-len("]}\n")] },
		"at the brace": func(_ http.Header, b []byte) []byte { return b[:len(b)-len("}\n")] },
	} {
		t.Run(name, func(t *testing.T) {
			f.behind("/snapshot", 1, change)
			c := newTestClient(t, f.newCache(), hasty(f.http.URL))
			var got []string
			for ev, err := range c.Snapshot(t.Context(), topic, f.db.Head()-1) {
				if err != nil {
					t.Fatal(err)
				}
				got = append(got, string(ev.Line()))
			}
			same(t, "the state", got, want)

			f.behind("/snapshot", -1, change)
			for _, err := range c.Snapshot(t.Context(), topic, f.db.Head()-1) {
				if err != nil && !errors.As(err, new(*ShortenedError)) {
					t.Errorf("snapshot = %v, want a ShortenedError", err)
				}
			}
		})
	}
}

// No proper prefix of an object with a list of events passes for the whole, and nothing
// may follow the object.
func TestObjectLines(t *testing.T) {
	f := newFixture(t)
	f.put("alice/x", 3)
	rec := httptest.NewRecorder()
	f.srv.ServeHTTP(rec, httptest.NewRequestWithContext(t.Context(), http.MethodGet, "http://127.0.0.1/events?topic=alice", nil))
	whole := strings.TrimSpace(rec.Body.String())
	read := func(text string) (n int, err error) {
		lines := newObjectLines("http://x", strings.NewReader(text))
		for {
			if _, err = lines.Next(); err != nil {
				return n, err
			}
			n++
		}
	}
	for i := range len(whole) {
		if n, err := read(whole[:i]); !errors.As(err, new(*ShortenedError)) {
			t.Fatalf("%d of %d bytes give %d events and %v", i, len(whole), n, err)
		}
	}
	for _, text := range []string{whole, whole + "\n", `{"events":[],"x":{"events":[1]}}`, ` { "at" : "7" , "events" : [ ] } `} {
		if _, err := read(text); !errors.Is(err, io.EOF) {
			t.Errorf("%.60s gives %v", text, err)
		}
	}
	for _, text := range []string{whole + "x", whole + whole, whole + "{}", "[]", "7", "null", `{"events":null}`, "{}", `{"next":"1"}`, `{"events":{}}`, `{"events":null}`, `{"events":7}`,
		`{"events":[],"events":[]}`, `{"events":[1,]}`, `{"events":[1 2]}`, `{"events":[}`, "<html>", `{"events":[` + strings.Repeat("[", 20_000)} {
		if _, err := read(text); !errors.As(err, new(*ProtocolError)) {
			t.Errorf("%.60s gives %v, want a ProtocolError", text, err)
		}
	}
	for _, text := range []string{`{"events":["` + strings.Repeat("x", wire.MaxLine+2*readAhead), `{"x":"` + strings.Repeat("x", 4*wire.MaxLine)} {
		if _, err := read(text); !errors.As(err, new(*ProtocolError)) {
			t.Errorf("%.60s gives %v, want a ProtocolError", text, err)
		}
	}
}
