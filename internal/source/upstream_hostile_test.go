package source

import (
	"context"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"runtime"
	"strings"
	"testing"

	"github.com/rstream-dev/rstream/event"
	"github.com/rstream-dev/rstream/internal/sourcetest"
	"github.com/rstream-dev/rstream/internal/wire"
)

// A liar is an rstream server that sends one event. Then it answers a relay that goes on from
// there with gone or conflict, and what the relay asks for upon that with a lie.
type liar struct {
	status int // of the second stream: 410 or 409
	oldest event.ID
	path   string // whose answer is the lie
	lie    http.HandlerFunc
}

const liarLog = "K7Q2M4X9C0V3B8RT"

func liarCursor(n event.ID) string { return event.CursorOf(n, liarLog).String() }

// liarLine returns the line of an event of the server.
func liarLine(n event.ID, name string, typ event.Type) string {
	user, path, _ := strings.Cut(name, "/")
	d := event.Draft{User: user, Path: path, Type: typ, Key: fmt.Sprint("k", n)}
	if typ == event.Put {
		d.Value = []byte("1")
	}
	ev := event.New(n, 1, d, d.Hash())
	return string(ev.Line())
}

// longLiarLine returns the line of an event of the server with a value that is too long.
func longLiarLine(n event.ID) string {
	d := event.Draft{User: "alice", Path: "x", Type: event.Put, Key: "k", Value: []byte(`"` + strings.Repeat("x", wire.MaxValue-1) + `"`)}
	ev := event.New(n, 1, d, d.Hash())
	return string(ev.Line())
}

func (l *liar) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	w.Header().Set(wire.HeaderLog, liarLog)
	switch {
	case r.URL.Path != "/events":
		w.Header().Set("Content-Type", wire.JSON)
		if r.URL.Path == l.path {
			l.lie(w, r)
			return
		}
		// The log that continues the one before, as it says truly.
		w.Header().Set(wire.HeaderLog, "B8RT9C0V3K7Q2M4X")
		fmt.Fprintf(w, `{"log":"B8RT9C0V3K7Q2M4X","parent":{"log":%q}}`, liarLog)
	case r.Header.Get("Last-Event-ID") == "":
		w.Header().Set("Content-Type", wire.SSE)
		w.Header().Set(wire.HeaderFrom, liarCursor(0))
		fmt.Fprintf(w, "id: %s\nevent: PUT\ndata: %s\n\nid: %[1]s\nevent: live\ndata: {}\n\n", liarCursor(2), liarLine(2, "alice/x", event.Put))
	default:
		writeProblem(w, l.status, l.oldest)
	}
}

func writeProblem(w http.ResponseWriter, status int, oldest event.ID) {
	w.Header().Set("Content-Type", wire.Problem)
	w.WriteHeader(status)
	fmt.Fprintf(w, `{"status":%d,"oldest":%q}`, status, oldest)
}

