package client

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/rstream-dev/rstream/cache"
	"github.com/rstream-dev/rstream/event"
	"github.com/rstream-dev/rstream/internal/longtest"
	"github.com/rstream-dev/rstream/internal/wire"
)

// refuseTopics makes the fixture's server, or a proxy in front of it, refuse requests that
// read a topic, once the returned switch is on. It counts the streams that it lets through.
func refuseTopics(f *fixture, refusal func(w http.ResponseWriter, topic event.Topic), names ...string) (on *atomic.Bool, streams *atomic.Int64) {
	on, streams = new(atomic.Bool), new(atomic.Int64)
	f.through(func(next http.Handler) http.Handler {
		return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			for _, topic := range r.URL.Query()["topic"] {
				for _, name := range names {
					if on.Load() && topic == name {
						refusal(w, mustTopic(f.t, topic))
						return
					}
				}
			}
			if r.Header.Get("Last-Event-ID") != "" {
				streams.Add(1)
			}
			next.ServeHTTP(w, r)
		})
	})
	return on, streams
}

// A followed is a tail in a goroutine of its own.
type followed struct {
	lines []string
	err   error
	n     atomic.Int64
	ended chan struct{}
}

func follow(ctx context.Context, c *Client, topics ...event.Topic) *followed {
	t := &followed{ended: make(chan struct{})}
	go func() {
		defer close(t.ended)
		for b, err := range c.Batches(ctx, topics, TailOptions{}) {
			if err != nil {
				t.err = err
				return
			}
			for _, ev := range b.Events {
				t.lines = append(t.lines, string(ev.Line()))
				t.n.Add(1)
			}
		}
	}()
	return t
}

// wait waits until the tail has had n events.
func (f *followed) wait(t *testing.T, n int) {
	t.Helper()
	eventually(t, fmt.Sprintf("the tail of %d events", n), func() bool {
		select {
		case <-f.ended:
			t.Fatalf("the tail has ended: %v", f.err)
		default:
		}
		return f.n.Load() == int64(n)
	})
}

// TestRefusedTopicEndsOnlyItsTails: several tails share the live connection. The right to
// read two of the topics ends. Their tails end with the refusal, and the others go on
// without loss or repeat.
func TestRefusedTopicEndsOnlyItsTails(t *testing.T) {
	noLeaks(t)
	var f *fixture
	refusals := map[string]func(w http.ResponseWriter, topic event.Topic){
		"by the log": func(w http.ResponseWriter, topic event.Topic) {
			w.Header().Set(wire.HeaderLog, f.db.Log())
			e := wire.Errorf(http.StatusForbidden, "the token does not allow to read %s", topic)
			e.Topic = &topic
			e.Write(w)
		},
		"without a token": func(w http.ResponseWriter, topic event.Topic) {
			w.Header().Set(wire.HeaderLog, f.db.Log())
			e := wire.Errorf(http.StatusUnauthorized, "a token is needed to read %s", topic)
			e.Topic = &topic
			e.Write(w)
		},
		"by a proxy": func(w http.ResponseWriter, _ event.Topic) { http.Error(w, "not for you", http.StatusForbidden) },
	}
	for name, refusal := range refusals {
		t.Run(name, func(t *testing.T) {
			f = newFixture(t)
			on, _ := refuseTopics(f, refusal, "bob", "carol/x")
			storages := []string{"alice/a", "bob/b", "carol/x/1", "carol/y", "dave/d"}
			putAll := func() {
				for _, s := range storages {
					f.put(s, 20)
				}
			}
			putAll()
			var secret atomic.Pointer[string]
			secret.Store(new(string))
			c := newTestClient(t, f.newCache(), withToken(f, &secret))
			ctx, cancel := context.WithCancel(t.Context())
			topic := func(s string) event.Topic { return mustTopic(t, s) }
			kept := map[string]*followed{"alice": follow(ctx, c, topic("alice")), "carol/y": follow(ctx, c, topic("carol/y")), "dave": follow(ctx, c, topic("dave"))}
			lost := []*followed{follow(ctx, c, topic("bob")), follow(ctx, c, topic("bob")), follow(ctx, c, topic("carol/x")), follow(ctx, c, topic("alice"), topic("bob"))}
			for _, tail := range lost[:3] {
				eventually(t, "the tails that will end", func() bool { return tail.n.Load() == 20 })
			}
			eventually(t, "the tail of two topics", func() bool { return lost[3].n.Load() == 40 })
			on.Store(true)
			putAll() // some of it comes over the old connection
			f.http.CloseClientConnections()
			for _, tail := range lost {
				<-tail.ended
				var status *StatusError
				if !errors.As(tail.err, &status) || !status.isForbidden() {
					t.Errorf("a refused tail ended with %v", tail.err)
				}
			}
			putAll()
			for name, tail := range kept {
				eventually(t, "the tail of "+name, func() bool { return tail.n.Load() == 60 })
			}
			cancel()
			on.Store(false)
			for name, tail := range kept {
				if <-tail.ended; !errors.Is(tail.err, context.Canceled) {
					t.Errorf("tail %s: %v", name, tail.err)
				}
				sameEvents(t, name, tail.lines, f.truth(name, "", ""))
			}
			if l := &c.live; l.lease != nil || len(l.all) > 0 {
				t.Errorf("the cursor still has %d followers and the lease %v", len(l.all), l.lease)
			}
		})
	}
}

