package source

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"slices"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/rstream-dev/rstream/cache"
	"github.com/rstream-dev/rstream/event"
	"github.com/rstream-dev/rstream/internal/sse"
)

// A listLog keeps the values of events, and "gap" for a gap, in a list.
type listLog struct {
	blindLog
	values []string
	last   time.Time // when the last one came
}

func (l *listLog) AppendFrom(_ context.Context, _ *cache.SourceMove, drafts []event.Draft) ([]event.Receipt, error) {
	for i := range drafts {
		value := string(drafts[i].Value)
		if drafts[i].User == Gaps {
			value = "gap"
		}
		l.values, l.last = append(l.values, value), time.Now()
	}
	return nil, nil
}

// A part of a stream is what comes after some time.
type part struct {
	after time.Duration
	text  string
}

// readParts makes f read a connection that ends cleanly after its parts.
func readParts(t *testing.T, f *follower, parts ...part) {
	t.Helper()
	if _, err := f.readConnection(t.Context(), openParts(t, f, true, parts...)); !errors.Is(err, io.EOF) {
		t.Fatalf("a connection has ended with %v", err)
	}
}

// openParts returns a connection that has parts, and ends after them if ends is set.
func openParts(t *testing.T, f *follower, ends bool, parts ...part) *connection {
	t.Helper()
	body, w := io.Pipe()
	answer := func(r *http.Request) (*http.Response, error) {
		return &http.Response{StatusCode: http.StatusOK, Header: http.Header{"Content-Type": {"text/event-stream"}}, Body: body, Request: r}, nil
	}
	session, err := sse.Open(t.Context(), sse.Config{URL: "http://x.example", HTTP: &http.Client{Transport: roundTripper(answer)}, Idle: time.Hour})
	if err != nil {
		t.Fatal(err)
	}
	go func() {
		for _, p := range parts {
			time.Sleep(p.after)
			if _, err := io.WriteString(w, p.text); err != nil {
				return
			}
		}
		if ends {
			w.Close()
		}
	}()
	return &connection{Session: session, reader: newFrameReader(&f.cfg.Knobs, f.state.Cursor, nil), release: func() {}}
}

// newListFollower returns a follower whose log is a list.
func newListFollower(t *testing.T) (*follower, *listLog) {
	m, err := NewMapper("src", Mapping{})
	if err != nil {
		t.Fatal(err)
	}
	log := &listLog{}
	cfg := FollowConfig{Config: Config{URL: "http://x.example"}, Name: "src", Log: log, Mapper: m, Now: time.Now, repeats: 100}
	return &follower{cfg: cfg, repeats: newRepeats(cfg.repeats, nil)}, log
}

// Events after the last cursor are stored once, whether the server sends them again with each
// connection or not, and cause no gap if the connection ends while they wait.
func TestTailWithoutCursor(t *testing.T) {
	again := func(n int, parts ...part) (connections [][]part) {
		for range n {
			connections = append(connections, parts)
		}
		return connections
	}
	const first, late = "id: 1\ndata: 1\n\n", 3 * time.Second
	for _, tt := range []struct {
		name        string
		connections [][]part
		want        string
	}{
		{"a tail that is sent again", append([][]part{{{0, first + "data: 2\n\n"}}}, again(8, part{0, "data: 2\n\n"})...), "1 2"},
		{"everything is sent again", again(9, part{0, first + "data: 2\n\n"}), "1 2"},
		{"a tail that is not sent again", append([][]part{{{0, first + "data: 2\n\n"}}}, again(5, part{0, ": x\n\n"})...), "1 2"},
		{"a tail that is not sent again, and a new one", [][]part{{{0, first + "data: 2\n\n"}}, {{0, "data: 3\n\n"}}, {{0, "data: 4\n\nid: 5\ndata: 5\n\n"}}}, "1 2 3 4 5"},
		{"a tail that becomes longer", [][]part{{{0, first + "data: 2\n\n"}}, {{0, "data: 2\n\ndata: 3\n\n"}}, {{0, "data: 2\n\ndata: 3\n\nid: 4\ndata: 4\n\n"}}}, "1 2 3 4"},
		{"a tail that comes again in part", [][]part{{{0, first + "data: 2\n\ndata: 3\n\n"}}, {{0, "data: 2\n\nid: 4\ndata: 4\n\n"}}}, "1 2 3 4"},
		{"equal events in a tail", [][]part{{{0, first + "data: 2\n\ndata: 2\n\n"}}, {{0, "data: 2\n\ndata: 2\n\ndata: 2\n\n"}}}, "1 2 2 2"},
		{"equal tails after other events", [][]part{{{0, first + "data: 9\n\n"}}, {{0, "id: 2\ndata: 2\n\ndata: 9\n\n"}}, {{0, "data: 9\n\n"}}}, "1 9 2 9"},
		{"a tail that is sent again by a long connection", [][]part{{{0, first + "data: 2\n\n"}}, {{0, "data: 2\n\n"}, {late, ""}}}, "1 2"},
		{"equal events that are all new", append([][]part{{{0, first + "data: 2\n\n"}}}, again(3, part{late, "data: 2\n\n"}, part{late, ""})...), "1 2 gap 2 gap 2"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				f, log := newListFollower(t)
				for _, parts := range tt.connections {
					readParts(t, f, parts...)
				}
				if got := strings.Join(log.values, " "); got != tt.want {
					t.Errorf("stored %s, want %s", got, tt.want)
				}
			})
		})
	}
}