// What a server must not answer when its history is gone or another one is refused before any
// of it is stored, in bounded memory. A relay asks it for the state, about its log, and for the
// ids of events.
func TestUpstreamLiesAside(t *testing.T) {
	const at, other = 5000, "ZZZZZZZZZZZZZZZZ"
	var elsewhere []string // the secrets that another host got
	host := httptest.NewServer(http.HandlerFunc(func(_ http.ResponseWriter, r *http.Request) {
		elsewhere = append(elsewhere, r.Header.Get("Authorization")+r.Header.Get("X-Key")+r.Header.Get("Referer"))
	}))
	defer host.Close()
	state := func(to string, body string) http.HandlerFunc {
		return func(w http.ResponseWriter, _ *http.Request) {
			w.Header().Set(wire.HeaderTo, to)
			io.WriteString(w, body)
		}
	}
	values := func(lines ...string) http.HandlerFunc {
		return state(liarCursor(at), `{"events":[`+strings.Join(lines, ",")+`]}`)
	}
	forever := func(first, again string) http.HandlerFunc {
		return func(w http.ResponseWriter, _ *http.Request) {
			w.Header().Set(wire.HeaderTo, liarCursor(at))
			sourcetest.WriteEndless(w, first, again)
		}
	}
	redirect := func(to string) http.HandlerFunc {
		return func(w http.ResponseWriter, r *http.Request) { http.Redirect(w, r, to, http.StatusTemporaryRedirect) }
	}
	withHeader := func(name, value string) http.HandlerFunc {
		return func(w http.ResponseWriter, r *http.Request) {
			w.Header().Set(name, value)
			values(liarLine(3, "alice/x", event.Put))(w, r)
		}
	}
	asked := event.ID(at)
	for _, tt := range []struct {
		name string
		liar
		err string
	}{
		{"a position that was passed", liar{410, 1, "/snapshot", values()}, "says that history after"},
		{"positions that move for ever", liar{410, at, "/snapshot", func(w http.ResponseWriter, _ *http.Request) {
			asked++
			writeProblem(w, http.StatusGone, asked)
		}}, "answers 410"},
		{"no state", liar{410, at, "/snapshot", withHeader("Content-Type", "text/html")}, "not an rstream server"},
		{"a bomb", liar{410, at, "/snapshot", withHeader("Content-Encoding", "gzip")}, "is compressed"},
		{"the state of another log", liar{410, at, "/snapshot", withHeader(wire.HeaderLog, other)}, "is the log " + other},
		{"another position", liar{410, at, "/snapshot", state(liarCursor(at+1), `{"events":[]}`)}, "did not send the state at"},
		{"a hash", liar{410, at, "/snapshot", values(strings.Replace(liarLine(3, "alice/x", event.Put), `"key":"k`, `"key":"l`, 1))}, "sent a bad event"},
		{"a value that is none", liar{410, at, "/snapshot", values(liarLine(3, "alice/x", event.Del))}, "not in the state"},
		{"a later event", liar{410, at, "/snapshot", values(liarLine(at+1, "alice/x", event.Put))}, "not in the state"},
		{"another topic", liar{410, at, "/snapshot", values(liarLine(3, "bob/x", event.Put))}, "not in the state"},
		{"two values of a storage", liar{410, at, "/snapshot", values(liarLine(3, "alice/x", event.Put), liarLine(4, "alice/x", event.Put))}, "not in the state"},
		{"a long value", liar{410, at, "/snapshot", values(longLiarLine(3))}, "is longer than 1048576 bytes"},
		{"JSON that is none", liar{410, at, "/snapshot", values("{]")}, "cannot be read"},
		{"no list", liar{410, at, "/snapshot", state(liarCursor(at), "{}")}, "cannot be read"},
		{"an endless value", liar{410, at, "/snapshot", forever(`{"events":[{"x":"`, "xxxx")}, "cannot be read"},
		{"an endless member", liar{410, at, "/snapshot", forever(`{"x":[`, "1,1,")}, "cannot be read"},
		{"a redirect loop", liar{410, at, "/snapshot", redirect("/snapshot")}, "10 redirects"},
		{"a redirect to another host", liar{410, at, "/snapshot", redirect(host.URL)}, "not an rstream server"},
		{"an endless description", liar{409, 0, "/", forever(`{"log":"`, "xxxx")}, "unexpected EOF"},
		{"two logs", liar{409, 0, "/", state("", `{"log":"`+other+`"}`)}, "names two logs"},
		{"a parent that is no log", liar{409, 0, "/", state("", `{"log":"`+liarLog+`","parent":{"log":"\u0001"}}`)}, "names two logs"},
		{"endless ids", liar{409, 0, "/get", forever(`{"events":[`, `{"hash":"`+strings.Repeat("0", 64)+`","id":"0000000000001"},`)}, "was not asked for"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			relay := newLog(t)
			cfg := upstreamConfig(t, "lab", serveFunc(t, tt.ServeHTTP)+"/events?topic=alice", relay)
			cfg.Token = func(context.Context) (string, error) { return "t0ken", nil }
			cfg.Header = http.Header{"X-Key": {"s3cret"}}
			if _, err := Follow(t.Context(), cfg); err != nil {
				t.Fatal(err)
			}
			var before, after runtime.MemStats
			runtime.ReadMemStats(&before)
			_, err := Follow(t.Context(), cfg)
			runtime.ReadMemStats(&after)
			if err == nil || !strings.Contains(err.Error(), tt.err) {
				t.Errorf("%v, want %q", err, tt.err)
			}
			if grown := int64(after.HeapSys) - int64(before.HeapSys); grown > 32<<20 {
				t.Errorf("%d bytes of memory", grown)
			}
			if got := hashesOf(t, relay); len(got) != 1 || len(gapsOf(t, relay, "lab")) > 0 {
				t.Errorf("%d events, gaps %q", len(got), gapsOf(t, relay, "lab"))
			}
		})
	}
	if asked != at+maxMoves {
		t.Errorf("asked for %d positions, want %d", asked-at, maxMoves)
	}
	if len(elsewhere) == 0 || strings.Join(elsewhere, "") != "" {
		t.Errorf("another host got %q", elsewhere)
	}
}
