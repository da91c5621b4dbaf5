package doctor

import (
	"bytes"
	"errors"
	"fmt"
	"net/http"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/rstream-dev/rstream/event"
	"github.com/rstream-dev/rstream/internal/wire"
)

const testLog = "K7Q2M4X9C0V3B8RT"

// line returns the line of an event of an rstream log.
func line(id int) []byte {
	d := event.Draft{User: "alice", Path: "posts/1", Type: event.Put, Key: fmt.Sprint(id), Value: fmt.Appendf(nil, `{"n":%d}`, id)}
	ev := event.New(event.ID(id), event.TimeOf(time.Unix(1_790_000_000, 0)), d, d.Hash())
	return ev.AppendLine(nil)
}

// block returns the same event as a block of a stream.
func block(id int) string {
	return fmt.Sprintf("id: %s\nevent: PUT\ndata: %s\n\n", event.CursorOf(event.ID(id), testLog), line(id))
}

func blocks(from, to int) (s string) {
	for id := from; id <= to; id++ {
		s += block(id)
	}
	return s
}

func liveBlock(id int) string {
	return string(wire.AppendLive(nil, event.Point{ID: event.ID(id)}, event.Point{ID: event.ID(id)}, testLog, nil))
}

// head sends the head of an rstream server.
func head(w http.ResponseWriter, media string) {
	h := w.Header()
	h.Set(wire.HeaderLog, testLog)
	h.Set("Content-Type", media)
	h.Set("Cache-Control", "no-cache, no-transform")
	h.Set("X-Accel-Buffering", "no")
}

// ours is an rstream server with six events, written from the protocol. It answers correctly
// what bend does not answer.
func ours(bend func(w http.ResponseWriter, r *http.Request) bool) http.HandlerFunc {
	return func(w http.ResponseWriter, r *http.Request) {
		if bend != nil && bend(w, r) {
			return
		}
		q := r.URL.Query()
		cursor, _ := event.ParseCursor(r.Header.Get(wire.HeaderLastEventID))
		switch {
		case r.URL.Path == "/":
			head(w, wire.JSON)
			fmt.Fprintf(w, `{"name":"rstream","version":"1","log":%q,"head":"0000000000006","horizon":"0000000000000"}`, testLog)
		case r.URL.Path == "/healthz" || r.URL.Path == "/readyz":
			head(w, "text/plain")
		case r.URL.Path != "/events":
			http.NotFound(w, r)
		case r.Header.Get("Accept") == wire.NDJSON:
			head(w, wire.NDJSON)
			w.Header().Set(wire.HeaderFrom, event.ID(0).String())
			w.Header().Set(wire.HeaderTo, event.ID(6).String())
			for id := 1; id <= 6; id++ {
				fmt.Fprintf(w, "%s\n", line(id))
			}
		case r.Header.Get(wire.HeaderLastEventID) != "" && !cursor.Of(testLog):
			head(w, wire.Problem)
			w.WriteHeader(http.StatusConflict)
		default:
			head(w, wire.SSE)
			s := &stream{w, r}
			s.send("retry: 1000\n: rstream\n\n" + blocks(int(cursor.ID)+1, 6) + liveBlock(6))
			if !q.Has("until") {
				s.beat(15*time.Second, "id: 0000000000006.K7Q2M\n\n")
			}
		}
	}
}

