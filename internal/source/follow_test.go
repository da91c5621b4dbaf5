package source

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"net/http"
	"os"
	"path/filepath"
	"runtime"
	"slices"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/rstream-dev/rstream/cache"
	"github.com/rstream-dev/rstream/event"
	"github.com/rstream-dev/rstream/internal/longtest"
	"github.com/rstream-dev/rstream/internal/testfile"
	"github.com/rstream-dev/rstream/window"
)

func TestMain(m *testing.M) {
	longtest.TempInMemory()
	os.Exit(m.Run())
}

// newFile is a new file as cache.Open creates it.
var newFile = testfile.New(func(path string) (string, error) {
	db, err := cache.Open(context.Background(), path, cache.Config{Role: cache.Server})
	if err != nil {
		return "", err
	}
	return db.Log(), db.Close()
})

// newLog returns a new log.
func newLog(t testing.TB) *cache.DB {
	t.Helper()
	return openLog(t, filepath.Join(t.TempDir(), "source.db"))
}

func openLog(t testing.TB, path string) *cache.DB {
	t.Helper()
	if err := newFile.WriteNew(path, ""); err != nil {
		t.Fatal(err)
	}
	db, err := cache.Open(context.Background(), path, cache.Config{Role: cache.Server})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { db.Close() })
	return db
}

