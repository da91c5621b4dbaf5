package client

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"net/http"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/rstream-dev/rstream/event"
	"github.com/rstream-dev/rstream/internal/longtest"
)

// Tails with overlapping topics join and leave while events storm. Each gets the
// events of its topics once, in order and without a hole, from where it began.
func TestTailsComeAndGo(t *testing.T) {
	longtest.Require(t)
	noLeaks(t)
	f := newFixture(t)
	f.put("alice/posts/1", 200)
	f.put("bob/posts/1", 100)
	c := newTestClient(t, f.newCache(), hasty(f.http.URL))
	topics := [][]string{{"alice"}, {"alice/posts"}, {"*"}, {"bob/posts/1$", "alice/x"}, {"*/posts", "bob", "bob"}, {"nobody"}}
	stop := make(chan struct{})
	var storm, tails sync.WaitGroup
	storm.Go(func() {
		paths := []string{"alice/posts/1", "alice/x/2", "bob/posts/1", "carol/posts", "bob/y"}
		for tick := time.NewTicker(time.Millisecond); ; {
			select {
			case <-stop:
				tick.Stop()
				return
			case <-tick.C: // not as fast as can be: each tail reads all there is
				f.put(paths[rand.IntN(len(paths))], 1+rand.IntN(20))
			}
		}
	})
	for i := range 8 {
		tails.Go(func() {
			for j := range longtest.Size(2, 12) {
				oneTail(t, f, c, topics[(i+j)%len(topics)])
			}
		})
	}
	tails.Wait()
	close(stop)
	storm.Wait()
	if n, n2 := len(c.live.all), c.live.lease; n != 0 || n2 != nil {
		t.Errorf("the cursor still has %d followers and the lease %v", n, n2)
	}
}

// The batches of a tail begin where its range does, and each where the last one ended.
func TestBatchesBegin(t *testing.T) {
	noLeaks(t)
	f := newFixture(t)
	f.put("bob/x", 5)
	f.put("alice/x", 3)
	f.put("bob/x", 5)
	topics := []event.Topic{mustTopic(t, "alice")}
	c := newTestClient(t, f.newCache(), hasty(f.http.URL))
	for _, test := range []struct {
		opts TailOptions
		from event.ID
		to   event.ID
	}{
		{TailOptions{UntilLive: true}, 0, 13},
		{TailOptions{Range: Range{Since: moment(t, event.ID(2).String())}, UntilLive: true}, 2, 13},
		{TailOptions{Range: Range{Since: moment(t, event.ID(10).String())}, UntilLive: true}, 10, 13},
		{TailOptions{}, 0, 13},
	} {
		at := test.from
		for b, err := range c.Batches(t.Context(), topics, test.opts) {
			if err != nil {
				t.Fatal(err)
			}
			if b.From != at {
				t.Errorf("%+v: a batch begins after %s, want %s", test.opts, b.From, at)
			}
			if at = b.Position; at >= test.to {
				break
			}
		}
		if at != test.to {
			t.Errorf("%+v: it ends at %s, want %s", test.opts, at, test.to)
		}
	}
}

// oneTail reads for a while and compares its events with the slow reader's.
func oneTail(t *testing.T, f *fixture, c *Client, names []string) {
	var topics []event.Topic
	for _, n := range names {
		topics = append(topics, mustTopic(t, n))
	}
	var opts TailOptions
	if rand.IntN(2) == 0 {
		last := rand.IntN(50)
		opts.Last = &last
	}
	var got []string
	var from, at event.ID
	begun, some := false, false
	most := 1 + rand.IntN(300)
	for b, err := range c.Batches(t.Context(), topics, opts) {
		if err != nil {
			t.Errorf("tail %v: %v", names, err)
			return
		}
		if !begun {
			from, at, begun = b.From, b.From, true
		}
		if b.From != at {
			t.Errorf("tail %v: a batch begins after %s, want %s", names, b.From, at)
		}
		some = some || len(b.Events) > 0
		for _, ev := range b.Events {
			got = append(got, string(ev.Line()))
		}
		if at = b.Position; len(got) >= most || names[0] == "nobody" {
			break
		}
	}
	if !some {
		return
	}
	var want []plainEvent
	for _, ev := range f.truth("*", from.String(), at.String()) {
		for _, topic := range topics {
			if topic.Matches(ev.User, ev.Path) {
				want = append(want, ev)
				break
			}
		}
	}
	for i := range want {
		if i >= len(got) || got[i] != want[i].line {
			t.Errorf("tail %v (%s-%s): event %d of %d differs", names, from, at, i, len(want))
			return
		}
	}
	if len(got) != len(want) {
		t.Errorf("tail %v: %d events, want %d", names, len(got), len(want))
	}
}

