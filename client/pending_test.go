package client

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"net/http/httptest"
	"path/filepath"
	"slices"
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

func mustSyncAt(t *testing.T, c *Client, topic event.Topic, at event.Moment) Synced {
	t.Helper()
	s, err := syncAt(t.Context(), c, topic, at)
	if err != nil {
		t.Fatal(err)
	}
	return s
}

// position is a position of the log as a moment.
func position(t testing.TB, at event.ID) event.Moment { return moment(t, at.String()) }

// SyncAt fetches the window and the state at its beginning, each once, and from then on no
// server is needed for any moment in the window: neither by its position nor by its time,
// for topics of many events and of few.
func TestSyncAtKeepsTheStateBefore(t *testing.T) {
	f := newFixture(t)
	f.putSome(steady(), 2*event.BlockSize+500)
	f.put("carol/rare", 1)
	f.putSome(steady(), event.BlockSize)
	f.put("carol/rare", 1)
	f.putSome(steady(), 300)
	all := f.changes("")
	for _, name := range []string{"alice", "carol", "bob/posts/1$", "nobody"}[:longtest.Size(1, 4)] {
		topic := mustTopic(t, name)
		c := newTestClient(t, f.newCache(), hasty(f.http.URL))
		for _, block := range []event.ID{2, 1, 0, 3} { // 1 is before 2, and 0 begins at the beginning
			f.through(nil)
			before := c.Stats()
			at := block*event.BlockSize + 250
			s := mustSyncAt(t, c, topic, position(t, at))
			members := len(slowState(all, topic, func(c *change) bool { return c.ID <= s.Span.From.String() }))
			if block == 0 || block == 3 {
				members = 0 // it is known
			}
			if s.Members != members || int(c.Stats().Events-before.Events) != s.Added+members {
				t.Errorf("%s at %s: fetched are %d members, %d events and %d more, want %d members", topic, at, s.Members, s.Added, int(c.Stats().Events-before.Events)-s.Added-s.Members, members)
			}
			before = c.Stats()
			if again := mustSyncAt(t, c, topic, position(t, at)); again.Members != 0 || c.Stats().Events != before.Events {
				t.Errorf("again %+v", again)
			}
			f.through(closed)
			f.checkOffline(c, topic, s.Span, all)
		}
	}
}

// closed is a server that is gone.
func closed(http.Handler) http.Handler {
	return http.HandlerFunc(func(http.ResponseWriter, *http.Request) { panic(http.ErrAbortHandler) })
}

// checkOffline asks for the state at moments in a window, some by their position and all
// by their times.
func (f *fixture) checkOffline(c *Client, topic event.Topic, span window.Span, all []change) {
	f.t.Helper()
	requests := c.Stats().Requests
	for at := span.From; at <= span.To; at += 1023 {
		same(f.t, fmt.Sprintf("state of %s at %s", topic, at), collectState(f.t, c, topic, position(f.t, at)),
			slowState(all, topic, func(c *change) bool { return c.ID <= at.String() }))
	}
	last, seen := all[span.To-1].Time, ""
	for i := span.From; i < span.To; i++ {
		t := all[i].Time
		if t == seen || t == last || span.From > 0 && t == all[span.From-1].Time {
			continue // the window does not have all of that time
		}
		seen = t
		same(f.t, fmt.Sprintf("state of %s at %s", topic, t), collectState(f.t, c, topic, moment(f.t, t)),
			slowState(all, topic, func(c *change) bool { return c.Time <= t }))
	}
	if n := c.Stats().Requests - requests; n != 0 {
		f.t.Errorf("%s in %s is held, but its states took %d requests", topic, span, n)
	}
}

// After a sync of everything there is nothing to fetch for the window around a moment.
func TestSyncAtAfterSync(t *testing.T) {
	f := newFixture(t)
	f.putSome(steady(), event.BlockSize+500)
	c := newTestClient(t, f.newCache(), hasty(f.http.URL))
	if _, err := c.Sync(t.Context(), event.All, SyncOptions{}); err != nil {
		t.Fatal(err)
	}
	before := c.Stats()
	for _, name := range []string{"*", "alice"} {
		for _, at := range []event.Moment{event.Now, position(t, 4500), event.FromBeginning, moment(t, "3000-01-01T00:00:00Z")} {
			if s := mustSyncAt(t, c, mustTopic(t, name), at); s.Members != 0 || s.Added != 0 || s.Windows != 0 {
				t.Errorf("%s at %s: %+v", name, at, s)
			}
		}
	}
	if got := c.Stats().Events - before.Events; got != 0 {
		t.Errorf("%d events were fetched again", got)
	}
}

