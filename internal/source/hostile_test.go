package source

import (
	"context"
	"io"
	"net/http"
	"runtime"
	"strings"
	"testing"
	"time"

	"github.com/rstream-dev/rstream/event"
	"github.com/rstream-dev/rstream/internal/sourcetest"
	"github.com/rstream-dev/rstream/internal/wire"
	"github.com/rstream-dev/rstream/window"
)

// TestHostileStreams follows streams that harm nothing: each row says what is stored of one,
// and how it ends.
func TestHostileStreams(t *testing.T) {
	text := func(s string) http.HandlerFunc {
		return func(w http.ResponseWriter, _ *http.Request) { io.WriteString(w, s+endBlock) }
	}
	long := strings.Repeat("x", 900<<10)
	type row struct {
		name    string
		serve   http.HandlerFunc
		m       Mapping
		events  int
		refused int
		err     string // what the error contains
	}
	rows := []row{
		{name: "32 MB of comments", serve: func(w http.ResponseWriter, _ *http.Request) {
			comment := ":" + strings.Repeat("x", 1<<20-2) + "\n"
			for range 32 {
				io.WriteString(w, comment)
			}
			text("id: 1\ndata: 1\n\n")(w, nil)
		}, events: 1},
		{name: "a redirect to a file", serve: func(w http.ResponseWriter, r *http.Request) {
			http.Redirect(w, r, "file:///etc/passwd", http.StatusFound)
		}, err: "file"},
		{name: "an id that cannot be sent", serve: text("id: " + strings.Repeat("x", maxCursor+1) + "\ndata: 1\n\n"), events: 1},
		{name: "an id that is not UTF-8", serve: text("id: \xff\ndata: 1\n\n"), events: 1},
		{name: "a long id", serve: text("id: " + strings.Repeat("x", maxCursor) + "\ndata: 1\n\n"), events: 1},
		{name: "a type that is too long", serve: text("event: " + long + "\ndata: 1\n\n"), refused: 1},
		{name: "names that are none", m: Mapping{User: ".u", Path: ".p"}, events: 3, refused: 5, serve: text("data: {\"u\":\"..\",\"p\":\"a/../b\"}\n\n" +
			"data: {\"u\":\"a/*\",\"p\":\"\\u0000\"}\n\ndata: {\"u\":\"a,$\",\"p\":\"/\"}\n\n" +
			"data: {\"u\":\"\",\"p\":\"x\"}\n\ndata: {\"u\":\"x\",\"p\":null}\n\ndata: {\"u\":[],\"p\":\"x\"}\n\ndata: {\"u\":\".sources\",\"p\":\"src\"}\n\ndata: {\"u\":\".\\u0000\",\"p\":\"src\"}\n\n")},
		{name: "JSON that is none, and expressions", m: Mapping{Path: ".p"}, serve: text("data: {\n\ndata: " + strings.Repeat("[", 100_000) + "\n\ndata: 1e999999\n\n"), refused: 3},
		{name: "deep JSON", serve: text("data: " + strings.Repeat("[", 100_000) + strings.Repeat("]", 100_000) + "\n\n"), events: 1},
		{name: "data that grows as JSON", serve: text("data: " + strings.Repeat("\x01", 900<<10) + "\n\n"), refused: 1},
		{name: "data that grows as JSON, of a long type", serve: text("event: " + strings.Repeat("\x01", 400<<10) + "\ndata: " + strings.Repeat("\x01", 500<<10) + "\n\n"), refused: 1},
		{name: "an error that has all of the data", m: Mapping{Path: "error(.)"}, serve: text("data: " + strings.Repeat("\x01", 900<<10) + "\n\n"), refused: 1},

		{name: "a large event", serve: text("data: " + long + "\n\n"), events: 1},
		{name: "a wait of years", serve: text("retry: 99999999999\n\nid: 1\ndata: 1\n\n"), events: 1},
	}
	for _, h := range sourcetest.HostileStreams() {
		rows = append(rows, row{name: h.Name, serve: h.Serve, events: h.Events, err: h.Err})
	}
	for _, tt := range rows {
		t.Run(tt.name, func(t *testing.T) {
			db := newLog(t)
			cfg := followConfig(t, serveFunc(t, tt.serve), "sse", db)
			cfg.Wait = false
			var err error
			if cfg.Mapper, err = NewMapper("src", tt.m); err != nil {
				t.Fatal(err)
			}
			var before, after runtime.MemStats
			runtime.ReadMemStats(&before)
			_, err = Follow(t.Context(), cfg)
			runtime.ReadMemStats(&after)
			if (err == nil) != (tt.err == "") || err != nil && !strings.Contains(err.Error(), tt.err) {
				t.Errorf("ends with %v, want %q", err, tt.err)
			}
			if grown := int64(after.HeapSys) - int64(before.HeapSys); grown > 64<<20 {
				t.Errorf("%d bytes of memory", grown)
			}
			events, aside := eventsOf(t, db)
			if len(events) != tt.events || len(aside) != tt.refused {
				t.Errorf("%d events and %d refused, want %d and %d: %.200q, %.300q", len(events), len(aside), tt.events, tt.refused, events, aside)
			}
			checkNames(t, cfg.Log.(eacher))
			checkLines(t, cfg.Log.(eacher))
		})
	}
}

