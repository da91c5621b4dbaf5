package source

import (
	"context"
	"errors"
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
		w.Close()
	}()
	conn := &connection{Session: session, reader: newFrameReader(&f.cfg.Knobs, f.state.Cursor, nil), release: func() {}}
	if _, err := f.readConnection(t.Context(), conn); !errors.Is(err, io.EOF) {
		t.Fatalf("a connection has ended with %v", err)
	}
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
// connection or not, and however short its connections are.
func TestTailWithoutCursor(t *testing.T) {
	again := func(n int, parts ...part) (connections [][]part) {
		for range n {
			connections = append(connections, parts)
		}
		return connections
	}
	const first, delay = "id: 1\ndata: 1\n\n", 100 * time.Millisecond
	for _, tt := range []struct {
		name        string
		connections [][]part
		want        string
	}{
		{"short connections that send the tail again", append([][]part{{{0, first + "data: 2\n\n"}}}, again(8, part{0, "data: 2\n\n"})...), "1 2"},
		{"short connections that send everything again", again(9, part{0, first + "data: 2\n\n"}), "1 2"},
		{"long connections that send the tail again", append([][]part{{{0, first + "data: 2\n\n"}, {3 * time.Second, ""}}}, again(4, part{0, "data: 2\n\n"}, part{3 * time.Second, ""})...), "1 2"},
		{"a tail that becomes longer", [][]part{{{0, first + "data: 2\n\n"}, {3 * time.Second, ""}}, {{0, "data: 2\n\ndata: 3\n\n"}, {3 * time.Second, ""}}, {{0, "data: 2\n\ndata: 3\n\nid: 4\ndata: 4\n\n"}}}, "1 2 3 4"},
		{"a tail of which a part waits at the end", append([][]part{{{0, first + "data: 2\n\n"}, {3 * time.Second, "data: 3\n\n"}}}, again(4, part{0, "data: 2\n\ndata: 3\n\n"})...), "1 2 3"},
		{"a tail that comes again in part", [][]part{{{0, first + "data: 2\n\ndata: 3\n\n"}}, {{0, "data: 2\n\nid: 4\ndata: 4\n\n"}}}, "1 2 3 4"},
		{"a tail that is not sent again by short connections", append([][]part{{{0, first + "data: 2\n\n"}}}, again(5, part{0, ": x\n\n"})...), "1 2"},
		{"a tail that is not sent again", [][]part{{{0, first + "data: 2\n\n"}}, {{3 * time.Second, ""}}, {{0, "id: 3\ndata: 3\n\n"}}}, "1 2 3"},
		{"a tail that is sent again late", [][]part{{{0, first + "data: 2\n\n"}}, {{3 * time.Second, ""}, {0, "data: 2\n\nid: 3\ndata: 3\n\n"}}}, "1 2 3"},
		{"a tail that is sent again after some time, by long connections", append([][]part{{{0, first + "data: 2\n\n"}, {3 * time.Second, ""}}}, again(4, part{delay, "data: 2\n\n"}, part{3 * time.Second, ""})...), "1 2"},
		{"a tail that is sent again after some time, with more", [][]part{{{0, first + "data: 2\n\n"}, {3 * time.Second, ""}}, {{delay, "data: 2\n\n"}, {delay, "data: 3\n\n"}, {3 * time.Second, ""}}, {{delay, "data: 2\n\n"}, {delay, "data: 3\n\n"}, {3 * time.Second, ""}}}, "1 2 3"},
		{"a tail that is sent again only by a short connection", [][]part{{{0, first + "data: 2\n\n"}, {3 * time.Second, ""}}, {{delay, "data: 2\n\n"}}, {{time.Second, first}, {3 * time.Second, ""}}, {{3 * time.Second, ""}}}, "1 2"},
		{"a tail that is sent again in part, and the rest late", [][]part{{{0, first + "data: 2\n\ndata: 3\n\n"}}, {{delay, "data: 2\n\n"}, {2400 * time.Millisecond, "data: 3\n\n"}, {3 * time.Second, ""}}, {{delay, "data: 2\n\ndata: 3\n\n"}, {3 * time.Second, ""}}}, "1 2 3"},
		{"an event like the last one, at the end of a later connection", [][]part{{{0, first + "data: 2\n\n"}, {3 * time.Second, ""}}, {{5 * time.Second, "data: 2\n\n"}}, {{3 * time.Second, ""}}}, "1 2 2"},
		{"equal events around a cursor that stays", [][]part{{{0, first}, {delay, "data: 2\n\n"}, {delay, "id: 1\n\n"}, {delay, "data: 2\n\n"}, {delay, "id: 1\n\n"}}, {{delay, "data: 2\n\n"}, {3 * time.Second, ""}}}, "1 2 2 2"},
		{"a tail that comes again around a cursor that stays", [][]part{{{0, first + "data: 2\n\ndata: 3\n\n"}, {3 * time.Second, ""}}, {{delay, "data: 2\n\n"}, {delay, "id: 1\n\n"}, {delay, "data: 3\n\n"}, {3 * time.Second, ""}}}, "1 2 3"},
		{"equal events, each of them new", again(3, part{0, first}, part{3 * time.Second, "data: 2\n\n"}, part{3 * time.Second, "data: 2\n\n"}, part{3 * time.Second, ""}), "1 2 2 2 2 2 2"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				f, log := newListFollower(t)
				for _, parts := range tt.connections {
					readParts(t, f, parts...)
					time.Sleep(700 * time.Millisecond)
				}
				got := slices.DeleteFunc(slices.Clone(log.values), func(s string) bool { return s == "gap" })
				if strings.Join(got, " ") != tt.want {
					t.Errorf("stored %q, want %s", log.values, tt.want)
				}
			})
		})
	}
}

