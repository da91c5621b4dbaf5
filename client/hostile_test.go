package client

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"net"
	"net/http"
	"net/http/httptest"
	"os"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"github.com/rstream-dev/rstream/cache"
	"github.com/rstream-dev/rstream/event"
	"github.com/rstream-dev/rstream/internal/wire"
)

// The requests that a tail makes.
const (
	asksBounds = "bounds"
	asksPage   = "page"
	asksStream = "stream"
)

func requestKind(r *http.Request) string {
	switch {
	case r.Header.Get("Accept") == wire.SSE:
		return asksStream
	case r.FormValue("limit") == "0":
		return asksBounds
	}
	return asksPage
}

// A liar is a server that answers one kind of request itself.
type liar struct {
	f     *fixture
	lines []string // the log's events
	h     http.Header
	w     http.ResponseWriter
	r     *http.Request
}

// page sends lines with the headers of an honest server's page.
func (l *liar) page(lines ...string) {
	l.header(wire.NDJSON)
	if l.h.Get(wire.HeaderNext) == "" {
		l.h.Set(wire.HeaderNext, l.h.Get(wire.HeaderTo))
	}
	body := strings.Join(lines, "\n")
	if l.h.Get(wire.HeaderEvents) == "" {
		wire.SetEvents(l.h, len(strings.Fields(body)))
	}
	fmt.Fprint(l.w, body)
}

// stream sends the headers of a stream and blocks.
func (l *liar) stream(blocks ...string) {
	l.header(wire.SSE)
	fmt.Fprint(l.w, strings.Join(blocks, ""))
	_ = http.NewResponseController(l.w).Flush()
	<-l.r.Context().Done()
}

func (l *liar) header(mediaType string) {
	l.h.Set("Content-Type", mediaType)
	l.h.Set(wire.HeaderLog, l.f.db.Log())
	for name, value := range map[string]string{
		wire.HeaderFrom: l.r.FormValue("since"), wire.HeaderTo: l.r.FormValue("until"), wire.HeaderHead: l.f.db.Head().String()} {
		if l.h.Get(name) == "" && value != "" {
			l.h.Set(name, value[:event.IDLen])
		}
	}
	if l.h.Get(wire.HeaderFrom) == "" {
		l.h.Set(wire.HeaderFrom, event.Beginning.String())
	}
}

func (l *liar) problem(e *wire.Error) {
	l.h.Set(wire.HeaderLog, l.f.db.Log())
	e.Write(l.w)
}

// block is one event of a stream.
func (l *liar) block(id, kind, data string) string {
	return fmt.Sprintf("id: %s.%s\nevent: %s\ndata: %s\n\n", id, l.f.db.Log()[:5], kind, data)
}

// event makes a valid line.
func (l *liar) event(id event.ID, storage string) string {
	user, path, _ := strings.Cut(storage, "/")
	d := event.Draft{User: user, Path: path, Type: event.Put, Key: "forged", Value: []byte("1")}
	ev := event.New(id, 1, d, d.Hash())
	return string(ev.Line())
}

const otherLog = "ZZZZZZZZZZZZZZZZ"

