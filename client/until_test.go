package client

import (
	"net/http/httptest"
	"path/filepath"
	"testing"
	"time"

	"github.com/rstream-dev/rstream/cache"
	"github.com/rstream-dev/rstream/event"
	"github.com/rstream-dev/rstream/internal/server"
)

// tailUntil reads a tail that ends, and calls got after each batch with the number of events.
func tailUntil(t *testing.T, c *Client, until time.Time, got func(events int)) (evs []event.Event, at event.ID) {
	t.Helper()
	end := event.AtTime(event.TimeOf(until))
	opts := TailOptions{Range: Range{Until: &end}}
	for b, err := range c.Batches(t.Context(), []event.Topic{mustTopic(t, "alice")}, opts) {
		if err != nil {
			t.Fatal(err)
		}
		for _, ev := range b.Events {
			evs = append(evs, *ev)
		}
		at = b.Position
		got(len(evs))
	}
	return evs, at
}

// A tail until a time to come follows until then, and ends with all events up to that time.
func TestTailUntilTimeToCome(t *testing.T) {
	t.Parallel()
	noLeaks(t)
	f := newFixture(t)
	f.put("alice/x", 3)
	c := newTestClient(t, f.newCache(), hasty(f.http.URL))
	put := false
	until := time.Now().Add(500 * time.Millisecond)
	evs, at := tailUntil(t, c, until, func(events int) {
		if events == 3 && !put {
			put = true
			f.put("alice/x", 2)
			f.put("bob/x", 1)
		}
	})
	if len(evs) != 5 || at != 6 || time.Now().Before(until) {
		t.Errorf("%d events up to %s, %s before its end", len(evs), at, time.Until(until))
	}
}

// A server whose clock is ahead ends the tail with the first event of a later time.
func TestTailUntilTimeOfServer(t *testing.T) {
	noLeaks(t)
	clock := &testClock{}
	db, err := cache.Open(t.Context(), filepath.Join(t.TempDir(), "log.db"), cache.Config{Role: cache.Server, Now: clock.now})
	if err != nil {
		t.Fatal(err)
	}
	defer db.Close()
	srv := httptest.NewServer(server.New(db, server.Config{Heartbeat: 20 * time.Millisecond}))
	defer srv.Close()
	put := func(user, key string) {
		if _, err := db.Append(t.Context(), []event.Draft{{User: user, Path: "x", Type: event.Put, Key: key, Value: []byte("1")}}); err != nil {
			t.Error(err)
		}
	}
	put("alice", "1")
	copied, err := cache.Open(t.Context(), filepath.Join(t.TempDir(), "copy.db"), cache.Config{Role: cache.Client, Log: db.Log()})
	if err != nil {
		t.Fatal(err)
	}
	defer copied.Close()
	c := newTestClient(t, copied, hasty(srv.URL))
	defer c.Close()
	evs, at := tailUntil(t, c, time.Now().Add(time.Hour), func(events int) {
		switch events {
		case 1:
			put("alice", "2")
		case 2:
			clock.ahead.Store(int64(2 * time.Hour))
			put("bob", "3")
			put("alice", "4")
		}
	})
	if len(evs) != 2 || at < 2 || at > 3 {
		t.Errorf("%d events up to %s, want the two up to its time", len(evs), at)
	}
}

// The end is before the position of the tail if the server, whose clock is ahead, has gone on
// without an event of the topic. An age, or a number of events, is resolved once, at the start.
func TestTailPastItsEnd(t *testing.T) {
	noLeaks(t)
	f := newFixture(t)
	f.put("alice/x", 3)
	f.put("bob/x", 2)
	c := newTestClient(t, f.newCache(), hasty(f.http.URL))
	topics, last := []event.Topic{mustTopic(t, "alice")}, 2
	opts := TailOptions{Range: Range{Last: &last}}
	past := event.TimeOf(time.Now().Add(-time.Minute))
	over, err := c.followUntil(t.Context(), topics, &opts, past, func(Batch) bool { return true })
	if err != nil || over || opts.Last != nil || opts.Since != c.momentAt(1) {
		t.Errorf("followUntil = %v, %v with %+v", over, err, opts)
	}
	if over, err := c.boundRest(t.Context(), topics, &opts, past); !over || err != nil {
		t.Errorf("boundRest before all events = %v, %v", over, err)
	}
	if over, err := c.boundRest(t.Context(), topics, &opts, event.TimeOf(time.Now().Add(time.Minute))); over || err != nil || *opts.Until != c.momentAt(5) {
		t.Errorf("boundRest = %v, %v with %+v", over, err, opts)
	}
}