type eacher interface {
	Head() event.ID
	Each(ctx context.Context, topics []event.Topic, span window.Span, fn func(*event.Event) error) error
}

// checkNames checks that no mapping writes as the log, and that names can be printed.
func checkNames(t *testing.T, db eacher) {
	t.Helper()
	err := db.Each(t.Context(), []event.Topic{event.All}, window.Span{To: db.Head()}, func(ev *event.Event) error {
		if strings.HasPrefix(ev.User, ".") && ev.User != Gaps || strings.ContainsAny(ev.User+ev.Path, "\x00\x01\x1b") {
			t.Errorf("stored in %q/%q", ev.User, ev.Path)
		}
		return nil
	})
	if err != nil {
		t.Error(err)
	}
}

// checkLines checks that clients and mirrors can read each line.
func checkLines(t *testing.T, db eacher) {
	t.Helper()
	err := db.Each(t.Context(), []event.Topic{event.All}, window.Span{To: db.Head()}, func(ev *event.Event) error {
		if n := len(ev.Line()); n > wire.MaxLine {
			t.Errorf("event %s of %s has a line of %d bytes", ev.ID, ev.Storage(), n)
		}
		return nil
	})
	if err != nil {
		t.Error(err)
	}
}

// A token and other headers go to the host that they are for, and the pause that a server
// asks for has a limit.
func TestHostileRedirect(t *testing.T) {
	var seen []string
	note := func(r *http.Request) {
		seen = append(seen, r.Header.Get("Authorization")+r.Header.Get("X-Key")+r.Header.Get("Referer"))
	}
	other := serveFunc(t, func(w http.ResponseWriter, r *http.Request) {
		note(r)
		io.WriteString(w, "id: 1\ndata: 1\n\n"+endBlock)
	})
	address := serveFunc(t, func(w http.ResponseWriter, r *http.Request) {
		note(r)
		http.Redirect(w, r, other, http.StatusTemporaryRedirect)
	})
	db := newLog(t)
	cfg := followConfig(t, address+"?auth=s3cret", "sse", db)
	cfg.Token = func(context.Context) (string, error) { return "t0ken", nil }
	cfg.Header = http.Header{"X-Key": {"s3cret"}}
	if _, err := Follow(t.Context(), cfg); err != nil {
		t.Fatal(err)
	}
	checkEvents(t, db, numbers(1))
	if len(seen) != 2 || seen[0] != "Bearer t0kens3cret" || seen[1] != "" {
		t.Errorf("requests had %q", seen)
	}
	f := follower{cfg: cfg}
	f.cfg.RetryMax = time.Minute
	if pause := f.pause(3, 1<<60, nil); pause > 2*maxAskedPause {
		t.Errorf("a pause of %s", pause)
	}
}
