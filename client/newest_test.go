package client

import (
	"errors"
	"fmt"
	"net/http"
	"os"
	"slices"
	"testing"

	"github.com/rstream-dev/rstream/cache"
	"github.com/rstream-dev/rstream/event"
	"github.com/rstream-dev/rstream/internal/longtest"
	"github.com/rstream-dev/rstream/internal/wire"
	"github.com/rstream-dev/rstream/window"
)

// file returns the bytes of the log's file. It restarts the server.
func (f *fixture) file() []byte {
	f.t.Helper()
	f.stop()
	b, err := os.ReadFile(f.path)
	if err != nil {
		f.t.Fatal(err)
	}
	f.start()
	return b
}

// putBack serves an older file under the same path.
func (f *fixture) putBack(b []byte) {
	f.t.Helper()
	f.stop()
	if err := os.WriteFile(f.path, b, 0o600); err != nil {
		f.t.Fatal(err)
	}
	f.start()
}

// Every request to a log that was rolled back is refused and has no effect. This also holds
// for a server that does not check the held position, as long as its head shows it.
func TestRolledBack(t *testing.T) {
	f := newFixture(t)
	f.put("alice/x", 20)
	old := f.file()
	f.put("alice/x", 10)
	f.put("bob/y", 5)
	db, alice := f.newCache(), mustTopic(t, "alice")
	if _, err := newTestClient(t, db, hasty(f.http.URL)).Sync(t.Context(), alice, SyncOptions{}); err != nil {
		t.Fatal(err)
	}
	before, err := db.Newest(t.Context())
	if err != nil || before.Marked != f.db.HeadPoint() || before.Held != 35 {
		t.Fatalf("the newest of the copy is %+v, %v, the head %v", before, err, f.db.HeadPoint())
	}
	f.putBack(old)
	blind := func(h http.Handler) http.Handler {
		return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			r.Header.Del(wire.HeaderHeld)
			h.ServeHTTP(w, r)
		})
	}
	f.through(blind)
	f.wantRolledBack(t, db, 20, "put")
	f.through(nil)
	f.wantRolledBack(t, db, 20)
	f.put("alice/x", 15)
	f.wantRolledBack(t, db, 35) // as long as it was
	f.through(blind)
	f.wantRolledBack(t, db, 35, "put") // whose head has another mark
	f.through(nil)
	f.put("alice/x", 15)
	f.wantRolledBack(t, db, 50)
	if after, err := db.Newest(t.Context()); after != before || err != nil {
		t.Errorf("the newest of the copy is %+v, %v, it was %+v", after, err, before)
	}
}

// wantRolledBack makes every call of a client except those left out: a server that does not
// check has appended before the client sees its head.
func (f *fixture) wantRolledBack(t *testing.T, db *cache.DB, head event.ID, leaveOut ...string) {
	t.Helper()
	c, one, alice := newTestClient(t, db, hasty(f.http.URL)), 1, mustTopic(t, "alice")
	for name, do := range map[string]func() error{
		"info":       func() error { _, err := c.Info(t.Context()); return err },
		"sync":       func() error { _, err := c.Sync(t.Context(), alice, SyncOptions{}); return err },
		"sync carol": func() error { _, err := c.Sync(t.Context(), mustTopic(t, "carol"), SyncOptions{}); return err },
		"sync at":    func() error { _, err := syncAt(t.Context(), c, alice, event.Now); return err },
		"fetch": func() error {
			_, err := c.Sync(t.Context(), mustTopic(t, "carol"), SyncOptions{Range: Range{Last: &one}})
			return err
		},
		"state":  func() error { _, err := c.StateAt(t.Context(), alice, event.Now); return err },
		"verify": func() error { _, err := c.Verify(t.Context(), alice, true); return err },
		"tail":   func() error { return tailError(t, c, "alice") },
		"put": func() error {
			_, err := c.Put(t.Context(), []event.Draft{{User: "alice", Path: "x", Type: event.Put, Key: "never", Value: []byte("1")}})
			return err
		},
	} {
		if slices.Contains(leaveOut, name) {
			continue
		}
		var back *RolledBackError
		if err := do(); !errors.As(err, &back) || back.Held != 35 || back.Head != head {
			t.Errorf("%s ends with %v, want that the log was rolled back to %s", name, err, head)
		}
	}
	if got := f.db.Head(); got != head {
		t.Errorf("the head is %s, want %s: something was appended", got, head)
	}
}

// A put by a client that is not bound to a log names the copy's history. If the server
// has another log by now, it appends all the same.
func TestPutToOtherLog(t *testing.T) {
	f := newFixture(t)
	f.put("alice/x", 3)
	newest := cache.Newest{Log: "ZZZZZZZZZZZZZZZZ", Held: 9, Marked: event.Point{ID: 9, Mark: 1 << 30}}
	cfg := hasty(f.http.URL)
	cfg.Newest = newest
	c := newTestClient(t, nil, cfg)
	for i := range 2 {
		d := event.Draft{User: "alice", Path: "x", Type: event.Put, Key: fmt.Sprint("new ", i), Value: []byte("1")}
		if rs, err := c.Put(t.Context(), []event.Draft{d}); err != nil || rs[0].Duplicate {
			t.Errorf("Put = %v, %v", rs, err)
		}
	}
}

// Parted finds the position where a log and its continuation diverge, whatever part of the
// old log a copy holds.
func TestParted(t *testing.T) {
	cases := []struct{ kept, lost, more int }{{7, 1, 1}, {40, 3, 200}, {0, 5, 9}, {1, 30, 0}, {40, 0, 0}, {33, 33, 33}}
	if underRace {
		cases = cases[:2]
	}
	for _, c := range cases[:min(len(cases), longtest.Size(3, 6))] {
		f := newFixture(t)
		for range c.kept {
			f.put("alice/x", 1)
			f.put("bob/y", 2)
		}
		old := f.file()
		f.put("alice/x", c.lost)
		copies := map[string]*cache.DB{"alice": f.newCache(), "bob": f.newCache(), "*": f.newCache(), "carol": f.newCache()}
		for topic, db := range copies {
			if _, err := newTestClient(t, db, hasty(f.http.URL)).Sync(t.Context(), mustTopic(t, topic), SyncOptions{}); err != nil {
				t.Fatal(err)
			}
		}
		f.putBack(old)
		parted := f.db.Head()
		f.put("alice/x", c.more)
		f.stop()
		db, err := cache.Open(t.Context(), f.path, cache.Config{Role: cache.Server, AsNewLog: true})
		if err == nil {
			err = db.Close()
		}
		if err != nil {
			t.Fatal(err)
		}
		f.start()
		for topic, db := range copies {
			want := parted // if nothing was lost, the newest mark of every copy
			if c.lost > 0 {
				want = lastOf(t, db, mustTopic(t, topic), parted)
			}
			to := newTestClient(t, f.newCache(), hasty(f.http.URL))
			if got, err := to.Parted(t.Context(), db); got != want || err != nil {
				t.Errorf("%+v: a copy of %s says that the logs parted at %s, %v, want %s", c, topic, got, err, want)
			}
		}
	}
}

// lastOf returns the last event of a topic up to a position.
func lastOf(t *testing.T, db *cache.DB, topic event.Topic, until event.ID) (last event.ID) {
	err := db.Each(t.Context(), []event.Topic{topic}, window.Span{To: until}, func(ev *event.Event) error {
		last = ev.ID
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	return last
}