// Whatever a server answers, the tail ends with an error that describes it, does not
// retry forever and leaves only valid events in the cache.
func TestHostileServers(t *testing.T) {
	const n = 20 // events of the log
	id := func(i int) string { return event.ID(i).String() }
	cases := []struct {
		name string
		kind string
		lie  func(l *liar)
		want any
		held int // events that the cache may have then, or none
	}{
		{"a page of HTML", asksPage, func(l *liar) { l.h.Set("Content-Type", "text/html"); fmt.Fprint(l.w, "<html>") }, new(*ProtocolError), 0},
		{"HTML that names the log", asksPage, func(l *liar) { l.header("text/html"); fmt.Fprint(l.w, "<html>") }, new(*ProtocolError), 0},
		{"a page of another log", asksPage, func(l *liar) { l.page(); l.h.Set(wire.HeaderLog, otherLog) }, nil, 0},
		{"bounds of another log", asksBounds, func(l *liar) { l.h.Set(wire.HeaderLog, otherLog); l.w.WriteHeader(200) }, new(*OtherLogError), 0},
		{"no bounds", asksBounds, func(l *liar) { l.h.Set(wire.HeaderLog, l.f.db.Log()); l.h.Set("Content-Type", wire.NDJSON) }, new(*ProtocolError), 0},
		{"bounds that go back", asksBounds, func(l *liar) { l.h.Set(wire.HeaderFrom, id(9)); l.h.Set(wire.HeaderTo, id(3)); l.page() }, new(*ProtocolError), 0},
		{"other bounds", asksBounds, func(l *liar) { l.h.Set(wire.HeaderFrom, id(5)); l.h.Set(wire.HeaderTo, id(n)); l.page() }, new(*ProtocolError), 0},
		{"next goes back", asksPage, func(l *liar) { l.h.Set(wire.HeaderNext, id(0)); l.page() }, new(*ProtocolError), 0},
		{"next goes too far", asksPage, func(l *liar) { l.h.Set(wire.HeaderNext, id(n+1)); l.page() }, new(*ProtocolError), 0},
		{"next is no position", asksPage, func(l *liar) { l.h.Set(wire.HeaderNext, "x"); l.page() }, new(*ProtocolError), 0},
		{"begins elsewhere", asksPage, func(l *liar) { l.h.Set(wire.HeaderFrom, id(2)); l.page() }, new(*ProtocolError), 0},
		{"ends elsewhere", asksPage, func(l *liar) { l.h.Set(wire.HeaderTo, id(n-1)); l.page() }, new(*ProtocolError), 0},
		{"ends later", asksPage, func(l *liar) { l.h.Set(wire.HeaderTo, id(n+1)); l.page() }, new(*ProtocolError), 0},
		{"an event of another topic", asksPage, func(l *liar) { l.page(l.lines[0], l.event(2, "bob/x")) }, new(*ProtocolError), 0},
		{"a wrong hash", asksPage, func(l *liar) { l.page(strings.Replace(l.lines[0], `"n":`, `"m":`, 1)) }, new(*ProtocolError), 0},
		{"a repeated event", asksPage, func(l *liar) { l.page(l.lines[0], l.lines[1], l.lines[1]) }, new(*ProtocolError), 0},
		{"events out of order", asksPage, func(l *liar) { l.page(l.lines[1], l.lines[0]) }, new(*ProtocolError), 0},
		{"an event beyond next", asksPage, func(l *liar) { l.h.Set(wire.HeaderNext, id(3)); l.page(l.lines[3]) }, new(*ProtocolError), 0},
		{"garbage", asksPage, func(l *liar) { l.page("{}") }, new(*ProtocolError), 0},
		{"a line without end", asksPage, func(l *liar) { l.page(strings.Repeat("x", wire.MaxLine+10)) }, new(*ProtocolError), 0},
		{"no end of the answer", asksPage, func(l *liar) { l.hijack("HTTP/1.0 200 OK", l.lines[0]+"\n") }, new(*ProtocolError), 0},
		{"204", asksPage, func(l *liar) { l.h.Set(wire.HeaderLog, l.f.db.Log()); l.w.WriteHeader(204) }, new(*ProtocolError), 0},
		{"206", asksPage, func(l *liar) { l.h.Set(wire.HeaderLog, l.f.db.Log()); l.w.WriteHeader(206) }, new(*ProtocolError), 0},
		{"400", asksPage, func(l *liar) { l.problem(wire.Errorf(400, "topic: no")) }, new(*StatusError), 0},
		{"401", asksPage, func(l *liar) { l.problem(wire.Errorf(401, "who?")) }, new(*StatusError), 0},
		{"403", asksPage, func(l *liar) { l.problem(wire.Errorf(403, "no")) }, new(*StatusError), 0},
		{"404 as HTML", asksPage, func(l *liar) { http.Error(l.w, "<h1>", 404) }, new(*ProtocolError), 0},
		{"409", asksPage, func(l *liar) { l.problem(wire.Errorf(409, "ahead")) }, new(*StatusError), 0},
		{"410", asksPage, func(l *liar) { e := wire.Errorf(410, "gone"); e.Oldest = new(event.ID); *e.Oldest = 7; l.problem(e) }, new(*GapError), 0},
		{"410 that names nothing", asksPage, func(l *liar) { l.problem(wire.Errorf(410, "gone")) }, new(*StatusError), 0},

		{"a stream of HTML", asksStream, func(l *liar) { l.header("text/html") }, new(*ProtocolError), n},
		{"a stream of another log", asksStream, func(l *liar) { l.h.Set(wire.HeaderLog, otherLog); l.w.WriteHeader(200) }, new(*OtherLogError), n},
		{"a stream from elsewhere", asksStream, func(l *liar) { l.h.Set(wire.HeaderFrom, id(3)); l.stream() }, new(*ProtocolError), n},
		{"a stream that has ended", asksStream, func(l *liar) { l.h.Set(wire.HeaderLog, l.f.db.Log()); l.w.WriteHeader(204) }, new(*ProtocolError), n},
		{"a stream: 410", asksStream, func(l *liar) { e := wire.Errorf(410, "gone"); e.Oldest = new(event.ID); *e.Oldest = 27; l.problem(e) }, new(*GapError), n},
		{"a stream: 409", asksStream, func(l *liar) { l.problem(wire.Errorf(409, "ahead")) }, new(*StatusError), n},
		{"a cursor of another log", asksStream, func(l *liar) { l.stream("id: " + id(n+1) + ".ZZZZZ\n\n") }, new(*OtherLogError), n},
		{"an id that is none", asksStream, func(l *liar) { l.stream("id: 7\n\n") }, new(*ProtocolError), n},
		{"an event without an id", asksStream, func(l *liar) { l.stream("event: PUT\ndata: " + l.event(n+1, "alice/x") + "\n\n") }, new(*ProtocolError), n},
		{"an event under another id", asksStream, func(l *liar) { l.stream(l.block(id(n+2), "PUT", l.event(n+1, "alice/x"))) }, new(*ProtocolError), n},
		{"an event of another type", asksStream, func(l *liar) { l.stream(l.block(id(n+1), "DEL", l.event(n+1, "alice/x"))) }, new(*ProtocolError), n},
		{"a foreign event", asksStream, func(l *liar) { l.stream(l.block(id(n+1), "PUT", l.event(n+1, "bob/x"))) }, new(*ProtocolError), n},
		{"a stream that goes back", asksStream, func(l *liar) {
			l.stream(l.block(id(n+5), "PUT", l.event(n+5, "alice/x")), l.block(id(n+2), "PUT", l.event(n+2, "alice/x")))
		}, new(*ProtocolError), n + 1},
		{"half an event", asksStream, func(l *liar) { l.stream(l.block(id(n+1), "PUT", l.event(n+1, "alice/x")[:50])) }, new(*ProtocolError), n},
		{"an endless event", asksStream, func(l *liar) { l.stream("data: " + strings.Repeat("x", 2*wire.MaxLine+10)) }, new(*ProtocolError), n},
	}
	cases[2].lie = func(l *liar) { l.h.Set(wire.HeaderLog, otherLog); l.w.WriteHeader(200) }
	cases[2].want = new(*OtherLogError)

	noLeaks(t)
	f := newFixture(t)
	f.put("alice/x", n)
	var lines []string
	truth := f.truth("*", "", "")
	for _, ev := range truth {
		lines = append(lines, ev.line)
	}
	for _, tc := range cases {
		t.Run(tc.name, func(t *testing.T) {
			f.through(func(h http.Handler) http.Handler {
				return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
					if requestKind(r) != tc.kind {
						h.ServeHTTP(w, r)
						return
					}
					tc.lie(&liar{f: f, lines: lines, h: w.Header(), w: w, r: r})
				})
			})
			db := f.newCache()
			c := newTestClient(t, db, hasty(f.http.URL))
			err := tailError(t, c, "alice")
			// Once an event beyond the end of the log is stored, the log seems to have been put back.
			seemsBack := tc.held > n && errors.As(err, new(*RolledBackError))
			if !seemsBack && !errors.As(err, tc.want) {
				t.Errorf("tail ends with %v, want a %T", err, tc.want)
			}
			if text := fmt.Sprint(err); strings.Contains(text, "\n") || strings.Count(text, "alice:") != 1 || strings.Count(text, "127.0.0.1") > 1 {
				t.Errorf("tail ends with %q: names things twice", text)
			}
			if count, err := db.Count(t.Context()); err != nil || count.Events > 0 && int(count.Events) > tc.held {
				t.Errorf("the cache holds %d events (%v), want %d", count.Events, err, tc.held)
			}
			f.through(nil)
			if tc.held > n {
				return
			}
			// The events left are right: an honest server completes them.
			s, err := c.Sync(t.Context(), mustTopic(t, "alice"), SyncOptions{})
			if err != nil {
				t.Fatal(err)
			}
			sameEvents(t, "then", held(t, db, mustTopic(t, "alice"), s), truth)
		})
	}
}

