package client

import (
	"bytes"
	"database/sql"
	"fmt"
	"io"
	"math/rand/v2"
	"net/http"
	"slices"
	"strings"
	"sync/atomic"
	"testing"

	"github.com/rstream-dev/rstream/cache"
	"github.com/rstream-dev/rstream/event"
	"github.com/rstream-dev/rstream/internal/longtest"
	"github.com/rstream-dev/rstream/internal/pagetest"
	"github.com/rstream-dev/rstream/internal/wire"
	"github.com/rstream-dev/rstream/reconcile"
)

// A meter counts the bytes of requests and answers, without their headers.
type meter struct{ up, down atomic.Int64 }

func (m *meter) watch(h http.Handler) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		m.up.Add(int64(len(r.URL.RequestURI())))
		r.Body = struct {
			io.Reader
			io.Closer
		}{io.TeeReader(r.Body, counter{&m.up}), r.Body}
		h.ServeHTTP(meteredWriter{w, m}, r)
	})
}

type counter struct{ n *atomic.Int64 }

func (c counter) Write(b []byte) (int, error) {
	c.n.Add(int64(len(b)))
	return len(b), nil
}

type meteredWriter struct {
	http.ResponseWriter
	m *meter
}

func (w meteredWriter) Write(b []byte) (int, error) {
	w.m.down.Add(int64(len(b)))
	return w.ResponseWriter.Write(b)
}

// twoLogs are logs of the same events, in another order and among others.
func twoLogs(t testing.TB, n int) (a, b *fixture) {
	a, b = newFixture(t), newFixture(t)
	for range n / 100 {
		a.put("alice/x", 90)
		a.put("alice/y", 10)
	}
	var drafts []event.Draft
	for _, ev := range logged(t, a, "alice") {
		drafts = append(drafts, ev.Draft)
	}
	rand.Shuffle(len(drafts), func(i, j int) { drafts[i], drafts[j] = drafts[j], drafts[i] })
	for some := range slices.Chunk(drafts, 37) {
		if _, err := b.db.Append(t.Context(), some); err != nil {
			t.Fatal(err)
		}
		b.put("bob/z", 3)
	}
	return a, b
}

// foreignCopy is a copy of f's log that also has events imported from another log.
func foreignCopy(t testing.TB, f *fixture, evs []event.Event) *cache.DB {
	t.Helper()
	db := f.newCache()
	for some := range slices.Chunk(evs, 1000) {
		if _, err := db.Imports().AddForeign(t.Context(), some); err != nil {
			t.Fatal(err)
		}
	}
	return db
}

func lengthOf(evs []plainEvent) (n int64) {
	for _, ev := range evs {
		n += int64(len(ev.line)) + 1
	}
	return n
}

// stubBytes returns the bytes of the requests for stubs, both ways.
func stubBytes(c *Comparison) (n int) {
	for _, r := range c.Rounds {
		if r.Strategy == reconcile.Stubs {
			n += r.Up + r.Down
		}
	}
	return n
}

// A client that moves to another log with the same events fetches none of them. The
// requests for their ids take a twentieth of their bytes, both ways together.
func TestMoveToAnotherLog(t *testing.T) {
	noLeaks(t)
	a, b := twoLogs(t, longtest.Scale(1000, 10_000, 50_000))
	moved := logged(t, a, "alice")
	for _, more := range []int{500, 0}[:longtest.Size(1, 2)] { // events that the other log does not have
		evs := moved
		for i := range more {
			evs = append(evs[:len(evs):len(evs)], invented(event.ID(1_000_000+i), fmt.Sprint(i)))
		}
		db := foreignCopy(t, b, evs)
		var m meter
		b.through(m.watch)
		c := newTestClient(t, db, hasty(b.http.URL))
		s, err := c.Sync(t.Context(), mustTopic(t, "alice"), SyncOptions{})
		b.through(func(h http.Handler) http.Handler { return h })
		synced(t, b, db, s, err)
		truth := b.truth("alice", "", s.Span.To.String())
		whole, both := lengthOf(truth), m.up.Load()+m.down.Load()
		if c.Stats().Events != 0 || s.Compared.Saved != len(moved) || s.Compared.Asked != 0 {
			t.Errorf("%d events came, %+v", c.Stats().Events, s.Compared)
		}
		if 20*both > whole {
			t.Errorf("%d bytes both ways for events of %d bytes", both, whole)
		}
		t.Logf("%d events: %d bytes up, %d of both ways, of %d: %.2f %%", len(truth), m.up.Load(), both, whole, 100*float64(both)/float64(whole))
		if v, err := c.Verify(t.Context(), mustTopic(t, "alice"), false); err != nil || len(v.Found) > 0 {
			t.Errorf("Verify = %+v, %v", v, err)
		}
	}
}