// A second tail of a followed topic costs no connection, one of a new topic costs a single
// one, and no event comes twice.
func TestJoinCosts(t *testing.T) {
	noLeaks(t)
	f := newFixture(t)
	f.put("alice/x", 50)
	f.put("bob/x", 50)
	var streams atomic.Int64
	f.through(func(h http.Handler) http.Handler {
		return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			if r.Header.Get("Last-Event-ID") != "" {
				streams.Add(1)
			}
			h.ServeHTTP(w, r)
		})
	})
	c := newTestClient(t, f.newCache(), hasty(f.http.URL))
	var tails sync.WaitGroup
	defer tails.Wait()
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	follow := func(name string) *atomic.Int64 {
		var n atomic.Int64
		tails.Go(func() {
			for _, err := range c.Tail(ctx, mustTopic(t, name), TailOptions{}) {
				if err != nil {
					break
				}
				n.Add(1)
			}
		})
		return &n
	}
	a := follow("alice")
	eventually(t, "the first tail", func() bool { return a.Load() == 50 && streams.Load() == 1 })
	b := follow("alice")
	eventually(t, "the second tail", func() bool { return b.Load() == 50 })
	if n := streams.Load(); n != 1 {
		t.Errorf("%d connections, want 1", n)
	}
	d := follow("bob")
	eventually(t, "the third tail", func() bool { return d.Load() == 50 && streams.Load() == 2 })
	f.put("alice/x", 1)
	f.put("bob/x", 1)
	eventually(t, "new events", func() bool { return a.Load() == 51 && b.Load() == 51 && d.Load() == 51 })
	if n := c.Stats().Events; n != 102 {
		t.Errorf("%d events came, want 102", n)
	}
}

// A tail that ends while the file is busy takes nothing from the others, and a later tail of its
// topic gets what has happened since.
func TestTailEndsWhileFileIsBusy(t *testing.T) {
	noLeaks(t)
	defer func(d time.Duration) { releaseTime = d }(releaseTime)
	releaseTime = 0 // windows are released too late
	f := newFixture(t)
	c := newTestClient(t, f.newCache(), hasty(f.http.URL))
	defer c.Close()
	ctx, cancel := context.WithCancel(t.Context())
	bobCtx, cancelBob := context.WithCancel(ctx)
	defer cancel()
	alice, bob := follow(ctx, c, mustTopic(t, "alice")), follow(bobCtx, c, mustTopic(t, "bob"))
	putBoth := func() { // a tail of alice that has its events is past those of bob
		f.put("bob/x", 5)
		f.put("alice/x", 5)
	}
	putBoth()
	alice.wait(t, 5)
	bob.wait(t, 5)
	cancelBob()
	<-bob.ended
	putBoth()
	alice.wait(t, 10)
	again := follow(ctx, c, mustTopic(t, "bob"))
	again.wait(t, 10)
	putBoth()
	alice.wait(t, 15)
	again.wait(t, 15)
	cancel()
	<-alice.ended
	<-again.ended
	sameEvents(t, "alice", alice.lines, f.truth("alice", "", ""))
	sameEvents(t, "bob", again.lines, f.truth("bob", "", ""))
	if n := c.Stats().Events; n != 30 {
		t.Errorf("%d events came, want 30", n)
	}
}

// Events held when a tail begins are not requested, whichever of its topics they belong
// to.
func TestTailOfHeld(t *testing.T) {
	noLeaks(t)
	f := newFixture(t)
	f.put("alice/x", 300)
	f.put("bob/x", 200)
	f.put("carol/x", 100)
	c := newTestClient(t, f.newCache(), hasty(f.http.URL))
	for _, name := range []string{"alice", "bob"} {
		if _, err := c.Sync(t.Context(), mustTopic(t, name), SyncOptions{}); err != nil {
			t.Fatal(err)
		}
	}
	f.put("bob/x", 10)
	n, live := 0, false
	for b, err := range c.Batches(t.Context(), []event.Topic{mustTopic(t, "carol"), mustTopic(t, "alice"), mustTopic(t, "bob")}, TailOptions{}) {
		if err != nil {
			t.Fatal(err)
		}
		if n += len(b.Events); b.Live != (n >= 610) {
			t.Errorf("after %d of 610 events live is %v", n, b.Live)
		}
		if live = b.Live; live {
			break
		}
	}
	if came := c.Stats().Events; came != 610 {
		t.Errorf("%d events came, want 610", came)
	}
}