// The horizon may pass while a window is fetched. The state is then that at the oldest
// position, and moments before the horizon are a gap.
func TestSyncAtWhileTheHorizonMoves(t *testing.T) {
	f := newFixture(t)
	f.putSome(steady(), 3*event.BlockSize+10)
	all := f.changes("")
	topic := mustTopic(t, "alice")
	var once sync.Once
	f.through(func(h http.Handler) http.Handler {
		return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			if r.URL.Path == "/snapshot" {
				once.Do(func() {
					if err := f.db.RetainOnce(r.Context(), cache.Retention{MaxBytes: 1}); err != nil {
						t.Error(err)
					}
				})
			}
			h.ServeHTTP(w, r)
		})
	})
	c := newTestClient(t, f.newCache(), hasty(f.http.URL))
	_, err := syncAt(t.Context(), c, topic, position(t, 3*event.BlockSize+5))
	if err != nil {
		t.Fatal(err)
	}
	f.through(closed)
	f.checkOffline(c, topic, window.Span{From: 3 * event.BlockSize, To: 3*event.BlockSize + 10}, all)
	f.through(nil)
	var gap *GapError
	if _, err := syncAt(t.Context(), c, topic, position(t, 5)); !errors.As(err, &gap) || gap.Oldest != 3*event.BlockSize {
		t.Errorf("below the horizon: %v", err)
	}
	// At the horizon there is no window before, only the state.
	if s := mustSyncAt(t, c, mustTopic(t, "bob"), position(t, 3*event.BlockSize)); !s.Span.Empty() || s.Members == 0 {
		t.Errorf("at the horizon %+v", s)
	}
}

// A pollingStore counts how often its process had to wait.
type pollingStore struct {
	dbStore
	busy atomic.Int64
}

func (s *pollingStore) Pend(ctx context.Context, topic event.Topic, at event.Moment) (*cache.Pending, int64, error) {
	p, busy, err := s.dbStore.Pend(ctx, topic, at)
	if busy != 0 {
		s.busy.Add(1)
	}
	return p, busy, err
}

// A questions handler counts the requests about windows, and how many were concurrent.
type questions struct {
	all, now, most atomic.Int64
	gate           chan struct{} // nil: all pass
}

func (q *questions) wrap(h http.Handler) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if r.URL.Path == "/windows" {
			q.all.Add(1)
			now := q.now.Add(1)
			defer q.now.Add(-1)
			for most := q.most.Load(); now > most && !q.most.CompareAndSwap(most, now); most = q.most.Load() {
			}
			if q.gate != nil {
				<-q.gate
			}
		}
		h.ServeHTTP(w, r)
	})
}

// If two processes request the window around a moment, the second waits for the first
// one's response, and makes no request if that is the window it needs.
func TestPendingIsShared(t *testing.T) {
	f := newFixture(t)
	f.putSome(steady(), event.BlockSize+1500)
	all := f.changes("")
	at := event.ID(event.BlockSize + 100)
	for name, c := range map[string]struct {
		topic string
		other event.Moment
		asked int64
	}{
		"the same":              {"alice", position(t, at), 1},
		"another in the window": {"alice", position(t, at+300), 1},
		"its time":              {"alice", moment(t, all[at+600].Time), 1},
		"another window":        {"alice", position(t, 5), 2},
		"another topic":         {"bob", position(t, at), 2},
		"now":                   {"alice", event.Now, 2},
		"in the future":         {"alice", moment(t, "3000-01-01T00:00:00Z"), 2},
	} {
		if !longtest.Enabled() && (name == "its time" || name == "now" || name == "in the future") {
			continue // three of the others are like these
		}
		t.Run(name, func(t *testing.T) {
			q := questions{gate: make(chan struct{})}
			f.through(q.wrap)
			path := filepath.Join(t.TempDir(), "copy.db")
			first := newTestClient(t, f.openCache(path, nil), hasty(f.http.URL))
			store := &pollingStore{dbStore: storeOf(f.openCache(path, nil))}
			second := newTestClient(t, store, hasty(f.http.URL))
			var both sync.WaitGroup
			both.Go(func() { mustSyncAt(t, first, mustTopic(t, "alice"), position(t, at)) })
			eventually(t, "the question", func() bool { return q.all.Load() == 1 })
			both.Go(func() { mustSyncAt(t, second, mustTopic(t, c.topic), c.other) })
			eventually(t, "waiting", func() bool { return store.busy.Load() > 0 })
			windows, err := store.Windows(t.Context())
			want := window.Window{Topic: mustTopic(t, "alice"), State: window.Pending, At: position(t, at)}
			if err != nil || !slices.Equal(windows, []window.Window{want}) {
				t.Errorf("the windows are %v, %v, want %v", windows, err, want)
			}
			close(q.gate)
			both.Wait()
			if q.all.Load() != c.asked || q.most.Load() != 1 {
				t.Errorf("%d questions were asked, %d at once, want %d one by one", q.all.Load(), q.most.Load(), c.asked)
			}
		})
	}
}

// Many processes with many moments ask one after the other.
func TestPendingOneByOne(t *testing.T) {
	f := newFixture(t)
	f.putSome(steady(), 2*event.BlockSize)
	var q questions
	f.through(q.wrap)
	path := filepath.Join(t.TempDir(), "copy.db")
	var all sync.WaitGroup
	for i := range event.ID(longtest.Size(4, 8)) {
		c := newTestClient(t, f.openCache(path, nil), hasty(f.http.URL))
		all.Go(func() { mustSyncAt(t, c, mustTopic(t, []string{"alice", "bob"}[i%2]), position(t, 1+i*1000)) })
	}
	all.Wait()
	if q.most.Load() != 1 {
		t.Errorf("%d questions were asked at once", q.most.Load())
	}
	f.noPending(path)
}