// eventsOf returns the events of a log: those of the source as USER/PATH VALUE, and the
// reasons of its gaps.
func eventsOf(t *testing.T, db *cache.DB) (events, gaps []string) {
	t.Helper()
	err := db.Each(t.Context(), []event.Topic{event.All}, window.Span{To: db.Head()}, func(ev *event.Event) error {
		switch {
		case ev.User == Gaps && ev.Path == GapPath("src"):
			gaps = append(gaps, jsonMember(ev.Value, "gap"))
		case ev.User == Gaps:
			gaps = append(gaps, ev.Path+" "+jsonMember(ev.Value, "error"))
		default:
			events = append(events, string(ev.Value))
		}
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	return events, gaps
}

func followConfig(t testing.TB, address, kind string, log Log) FollowConfig {
	t.Helper()
	k, err := KindNamed(kind)
	if err != nil {
		t.Fatal(err)
	}
	k.Knobs.End = Place{In: InEvent, Type: "end"}
	m, err := NewMapper("src", k.Mapping)
	if err != nil {
		t.Fatal(err)
	}
	return FollowConfig{Config: Config{URL: address, Knobs: k.Knobs}, Name: "src", Log: log, Mapper: m,
		Wait: true, UntilEnd: true, EndIdle: time.Minute, RetryMin: time.Microsecond, RetryMax: time.Microsecond}
}

// numbers returns the values 1 to n, as eventsOf does.
func numbers(n int) (list []string) {
	for i := range n {
		list = append(list, strconv.Itoa(i+1))
	}
	return list
}

// checkEvents checks that a log has each of want once, and no gap.
func checkEvents(t *testing.T, db *cache.DB, want []string) {
	t.Helper()
	got, gaps := eventsOf(t, db)
	if !slices.Equal(got, want) || len(gaps) > 0 {
		t.Errorf("%d events, want %d; gaps %q\n%s", len(got), len(want), gaps, firstDifference(got, want))
	}
}

func firstDifference(got, want []string) string {
	for i := range min(len(got), len(want)) {
		if got[i] != want[i] {
			return fmt.Sprintf("event %d is %s, want %s", i, got[i], want[i])
		}
	}
	return "one has fewer"
}

// endBlock says that the history was sent.
const endBlock = "event: end\ndata: x\n\n"

// A counting server sends the numbers 1 to n, each as an event with itself as the id, after
// the one in Last-Event-ID.
type counting struct {
	n    int
	cut  func(w http.ResponseWriter, b []byte) // writes one connection
	hold bool                                  // the connection stays open at the end
}

func (c counting) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	after, _ := strconv.Atoi(r.Header.Get("Last-Event-ID"))
	var b bytes.Buffer
	b.WriteString("retry: 1\n: hello\n\n")
	for i := after + 1; i <= c.n; i++ {
		fmt.Fprintf(&b, "id: %d\ndata: %d\n\n", i, i)
	}
	b.WriteString(endBlock)
	if c.cut != nil {
		c.cut(w, b.Bytes())
		return
	}
	w.Write(b.Bytes())
	if c.hold {
		http.NewResponseController(w).Flush()
		<-r.Context().Done()
	}
}

// Torn at any byte, each event is stored once.
func TestFollowTorn(t *testing.T) {
	seed := rand.Uint64()
	t.Logf("seed %d", seed)
	rng := rand.New(rand.NewPCG(seed, 0))
	var mu sync.Mutex
	cuts := 0
	address := serveFunc(t, counting{n: 2000, cut: func(w http.ResponseWriter, b []byte) {
		mu.Lock()
		n := rng.IntN(4000)
		cuts++
		mu.Unlock()
		if n >= len(b) {
			w.Write(b)
			return
		}
		w.Write(b[:n])
		panic(http.ErrAbortHandler)
	}}.ServeHTTP)
	db := newLog(t)
	cfg := followConfig(t, address, "sse", db)
	guessed, err := Follow(t.Context(), cfg)
	if err != nil || guessed {
		t.Fatal(guessed, err)
	}
	got, gaps := eventsOf(t, db)
	// Before the first event is durable, each cut may have lost some.
	if !slices.Equal(got, numbers(2000)) || cuts < 5 {
		t.Errorf("%d events through %d cuts: %s", len(got), cuts, firstDifference(got, numbers(2000)))
	}
	for _, gap := range gaps {
		if gap != "the server's events have no cursor" {
			t.Errorf("gap %s", gap)
		}
	}
}

// A server that ends each connection cleanly after 25 events loses none.
func TestFollowCleanCloses(t *testing.T) {
	address := serveFunc(t, counting{n: 500, cut: func(w http.ResponseWriter, b []byte) {
		blocks := bytes.SplitAfter(b, []byte("\n\n"))
		w.Write(bytes.Join(blocks[:min(26, len(blocks))], nil))
	}}.ServeHTTP)
	db := newLog(t)
	cfg := followConfig(t, address, "sse", db)
	if _, err := Follow(t.Context(), cfg); err != nil {
		t.Fatal(err)
	}
	checkEvents(t, db, numbers(500))
}

// A cursor of another URL is noted in each run until an event of the new one is stored.
func TestFollowElsewhere(t *testing.T) {
	db := newLog(t)
	follow := func(address string, want ...string) {
		t.Helper()
		var moved []string
		cfg := followConfig(t, address, "sse", db)
		cfg.OnMoved = func(before string) { moved = append(moved, before) }
		if _, err := Follow(t.Context(), cfg); err != nil {
			t.Fatal(err)
		}
		if !slices.Equal(moved, want) {
			t.Errorf("%s: %q was noted, want %q", ShownURL(address), moved, want)
		}
	}
	first := serveFunc(t, counting{n: 3}.ServeHTTP)
	follow(first + "/?token=secret")
	follow(first + "/?token=other")
	same, more := serveFunc(t, counting{n: 3}.ServeHTTP), serveFunc(t, counting{n: 4}.ServeHTTP)
	follow(same+"/", first+"/")
	follow(more+"/", first+"/")
	follow(more + "/")
	checkEvents(t, db, numbers(4))
}

// Without an end mark, the end is guessed, and the next call goes on from the cursor.
func TestFollowIdle(t *testing.T) {
	db := newLog(t)
	for _, n := range []int{10, 25} {
		address := serveFunc(t, counting{n: n, hold: true}.ServeHTTP)
		cfg := followConfig(t, address, "sse", db)
		cfg.Knobs.End, cfg.EndIdle = Place{}, time.Second
		cfg.Knobs.Skip = []string{"end"}
		if guessed, err := Follow(t.Context(), cfg); err != nil || !guessed {
			t.Fatal(guessed, err)
		}
		checkEvents(t, db, numbers(n))
	}
}

// A server that ends each connection and sends the same again is at its end, with ids or
// without, if it has no end mark.
func TestFollowDump(t *testing.T) {
	for _, dump := range []string{
		"id: 1\ndata: 1\n\nid: 2\ndata: 2\n\n",
		"id: 1\ndata: 1\n\ndata: 2\n\n",
		"data: 1\n\ndata: 2\n\n",
	} {
		address := serveFunc(t, func(w http.ResponseWriter, _ *http.Request) { io.WriteString(w, dump) })
		db := newLog(t)
		cfg := followConfig(t, address, "sse", db)
		cfg.Knobs.End = Place{}
		if guessed, err := Follow(t.Context(), cfg); err != nil || !guessed {
			t.Errorf("%q: %v, %v", dump, guessed, err)
		}
		checkEvents(t, db, numbers(2))
	}
}

// That is so, too, if events without ids come first, though they are stored with each connection.
func TestFollowDumpNameless(t *testing.T) {
	address := serveFunc(t, func(w http.ResponseWriter, _ *http.Request) { io.WriteString(w, "data: 1\n\nid: 1\ndata: 2\n\n") })
	db := newLog(t)
	cfg := followConfig(t, address, "sse", db)
	cfg.Knobs.End = Place{}
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	connections := 0
	cfg.OnRetry = func(error, time.Duration) {
		if connections++; connections == 5 {
			cancel()
		}
	}
	if guessed, err := Follow(ctx, cfg); err != nil || !guessed {
		t.Error(guessed, err)
	}
	if events, gaps := eventsOf(t, db); !slices.Equal(events, []string{"1", "2", "1"}) || len(gaps) != 1 {
		t.Errorf("events %q, gaps %q", events, gaps)
	}
}

// An append whose outcome is unknown is made again, and counts once.
func TestFollowUnknownOutcome(t *testing.T) {
	db := newLog(t)
	address := serveFunc(t, counting{n: 200, hold: true}.ServeHTTP)
	cfg := followConfig(t, address, "sse", nil)
	cfg.Log = &forgetfulLog{DB: db}
	if _, err := Follow(t.Context(), cfg); err != nil {
		t.Fatal(err)
	}
	checkEvents(t, db, numbers(200))
}

// A forgetfulLog appends, and says that it does not know, every second time.
type forgetfulLog struct {
	*cache.DB
	calls int
}

func (l *forgetfulLog) AppendFrom(ctx context.Context, m *cache.SourceMove, drafts []event.Draft) ([]event.Receipt, error) {
	l.calls++
	if l.calls%4 == 2 {
		return nil, cache.ErrUnknown
	}
	r, err := l.DB.AppendFrom(ctx, m, drafts)
	if l.calls%4 == 0 && err == nil {
		return nil, cache.ErrUnknown
	}
	return r, err
}

// Two followers of one source: one of them stops, and no event is doubled.
func TestFollowTwice(t *testing.T) {
	db := newLog(t)
	release := make(chan struct{})
	address := serveFunc(t, func(w http.ResponseWriter, r *http.Request) {
		if r.Header.Get("Last-Event-ID") == "" {
			counting{n: 5}.ServeHTTP(w, r)
			http.NewResponseController(w).Flush()
			<-release
			io.WriteString(w, "id: 6\ndata: 6\n\n")
			return
		}
		counting{n: 6, hold: true}.ServeHTTP(w, r)
	})
	failed := make(chan error, 1)
	first := followConfig(t, address, "sse", db)
	first.UntilEnd = false
	go func() {
		_, err := Follow(t.Context(), first)
		failed <- err
	}()
	for db.Head() < 5 {
		runtime.Gosched()
	}
	if _, err := Follow(t.Context(), followConfig(t, address, "sse", db)); err != nil {
		t.Fatal(err)
	}
	close(release)
	if err := <-failed; !errors.Is(err, cache.ErrMoved) {
		t.Errorf("the first follower ends with %v", err)
	}
	checkEvents(t, db, numbers(6))
}

// scripted serves one body after the other, a connection each, and keeps the last one open.
func scripted(t *testing.T, bodies ...string) (address string, asked func() []string) {
	var mu sync.Mutex
	var cursors []string
	address = serveFunc(t, func(w http.ResponseWriter, r *http.Request) {
		mu.Lock()
		n := len(cursors)
		cursors = append(cursors, r.Header.Get("Last-Event-ID"))
		mu.Unlock()
		io.WriteString(w, bodies[min(n, len(bodies)-1)])
		if n >= len(bodies)-1 {
			io.WriteString(w, endBlock)
			http.NewResponseController(w).Flush()
			<-r.Context().Done()
		}
	})
	return address, func() []string {
		mu.Lock()
		defer mu.Unlock()
		return slices.Clone(cursors)
	}
}

func TestFollowRepeats(t *testing.T) {
	block := func(id int, data string) string { return fmt.Sprintf("id: %d\ndata: %s\n\n", id, data) }
	const noCursor, wentBack = "the server's events have no cursor", "ids went back to 1: the server may have lost its history"
	const shared = "the server gives several events one id: some with the last one may be missing"
	const nameless = "events without ids came before one that was stored before: they may be stored twice"
	for _, tt := range []struct {
		name         string
		bodies       []string
		events, gaps []string
	}{
		{"the last event again", []string{block(1, "1") + block(2, "2"), block(2, "2") + block(3, "3")}, numbers(3), nil},
		{"the whole history again", []string{block(1, "1") + block(2, "2"), block(1, "1") + block(2, "2") + block(3, "3")}, numbers(3), nil},
		{"the same id with other data", []string{block(1, "1"), block(1, "9") + block(2, "2")}, numbers(2), nil},
		{"opaque ids in another order", []string{"id: b\ndata: 1\n\nid: a\ndata: 2\n\n", "id: a\ndata: 2\n\nid: b\ndata: 1\n\nid: c\ndata: 3\n\n"}, numbers(3), nil},
		{"ids that begin again", []string{block(1, "1") + block(2, "2"), block(1, "3") + block(2, "4") + block(3, "5")}, numbers(5), []string{wentBack}},
		{"ids that begin again, twice", []string{block(1, "1") + block(2, "2"), block(1, "3") + block(2, "4"), block(1, "5")}, numbers(5), []string{wentBack, wentBack}},
		{"several events under one id", []string{block(1, "1") + block(1, "2"), block(1, "1") + block(1, "2") + block(1, "3")}, numbers(3), []string{shared}},
		{"a cut among events under one id", []string{block(1, "1") + block(1, "2") + block(2, "3"), block(3, "4")}, numbers(4), []string{shared}},
		{"a cut after a position behind events under one id", []string{block(1, "1") + block(1, "2") + "id: 2\n\n", block(3, "3")}, numbers(3), nil},
		{"one connection that repeats", []string{"id: a\ndata: 1\n\nid: b\ndata: 2\n\nid: a\ndata: 1\n\n"}, numbers(2), nil},
		{"no ids", []string{"data: 1\n\ndata: 1\n\n", "data: 1\n\n"}, []string{"1", "1", "1"}, []string{noCursor}},
		{"equal events with ids of their own", []string{block(1, "1") + block(2, "1")}, []string{"1", "1"}, nil},
		{"an id alone moves the cursor", []string{"id: 7\n\n", block(8, "1")}, []string{"1"}, nil},
		{"a tail without a cursor comes again", []string{block(1, "1") + "data: 2\n\n", "data: 2\n\n" + block(2, "3")}, numbers(3), nil},
		{"events without ids before one that comes again", []string{"data: 1\n\n" + block(1, "2") + block(2, "3"), "data: 1\n\n" + block(1, "2") + "data: 4\n\n" + block(2, "3")}, []string{"1", "2", "3", "1", "4"}, []string{nameless}},
		{"events without ids after one that comes again", []string{"data: 1\n\n" + block(1, "2"), block(1, "2") + "data: 3\n\n" + block(2, "4")}, []string{"1", "2", "3", "4"}, nil},
		{"an id that cannot be one, before one that comes again", []string{"id: 0\x00\ndata: 1\n\n" + block(1, "2"), "id: 0\x00\ndata: 1\n\n" + block(1, "2")}, []string{"1", "2", "1"}, []string{nameless}},
		{"a sticky id is none", []string{block(1, "1") + "data: 2\n\ndata: 2\n\n" + block(2, "3")}, []string{"1", "2", "2", "3"}, nil},
	} {
		t.Run(tt.name, func(t *testing.T) {
			address, _ := scripted(t, tt.bodies...)
			db := newLog(t)
			if _, err := Follow(t.Context(), followConfig(t, address, "sse", db)); err != nil {
				t.Fatal(err)
			}
			if events, gaps := eventsOf(t, db); !slices.Equal(events, tt.events) || !slices.Equal(gaps, tt.gaps) {
				t.Errorf("events %q, gaps %q; want %q, %q", events, gaps, tt.events, tt.gaps)
			}
		})
	}
}

// Nothing is missing after events with one id if the server has sent all that it had.
func TestFollowSharedIDToTheEnd(t *testing.T) {
	address, _ := scripted(t, "id: 1\ndata: 1\n\nid: 1\ndata: 2\n\n")
	db := newLog(t)
	for range 2 {
		if _, err := Follow(t.Context(), followConfig(t, address, "sse", db)); err != nil {
			t.Fatal(err)
		}
	}
	if events, gaps := eventsOf(t, db); !slices.Equal(events, numbers(2)) || len(gaps) > 0 {
		t.Errorf("events %q, gaps %q", events, gaps)
	}
}

// Events that a server repeats are known however old they are, unless their data has changed
// and more events have come since than are remembered.
func TestFollowOldRepeats(t *testing.T) {
	const remembered = 40
	counted := func(from, n int, data string) string {
		var b strings.Builder
		for i := from; i <= n; i++ {
			fmt.Fprintf(&b, "id: %d\ndata: %s%d\n\n", i, data, i)
		}
		return b.String()
	}
	history := counted(1, 200, "")
	for _, tt := range []struct {
		name   string
		again  string // after all of the history
		bodies []string
		events []string
		gaps   int
	}{
		{"the whole history before each new event", history + counted(201, 201, ""), nil, numbers(201), 0},
		{"opaque ids", "", []string{strings.ReplaceAll(history, "id: ", "id: x"), strings.ReplaceAll(history, "id: ", "id: x")}, numbers(200), 0},
		{"one old event", counted(3, 3, ""), nil, numbers(200), 0},
		{"one old event with other data", counted(3, 3, "10"), nil, append(numbers(200), "103"), 1},
		{"one of the last events with other data", counted(199, 199, "1"), nil, append(numbers(200), "1199"), 1},
		{"an old event that cannot be mapped", "id: 7\ndata: {\n\n", nil, append(numbers(200), `"{"`), 1},
	} {
		t.Run(tt.name, func(t *testing.T) {
			if tt.bodies == nil {
				tt.bodies = []string{history, tt.again, tt.again}
			}
			address, _ := scripted(t, tt.bodies...)
			db := newLog(t)
			cfg := followConfig(t, address, "sse", db)
			cfg.repeats = remembered
			for range 2 { // the second one knows only what is stored
				if _, err := Follow(t.Context(), cfg); err != nil {
					t.Fatal(err)
				}
			}
			events, gaps := eventsOf(t, db)
			if !slices.Equal(events, tt.events) || len(gaps) != tt.gaps {
				t.Errorf("%d events, gaps %q; %s", len(events), gaps, firstDifference(events, tt.events))
			}
		})
	}
}

// What a mapping leaves out or cannot map is known again, too, and is no new history.
func TestFollowOldRepeatsAside(t *testing.T) {
	var history strings.Builder
	for i := range 100 {
		fmt.Fprintf(&history, "id: %d\ndata: {\"n\":%d,\"p\":%s}\n\n", i+1, i+1, []string{`"a"`, "[]", "0"}[i%3])
	}
	address, _ := scripted(t, history.String(), history.String(), history.String())
	db := newLog(t)
	cfg := followConfig(t, address, "sse", db)
	cfg.repeats = 10
	var err error
	if cfg.Mapper, err = NewMapper("src", Mapping{Path: ".p", Value: ".n", Where: ".p != 0"}); err != nil {
		t.Fatal(err)
	}
	if _, err := Follow(t.Context(), cfg); err != nil {
		t.Fatal(err)
	}
	events, aside := eventsOf(t, db)
	stored, err := db.SourceState(t.Context(), "src")
	if err != nil {
		t.Fatal(err)
	}
	status, err := ReadStatus(stored)
	if len(events) != 34 || len(aside) != 33 || err != nil || status.Gaps != 0 || status.Refused != 33 {
		t.Errorf("%d events, %d aside, status %+v, %v", len(events), len(aside), status, err)
	}
}

// An event that cannot be mapped is kept aside and stops nothing.
func TestFollowRefused(t *testing.T) {
	address, _ := scripted(t, "id: 1\ndata: {\"p\":\"a\",\"v\":1}\n\nid: 2\ndata: {\"p\":[]}\n\nid: 3\ndata: {\"p\":\"b\",\"v\":2}\n\n")
	db := newLog(t)
	cfg := followConfig(t, address, "sse", db)
	var err error
	if cfg.Mapper, err = NewMapper("src", Mapping{Path: ".p", Value: ".v"}); err != nil {
		t.Fatal(err)
	}
	for range 2 {
		if _, err := Follow(t.Context(), cfg); err != nil {
			t.Fatal(err)
		}
	}
	events, gaps := eventsOf(t, db)
	if !slices.Equal(events, numbers(2)) || !slices.Equal(gaps, []string{"src/refused path: want a string or a number"}) {
		t.Errorf("events %q, aside %q", events, gaps)
	}
	other := followConfig(t, address, "sse", db)
	if _, err := Follow(t.Context(), other); !errors.Is(err, ErrMapping) {
		t.Errorf("with another mapping: %v", err)
	}
}

// A refusal ends a follower; a passing failure does not.
func TestFollowErrors(t *testing.T) {
	status, asked := http.StatusServiceUnavailable, 0
	address := serveFunc(t, func(w http.ResponseWriter, r *http.Request) {
		if asked++; asked%2 == 0 {
			w.WriteHeader(status)
			return
		}
		after, _ := strconv.Atoi(r.Header.Get("Last-Event-ID"))
		counting{n: after + 1}.ServeHTTP(w, r)
	})
	db := newLog(t)
	cfg := followConfig(t, address, "sse", db)
	cfg.UntilEnd = false
	retries := 0
	ctx, cancel := context.WithCancel(t.Context())
	cfg.OnRetry = func(error, time.Duration) {
		if retries++; retries == 9 {
			cancel()
		}
	}
	if _, err := Follow(ctx, cfg); !errors.Is(err, context.Canceled) {
		t.Error(err)
	}
	checkEvents(t, db, numbers(5))
	status, cfg.OnRetry = http.StatusGone, nil
	var refused *StatusError
	if _, err := Follow(t.Context(), cfg); !errors.As(err, &refused) || refused.Status != status {
		t.Error(err)
	}
	cfg.URL = serveText(t, "id: 9\ndata: "+strings.Repeat("x", 2<<20)+"\n\n")
	if _, err := Follow(t.Context(), cfg); err == nil || !strings.Contains(err.Error(), "larger than 1048576 bytes") {
		t.Error(err)
	}
}

// An expression that is cut off when a follower is stopped says nothing about its event: the next
// follower takes it.
func TestFollowStoppedInMapping(t *testing.T) {
	db := newLog(t)
	cfg := followConfig(t, "http://127.0.0.1:1", "sse", db)
	var err error
	if cfg.Mapper, err = NewMapper("src", Mapping{Path: ".p", Value: ".v"}); err != nil {
		t.Fatal(err)
	}
	frames := []Frame{{Event: true, ID: "1", Cursor: "1", Type: "message", Data: []byte(`{"p":"a","v":1}`)}}
	stopped, stop := context.WithCancelCause(t.Context())
	cause := errors.New("stopped")
	stop(cause)
	for _, want := range []error{cause, nil} {
		f, err := newFollower(t.Context(), cfg)
		if err != nil {
			t.Fatal(err)
		}
		ctx := t.Context()
		if want != nil {
			ctx = stopped
		}
		if err := f.take(ctx, frames, false); !errors.Is(err, want) {
			t.Errorf("take: %v, want %v", err, want)
		}
		if want != nil {
			checkEvents(t, db, nil)
		}
	}
	checkEvents(t, db, numbers(1))
}
