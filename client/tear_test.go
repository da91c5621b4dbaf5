package client

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"net/http"
	"net/http/httptest"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/rstream-dev/rstream/cache"
	"github.com/rstream-dev/rstream/event"
	"github.com/rstream-dev/rstream/internal/longtest"
	"github.com/rstream-dev/rstream/internal/wire"
	"github.com/rstream-dev/rstream/window"
)

// The promise of the package, over a proxy that tears: every event once and in
// order, and none of them sent twice.
//
// Definition of "sent twice": the client counts an event when it has arrived completely
// and its hash is right. It stores each of these events, even if the connection is cut
// or the work cancelled right after it, so the next request begins after it. An event
// that was cut in the middle was never received and is not counted. So the count must
// equal the number of the topic's events exactly.
func TestTailUnderCuts(t *testing.T) {
	for range longtest.Scale(1, 4, 10) {
		seed := rand.Uint64()
		t.Run(fmt.Sprint(seed), func(t *testing.T) { tailUnderCuts(t, seed, false) })
	}
}

// The server ends in mid-tail and comes back with the same file.
func TestTailOverRestart(t *testing.T) { tailUnderCuts(t, rand.Uint64(), true) }

func tailUnderCuts(t *testing.T, seed uint64, restart bool) {
	noLeaks(t)
	f := newFixture(t)
	f.put("alice/posts/1", 400)
	f.put("bob/posts/1", 50)
	f.put("alice/posts/2", 300)
	p := newTearingProxy(t, f.http.URL, seed, 30_000)
	c := newTestClient(t, f.newCache(), nervous(p.url()))

	// The first request must succeed, and a cut would make it fail.
	p.whole.Store(true)
	if _, err := c.Info(t.Context()); err != nil {
		t.Fatal(err)
	}
	c.closeIdle() // later requests use connections that are cut
	p.whole.Store(false)
	const live = 30
	var appends sync.WaitGroup
	defer appends.Wait()
	given := make(chan int, 1)
	appends.Go(func() {
		for i := range live {
			f.put("alice/posts/3", 10)
			f.put("carol/x", 3)
			if i == live/2 && restart {
				<-given                       // not before something has come
				p.point("http://127.0.0.1:0") // its port may become somebody else's
				f.stop()
				f.start()
				p.point(f.http.URL)
			}
		}
	})
	var got []string
	for ev, err := range c.Tail(t.Context(), mustTopic(t, "alice/posts"), TailOptions{}) {
		if err != nil {
			t.Fatalf("seed %d: %v", seed, err)
		}
		if got = append(got, string(ev.Line())); len(got) == 1 {
			given <- 1
		}
		if len(got) == 700+10*live {
			break
		}
	}
	appends.Wait()
	sameEvents(t, "tail", got, f.truth("alice/posts", "", ""))
	if n := c.Stats().Events; n != int64(len(got)) {
		t.Errorf("seed %d: %d events came over the wire, want %d", seed, n, len(got))
	}
	if p.cuts.Load() < 3 {
		t.Errorf("seed %d: only %d cuts", seed, p.cuts.Load())
	}
}

func TestSyncUnderCuts(t *testing.T) {
	noLeaks(t)
	f := newFixture(t)
	puts := longtest.Size(8, 40)
	want := 50 * puts
	for i := range puts {
		f.put("alice/posts/1", 50)
		f.put(fmt.Sprintf("user%d/x", i), 20)
	}
	seed := rand.Uint64()
	p := newTearingProxy(t, f.http.URL, seed, 8_000)
	cfg := nervous(p.url())
	cfg.Wait = true
	db := f.newCache()
	c := newTestClient(t, db, cfg)
	topic := mustTopic(t, "alice")
	s, err := c.Sync(t.Context(), topic, SyncOptions{})
	if err != nil {
		t.Fatalf("seed %d: %v", seed, err)
	}
	sameEvents(t, "sync", held(t, db, topic, s), f.truth("alice", "", ""))
	if n := c.Stats().Events; n != int64(want) || s.Added != want || s.Windows != 1 {
		t.Errorf("seed %d: %d events came, %+v, want %d in one window", seed, n, s, want)
	}
}

const childEnv = "RSTREAM_CLIENT_TEST_CHILD"

// TestSyncChild is the process that TestKilledSync kills.
func TestSyncChild(t *testing.T) {
	args := strings.Split(os.Getenv(childEnv), "|")
	if len(args) != 3 {
		t.Skip("runs as a child of TestKilledSync")
	}
	db, err := cache.Open(t.Context(), args[0], cache.Config{Role: cache.Client, Log: args[1]})
	if err != nil {
		t.Fatal(err)
	}
	_, err = newTestClient(t, db, hasty(args[2])).Sync(t.Context(), mustTopic(t, "alice"), SyncOptions{})
	t.Fatal("not killed: ", err)
}

