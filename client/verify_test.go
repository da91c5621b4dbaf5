package client

import (
	"bytes"
	"context"
	"database/sql"
	"fmt"
	"math/rand/v2"
	"net/http"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/rstream-dev/rstream/cache"
	"github.com/rstream-dev/rstream/event"
	"github.com/rstream-dev/rstream/internal/longtest"
	"github.com/rstream-dev/rstream/internal/pagetest"
	"github.com/rstream-dev/rstream/internal/wire"
	"github.com/rstream-dev/rstream/window"
)

// damages are ways of changing a copy without its knowledge. a and b are ids of events, s is
// the number of a storage.
var damages = []func(db pagetest.DB, a, b event.ID, s int64) error{
	func(db pagetest.DB, a, _ event.ID, s int64) error {
		return pagetest.Edit(db, a, func(ev *pagetest.Event) { ev.Storage = s })
	},
	func(db pagetest.DB, a, _ event.ID, _ int64) error { return pagetest.Remove(db, a) },
	func(db pagetest.DB, a, _ event.ID, _ int64) error {
		return pagetest.Edit(db, a, func(ev *pagetest.Event) {
			ev.Line = bytes.Replace(ev.Line, []byte(`"n":`), []byte(`"m":`), 1)
		})
	},
	func(db pagetest.DB, a, b event.ID, _ int64) error {
		evs, err := pagetest.List(db)
		if i := slices.IndexFunc(evs, func(ev pagetest.Event) bool { return ev.ID == b }); err == nil && i >= 0 {
			err = pagetest.SetLine(db, a, evs[i].Line)
		}
		return err
	},
	func(db pagetest.DB, a, b event.ID, _ int64) error { return pagetest.Swap(db, a, b) },
	func(db pagetest.DB, a, _ event.ID, _ int64) error { return pagetest.SetLine(db, a, nil) },
	func(db pagetest.DB, a, b event.ID, _ int64) error { return pagetest.Flip(db, a, int(b)*31) },
	inStorage(`DELETE FROM page_posting WHERE octet = (? - 1) >> 3`),
	inStorage(`UPDATE page_posting SET chunks = x'0001FFFF0001' WHERE octet = (? - 1) >> 3`),
	inStorage(`UPDATE storage SET user = 'dave' WHERE id = ?`),
	func(db pagetest.DB, a, b event.ID, _ int64) error {
		_, err := db.Exec(`UPDATE page SET entries = CAST(substr(entries, 1, ?) AS BLOB) WHERE ? BETWEEN first AND last`, int64(b)%20, int64(a))
		return err
	},
	func(db pagetest.DB, _, _ event.ID, _ int64) error {
		_, err := db.Exec(`DELETE FROM leaf`)
		return err
	},
}

func inStorage(statement string) func(db pagetest.DB, a, b event.ID, s int64) error {
	return func(db pagetest.DB, _, _ event.ID, s int64) error {
		_, err := db.Exec(statement, s)
		return err
	}
}

// However far apart the blocks of a server are, a comparison of them is that of their events.
func TestVerifySparse(t *testing.T) {
	f := newFixture(t)
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute) // or it would go on for days
	defer cancel()
	cfg := hasty(f.http.URL)
	reports := 0
	cfg.OnProgress = func(SyncProgress) { reports++ }
	c := newTestClient(t, f.newCache(), cfg)
	var theirs []wire.Window
	for _, block := range []uint64{0, 1, 40, 1 << 38, 1<<38 + 1, 1<<51 - 1} {
		span := window.BlockSpan(block)
		theirs = append(theirs, wire.Window{From: event.Cursor{ID: span.From}, To: event.Cursor{ID: span.To}, Count: 1})
	}
	leaves, err := c.checkedLeaves(ctx, mustTopic(t, "alice"), window.Span{To: event.MaxID}, theirs)
	if len(leaves) != 0 || err != nil || reports > 2*len(theirs) {
		t.Errorf("%d leaves, %v, after %d reports", len(leaves), err, reports)
	}
}

// Whatever damage a copy has, one repair of all topics repairs it.
func TestRepairOfAnyDamage(t *testing.T) {
	longtest.Require(t)
	noLeaks(t)
	f := newFixture(t)
	for range 10 {
		f.put("alice/x", 3)
		f.put("alice/y", 3)
		f.put("bob/x", 3)
	}
	topics := []event.Topic{mustTopic(t, "alice/x"), mustTopic(t, "bob"), mustTopic(t, "*/y")}
	path := filepath.Join(t.TempDir(), "copy.db")
	c := newTestClient(t, f.openCache(path, nil), hasty(f.http.URL))
	for _, topic := range topics {
		if _, err := c.Sync(t.Context(), topic, SyncOptions{}); err != nil {
			t.Fatal(err)
		}
	}
	raw, err := sql.Open("sqlite", "file:"+path+"?_pragma=busy_timeout(10000)")
	if err != nil {
		t.Fatal(err)
	}
	defer raw.Close()
	seed := rand.Uint64()
	rng := rand.New(rand.NewPCG(seed, 0))
	t.Logf("seed %d", seed)
	rounds := 40
	if underRace {
		rounds = 5
	}
	for range rounds {
		var done []string
		for range 1 + rng.IntN(4) {
			i, a, b, s := rng.IntN(len(damages)), event.ID(1+rng.IntN(90)), event.ID(1+rng.IntN(90)), 1+rng.Int64N(3)
			if err := damages[i](raw, a, b, s); err == nil { // or it was not possible after the others
				done = append(done, fmt.Sprintf("damage %d of events %d and %d and storage %d", i, a, b, s))
			}
		}
		repairAll(t, f, path, topics)
		if t.Failed() {
			t.Fatalf("after %s", strings.Join(done, "\n"))
		}
	}
}

