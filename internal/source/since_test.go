package source

import (
	"context"
	"fmt"
	"io"
	"net/http"
	"runtime"
	"slices"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/rstream-dev/rstream/cache"
	"github.com/rstream-dev/rstream/event"
	"github.com/rstream-dev/rstream/window"
)

// A testClock shows the minutes that have passed since it was made.
type testClock struct{ minutes atomic.Int64 }

var clockBegin = time.Date(2026, 11, 29, 10, 0, 0, 0, time.UTC)

func (c *testClock) now() time.Time {
	return clockBegin.Add(time.Duration(c.minutes.Load()) * time.Minute)
}

// minute returns how many minutes a time is after the beginning of a testClock.
func minute(t event.Time) int {
	return int(time.Duration(t-event.TimeOf(clockBegin)) * time.Microsecond / time.Minute)
}

// gapTimes returns between which minutes the gaps of a source are.
func gapTimes(t *testing.T, db *cache.DB, name string) (gaps []string) {
	t.Helper()
	err := db.Each(t.Context(), []event.Topic{event.All}, window.Span{To: db.Head()}, func(ev *event.Event) error {
		if ev.User == Gaps && ev.Path == GapPath(name) {
			var since event.Time
			if err := since.UnmarshalText([]byte(jsonMember(ev.Value, "since"))); err != nil {
				return err
			}
			gaps = append(gaps, fmt.Sprintf("%d to %d", minute(since), minute(ev.Time)))
		}
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	return gaps
}

// clockedLog returns a new log whose times are those of the clock.
func clockedLog(t *testing.T, clock *testClock) *cache.DB {
	t.Helper()
	db, err := cache.Open(t.Context(), t.TempDir()+"/source.db", cache.Config{Role: cache.Server, Now: clock.now})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { db.Close() })
	return db
}

// A visit is a connection to a server: what it answers, and what the clock shows after that.
type visit struct {
	status int // if not 0, there is no stream
	body   string
	header string // Mercure-Last-Event-ID
	grows  bool   // the log grows before the connection ends
	torn   bool   // the connection breaks
	after  int64
}

// visited serves visits, and then the end.
func visited(t *testing.T, db *cache.DB, clock *testClock, visits []visit) string {
	t.Helper()
	var n atomic.Int64
	return serveFunc(t, func(w http.ResponseWriter, r *http.Request) {
		i := int(n.Add(1)) - 1
		if i >= len(visits) {
			w.Header().Set("Mercure-Last-Event-ID", r.Header.Get("Last-Event-ID"))
			io.WriteString(w, endBlock)
			return
		}
		v := visits[i]
		head := db.Head()
		if v.status != 0 {
			clock.minutes.Store(v.after)
			w.WriteHeader(v.status)
			return
		}
		w.Header().Set("Mercure-Last-Event-ID", v.header)
		io.WriteString(w, v.body)
		http.NewResponseController(w).Flush()
		for v.grows && db.Head() == head && r.Context().Err() == nil {
			runtime.Gosched()
		}
		clock.minutes.Store(v.after)
		if v.torn {
			panic(http.ErrAbortHandler)
		}
	})
}

// A gap begins when something of the source was last stored, whatever was noted of the outage since.
func TestGapSince(t *testing.T) {
	for _, tt := range []struct {
		name, kind string
		visits     []visit
		want       []string
	}{
		{"a connection that breaks", "sse", []visit{{body: "data: 1\n\n", grows: true, torn: true, after: 90}}, []string{"0 to 90"}},
		{"a clean end", "sse", []visit{{body: "data: 1\n\n", grows: true, after: 5}}, []string{"0 to 5"}},
		{"an outage whose cause changes", "sse",
			[]visit{{body: "data: 1\n\n", grows: true, torn: true, after: 1}, {status: 503, after: 10}, {status: 502, after: 20}, {status: 503, after: 30}}, []string{"0 to 30"}},
		{"a gap after another one", "sse", []visit{{body: "data: 1\n\n", grows: true, torn: true, after: 10}, {grows: true, torn: true, after: 20}}, []string{"0 to 10", "10 to 20"}},
		{"a cursor that is gone", "mercure",
			[]visit{{header: "earliest", body: "id: 1\ndata: 1\n\n", grows: true, torn: true, after: 10}, {status: 503, after: 20}, {header: "", grows: true, after: 30}}, []string{"0 to 20"}},
		{"a cursor that is gone after a connection that brought nothing", "mercure",
			[]visit{{header: "earliest", body: "id: 1\ndata: 1\n\n", grows: true, torn: true, after: 10}, {header: "1", torn: true, after: 20}, {header: "", grows: true, after: 30}}, []string{"0 to 20"}},
	} {
		t.Run(tt.name, func(t *testing.T) {
			clock := &testClock{}
			db := clockedLog(t, clock)
			cfg := followConfig(t, visited(t, db, clock, tt.visits), tt.kind, db)
			cfg.Now = clock.now
			if _, err := Follow(t.Context(), cfg); err != nil {
				t.Fatal(err)
			}
			if got := gapTimes(t, db, "src"); !slices.Equal(got, tt.want) {
				t.Errorf("gaps %q, want %q", got, tt.want)
			}
		})
	}
}

// That there is no connection is no news of the source, so Stored stays.
func TestStoredBeforeTrouble(t *testing.T) {
	clock := &testClock{}
	db := clockedLog(t, clock)
	cfg := followConfig(t, visited(t, db, clock, []visit{{status: 503, after: 7}, {body: "id: 1\ndata: 1\n\n", grows: true, torn: true, after: 20}, {status: 503, after: 30}}), "sse", db)
	cfg.Now = clock.now
	var stored []string
	cfg.OnRetry = func(error, time.Duration) {
		s, err := readStatusOf(t, db, "src")
		if err != nil || s.Trouble == "" {
			t.Errorf("status %+v, %v", s, err)
		}
		if s.Stored == 0 {
			stored = append(stored, "never")
		} else {
			stored = append(stored, fmt.Sprint(minute(s.Stored)))
		}
	}
	if _, err := Follow(t.Context(), cfg); err != nil {
		t.Fatal(err)
	}
	if want := []string{"never", "7", "7"}; !slices.Equal(stored, want) {
		t.Errorf("stored at %q, want %q", stored, want)
	}
}

// The gap of an rstream server that has dropped history begins before its state was stored.
func TestUpstreamGapSince(t *testing.T) {
	clock := &testClock{}
	relay := clockedLog(t, clock)
	hub := newLog(t)
	put(t, hub, "alice/x 1")
	u := newUpstream(t, hub)
	follow := func(minute int64) {
		t.Helper()
		clock.minutes.Store(minute)
		cfg := upstreamConfig(t, "lab", u.url, relay)
		cfg.Now = clock.now
		cfg.Log = tickingLog{relay, clock}
		if _, err := Follow(t.Context(), cfg); err != nil {
			t.Fatal(err)
		}
	}
	follow(0)
	last, err := readStatusOf(t, relay, "lab")
	if err != nil {
		t.Fatal(err)
	}
	fill(t, hub, "k")
	dropHistory(t, hub)
	follow(100)
	want := fmt.Sprint(minute(last.Stored), " to ")
	if got := gapTimes(t, relay, "lab"); len(got) != 1 || !strings.HasPrefix(got[0], want) {
		t.Errorf("gaps %q, want one of %s…", got, want)
	}
}

// A tickingLog takes a minute for each commit.
type tickingLog struct {
	*cache.DB
	clock *testClock
}

func (l tickingLog) AppendFrom(ctx context.Context, m *cache.SourceMove, drafts []event.Draft) ([]event.Receipt, error) {
	defer l.clock.minutes.Add(1)
	return l.DB.AppendFrom(ctx, m, drafts)
}