// After kill -9 in mid-pull the next process does not wait and fetches only the events
// that were not stored.
func TestKilledSync(t *testing.T) {
	f := newFixture(t)
	f.put("alice/posts/1", 1000)
	path := filepath.Join(t.TempDir(), "copy.db")
	cmd := exec.CommandContext(t.Context(), os.Args[0], "-test.run=^TestSyncChild$")
	cmd.Env = append(os.Environ(), childEnv+"="+strings.Join([]string{path, f.db.Log(), f.http.URL}, "|"))
	var pages atomic.Int64
	started := make(chan struct{})
	f.through(func(h http.Handler) http.Handler {
		return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			if r.FormValue("limit") == "100" && pages.Add(1) == 5 {
				<-started
				four := window.Span{From: 0, To: 400}
				watch := f.openCache(path, nil)
				eventually(t, "four pages are stored", func() bool {
					held, err := watch.Held(context.Background(), mustTopic(t, "alice"))
					return err == nil && held.Contains(four)
				})
				if err := cmd.Process.Kill(); err != nil {
					t.Error(err)
				}
				<-r.Context().Done()
				return
			}
			h.ServeHTTP(w, r)
		})
	})
	var out bytes.Buffer
	cmd.Stdout, cmd.Stderr = &out, &out
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	close(started)
	var exit *exec.ExitError
	if err := cmd.Wait(); !errors.As(err, &exit) || exit.Exited() {
		t.Fatalf("the child was not killed: %v\n%s", err, out.Bytes())
	}
	f.through(nil)
	db := f.openCache(path, nil)
	c := newTestClient(t, db, hasty(f.http.URL))
	s, err := c.Sync(t.Context(), mustTopic(t, "alice"), SyncOptions{})
	if err != nil {
		t.Fatal(err)
	}
	if n := c.Stats().Events; n != 600 || s.Windows != 1 {
		t.Errorf("the second process fetched %d events in %d windows, want 600 in 1", n, s.Windows)
	}
	sameEvents(t, "sync", held(t, db, mustTopic(t, "alice"), s), f.truth("alice", "", ""))
}

// A clock that can be moved.
type testClock struct{ ahead atomic.Int64 }

func (c *testClock) now() time.Time { return time.Now().Add(time.Duration(c.ahead.Load())) }

// A process that slept longer than its lease finds its window taken over. Its pull leaves
// the window to the other process and waits; its live cursor goes on.
func TestLeaseTakenOver(t *testing.T) {
	longtest.Require(t)
	f := newFixture(t)
	f.put("alice/posts/1", 1000)
	path := filepath.Join(t.TempDir(), "copy.db")
	var later testClock
	later.ahead.Store(int64(5 * time.Minute))
	mine, other := f.openCache(path, nil), f.openCache(path, later.now)
	topic := mustTopic(t, "alice")
	a, b := newTestClient(t, mine, hasty(f.http.URL)), newTestClient(t, other, hasty(f.http.URL))
	var pages atomic.Int64
	f.through(func(h http.Handler) http.Handler {
		return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			if r.FormValue("limit") == "100" && pages.Add(1) == 4 {
				// The other sync goes on when the request is given up, as soon as its window is lost.
				if _, err := b.Sync(t.Context(), topic, SyncOptions{}); err != nil {
					t.Error(err)
				}
			}
			h.ServeHTTP(w, r)
		})
	})
	s, err := a.Sync(t.Context(), topic, SyncOptions{})
	if err != nil {
		t.Fatal(err)
	}
	sameEvents(t, "sync", held(t, mine, topic, s), f.truth("alice", "", ""))

	n := 1000
	var got []string
	for ev, err := range a.Tail(t.Context(), topic, TailOptions{}) {
		if err != nil {
			t.Fatal(err)
		}
		got = append(got, string(ev.Line()))
		if len(got) == n && n < 1005 {
			if _, err := b.Sync(t.Context(), mustTopic(t, "zoe"), SyncOptions{}); err != nil {
				t.Fatal(err)
			}
			f.put("alice/posts/1", 1)
			n++
		} else if len(got) == n {
			break
		}
	}
	sameEvents(t, "tail", got, f.truth("alice", "", ""))
}