// repairAll opens a copy as a new process does, repairs it and compares it with the
// log.
func repairAll(t *testing.T, f *fixture, path string, topics []event.Topic) {
	t.Helper()
	db, err := cache.Open(t.Context(), path, cache.Config{Role: cache.Client, Log: f.db.Log()})
	if err != nil {
		t.Fatal(err)
	}
	defer db.Close()
	c := newTestClient(t, db, hasty(f.http.URL))
	defer c.Close()
	for _, repair := range []bool{true, false} {
		for _, topic := range topics {
			v, err := c.Verify(t.Context(), topic, repair)
			if err != nil || slices.ContainsFunc(v.Found, func(f Finding) bool { return !f.Repaired }) {
				t.Errorf("Verify(%s, repair %v) = %+v, %v", topic, repair, v, err)
			}
		}
	}
	for _, topic := range topics {
		s := Synced{Span: window.Span{To: f.db.Head()}}
		sameEvents(t, topic.String(), held(t, db, topic, s), f.truth(topic.String(), "", ""))
	}
}

// A repair that does not match the server's digest does not count as one.
func TestRepairFromLiar(t *testing.T) {
	noLeaks(t)
	f := newFixture(t)
	f.put("alice/x", 20)
	db := f.newCache()
	topic := mustTopic(t, "alice")
	if _, err := newTestClient(t, db, hasty(f.http.URL)).Sync(t.Context(), topic, SyncOptions{}); err != nil {
		t.Fatal(err)
	}
	pages := 0
	lie := lyingAbout("/windows", `"count":20`, `"count":21`)
	f.through(func(h http.Handler) http.Handler {
		h = lie(h)
		return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			if r.URL.Path == "/events" {
				pages++
			}
			h.ServeHTTP(w, r)
		})
	})
	v, err := newTestClient(t, db, hasty(f.http.URL)).Verify(t.Context(), topic, true)
	if err != nil || len(v.Found) != 1 || v.Found[0].Repaired || v.Found[0].Server != 21 || pages != maxRepairs {
		t.Errorf("Verify = %+v, %v after %d pages", v, err, pages)
	}
	s := Synced{Span: window.Span{To: f.db.Head()}}
	sameEvents(t, "alice", held(t, db, topic, s), f.truth("alice", "", ""))
}

func copyHeader(to, from http.Header) {
	for name, values := range from {
		if name != "Content-Length" {
			to[name] = values
		}
	}
}

// If the horizon moves while a copy is verified, fewer events are compared, but no held
// event and no finding is lost.
func TestVerifyWhileRetaining(t *testing.T) {
	noLeaks(t)
	const horizon = event.BlockSize
	for _, moves := range []string{"/events", "/windows"}[:longtest.Size(1, 2)] {
		f := newFixture(t)
		f.put("alice/x", horizon)
		f.put("alice/y", 20)
		path := filepath.Join(t.TempDir(), "copy.db")
		db := f.openCache(path, nil)
		topic := mustTopic(t, "alice")
		s, err := newTestClient(t, db, hasty(f.http.URL)).Sync(t.Context(), topic, SyncOptions{})
		if err != nil {
			t.Fatal(err)
		}
		truth := f.truth("alice", "", "")
		file, err := sql.Open("sqlite", path)
		if err != nil {
			t.Fatal(err)
		}
		for _, id := range []event.ID{horizon - 1, horizon + 10} {
			if err := pagetest.Edit(file, id, func(ev *pagetest.Event) {
				ev.Line = bytes.Replace(ev.Line, []byte(`"pad":"`), []byte(`"pad":"x`), 1)
			}); err != nil {
				t.Fatal(err)
			}
		}
		file.Close()
		var once sync.Once
		f.through(func(h http.Handler) http.Handler {
			return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
				if r.URL.Path == moves {
					once.Do(func() {
						if err := f.db.RetainOnce(r.Context(), cache.Retention{MaxBytes: 1}); err != nil {
							t.Error(err)
						}
					})
				}
				h.ServeHTTP(w, r)
			})
		})
		v, err := newTestClient(t, db, hasty(f.http.URL)).Verify(t.Context(), topic, true)
		if err != nil || len(v.Found) != 1 || !v.Found[0].Repaired || v.Events != 20 || v.Older.Count() != horizon {
			t.Errorf("as %s is asked for: Verify = %+v, %v", moves, v, err)
		}
		sameEvents(t, "alice", held(t, db, topic, Synced{Span: window.Span{From: horizon, To: s.Span.To}}), truth[horizon:])
		if _, next, err := db.Read(t.Context(), []event.Topic{topic}, horizon-100, horizon-2, 5000); next != horizon-2 || err != nil {
			t.Errorf("older events are read up to %s, %v", next, err)
		}
	}
}