// hijack answers by hand and closes the connection.
func (l *liar) hijack(status, body string) {
	conn, _, err := http.NewResponseController(l.w).Hijack()
	if err != nil {
		return
	}
	l.header(wire.NDJSON)
	l.h.Set(wire.HeaderNext, l.h.Get(wire.HeaderTo))
	var b bytes.Buffer
	fmt.Fprintf(&b, "%s\r\n", status)
	_ = l.h.Write(&b)
	fmt.Fprintf(&b, "\r\n%s", body)
	_, _ = conn.Write(b.Bytes())
	conn.Close()
}

// tailError returns the error of a tail that must fail.
func tailError(t *testing.T, c *Client, topic string) (last error) {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), 10*time.Second)
	defer cancel()
	for _, err := range c.Tail(ctx, mustTopic(t, topic), TailOptions{}) {
		last = err
	}
	return last
}

// An event that differs from the held one with the same id is reported, and the held one
// stays.
func TestConflict(t *testing.T) {
	f := newFixture(t)
	f.put("alice/x", 3)
	db := f.newCache()
	c := newTestClient(t, db, hasty(f.http.URL))
	if _, err := c.Sync(t.Context(), mustTopic(t, "alice/x"), SyncOptions{}); err != nil {
		t.Fatal(err)
	}
	f.through(func(h http.Handler) http.Handler {
		return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			if requestKind(r) == asksPage {
				l := &liar{f: f, h: w.Header(), w: w, r: r}
				l.page(l.event(2, "alice/x"))
				return
			}
			h.ServeHTTP(w, r)
		})
	})
	var conflict *cache.ConflictError
	if err := tailError(t, c, "alice"); !errors.As(err, &conflict) || conflict.ID != 2 {
		t.Errorf("tail ends with %v, want a conflict about 2", err)
	}
	f.through(nil)
	s := Synced{}
	s.Span.To = 3
	sameEvents(t, "held", held(t, db, mustTopic(t, "alice/x"), s), f.truth("*", "", ""))
}