// However many events are known, only the others are fetched. Looking up the ids of the
// known ones takes at most a twentieth of the bytes of all.
func TestMoveOfAPart(t *testing.T) {
	noLeaks(t)
	n := longtest.Size(1100, 4000)
	a, b := twoLogs(t, n)
	all := logged(t, a, "alice")
	whole := lengthOf(b.truth("alice", "", ""))
	rng := rand.New(rand.NewPCG(1, 2))
	for _, tt := range []struct {
		share float64
		how   string
	}{{1, "are named"}, {0.9, "are named"}, {0.6, "are named"}, {0.3, "by a filter"}, {0.01, "by a filter"}, {0, "by hash"}} {
		if !longtest.Enabled() && tt.share > 0.5 {
			continue
		}
		known := append(keep(rng, all[1:], tt.share), all[0])
		db := foreignCopy(t, b, known)
		cfg := hasty(b.http.URL)
		cfg.PageLimit = 1000
		c := newTestClient(t, db, cfg)
		s, err := c.Sync(t.Context(), mustTopic(t, "alice"), SyncOptions{})
		synced(t, b, db, s, err)
		if got := int(c.Stats().Events); got != n-len(known) || s.Compared.Saved != len(known) {
			t.Errorf("%.4f: %d events came and %d were saved of %d known: %s", tt.share, got, s.Compared.Saved, len(known), s.Compared.Why)
		}
		if len(s.Compared.Rounds) == 0 || !strings.Contains(s.Compared.Rounds[0].Why, tt.how) {
			t.Errorf("%.4f: %+v, want %q", tt.share, s.Compared.Rounds, tt.how)
		}
		if cost := stubBytes(&s.Compared); int64(20*cost) > whole {
			t.Errorf("%.4f: %d bytes to ask where %d of %d events stand", tt.share, cost, len(known), n)
		}
	}
}

// Foreign events that this log never had cost nothing in later syncs: a sync asks only
// about missing events.
func TestUnmatchedForeignCostNothing(t *testing.T) {
	a, b := twoLogs(t, 300)
	evs := logged(t, a, "alice")
	for i := range 2000 {
		evs = append(evs, invented(event.ID(1_000_000+i), fmt.Sprint(i)))
	}
	db := foreignCopy(t, b, evs)
	c := newTestClient(t, db, hasty(b.http.URL))
	if _, err := c.Sync(t.Context(), mustTopic(t, "alice"), SyncOptions{}); err != nil {
		t.Fatal(err)
	}
	for range 3 {
		b.put("alice/new", 4)
		s, err := c.Sync(t.Context(), mustTopic(t, "alice"), SyncOptions{})
		if cost := stubBytes(&s.Compared); err != nil || s.Added != 4 || cost > 120 {
			t.Errorf("%+v, %v: %d bytes to ask for 4 events", s, err, cost)
		}
	}
}

// Short hashes that collide with those of other events, known or not, cause only a delay.
func TestFalseMatches(t *testing.T) {
	noLeaks(t)
	n := longtest.Size(500, 1000)
	a, b := twoLogs(t, n)
	all := logged(t, a, "alice")
	known := all[:n-100]
	for _, every := range []int{3, 100, 1}[:longtest.Size(2, 3)] {
		b.through(between("/bloom", func(request, answer []byte) []byte {
			req, err := reconcile.ParseStubRequest(request, reconcile.Limits{})
			if err != nil {
				return answer
			}
			resp, err := reconcile.ParseStubs(answer, req, reconcile.Limits{})
			if err != nil {
				t.Error(err)
				return answer
			}
			for i := range resp.Stubs {
				if i%every == 0 {
					resp.Stubs[i].Short = resp.Stubs[(i+1)%len(resp.Stubs)].Short
				}
			}
			return resp.AppendTo(nil, req.Width)
		}))
		db := foreignCopy(t, b, known)
		c := newTestClient(t, db, hasty(b.http.URL))
		s, err := c.Sync(t.Context(), mustTopic(t, "alice"), SyncOptions{})
		synced(t, b, db, s, err)
		// If the lie is about the last events, they come after all known ones, and are pulled.
		if got := int(c.Stats().Events); got < 100 || got > 110 || got > 100 && every == 100 {
			t.Errorf("one in %d: %d events came, 100 were missing: %s", every, got, s.Compared.Why)
		}
	}
}