// That a connection has brought nothing yet does not mean that it will not bring the tail again.
func TestTailWaitsForConnection(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		f, log := newListFollower(t)
		readParts(t, f, part{0, "id: 1\ndata: 1\n\ndata: 2\n\n"})
		time.Sleep(3 * time.Second)
		f.beginTail()
		again := []Frame{{Event: true, Data: []byte("2")}}
		for _, frames := range [][]Frame{nil, again, nil} {
			time.Sleep(100 * time.Millisecond)
			if err := f.take(t.Context(), frames, false); err != nil {
				t.Fatal(err)
			}
		}
		if got := strings.Join(log.values, " "); got != "1 2" {
			t.Errorf("stored %q", got)
		}
	})
}

// A tail is stored in time if the next connection brings only frames that are no events.
func TestTailAmongHeartbeats(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		f, log := newListFollower(t)
		f.cfg.Knobs.Skip = []string{"ping"}
		readParts(t, f, part{0, "id: 1\ndata: 1\n\ndata: 2\n\n"})
		begun := time.Now()
		var pings []part
		for range 40 {
			pings = append(pings, part{time.Second / 4, "event: ping\ndata: x\n\n"})
		}
		readParts(t, f, pings...)
		if got, took := strings.Join(log.values, " "), log.last.Sub(begun); got != "1 gap 2" || took > holdTime+time.Second/2 {
			t.Errorf("stored %q after %s", got, took)
		}
	})
}

// The history is not taken to be over before its time because a tail waits.
func TestTailIdle(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		f, log := newListFollower(t)
		f.cfg.UntilEnd, f.cfg.EndIdle = true, 5*time.Second
		readParts(t, f, part{0, "id: 1\ndata: 1\n\ndata: 2\n\n"})
		readParts(t, f, part{4 * time.Second, "id: 3\ndata: 3\n\n"})
		if got := strings.Join(log.values, " "); got != "1 gap 2 3" {
			t.Errorf("stored %q", got)
		}
	})
}

// What waits for a cursor when a follower ends is stored, with a gap when the next one begins.
func TestTailAtLastEnd(t *testing.T) {
	const first = "id: 1\ndata: 1\n\ndata: 2\n\n"
	for _, tt := range []struct {
		name  string
		last  func(w http.ResponseWriter, cancel func()) // the answer to the second connection
		after string                                     // the error
	}{
		{"the end of the history", func(w http.ResponseWriter, _ func()) { io.WriteString(w, endBlock) }, ""},
		{"a final error", func(w http.ResponseWriter, _ func()) { w.WriteHeader(http.StatusUnauthorized) }, "401"},
		{"no answer in time", func(w http.ResponseWriter, _ func()) { w.WriteHeader(http.StatusServiceUnavailable) }, "no progress"},
		{"a signal", func(w http.ResponseWriter, cancel func()) { cancel() }, "canceled"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			ctx, cancel := context.WithCancel(t.Context())
			defer cancel()
			n := 0
			address := serveFunc(t, func(w http.ResponseWriter, _ *http.Request) {
				if n++; n == 1 {
					io.WriteString(w, first)
					return
				}
				tt.last(w, cancel)
			})
			db := newLog(t)
			cfg := followConfig(t, address, "sse", db)
			if tt.after == "no progress" {
				cfg.Timeout, cfg.RetryMin, cfg.RetryMax = time.Second, time.Second/10, time.Second/10
			}
			_, err := Follow(ctx, cfg)
			if (err == nil) != (tt.after == "") || err != nil && !strings.Contains(err.Error(), tt.after) {
				t.Fatalf("the follower ends with %v, want %q", err, tt.after)
			}
			cfg = followConfig(t, serveText(t, endBlock), "sse", db)
			if _, err := Follow(t.Context(), cfg); err != nil {
				t.Fatal(err)
			}
			if events, gaps := eventsOf(t, db); !slices.Equal(events, numbers(2)) || len(gaps) == 0 {
				t.Errorf("events %q, gaps %q", events, gaps)
			}
		})
	}
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

// After an error of the log nothing is stored: the next follower reads in it what was.
func TestTailAfterErrorOfLog(t *testing.T) {
	db := newLog(t)
	address, _ := scripted(t, "id: 1\ndata: 1\n\ndata: 2\n\n", "id: 2\ndata: 3\n\n")
	cfg := followConfig(t, address, "sse", db)
	log := &failingLog{DB: db, err: errUnknownIO, works: 2}
	cfg.Log, cfg.commitTime = log, time.Nanosecond
	if _, err := Follow(t.Context(), cfg); !errors.Is(err, cache.ErrIO) {
		t.Fatal(err)
	}
	if log.calls != log.works+2 { // one that fails, and the same again
		t.Errorf("%d calls", log.calls)
	}
}