// states answers as an rstream server does at the paths of states: with a state, two changes and
// heartbeats, or with the changes after a cursor. The board is the same but for its events.
func states(w http.ResponseWriter, r *http.Request) bool {
	known := map[string]string{"/snapshot": "topic at until", "/api/connections": "until", "/api/events": "until"}[r.URL.Path]
	if strings.HasPrefix(r.URL.Path, "/api/room/") {
		known = "at until"
	}
	if known == "" {
		return false
	}
	for name := range r.URL.Query() {
		if !slices.Contains(strings.Fields(known), name) {
			http.Error(w, "unknown parameter "+name, http.StatusBadRequest)
			return true
		}
	}
	if r.Header.Get("Accept") != wire.SSE {
		head(w, wire.JSON)
		fmt.Fprintf(w, `{"at":"0000000000004","events":[]}`)
		return true
	}
	cursor, err := event.ParseCursor(r.Header.Get(wire.HeaderLastEventID))
	head(w, wire.SSE)
	s := &stream{w, r}
	begin := string(wire.AppendPreamble(nil, time.Second))
	if err == nil && cursor.Of(testLog) {
		s.send(begin + blocks(int(cursor.ID)+1, 6) + liveBlock(6))
	} else {
		state := string(wire.AppendStateBegin(nil, event.Point{ID: 4}, testLog))
		for id := 1; id <= 4; id++ {
			state += fmt.Sprintf("event: PUT\ndata: %s\n\n", line(id))
		}
		s.send(begin + state + string(wire.AppendPosition(nil, event.Point{ID: 4}, testLog)) + liveBlock(4))
		for id := 5; id <= 6 && !r.URL.Query().Has("until"); id++ {
			if s.wait(time.Second) {
				s.send(block(id))
			}
		}
	}
	if !r.URL.Query().Has("until") {
		s.beat(15*time.Second, "id: 0000000000006.K7Q2M\n\n")
	}
	return true
}

// A stream that begins with a state has no range, needs no ids in the state, and sends a state to a
// reader with an unknown cursor.
func TestOurStates(t *testing.T) {
	for _, path := range []string{"/snapshot?topic=alice", "/snapshot?topic=alice&until=now", "/snapshot?topic=alice&at=now",
		"/api/connections", "/api/events", "/api/events?until=now", "/api/room/alice", "/api/room/alice/", "/api/room/alice/events",
		"/api/room/alice/get?at=now"} {
		t.Run(path, func(t *testing.T) {
			r := examineAt(t, Config{URL: mustParse("http://127.0.0.1" + path), Listen: 20 * time.Second}, ours(func(w http.ResponseWriter, r *http.Request) bool {
				if r.URL.Path == "/events" {
					t.Errorf("asked for %s", r.URL)
				}
				return states(w, r)
			}))
			want := OK
			if strings.Contains(path, "until") {
				want = Note // the stream ends
				r.want(t, "ids", Note, "no event came after the state")
			} else {
				r.want(t, "ids", OK, "each of 2 events has its own id")
				r.want(t, "resume", OK, `after the id "0000000000005.K7Q2M", the stream resumes with the next event`)
			}
			if r.Severity != want {
				t.Errorf("it is %s:\n%s", r.Severity, &r)
			}
			r.want(t, "server", OK, "rstream 1")
			r.want(t, "health", OK, "")
		})
	}
}

// A reader that does not see all of a board gets a state after each reconnection.
func TestOurStateAgain(t *testing.T) {
	r := examineAt(t, Config{URL: mustParse("http://127.0.0.1/api/events"), Listen: 20 * time.Second}, ours(func(w http.ResponseWriter, r *http.Request) bool {
		r.Header.Del(wire.HeaderLastEventID)
		return states(w, r)
	}))
	r.want(t, "resume", OK, "the stream begins with a state again")
	if r.Severity != OK {
		t.Errorf("it is %s:\n%s", r.Severity, &r)
	}
}

// A server may be below any path, even one that looks like that of a board.
func TestOurServerBelowPath(t *testing.T) {
	for _, u := range []string{"http://127.0.0.1/api/", "http://127.0.0.1/api/events?topic=*"} {
		r := examineAt(t, Config{URL: mustParse(u), Listen: 20 * time.Second}, http.StripPrefix("/api", ours(nil)).ServeHTTP)
		if r.Severity != OK {
			t.Errorf("%s is %s:\n%s", u, r.Severity, &r)
		}
		r.want(t, "exact", OK, "6 events as NDJSON")
	}
	r := examineAt(t, Config{URL: mustParse("http://127.0.0.1/log/api/room/alice"), Listen: 20 * time.Second}, http.StripPrefix("/log", ours(states)).ServeHTTP)
	r.want(t, "server", OK, "rstream 1")
	if r.Severity != OK {
		t.Errorf("it is %s:\n%s", r.Severity, &r)
	}
}