// Odd but harmless blocks do not end a stream: the event at the position from which the
// reader resumed, a control event without an id, unknown ones, positions that go back.
func TestHarmlessStream(t *testing.T) {
	f := newFixture(t)
	f.put("alice/x", 2)
	lines := f.truth("*", "", "")
	third := sync.OnceValue(func() string {
		f.put("alice/x", 1)
		return f.truth("*", "", "")[2].line
	})
	f.through(func(h http.Handler) http.Handler {
		return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			if requestKind(r) != asksStream {
				h.ServeHTTP(w, r)
				return
			}
			l := &liar{f: f, h: w.Header(), w: w, r: r}
			l.stream("\ufeff: hello\n\nevent: hi\ndata: {}\n\n", l.block(event.ID(2).String(), "PUT", lines[1].line),
				l.block(event.ID(2).String(), "tick", "{}"), "id: "+event.ID(1).String()+"\n\n",
				l.block(event.ID(3).String(), "PUT", third()))
		})
	})
	c := newTestClient(t, f.newCache(), hasty(f.http.URL))
	n := 0
	for _, err := range c.Tail(t.Context(), mustTopic(t, "alice"), TailOptions{}) {
		if err != nil {
			t.Fatal(err)
		}
		if n++; n == 3 {
			break
		}
	}
}

// A redirect to another host is followed, with the cursor.
func TestRedirect(t *testing.T) {
	noLeaks(t)
	f := newFixture(t)
	f.put("alice/x", 10)
	status := http.StatusTemporaryRedirect
	front := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		http.Redirect(w, r, f.http.URL+r.URL.RequestURI(), status)
	}))
	defer front.Close()
	c := newTestClient(t, f.newCache(), hasty(front.URL))
	n := 0
	for _, err := range c.Tail(t.Context(), mustTopic(t, "alice"), TailOptions{}) {
		if err != nil {
			t.Fatal(err)
		}
		if n++; n == 10 {
			put(t, c, "alice/x", "k")
		}
		if n == 11 {
			break
		}
	}
	status = http.StatusMovedPermanently // makes a GET of a POST
	var protocol *ProtocolError
	if _, err := c.Put(t.Context(), drafts("alice/x", "k2")); !errors.As(err, &protocol) {
		t.Errorf("put = %v, want a ProtocolError", err)
	}
}