// A tail ends at once and leaves no goroutine and no lease, wherever its context ends or
// its caller stops.
func TestTailEndsAnywhere(t *testing.T) {
	longtest.Require(t)
	noLeaks(t)
	f := newFixture(t)
	f.put("alice/x", 300)
	for after := range 12 { // which request of the client is never answered
		ctx, cancel := context.WithCancelCause(t.Context())
		why := errors.New("enough")
		var requests atomic.Int64
		f.through(func(h http.Handler) http.Handler {
			return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
				if requests.Add(1) > int64(after/2) {
					cancel(why)
					<-r.Context().Done()
					return
				}
				h.ServeHTTP(w, r)
			})
		})
		db := f.newCache()
		c := newTestClient(t, db, hasty(f.http.URL))
		n := 0
		var err error
		for _, err = range c.Tail(ctx, mustTopic(t, "alice"), TailOptions{UntilLive: after%2 == 1}) {
			if n++; n == 300 {
				cancel(why)
			}
		}
		if err != nil && !errors.Is(err, why) {
			t.Errorf("after %d requests the tail ends with %v", after, err)
		}
		cancel(nil)
		f.through(nil)
		if _, err := c.Sync(t.Context(), mustTopic(t, "alice"), SyncOptions{}); err != nil {
			t.Fatal(err) // the sync would wait for a window left over
		}
		if n := c.Stats().Events; n != 300 {
			t.Errorf("after %d requests: %d events came, want 300", after, n)
		}
	}
	f.through(nil)
	for stop := range 4 {
		c := newTestClient(t, f.newCache(), hasty(f.http.URL))
		n := 0
		for b := range c.Batches(t.Context(), []event.Topic{mustTopic(t, "alice")}, TailOptions{}) {
			if n++; n > stop || b.Live {
				break
			}
		}
	}
}

// Close, called from outside or from within a tail, ends all tails with ErrClosed.
func TestCloseDuringTail(t *testing.T) {
	noLeaks(t)
	f := newFixture(t)
	f.put("alice/x", 10)
	c := newTestClient(t, f.newCache(), hasty(f.http.URL))
	var tails sync.WaitGroup
	for i := range 3 {
		tails.Go(func() {
			var last error
			for _, err := range c.Tail(t.Context(), mustTopic(t, fmt.Sprint("user", i)), TailOptions{}) {
				last = err
			}
			if !errors.Is(last, ErrClosed) {
				t.Errorf("tail ends with %v, want %v", last, ErrClosed)
			}
		})
	}
	var last error
	for _, err := range c.Tail(t.Context(), mustTopic(t, "alice"), TailOptions{}) {
		eventually(t, "all joining", func() bool {
			c.live.mu.Lock()
			defer c.live.mu.Unlock()
			return c.live.closed || len(c.live.all) == 4
		})
		c.Close()
		last = err
	}
	tails.Wait()
	if !errors.Is(last, ErrClosed) {
		t.Errorf("tail ends with %v, want %v", last, ErrClosed)
	}
	c.Close()
	for _, err := range c.Tail(t.Context(), mustTopic(t, "alice"), TailOptions{}) {
		if !errors.Is(err, ErrClosed) {
			t.Errorf("tail of a closed client gives %v", err)
		}
	}
}

// Events that precede the live cursor's connection are about to come over it: a sync waits
// for them instead of fetching them as well.
func TestSyncWaitsForLive(t *testing.T) {
	noLeaks(t)
	f := newFixture(t)
	f.put("alice/x", 10)
	c := newTestClient(t, f.newCache(), hasty(f.http.URL))
	topic := mustTopic(t, "alice/x")
	ctx, cancel := context.WithCancel(t.Context())
	var tails sync.WaitGroup
	tails.Go(func() {
		for range c.Tail(ctx, topic, TailOptions{}) { //nolint:revive // only for the cursor
		}
	})
	eventually(t, "going live", func() bool { return c.live.history.Load() != nil })
	asked, missed, began, rest := make(chan struct{}), make(chan struct{}), make(chan struct{}), make(chan struct{})
	f.through(func(h http.Handler) http.Handler {
		return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			if r.Header.Get("Last-Event-ID") != "" { // missed events come slowly
				close(asked)
				<-missed
				w = &slowWriter{ResponseWriter: w, began: began, gate: rest}
			}
			h.ServeHTTP(w, r)
		})
	})
	f.http.CloseClientConnections()
	<-asked
	f.put("alice/x", 500)
	close(missed)
	<-began
	eventually(t, "the connection", func() bool { return c.live.history.Load() != nil })
	synced := make(chan error, 1)
	tails.Go(func() {
		_, err := c.Sync(t.Context(), topic, SyncOptions{})
		synced <- err
	})
	eventually(t, "sync asking", func() bool { return c.Stats().Requests >= 6 })
	close(rest)
	if err := <-synced; err != nil {
		t.Fatal(err)
	}
	cancel()
	tails.Wait()
	if n := c.Stats().Events; n != 510 {
		t.Errorf("%d events came, want 510", n)
	}
}

// A slowWriter delays everything after the first flush.
type slowWriter struct {
	http.ResponseWriter
	began, gate chan struct{}
	writes      int
}

func (w *slowWriter) Unwrap() http.ResponseWriter { return w.ResponseWriter }

func (w *slowWriter) Write(b []byte) (int, error) {
	if w.writes++; w.writes == 2 {
		close(w.began)
		<-w.gate
	}
	return w.ResponseWriter.Write(b)
}