// A cancelled sync keeps the events received and releases its window at once.
func TestCancelledSync(t *testing.T) {
	noLeaks(t)
	f := newFixture(t)
	f.put("alice/posts/1", 500)
	db := f.newCache()
	c := newTestClient(t, db, hasty(f.http.URL))
	topic := mustTopic(t, "alice")
	ctx, cancel := context.WithCancelCause(t.Context())
	why := errors.New("enough")
	_, err := syncNew(ctx, c, topic, Range{}, func([]event.Event) error {
		cancel(why)
		return nil
	})
	if !errors.Is(err, why) {
		t.Errorf("sync = %v, want %v", err, why)
	}
	if _, err := c.Sync(t.Context(), topic, SyncOptions{}); err != nil {
		t.Fatal(err)
	}
	if n := c.Stats().Events; n != 500 {
		t.Errorf("%d events came, want 500", n)
	}
	_, err = syncNew(t.Context(), c, topic, Range{}, func([]event.Event) error { return why })
	if err != nil {
		t.Errorf("nothing is new, but sync = %v", err)
	}
	f.put("alice/posts/1", 1)
	if _, err = syncNew(t.Context(), c, topic, Range{}, func([]event.Event) error { return why }); !errors.Is(err, why) {
		t.Errorf("sync = %v, want %v", err, why)
	}
}

// Events of a page that arrived before its request was cancelled are not fetched again.
func TestCancelledInPage(t *testing.T) {
	noLeaks(t)
	f := newFixture(t)
	f.put("alice/x", 80)
	f.through(func(h http.Handler) http.Handler {
		return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			if requestKind(r) != asksPage || r.URL.Path != "/events" {
				h.ServeHTTP(w, r)
				return
			}
			l := &liar{f: f, h: w.Header(), w: w, r: r}
			var lines []string
			for _, ev := range truthOf(t, f.srv)[:50] {
				lines = append(lines, ev+"\n")
			}
			wire.SetEvents(w.Header(), 80)
			l.page(strings.Join(lines, ""))
			_ = http.NewResponseController(w).Flush()
			<-r.Context().Done()
		})
	})
	c := newTestClient(t, f.newCache(), hasty(f.http.URL))
	ctx, cancel := context.WithCancel(t.Context())
	var syncing sync.WaitGroup
	syncing.Go(func() {
		if _, err := c.Sync(ctx, mustTopic(t, "alice"), SyncOptions{}); !errors.Is(err, context.Canceled) {
			t.Errorf("sync = %v", err)
		}
	})
	eventually(t, "half a page", func() bool { return c.Stats().Events == 50 })
	cancel()
	syncing.Wait()
	f.through(nil)
	if _, err := c.Sync(t.Context(), mustTopic(t, "alice"), SyncOptions{}); err != nil {
		t.Fatal(err)
	}
	if n := c.Stats().Events; n != 80 {
		t.Errorf("%d events came, want 80", n)
	}
}

// truthOf reads all lines directly from a handler, without the proxies in front of it.
func truthOf(t *testing.T, h http.Handler) []string {
	rec := httptest.NewRecorder()
	r := httptest.NewRequestWithContext(t.Context(), http.MethodGet, "http://localhost/events?topic=*", nil)
	r.Header.Set("Accept", "application/x-ndjson")
	h.ServeHTTP(rec, r)
	return strings.Split(strings.TrimSpace(rec.Body.String()), "\n")
}

// A cut between the last event of a page and the end of the response costs nothing: the
// next request would be for an empty range.
func TestCutBehindLastEvent(t *testing.T) {
	noLeaks(t)
	f := newFixture(t)
	f.put("alice/x", 300)
	f.through(func(h http.Handler) http.Handler {
		return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			h.ServeHTTP(w, r)
			if r.URL.Path == "/events" && requestKind(r) == asksPage {
				_ = http.NewResponseController(w).Flush()
				panic(http.ErrAbortHandler)
			}
		})
	})
	db := f.newCache()
	c := newTestClient(t, db, hasty(f.http.URL))
	topic := mustTopic(t, "alice")
	s, err := c.Sync(t.Context(), topic, SyncOptions{})
	if err != nil {
		t.Fatal(err)
	}
	sameEvents(t, "sync", held(t, db, topic, s), plainLines(truthOf(t, f.srv)))
	if st := c.Stats(); st.Events != 300 || st.Retries != 0 {
		t.Errorf("%+v, want 300 events and no retry", st)
	}
}

func plainLines(lines []string) (evs []plainEvent) {
	for _, line := range lines {
		evs = append(evs, plainEvent{line: line})
	}
	return evs
}