// The next server of the same log continues where the one before has ended.
func TestSeveralServers(t *testing.T) {
	noLeaks(t)
	f := newFixture(t)
	f.put("alice/x", 500)
	var servers []*httptest.Server
	var urls []string
	var pages, down atomic.Int64 // down is how many servers answer nothing
	down.Store(1)
	for range 4 {
		i := len(servers)
		s := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			if i < int(down.Load()) || requestKind(r) == asksPage && pages.Add(1)%2 == 0 {
				panic(http.ErrAbortHandler)
			}
			f.srv.ServeHTTP(w, r)
		}))
		servers, urls = append(servers, s), append(urls, s.URL)
	}
	c := newTestClient(t, f.newCache(), hasty(urls...))
	n := 0
	for _, err := range c.Tail(t.Context(), mustTopic(t, "alice"), TailOptions{}) {
		if err != nil {
			t.Fatal(err)
		}
		if n++; n == 502 {
			break
		}
		if n >= 500 {
			servers[down.Add(1)-1].CloseClientConnections()
			f.put("alice/x", 1)
		}
	}
	for _, s := range servers {
		s.CloseClientConnections()
		s.Close()
	}
	if came := c.Stats().Events; came != 502 {
		t.Errorf("%d events came, want 502", came)
	}
}

func TestErrorWording(t *testing.T) {
	// A port that was free a moment ago may be somebody else's by now.
	const addr = "server.example:8420"
	refused := &net.OpError{Op: "dial", Net: "tcp", Err: os.NewSyscallError("connect", syscall.ECONNREFUSED)}
	cfg := hasty("http://me:secret@" + addr)
	cfg.HTTP = &http.Client{Transport: stub(func(*http.Request) (*http.Response, error) { return nil, refused })}
	f := newFixture(t)
	c := newTestClient(t, f.newCache(), cfg)
	_, put := c.Put(t.Context(), drafts("alice/x", "k"))
	_, sync := c.Sync(t.Context(), mustTopic(t, "alice"), SyncOptions{})
	said := map[string]error{
		"tail alice/posts/: connect " + addr + ": connection refused": tailError(t, c, "alice/posts/"),
		"sync alice: connect " + addr + ": connection refused":        sync,
		"put: connect " + addr + ": connection refused":               put,
	}
	for want, err := range said {
		if err == nil || err.Error() != want {
			t.Errorf("error %q, want %q", err, want)
		}
	}
	gateway := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) { w.WriteHeader(502) }))
	defer gateway.Close()
	c = newTestClient(t, f.newCache(), hasty(gateway.URL))
	var unreachable *UnreachableError
	if err := tailError(t, c, "alice"); !errors.As(err, &unreachable) || !strings.HasSuffix(err.Error(), ": 502 bad gateway") {
		t.Errorf("through a proxy: %v", err)
	}
	many := make([]event.Topic, 5)
	for i := range many {
		many[i] = mustTopic(t, fmt.Sprint("u", i))
	}
	if got, want := topicNames(many), "u0, u1, u2, and 2 more"; got != want {
		t.Errorf("names = %q, want %q", got, want)
	}
}

// No tail may make the cursor request more topics than a server accepts: the other tails
// would fail.
func TestTooManyTopics(t *testing.T) {
	f := newFixture(t)
	c := newTestClient(t, f.newCache(), hasty(f.http.URL))
	l := &c.live
	l.topics = map[event.Topic]int{}
	for i := range wire.MaxTopics {
		l.topics[mustTopic(t, fmt.Sprint("u", i))] = 1
	}
	_, err := l.addFollower(t.Context(), &follower{topics: []event.Topic{mustTopic(t, "one/more")}}, 0)
	if err == nil {
		t.Error("joined")
	}
}

// A full disk, or a file that is gone, ends the tail with an error.
func TestStoreFails(t *testing.T) {
	noLeaks(t)
	f := newFixture(t)
	f.put("alice/x", 10)
	db := f.newCache()
	c := newTestClient(t, db, hasty(f.http.URL))
	n := 0
	var last error
	for _, err := range c.Tail(t.Context(), mustTopic(t, "alice"), TailOptions{}) {
		last = err
		if n++; n == 10 {
			db.Close()
			f.put("alice/x", 1)
		}
	}
	if last == nil || !strings.Contains(last.Error(), "database is closed") {
		t.Errorf("tail ends with %v", last)
	}
}