func TestOurServer(t *testing.T) {
	for _, u := range []string{"http://127.0.0.1", "http://127.0.0.1/", "http://127.0.0.1/events?topic=*"} {
		r := examineAt(t, Config{URL: mustParse(u), Listen: 20 * time.Second}, ours(nil))
		if r.Severity != OK {
			t.Errorf("%s is %s:\n%s", u, r.Severity, &r)
		}
		r.want(t, "server", OK, "rstream 1, log "+testLog+" from 0000000000000 to 0000000000006")
		r.want(t, "resume", OK, `"0000000000003.K7Q2M", the stream resumes with the next event`)
		r.want(t, "exact", OK, "6 events as NDJSON, and as a stream resumed after 2 of them, are the same")
	}
}

// Doctor requests only the newest events, and only of the given topic.
func TestOurServerIsAskedForLittle(t *testing.T) {
	for _, c := range []struct{ url, topic string }{{"http://127.0.0.1", "bob/x"}, {"http://127.0.0.1/events?topic=bob/x", ""}} {
		cfg := Config{URL: mustParse(c.url), Listen: 20 * time.Second}
		if c.topic != "" {
			topic, err := event.ParseTopic(c.topic)
			if err != nil {
				t.Fatal(err)
			}
			cfg.Topic = topic
		}
		whole := 0
		r := examineAt(t, cfg, ours(func(w http.ResponseWriter, r *http.Request) bool {
			q := r.URL.Query()
			if r.URL.Path == "/events" && q.Get("topic") != "bob/x" {
				t.Errorf("asked for %s", r.URL)
			}
			if r.URL.Path == "/events" && q.Get("last") != "100" && !q.Has("since") {
				whole++
			}
			return false
		}))
		if want := map[bool]int{true: 0, false: 1}[c.topic != ""]; whole != want {
			t.Errorf("all of the log was asked for %d times", whole)
		}
		r.want(t, "exact", OK, "6 events")
	}
}

