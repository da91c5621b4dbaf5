package client

import (
	"context"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync"
	"testing"

	"github.com/rstream-dev/rstream/cache"
	"github.com/rstream-dev/rstream/event"
	"github.com/rstream-dev/rstream/internal/longtest"
	"github.com/rstream-dev/rstream/internal/wire"
)

// queue puts drafts with these keys into a copy's outbox.
func queue(t testing.TB, db *cache.DB, storage string, keys ...string) {
	t.Helper()
	if _, err := db.Outbox().Queue(t.Context(), drafts(storage, keys...)); err != nil {
		t.Fatal(err)
	}
}

func outboxKeys(t testing.TB, db *cache.DB) (keys string) {
	t.Helper()
	for after := int64(0); ; {
		queued, err := db.Outbox().List(t.Context(), after, 1000)
		if err != nil {
			t.Fatal(err)
		}
		if len(queued) == 0 {
			return keys
		}
		for _, q := range queued {
			keys, after = keys+q.Key+" ", q.Number
		}
	}
}

// logKeys returns the keys of a topic's events in the log, in order.
func (f *fixture) logKeys(topic string) (keys string) {
	for _, ev := range f.truth(topic, "", "") {
		parsed, err := event.ParseLine([]byte(ev.line))
		if err != nil {
			f.t.Fatal(err)
		}
		keys += parsed.Key + " "
	}
	return keys
}

func TestSend(t *testing.T) {
	f := newFixture(t)
	db := f.newCache()
	c := newTestClient(t, db, hasty(f.http.URL))
	queue(t, db, "alice/x", "a", "b")
	put(t, c, "alice/x", "b")
	var shown string
	sent, err := c.Send(t.Context(), func(q *cache.Queued, r *event.Receipt) { shown += fmt.Sprint(q.Key, r.ID, " ") })
	if err != nil || sent != (Sent{Sent: 2, Known: 1}) {
		t.Errorf("Send = %+v, %v", sent, err)
	}
	if want := "a0000000000002 b0000000000001 "; shown != want {
		t.Errorf("shown was %q, want %q", shown, want)
	}
	if keys := f.logKeys("*"); keys != "b a " || outboxKeys(t, db) != "" {
		t.Errorf("the log has %s, the outbox %s", keys, outboxKeys(t, db))
	}
	if n := events(t, db); n != 0 {
		t.Errorf("%d events are held by being sent", n)
	}
}