// TestRefusedTopicDoesNotJoin: a tail whose topic is refused from the start does not touch
// the connection of the others.
func TestRefusedTopicDoesNotJoin(t *testing.T) {
	noLeaks(t)
	f := newFixture(t)
	on, streams := refuseTopics(f, func(w http.ResponseWriter, _ event.Topic) { http.Error(w, "", http.StatusForbidden) }, "bob")
	on.Store(true)
	f.put("alice/a", 5)
	c := newTestClient(t, f.newCache(), hasty(f.http.URL))
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	alice := follow(ctx, c, mustTopic(t, "alice"))
	eventually(t, "the connection", func() bool { return alice.n.Load() == 5 && streams.Load() == 1 })
	for range 3 {
		bob := follow(ctx, c, mustTopic(t, "bob"))
		if <-bob.ended; bob.err == nil {
			t.Error("the refused tail ended without an error")
		}
	}
	f.put("alice/a", 5)
	alice.wait(t, 10)
	if n := streams.Load(); n != 1 {
		t.Errorf("there were %d connections, want 1", n)
	}
	cancel()
	<-alice.ended
}

// TestRefusedTogether: a proxy that refuses all topics together and none alone ends all of
// their tails, and does not make the client ask again and again.
func TestRefusedTogether(t *testing.T) {
	noLeaks(t)
	f := newFixture(t)
	f.put("alice/a", 5)
	f.put("bob/b", 5)
	var together atomic.Bool
	var refused atomic.Int64
	f.through(func(next http.Handler) http.Handler {
		return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			if together.Load() && len(r.URL.Query()["topic"]) > 1 {
				refused.Add(1)
				http.Error(w, "", http.StatusForbidden)
				return
			}
			next.ServeHTTP(w, r)
		})
	})
	c := newTestClient(t, f.newCache(), hasty(f.http.URL))
	tails := []*followed{follow(t.Context(), c, mustTopic(t, "alice")), follow(t.Context(), c, mustTopic(t, "bob"))}
	for _, tail := range tails {
		tail.wait(t, 5)
	}
	together.Store(true)
	f.http.CloseClientConnections()
	for _, tail := range tails {
		<-tail.ended
		var status *StatusError
		if !errors.As(tail.err, &status) || status.Status != http.StatusForbidden {
			t.Errorf("ended with %v", tail.err)
		}
	}
	if n := refused.Load(); n < 1 || n > 2 { // the first request may still have been cut off
		t.Errorf("asked %d times", n)
	}
}

// TestRefusedTopicsComeAndGo: rights end and come back while tails join and leave, some in each
// round: without an end of that, a slow machine would never complete a connection. Every tail has
// each event of its topic once until it ends.
func TestRefusedTopicsComeAndGo(t *testing.T) {
	noLeaks(t)
	f := newFixture(t)
	on, _ := refuseTopics(f, func(w http.ResponseWriter, topic event.Topic) {
		w.Header().Set(wire.HeaderLog, f.db.Log())
		e := wire.Errorf(http.StatusForbidden, "the token does not allow to read %s", topic)
		e.Topic = &topic
		e.Write(w)
	}, "bob")
	c := newTestClient(t, f.newCache(), hasty(f.http.URL))
	ctx, cancel := context.WithCancel(t.Context())
	alice := follow(ctx, c, mustTopic(t, "alice"))
	f.put("alice/a", 1)
	alice.wait(t, 1) // a client that has had no answer at all does not try again
	var others sync.WaitGroup
	rounds := longtest.Scale(6, 25, 60)
	joins := make(chan struct{}, 4*rounds)
	for range 2 {
		others.Go(func() {
			for range joins {
				some, stop := context.WithTimeout(ctx, 20*time.Millisecond)
				bob := follow(some, c, mustTopic(t, "bob"))
				<-bob.ended
				stop()
			}
		})
	}
	for i := range rounds {
		for range 4 {
			joins <- struct{}{}
		}
		f.put("alice/a", 3)
		f.put("bob/b", 3)
		on.Store(i%2 == 0)
		f.http.CloseClientConnections()
		alice.wait(t, 1+3*(i+1))
	}
	cancel()
	close(joins)
	others.Wait()
	<-alice.ended
	on.Store(false)
	sameEvents(t, "alice", alice.lines, f.truth("alice", "", ""))
}

// Tails that come and go faster than a connection is made do not keep another one from its events.
func TestTailBesideRestlessOnes(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		const way = 50 * time.Millisecond
		far := func(m *mesh, next http.Handler) http.Handler {
			return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
				if r.Header.Get("Accept") == "text/event-stream" {
					select {
					case <-time.After(way):
					case <-r.Context().Done():
						return
					}
				}
				next.ServeHTTP(w, r)
			})
		}
		m := newMesh(t, 0, far)
		m.use(nil, func(c *Client, _ *cache.DB) {
			ctx, cancel := context.WithCancel(t.Context())
			defer cancel()
			alice := follow(ctx, c, mustTopic(t, "alice"))
			var restless sync.WaitGroup
			restless.Go(func() {
				for ctx.Err() == nil {
					some, stop := context.WithTimeout(ctx, way/3)
					<-follow(some, c, mustTopic(t, "bob")).ended
					stop()
				}
			})
			for i := range 2 {
				m.put("alice/x", 1)
				time.Sleep(2 * time.Second)
				if n := alice.n.Load(); n != int64(i+1) {
					t.Errorf("after a while it has %d events, want %d", n, i+1)
				}
			}
			cancel()
			restless.Wait()
			<-alice.ended
		})
	})
}