// A proxy may break the server's promises.
func TestOurServerBent(t *testing.T) {
	stream := func(w http.ResponseWriter, text string) {
		head(w, wire.SSE)
		(&stream{w, nil}).send(text)
	}
	until := func(r *http.Request, resumed bool) bool {
		return r.URL.Query().Has("until") && r.Header.Get("Accept") == wire.SSE && (r.Header.Get(wire.HeaderLastEventID) != "") == resumed
	}
	for _, c := range []struct {
		name     string
		bend     func(w http.ResponseWriter, r *http.Request) bool
		check    string
		severity Severity
		text     string
	}{
		{"no root", func(w http.ResponseWriter, r *http.Request) bool {
			if r.URL.Path == "/" {
				http.NotFound(w, r)
			}
			return r.URL.Path == "/"
		}, "server", Note, "404"},
		{"another root", func(w http.ResponseWriter, r *http.Request) bool {
			if r.URL.Path == "/" {
				fmt.Fprintf(w, `{"name":"rstream","log":"AAAAAAAAAAAAAAAA"}`)
			}
			return r.URL.Path == "/"
		}, "server", Error, "/ is from the log AAAAAAAAAAAAAAAA"},
		{"not healthy", func(w http.ResponseWriter, r *http.Request) bool {
			if r.URL.Path == "/readyz" {
				http.Error(w, "starting", http.StatusServiceUnavailable)
			}
			return r.URL.Path == "/readyz"
		}, "health", Warning, "/readyz: 503 starting"},
		{"cursors taken away", func(w http.ResponseWriter, r *http.Request) bool {
			r.Header.Del(wire.HeaderLastEventID)
			return false
		}, "strange-id", Error, "must be refused with 409, but the response is a stream"},
		{"cursors taken away, again", func(w http.ResponseWriter, r *http.Request) bool {
			r.Header.Del(wire.HeaderLastEventID)
			return false
		}, "exact", Error, "event 3 of 6 is a different one"},
		{"preamble held back", func(w http.ResponseWriter, r *http.Request) bool {
			if r.URL.Path == "/events" && r.Header.Get("Accept") == wire.SSE {
				stream(w, "")
				<-r.Context().Done()
			}
			return r.URL.Path == "/events" && r.Header.Get("Accept") == wire.SSE
		}, "buffered", Error, "sends its first block with its head"},
		{"an event lost at the end", func(w http.ResponseWriter, r *http.Request) bool {
			if until(r, true) {
				stream(w, blocks(3, 5)+liveBlock(6))
			}
			return until(r, true)
		}, "exact", Error, "1 of 6 events are missing at the end"},
		{"an event lost in the middle", func(w http.ResponseWriter, r *http.Request) bool {
			if until(r, true) {
				stream(w, blocks(4, 6)+liveBlock(6))
			}
			return until(r, true)
		}, "exact", Error, "event 3 of 6 is a different one"},
		{"an event too many", func(w http.ResponseWriter, r *http.Request) bool {
			if until(r, true) {
				stream(w, blocks(3, 6)+block(6)+liveBlock(6))
			}
			return until(r, true)
		}, "exact", Error, "1 events come more than once"},
		{"bytes changed", func(w http.ResponseWriter, r *http.Request) bool {
			if until(r, false) {
				stream(w, strings.ReplaceAll(blocks(1, 6), `"n"`, `"m"`))
			}
			return until(r, false)
		}, "exact", Error, "event 1 of 6 is a different one"},
		{"the stream refused", func(w http.ResponseWriter, r *http.Request) bool {
			if until(r, true) {
				http.Error(w, "no", http.StatusForbidden)
			}
			return until(r, true)
		}, "exact", Error, "but not as a stream: 403 no"},
		{"Accept taken away", func(w http.ResponseWriter, r *http.Request) bool {
			if r.Header.Get("Accept") == wire.NDJSON {
				http.Error(w, "no", http.StatusNotAcceptable)
			}
			return r.Header.Get("Accept") == wire.NDJSON
		}, "exact", Error, "cannot fetch the events as NDJSON: 406 no"},
		{"headers taken away", func(w http.ResponseWriter, r *http.Request) bool {
			if r.Header.Get("Accept") == wire.NDJSON {
				head(w, wire.NDJSON)
			}
			return r.Header.Get("Accept") == wire.NDJSON
		}, "exact", Error, "Rstream-From and Rstream-To are missing"},
		{"lines cut", func(w http.ResponseWriter, r *http.Request) bool {
			if r.Header.Get("Accept") != wire.NDJSON {
				return false
			}
			head(w, wire.NDJSON)
			w.Header().Set(wire.HeaderFrom, event.ID(0).String())
			w.Header().Set(wire.HeaderTo, event.ID(6).String())
			w.Write(line(1))
			w.(http.Flusher).Flush()
			panic(http.ErrAbortHandler)
		}, "exact", Error, "the NDJSON response broke: unexpected EOF"},
	} {
		t.Run(c.name, func(t *testing.T) {
			r := examineAt(t, Config{URL: mustParse("http://127.0.0.1/events?topic=*"), Listen: 20 * time.Second}, ours(c.bend))
			r.want(t, c.check, c.severity, c.text)
		})
	}
}

// An event whose hash is wrong is wrong in every form.
func TestCompareParts(t *testing.T) {
	body := bytes.ReplaceAll(append(line(1), '\n'), []byte(`{"n":1}`), []byte(`{"n":2}`))
	parts := &Transcript{IsStream: true}
	if f := compareParts(body, parts, parts); f.Severity != Error || !strings.Contains(f.Detail, "does not match its hash") {
		t.Errorf("%+v", f)
	}
	lost := &Transcript{Err: errors.New("gone")}
	if f := compareParts(body, parts, lost); f.Severity != Error || !strings.Contains(f.Detail, "gone") {
		t.Errorf("%+v", f)
	}
}