func events(t testing.TB, db *cache.DB) int64 {
	t.Helper()
	n, err := db.Count(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	return n.Events
}

// A draft refused for its content stays in the outbox and does not hold up the others.
func TestSendRefused(t *testing.T) {
	longtest.Require(t)
	f := newFixture(t)
	db := f.newCache()
	c := newTestClient(t, db, hasty(f.http.URL))
	large := event.Draft{User: "alice", Path: "x", Type: event.Put, Key: "large", Value: []byte(`"` + strings.Repeat("x", 1<<20) + `"`)}
	for i := range 2 {
		queue(t, db, "alice/x", fmt.Sprint("a", i), fmt.Sprint("b", i))
		large.Key = fmt.Sprint("large", i)
		if _, err := db.Outbox().Queue(t.Context(), []event.Draft{large}); err != nil {
			t.Fatal(err)
		}
	}
	sent, err := c.Send(t.Context(), nil)
	if err != nil || sent != (Sent{Sent: 4, Refused: 2}) {
		t.Errorf("Send = %+v, %v", sent, err)
	}
	if keys := f.logKeys("*"); keys != "a0 b0 a1 b1 " || outboxKeys(t, db) != "large0 large1 " {
		t.Errorf("the log has %s, the outbox %s", keys, outboxKeys(t, db))
	}
	requests := c.Stats().Requests
	if sent, err = c.Send(t.Context(), nil); err != nil || sent != (Sent{}) || c.Stats().Requests != requests {
		t.Errorf("Send of refused drafts = %+v, %v, with %d requests", sent, err, c.Stats().Requests-requests)
	}
}

// Drafts that the token does not cover stay in the outbox, hold up no others, and are sent in
// their order once it does.
func TestSendForbidden(t *testing.T) {
	f := newFixture(t)
	db := f.newCache()
	c := newTestClient(t, db, hasty(f.http.URL))
	f.through(func(next http.Handler) http.Handler {
		return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			body, _ := io.ReadAll(r.Body)
			for line := range strings.Lines(string(body)) {
				d, err := event.ParseDraft([]byte(strings.TrimSpace(line)))
				if err != nil {
					t.Error(err)
				}
				if d.User != "alice" {
					topic := event.Exactly(d.Storage())
					problem := wire.Errorf(http.StatusForbidden, "the token does not allow to append to %s", topic)
					problem.Topic = &topic
					w.Header().Set(wire.HeaderLog, f.db.Log())
					problem.Write(w)
					return
				}
			}
			r.Body = io.NopCloser(strings.NewReader(string(body)))
			next.ServeHTTP(w, r)
		})
	})
	for i := range 100 {
		queue(t, db, "alice/x", fmt.Sprint("a", i))
		queue(t, db, fmt.Sprint("bob/", i%3), fmt.Sprint("b", i))
	}
	sent, err := c.Send(t.Context(), nil)
	if want := (Sent{Sent: 100, Refused: 100, Forbidden: 100}); err != nil || sent != want {
		t.Errorf("Send = %+v, %v, want %+v", sent, err, want)
	}
	if n := c.Stats().Requests; n > 5 {
		t.Errorf("%d requests for three storages that are refused", n)
	}
	queued, err := db.Outbox().List(t.Context(), 0, 1000)
	if err != nil || len(queued) != 100 || !strings.Contains(queued[1].Refused, "bob/1$ (403)") {
		t.Errorf("the outbox has %d drafts, %v, %+v", len(queued), err, queued)
	}
	f.through(nil)
	if sent, err = c.Send(t.Context(), nil); err != nil || sent != (Sent{}) {
		t.Errorf("Send of refused drafts = %+v, %v", sent, err)
	}
	var again []event.Draft
	want := ""
	for _, q := range queued {
		again, want = append(again, q.Draft), want+q.Key+" "
	}
	if _, err := db.Outbox().Queue(t.Context(), again); err != nil {
		t.Fatal(err)
	}
	if sent, err = c.Send(t.Context(), nil); err != nil || sent != (Sent{Sent: 100}) {
		t.Errorf("Send with another token = %+v, %v", sent, err)
	}
	if keys := f.logKeys("bob"); keys != want {
		t.Errorf("the log has %s, want %s", keys, want)
	}
}

// A response that does not come from a log's server says nothing about the drafts, whatever
// its status.
func TestSendThroughStranger(t *testing.T) {
	for _, status := range []int{400, 401, 403, 404, 405, 413, 414, 415, 421, 431, 451, 501} {
		f := newFixture(t)
		db := f.newCache()
		queue(t, db, "alice/x", "a", "b")
		f.through(func(http.Handler) http.Handler {
			return http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) { http.Error(w, "proxy rules", status) })
		})
		sent, err := newTestClient(t, db, hasty(f.http.URL)).Send(t.Context(), nil)
		if err == nil || sent != (Sent{}) {
			t.Errorf("%d: Send = %+v, %v", status, sent, err)
		}
		queued, err := db.Outbox().List(t.Context(), 0, 10)
		if err != nil || len(queued) != 2 || queued[0].Refused != "" || queued[1].Refused != "" {
			t.Errorf("%d: the outbox has %+v, %v", status, queued, err)
		}
	}
}