// A server that does not know the frames, or refuses them as too large, is asked by hash.
func TestLocateWithoutFrames(t *testing.T) {
	a, b := twoLogs(t, 500)
	known := logged(t, a, "alice")
	for _, status := range []int{http.StatusBadRequest, http.StatusRequestEntityTooLarge} {
		b.through(func(h http.Handler) http.Handler {
			return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
				body, _ := io.ReadAll(r.Body)
				r.Body = io.NopCloser(bytes.NewReader(body))
				if r.URL.Path != "/bloom" || !reconcile.IsStubRequest(body) {
					h.ServeHTTP(w, r)
					return
				}
				w.Header().Set(wire.HeaderLog, b.db.Log())
				wire.Errorf(status, "kind 9").Write(w)
			})
		})
		db := foreignCopy(t, b, known)
		c := newTestClient(t, db, hasty(b.http.URL))
		s, err := c.Sync(t.Context(), mustTopic(t, "alice"), SyncOptions{})
		synced(t, b, db, s, err)
		if got := c.Stats().Events; got != 0 || !strings.Contains(s.Compared.Rounds[0].Why, "by hash") {
			t.Errorf("%d: %d events came: %+v", status, got, s.Compared)
		}
	}
}

// Members of a line that the hash does not cover are not lost: such events are fetched,
// whatever the lookup method.
func TestMembersAreNotLost(t *testing.T) {
	a, b := twoLogs(t, 500)
	raw, err := sql.Open("sqlite", b.path)
	if err != nil {
		t.Fatal(err)
	}
	defer raw.Close()
	n, err := pagetest.EditEach(raw, func(ev *pagetest.Event) bool {
		if ev.ID%50 != 0 {
			return false
		}
		ev.Line = bytes.Replace(ev.Line, []byte(`","value":`), []byte(`","origin":"elsewhere","value":`), 1)
		return true
	})
	if err != nil || n < 5 {
		t.Fatal(n, err)
	}
	more := 0
	for _, ev := range logged(t, b, "alice") {
		if len(ev.Extra) > 0 {
			more++
		}
	}
	known := logged(t, a, "alice")
	check := func(how string) {
		db := foreignCopy(t, b, known)
		c := newTestClient(t, db, hasty(b.http.URL))
		s, err := c.Sync(t.Context(), mustTopic(t, "alice"), SyncOptions{})
		synced(t, b, db, s, err) // compares lines byte by byte
		if got := int(c.Stats().Events); got != more || !strings.Contains(s.Compared.Rounds[0].Why, how) {
			t.Errorf("%d events came, want %d: %+v", got, more, s.Compared)
		}
	}
	check("are named")
	b.through(between("/bloom", func(request, answer []byte) []byte {
		if reconcile.IsStubRequest(request) {
			return bytes.Repeat([]byte{0xff}, 9<<20)
		}
		return answer
	}))
	check("by hash")
}

// While both logs and the imported events grow, only events of the log are ever held.
func TestLocateWhileGrowing(t *testing.T) {
	noLeaks(t)
	a, b := twoLogs(t, 1000)
	known := logged(t, a, "alice")
	db := foreignCopy(t, b, known[:600])
	added := 600
	b.through(func(h http.Handler) http.Handler {
		return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			if r.Method == http.MethodPost && added < 1000 {
				b.put("alice/y", 3)
				if _, err := db.Imports().AddForeign(r.Context(), known[added:added+100]); err != nil {
					t.Error(err)
				}
				added += 100
			}
			h.ServeHTTP(w, r)
		})
	})
	c := newTestClient(t, db, hasty(b.http.URL))
	for range 3 {
		s, err := c.Sync(t.Context(), mustTopic(t, "alice"), SyncOptions{})
		synced(t, b, db, s, err)
	}
	if got := c.Stats().Events; got > 400+12 {
		t.Errorf("%d events came", got)
	}
}

// If a server lies in any byte of its stubs, the sync ends with an error or with the log's
// events.
func TestLyingStubs(t *testing.T) {
	noLeaks(t)
	a, b := twoLogs(t, 200)
	known := logged(t, a, "alice")[:150]
	seed := rand.Uint64()
	rng := rand.New(rand.NewPCG(seed, 6))
	for i := range longtest.Scale(4, 25, 150) {
		b.through(between("/bloom", func(request, answer []byte) []byte {
			if !reconcile.IsStubRequest(request) {
				return answer
			}
			at := rng.IntN(len(answer))
			switch rng.IntN(3) {
			case 0:
				return answer[:at]
			case 1:
				answer[at] ^= 1 << rng.IntN(8)
			default:
				answer[min(at, rng.IntN(60)+4)] ^= 1 << rng.IntN(8)
			}
			return answer
		}))
		db := foreignCopy(t, b, known)
		c := newTestClient(t, db, hasty(b.http.URL))
		s, err := c.Sync(t.Context(), mustTopic(t, "alice"), SyncOptions{})
		if err == nil {
			synced(t, b, db, s, nil)
		}
		b.through(func(h http.Handler) http.Handler { return h })
		s, err = c.Sync(t.Context(), mustTopic(t, "alice"), SyncOptions{})
		if err != nil {
			t.Fatalf("seed %d, lie %d: an honest server afterwards: %+v, %v", seed, i, s, err)
		}
		synced(t, b, db, s, err)
	}
}