// What waits for a cursor when the follower is stopped is stored, and known again.
func TestTailOfStopped(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		f, log := newListFollower(t)
		check := func(want string) {
			t.Helper()
			if got := strings.Join(log.values, " "); got != want {
				t.Errorf("stored %s, want %s", got, want)
			}
		}
		stopped := errors.New("stopped")
		ctx, stop := context.WithCancelCause(t.Context())
		time.AfterFunc(time.Second, func() { stop(stopped) })
		if _, err := f.readConnection(ctx, openParts(t, f, false, part{0, "id: 1\ndata: 1\n\ndata: 2\n\n"})); !errors.Is(err, stopped) {
			t.Error(err)
		}
		check("1 2")
		readParts(t, f, part{0, "data: 2\n\nid: 3\ndata: 3\n\n"})
		check("1 2 3")
	})
}

// A history ends when nothing new has come for the time that was asked for, though an event has waited
// for a cursor.
func TestTailIdle(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		f, log := newListFollower(t)
		f.cfg.UntilEnd, f.cfg.EndIdle = true, 5*time.Second
		readParts(t, f, part{0, "id: 1\ndata: 1\n\ndata: 2\n\n"}, part{4 * time.Second, "id: 3\ndata: 3\n\n"})
		if got := strings.Join(log.values, " "); got != "1 2 3" {
			t.Errorf("stored %q", got)
		}
	})
}

// What comes after the last cursor is stored if the server ends the stream where the history ends, and
// not again by later calls, whether the server sends all or what is after the cursor.
func TestTailOfEndedHistory(t *testing.T) {
	const all, tail = "id: 1\ndata: 1\n\ndata: 2\n\n", "data: 2\n\n"
	for name, bodies := range map[string][]string{
		"all":    {all, all, all},
		"cursor": {all, tail, tail},
		"once":   {all, "", ""},
	} {
		for _, closes := range []bool{true, false} {
			db := newLog(t)
			for _, body := range bodies {
				cfg := followConfig(t, serveText(t, body), "sse", db)
				cfg.Knobs.End, cfg.Knobs.EndClose = Place{}, closes
				cfg.RetryMin, cfg.RetryMax = time.Millisecond, time.Millisecond
				if guessed, err := Follow(t.Context(), cfg); err != nil || guessed == closes {
					t.Fatal(name, guessed, err)
				}
			}
			if events, gaps := eventsOf(t, db); !slices.Equal(events, numbers(2)) || len(gaps) > 0 {
				t.Errorf("%s, %t: events %q, gaps %q", name, closes, events, gaps)
			}
		}
	}
}

// A farewell that is another one each time does not keep a call from its end.
func TestTailIsAnotherEachTime(t *testing.T) {
	n := 0
	address := serveFunc(t, func(w http.ResponseWriter, r *http.Request) {
		n++
		if r.Header.Get("Last-Event-ID") == "" {
			io.WriteString(w, "id: 1\ndata: 1\n\n")
		}
		fmt.Fprintf(w, "data: %d\n\n", n+1)
	})
	db := newLog(t)
	cfg := followConfig(t, address, "sse", db)
	cfg.Knobs.End = Place{}
	if guessed, err := Follow(t.Context(), cfg); err != nil || !guessed {
		t.Fatal(guessed, err)
	}
	checkEvents(t, db, numbers(3))
}

// Events before a control event that does not come are not stored at the end of the stream: the server
// sends them again, with the control event.
func TestTailBeforeControlEvent(t *testing.T) {
	control := func(n string) string { return "event: control\ndata: {\"next\":\"" + n + "\"}\n\n" }
	const event1, event2 = "data: 1\n\n", "data: 2\n\n"
	db := newLog(t)
	for _, body := range []string{event1 + control("a") + event2, event2 + control("b")} {
		cfg := followConfig(t, serveText(t, body), "sse", db)
		cfg.Knobs.Cursor, cfg.Knobs.ID = Place{In: InEvent, Type: "control", Name: "next"}, Place{In: Nowhere}
		cfg.Knobs.End, cfg.Knobs.EndClose = Place{}, true
		if guessed, err := Follow(t.Context(), cfg); err != nil || guessed {
			t.Fatal(guessed, err)
		}
	}
	checkEvents(t, db, numbers(2))
}