// A proxy that accepts only small requests gets small ones, in order. A draft that is too
// large for it waits, and so do all later ones.
func TestSendThroughNarrowProxy(t *testing.T) {
	f := newFixture(t)
	db := f.newCache()
	queue(t, db, "alice/x", "a", "b", "c", "d", "e", strings.Repeat("f", 200), "g")
	f.through(func(next http.Handler) http.Handler {
		return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			if r.ContentLength > 200 {
				http.Error(w, "too large", http.StatusRequestEntityTooLarge)
				return
			}
			next.ServeHTTP(w, r)
		})
	})
	var answer *StatusError
	sent, err := newTestClient(t, db, hasty(f.http.URL)).Send(t.Context(), nil)
	if !errors.As(err, &answer) || answer.Status != 413 || answer.FromLog {
		t.Errorf("Send = %v, want the proxy's 413", err)
	}
	if held := (*HeldUpError)(nil); !errors.As(err, &held) || held.Number != 6 || held.Storage.String() != "alice/x" {
		t.Errorf("Send = %v, want that it names append 6", err)
	}
	if keys := f.logKeys("*"); keys != "a b c d e " || sent.Sent != 5 || sent.Refused != 0 {
		t.Errorf("the log has %s, sent %+v", keys, sent)
	}
	if keys := outboxKeys(t, db); keys != strings.Repeat("f", 200)+" g " {
		t.Errorf("the outbox has %s", keys)
	}
}

// A server of another log gets nothing.
func TestSendToAnotherLog(t *testing.T) {
	f, other := newFixture(t), newFixture(t)
	db := f.newCache()
	queue(t, db, "alice/x", "a")
	var another *OtherLogError
	if _, err := newTestClient(t, db, hasty(other.http.URL)).Send(t.Context(), nil); !errors.As(err, &another) {
		t.Errorf("Send = %v, want an OtherLogError", err)
	}
	if keys := other.logKeys("*"); keys != "" || outboxKeys(t, db) != "a " {
		t.Errorf("the other log has %s, the outbox %s", keys, outboxKeys(t, db))
	}
}

// A killable box sometimes fails to record an acknowledgment, like a process that is
// killed.
type killable struct {
	dbStore
	kill func() bool
}

var errKilled = errors.New("killed")

func (k killable) Acknowledge(ctx context.Context, numbers []int64) error {
	if k.kill() {
		return errKilled
	}
	return k.dbStore.Acknowledge(ctx, numbers)
}

// List gives a few at a time, so that there are several batches.
func (k killable) List(ctx context.Context, after int64, _ int) ([]cache.Queued, error) {
	return k.dbStore.List(ctx, after, 7)
}

// Several processes send one outbox over connections that lose responses, and are killed
// before they record them: each draft is in the log once, in the order of its storage.
func TestSendOnceInOrder(t *testing.T) {
	noLeaks(t)
	seed := rand.Uint64()
	t.Logf("seed %d", seed)
	random := rand.New(rand.NewPCG(seed, 0))
	var mu sync.Mutex
	chance := func(n int) bool {
		mu.Lock()
		defer mu.Unlock()
		return random.IntN(n) == 0
	}
	f := newFixture(t)
	f.through(func(h http.Handler) http.Handler {
		return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			body, _ := io.ReadAll(r.Body)
			r.Body = io.NopCloser(strings.NewReader(string(body)))
			if r.Method == http.MethodPost && chance(3) {
				if chance(2) {
					h.ServeHTTP(httptest.NewRecorder(), r)
				}
				panic(http.ErrAbortHandler)
			}
			h.ServeHTTP(w, r)
		})
	})
	db := f.newCache()
	want := map[string]string{}
	for i := range longtest.Size(25, 200) {
		storage, key := fmt.Sprint("alice/", i%3), fmt.Sprint(i)
		queue(t, db, storage, key)
		want[storage] += key + " "
	}
	var wg sync.WaitGroup
	for range 3 {
		wg.Go(func() {
			c := newTestClient(t, killable{storeOf(db), func() bool { return chance(3) }}, hasty(f.http.URL))
			for {
				_, err := c.Send(t.Context(), nil)
				var unreachable *UnreachableError
				if err == nil {
					return
				}
				if !errors.Is(err, errKilled) && !errors.As(err, &unreachable) {
					t.Error(err)
					return
				}
			}
		})
	}
	wg.Wait()
	f.through(nil)
	for storage, keys := range want {
		if got := f.logKeys(storage); got != keys {
			t.Errorf("%s in the log is %s, want %s", storage, got, keys)
		}
	}
	if keys := outboxKeys(t, db); keys != "" {
		t.Errorf("the outbox has %s", keys)
	}
}