func (f *fixture) noPending(path string) {
	f.t.Helper()
	windows, err := f.openCache(path, nil).Windows(f.t.Context())
	if err != nil || slices.ContainsFunc(windows, func(w window.Window) bool { return w.State == window.Pending }) {
		f.t.Errorf("the windows are %v, %v", windows, err)
	}
}

// However a request fails, no window stays pending. Between attempts other processes have
// their turn.
func TestPendingEndsWithAFailure(t *testing.T) {
	f := newFixture(t)
	f.putSome(steady(), 500)
	topic := mustTopic(t, "alice")
	path := filepath.Join(t.TempDir(), "copy.db")
	for name, wrap := range map[string]func(http.Handler) http.Handler{
		"gone": closed,
		"refused": func(http.Handler) http.Handler {
			return http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) { w.WriteHeader(http.StatusForbidden) })
		},
		"no answer": lyingAbout("/windows", "{", "["),
		"another":   lyingAbout("/windows", `"from":"0000000000000`, `"from":"00000000000ZZ`),
	} {
		f.through(wrap)
		c := newTestClient(t, f.openCache(path, nil), hasty(f.http.URL))
		if _, err := syncAt(t.Context(), c, topic, position(t, 5)); err == nil {
			t.Errorf("%s: no error", name)
		}
		f.noPending(path)
	}

	q := questions{gate: make(chan struct{})}
	f.through(q.wrap)
	ctx, cancel := context.WithCancel(t.Context())
	c := newTestClient(t, f.openCache(path, nil), hasty(f.http.URL))
	ended := make(chan error)
	go func() { _, err := syncAt(ctx, c, topic, position(t, 5)); ended <- err }()
	eventually(t, "the question", func() bool { return q.all.Load() == 1 })
	cancel()
	if err := <-ended; !errors.Is(err, context.Canceled) {
		t.Errorf("cancelled: %v", err)
	}
	close(q.gate)
	f.noPending(path)

	// One that waits for its server to come back keeps nobody waiting.
	f.through(nil)
	var tries atomic.Int64
	waiting := hasty("http://" + deadAddress(t))
	waiting.Wait, waiting.OnRetry = true, func(error, time.Duration) { tries.Add(1) }
	ctx, cancel = context.WithCancel(t.Context())
	lost := newTestClient(t, f.openCache(path, nil), waiting)
	go func() { _, err := syncAt(ctx, lost, topic, event.Now); ended <- err }()
	eventually(t, "trying again", func() bool { return tries.Load() > 2 })
	mustSyncAt(t, newTestClient(t, f.openCache(path, nil), hasty(f.http.URL)), topic, position(t, 5))
	cancel()
	<-ended
	f.noPending(path)
}

// deadAddress returns an address without a listener.
func deadAddress(t *testing.T) string {
	l := httptest.NewServer(nil)
	defer l.Close()
	return l.Listener.Addr().String()
}

// Of several answers of other processes, none has a part of another: the first window of a log
// has no start, and the start of a later window would be a wrong time of the beginning.
func TestAnsweredWindowsAreApart(t *testing.T) {
	f := newFixture(t)
	store, ctx, topic := storeOf(f.newCache()), t.Context(), mustTopic(t, "alice")
	pend := func(at event.ID) (p *cache.Pending, waited int64) {
		t.Helper()
		p, _, err := store.Pend(ctx, topic, position(t, at))
		if err == nil {
			_, waited, err = store.Pend(ctx, topic, position(t, 20))
		}
		if err != nil {
			t.Fatal(err)
		}
		return p, waited
	}
	answer := func(p *cache.Pending, w wire.Window) {
		t.Helper()
		body, err := json.Marshal(w)
		if err == nil {
			err = p.End(ctx, body)
		}
		if err != nil {
			t.Fatal(err)
		}
	}
	edge := func(n event.ID) event.Cursor { return event.CursorOf(n*event.BlockSize, f.db.Log()) }
	early, late := event.Time(1e15), event.Time(2e15)
	p, waited := pend(10)
	answer(p, wire.Window{From: edge(0), To: edge(1), End: &early})
	p, _ = pend(event.BlockSize + 10)
	answer(p, wire.Window{From: edge(1), To: edge(2), Start: &early, End: &late}) // read first
	p, _ = pend(20)
	w, ok, err := answeredWindow(ctx, p, waited, position(t, 20))
	if err != nil || !ok || w.From != edge(0) || w.Start != nil || w.End == nil || *w.End != early {
		t.Errorf("answered is %s from %v to %v, %v, %v, want %s without a start", w.Span(), w.Start, w.End, ok, err, window.BlockSpan(0))
	}
	if err := p.End(ctx, nil); err != nil {
		t.Error(err)
	}
}