// The times of an rstream log are those at which its events were appended, so events that arrive
// together much later were held back.
func TestOurServerHeldBack(t *testing.T) {
	at := func(id int, at time.Time) string {
		d := event.Draft{User: "alice", Path: "posts/1", Type: event.Put, Key: fmt.Sprint(id), Value: []byte("1")}
		ev := event.New(event.ID(id), event.TimeOf(at), d, d.Hash())
		return string(wire.AppendEvent(nil, &ev, testLog))
	}
	r := examineAt(t, Config{URL: mustParse("http://127.0.0.1/events?topic=*"), Listen: 20 * time.Second}, ours(func(w http.ResponseWriter, r *http.Request) bool {
		if r.URL.Path != "/events" || r.Header.Get("Accept") != wire.SSE || r.URL.Query().Has("until") {
			return false
		}
		head(w, wire.SSE)
		s := &stream{w, r}
		s.send(string(wire.AppendPreamble(nil, time.Second)) + blocks(1, 6) + liveBlock(6))
		if s.wait(9 * time.Second) {
			s.send(at(7, time.Now().Add(-6*time.Second)) + at(8, time.Now()))
		}
		s.hold()
		return true
	}))
	r.want(t, "buffered", Error, "events produced over 6s arrived at once, after a silence of 9s")
}

// An rstream server answers 204 to a reader that has all of a range that ends, so that browsers stop.
func TestOurServerAtTheEnd(t *testing.T) {
	ends := func(last int) http.HandlerFunc {
		return ours(func(w http.ResponseWriter, r *http.Request) bool {
			switch {
			case r.URL.Path != "/events" || r.Header.Get("Accept") != wire.SSE || r.URL.Query().Get("since") == "0000000000000":
				return false
			case r.Header.Get(wire.HeaderLastEventID) == "":
				head(w, wire.SSE)
				(&stream{w, r}).send(string(wire.AppendPreamble(nil, time.Second)) + blocks(1, last) + liveBlock(last))
				return true
			case strings.HasSuffix(r.Header.Get(wire.HeaderLastEventID), ".K7Q2M"):
				w.Header().Set(wire.HeaderLog, testLog)
				w.WriteHeader(http.StatusNoContent)
				return true
			}
			return false
		})
	}
	cfg := Config{URL: mustParse("http://127.0.0.1/events?topic=*&until=now"), Listen: 20 * time.Second}
	r := examineAt(t, cfg, ends(1))
	r.want(t, "resume", OK, `after the id "0000000000001.K7Q2M" of the last event, the server answers 204`)
	if r.Severity > Note {
		t.Errorf("it is %s:\n%s", r.Severity, &r)
	}
	r = examineAt(t, cfg, ends(3))
	r.want(t, "resume", Error, `after the id "0000000000002.K7Q2M", the server answers 204, though 1 later events came before`)
}

// A foreign server with an invalid log id is not taken for an rstream server.
func TestBadLogName(t *testing.T) {
	r := examine(t, 20*time.Second, func(w http.ResponseWriter, r *http.Request) {
		w.Header().Set(wire.HeaderLog, "X")
		good(w, r)
	})
	if len(r.find("server")) != 0 || r.Severity > Note {
		t.Errorf("it is %s:\n%s", r.Severity, &r)
	}
}

func TestOrder(t *testing.T) {
	for _, c := range []struct {
		a, b string
		want int
	}{
		{"9", "10", -1}, {"010", "9", 1}, {"7", "7", 0}, {"1-2", "1-10", -1}, {"2.0", "1.9", 1}, {"1", "1-2", 0},
		{"", "1", 0}, {"b", "a", 0}, {"0000000000009.K7Q2M", "000000000000A.K7Q2M", -1}, {"18446744073709551616", "2", 1},
	} {
		if got := compareIDs(c.a, c.b); got != c.want {
			t.Errorf("order(%q, %q) = %d, want %d", c.a, c.b, got, c.want)
		}
	}
}

// With a proxy in front of an rstream server, doctor warns about restarts.
func TestProxyInFront(t *testing.T) {
	for name, value := range map[string]string{"Server": "nginx/1.22.1", "Via": "1.1 Caddy"} {
		h := ours(func(w http.ResponseWriter, _ *http.Request) bool { w.Header().Set(name, value); return false })
		r := examineAt(t, Config{URL: mustParse("http://127.0.0.1/"), Listen: 20 * time.Second}, h)
		r.want(t, "proxies", Note, value+"; a proxy that answers 502 while the server restarts")
	}
	r := examineAt(t, Config{URL: mustParse("http://127.0.0.1/"), Listen: 20 * time.Second}, ours(nil))
	r.want(t, "proxies", OK, "none names itself")
}
