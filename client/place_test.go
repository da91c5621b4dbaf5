package client

import (
	"bytes"
	"cmp"
	"context"
	"errors"
	"io"
	"maps"
	"math/rand/v2"
	"net/http"
	"net/http/httptest"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/rstream-dev/rstream/cache"
	"github.com/rstream-dev/rstream/event"
	"github.com/rstream-dev/rstream/internal/longtest"
	"github.com/rstream-dev/rstream/internal/wire"
	"github.com/rstream-dev/rstream/reconcile"
	"github.com/rstream-dev/rstream/window"
)

// An importing store is a cache together with imported events.
type importing struct {
	dbStore
	mu      sync.Mutex
	events  []event.Event // of this log, in order
	foreign map[event.Hash]event.Event
	dropped []event.ID
}

// Candidates leaves out stored events, because they are no longer candidates.
func (s *importing) Candidates(ctx context.Context, topic event.Topic, span window.Span, fn func(*event.Event) error) error {
	held, err := s.Held(ctx, topic)
	stored := map[event.Hash]bool{}
	for _, part := range held.Intersect(window.Spans{span}) {
		err = errors.Join(err, s.Each(ctx, []event.Topic{topic}, part, func(ev *event.Event) error {
			stored[ev.Hash] = true
			return nil
		}))
	}
	if err != nil {
		return err
	}
	s.mu.Lock()
	evs := slices.Clone(s.events)
	s.mu.Unlock()
	for i := range evs {
		ev := &evs[i]
		if ev.ID <= span.From || ev.ID > span.To || !topic.Matches(ev.User, ev.Path) || stored[ev.Hash] {
			continue
		}
		if err := fn(ev); err != nil {
			return err
		}
	}
	return nil
}

// Untouched reports false: a copy with imported events is not.
func (s *importing) Untouched(context.Context, event.Topic) (bool, error) { return false, nil }

func (s *importing) DropCandidates(_ context.Context, ids []event.ID) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.dropped = append(s.dropped, ids...)
	s.events = slices.DeleteFunc(s.events, func(ev event.Event) bool { return slices.Contains(ids, ev.ID) })
	return nil
}

func (s *importing) ForeignHashes(_ context.Context, topic event.Topic, fn func(event.Hash) error) error {
	hashes := slices.SortedFunc(maps.Keys(s.foreign), event.Hash.Compare)
	for _, h := range hashes {
		if ev := s.foreign[h]; topic.Matches(ev.User, ev.Path) {
			if err := fn(h); err != nil {
				return err
			}
		}
	}
	return nil
}

func (s *importing) Foreign(_ context.Context, hashes []event.Hash, fn func(*event.Event) error) error {
	for _, h := range hashes {
		if ev, ok := s.foreign[h]; ok {
			if err := fn(&ev); err != nil {
				return err
			}
		}
	}
	return nil
}

// logged returns the events of a fixture's log.
func logged(t testing.TB, f *fixture, topic string) (evs []event.Event) {
	t.Helper()
	err := f.db.Each(t.Context(), []event.Topic{mustTopic(t, topic)}, window.Span{To: f.db.Head()}, func(ev *event.Event) error {
		evs = append(evs, *ev)
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	return evs
}

// keep returns those of evs that are kept with probability p.
func keep(rng *rand.Rand, evs []event.Event, p float64) (some []event.Event) {
	for _, ev := range evs {
		if rng.Float64() < p {
			some = append(some, ev)
		}
	}
	return some
}

// invented is an event that no log has.
func invented(id event.ID, key string) event.Event {
	d := event.Draft{User: "alice", Path: "x", Type: event.Put, Key: key, Value: []byte(`"invented"`)}
	return event.New(id, 1, d, d.Hash())
}

// synced checks that a store holds exactly the log's events of alice, proven, and
// nothing else.
func synced(t testing.TB, f *fixture, db *cache.DB, s Synced, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
	topic := mustTopic(t, "alice")
	sameEvents(t, "after a sync", held(t, db, topic, s), f.truth("alice", "", s.Span.To.String()))
	windows, err := db.Windows(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	proven := false
	for _, w := range windows {
		proven = proven || w.Proven && w.Topic.Contains(topic) && w.Held().Contains(s.Span)
	}
	if !proven {
		t.Errorf("not proven: %+v", windows)
	}
}

// strategies are the strategies that a Config can select.
var strategies = []reconcile.Strategy{reconcile.Auto, reconcile.Gaps, reconcile.List, reconcile.Bloom, reconcile.Sketch, reconcile.Inverse, reconcile.Exact}

// A client that has most of a topic as candidates fetches only the rest, whatever the
// strategy, and drops candidates that the log does not have.
func TestCandidatesArePlaced(t *testing.T) {
	noLeaks(t)
	f := newFixture(t)
	n := longtest.Scale(1000, 20_000, 100_000)
	for range n / 1000 {
		f.put("alice/x", 900)
		f.put("bob/x", 100)
	}
	all := logged(t, f, "alice")
	rng := rand.New(rand.NewPCG(1, 2))
	most := keep(rng, all, 0.9)
	for _, strategy := range strategies {
		if !longtest.Enabled() && (strategy == reconcile.Gaps || strategy == reconcile.Exact) {
			continue // auto begins with the one, the list ends with the other
		}
		t.Run(strategy.String(), func(t *testing.T) {
			db := f.newCache()
			store := &importing{dbStore: storeOf(db), events: slices.Clone(most)}
			if strategy != reconcile.Auto { // in the place of one of bob's
				store.events = append(store.events, invented(950, "extra"))
				slices.SortFunc(store.events, func(a, b event.Event) int { return cmp.Compare(a.ID, b.ID) })
			}
			missing := len(all) - len(store.events)
			if strategy != reconcile.Auto {
				missing++
			}
			cfg := hasty(f.http.URL)
			cfg.PageLimit, cfg.Reconcile.Strategy = 5000, strategy
			c := newTestClient(t, store, cfg)
			fresh := 0
			s, err := syncNew(t.Context(), c, mustTopic(t, "alice"), Range{}, func(evs []event.Event) error { fresh += len(evs); return nil })
			synced(t, f, db, s, err)
			how := s.Compared
			used := slices.ContainsFunc(how.Rounds, func(r reconcile.Round) bool { return r.Strategy == strategy })
			if !used && strategy != reconcile.Auto && (strategy != reconcile.List || how.Outcome != "exact") {
				t.Errorf("%s was not tried: %+v", strategy, how)
			}
			tally, err := db.Tally(t.Context())
			got := int(c.Stats().Events)
			if err != nil || got != missing || int(tally.Fetched) != missing || fresh != len(all) || how.Saved != len(all)-missing {
				t.Errorf("%d events came, %d counted, %d were fresh, %d saved; %d were missing of %d: %s, %s",
					got, tally.Fetched, fresh, how.Saved, missing, len(all), how.Outcome, how.Why)
			}
			if strategy != reconcile.Auto && !slices.Equal(store.dropped, []event.ID{950}) {
				t.Errorf("dropped %v", store.dropped)
			}
			up, down := 0, 0
			for _, r := range how.Rounds {
				up, down = up+r.Up, down+r.Down
			}
			t.Logf("%s: %d of %d were missing; %d rounds, %d bytes up, %d down; %d bytes in all", how.Outcome, missing, len(all), len(how.Rounds), up, down, c.Stats().Bytes)
			before := c.Stats()
			if s, err = c.Sync(t.Context(), mustTopic(t, "alice"), SyncOptions{}); err != nil || s.Added != 0 || c.Stats().Requests != before.Requests+1 || s.Compared.Outcome != "equal" {
				t.Errorf("again: %+v, %v", s, err)
			}
		})
	}
}

// Held events, events held for narrower topics and candidates are kept apart.
func TestCandidatesAmongWindows(t *testing.T) {
	longtest.Require(t)
	noLeaks(t)
	f := newFixture(t)
	f.put("alice/x", 300)
	f.put("alice/y", 300)
	f.put("alice/x", 300)
	all := logged(t, f, "alice")
	db := f.newCache()
	store := &importing{dbStore: storeOf(db), events: slices.Concat(all[310:590], all[650:800])}
	c := newTestClient(t, store, hasty(f.http.URL))
	until := c.momentAt(200)
	if _, err := c.Sync(t.Context(), mustTopic(t, "alice"), SyncOptions{Range: Range{Until: &until}}); err != nil {
		t.Fatal(err)
	}
	since := c.momentAt(700)
	if _, err := c.Sync(t.Context(), mustTopic(t, "alice/x"), SyncOptions{Range: Range{Since: since}}); err != nil {
		t.Fatal(err)
	}
	before := c.Stats().Events
	s, err := c.Sync(t.Context(), mustTopic(t, "alice"), SyncOptions{})
	synced(t, f, db, s, err)
	// 201-310, 591-650 and nothing else.
	if got := c.Stats().Events - before; got != 170 || s.Compared.Saved != 280+50 {
		t.Errorf("%d events came, %+v", got, s.Compared)
	}
}

// A held event that the log does not have is still a mismatch.
func TestHeldExtraIsMismatch(t *testing.T) {
	noLeaks(t)
	f := newFixture(t)
	f.put("alice/x", 200)
	all := logged(t, f, "alice")
	db := f.newCache()
	lease, _, err := db.Leases().Claim(t.Context(), []event.Topic{mustTopic(t, "alice")}, window.Span{To: 100})
	if err != nil {
		t.Fatal(err)
	}
	if _, err := lease.Apply(t.Context(), slices.Concat(all[:50], []event.Event{invented(51, "k")}, all[51:100]), 100); err != nil {
		t.Fatal(err)
	}
	if err := lease.Commit(t.Context()); err != nil {
		t.Fatal(err)
	}
	c := newTestClient(t, &importing{dbStore: storeOf(db), events: all[120:180]}, hasty(f.http.URL))
	var mismatch *MismatchError
	if _, err := c.Sync(t.Context(), mustTopic(t, "alice"), SyncOptions{}); !errors.As(err, &mismatch) {
		t.Errorf("sync = %v, want a mismatch", err)
	}
}

// If a server does not compare, or not as much, all missing events are pulled, and
// candidates that it does not have are dropped.
func TestCandidatesWithoutComparison(t *testing.T) {
	noLeaks(t)
	f := newFixture(t)
	f.put("bob/x", 5)
	f.put("alice/x", 100)
	all := logged(t, f, "alice")
	for _, status := range []int{http.StatusNotFound, http.StatusRequestEntityTooLarge} {
		f.through(func(h http.Handler) http.Handler {
			return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
				if r.URL.Path != "/bloom" {
					h.ServeHTTP(w, r)
					return
				}
				w.Header().Set(wire.HeaderLog, f.db.Log())
				wire.Errorf(status, "not here").Write(w)
			})
		})
		db := f.newCache()
		store := &importing{dbStore: storeOf(db), events: slices.Concat([]event.Event{invented(3, "bob's place")}, all[10:90])}
		c := newTestClient(t, store, hasty(f.http.URL))
		s, err := c.Sync(t.Context(), mustTopic(t, "alice"), SyncOptions{})
		synced(t, f, db, s, err)
		if s.Compared.Outcome != "pull" || c.Stats().Events != 100 {
			t.Errorf("%d: %+v, %d events came", status, s.Compared, c.Stats().Events)
		}
		if !slices.Equal(store.dropped, []event.ID{3}) { // the proven range does not have it
			t.Errorf("%d: dropped %v", status, store.dropped)
		}
	}
}

// Events of another log are stored with the ids and times that they have in this one.
func TestForeignArePlaced(t *testing.T) {
	longtest.Require(t)
	noLeaks(t)
	f := newFixture(t)
	f.put("alice/x", 1500)
	all := logged(t, f, "alice")
	db := f.newCache()
	store := &importing{dbStore: storeOf(db), foreign: map[event.Hash]event.Event{}, events: slices.Clone(all[1000:1200])}
	for i, ev := range all[:1000] {
		if i%10 > 0 {
			d := event.Draft{User: ev.User, Path: ev.Path, Type: ev.Type, Key: ev.Key, Value: ev.Value}
			store.foreign[ev.Hash] = event.New(ev.ID+7777, ev.Time-5, d, ev.Hash)
		}
	}
	stranger := invented(3, "elsewhere")
	store.foreign[stranger.Hash] = stranger
	c := newTestClient(t, store, hasty(f.http.URL))
	s, err := c.Sync(t.Context(), mustTopic(t, "alice"), SyncOptions{})
	synced(t, f, db, s, err)
	if got := c.Stats().Events; got != 400 || s.Compared.Saved != 1100 || len(store.dropped) > 0 {
		t.Errorf("%d events came, %d saved, %v dropped: %s", got, s.Compared.Saved, store.dropped, s.Compared.Why)
	}
}

// The events stored in one transaction are bounded in bytes, wherever they come from.
func TestPlacesAreBounded(t *testing.T) {
	defer func(most int) { maxPageBytes = most }(maxPageBytes)
	maxPageBytes = 10_000
	noLeaks(t)
	f := newFixture(t)
	f.put("alice/x", 400)
	all := logged(t, f, "alice")
	for _, foreign := range []bool{false, true} {
		db := f.newCache()
		store := &importing{dbStore: storeOf(db), foreign: map[event.Hash]event.Event{}}
		for i, ev := range all {
			switch d := ev.Draft; {
			case i%10 == 0:
			case foreign:
				store.foreign[ev.Hash] = event.New(ev.ID+7777, ev.Time-5, d, ev.Hash)
			default:
				store.events = append(store.events, ev)
			}
		}
		c := newTestClient(t, store, hasty(f.http.URL))
		s, err := syncNew(t.Context(), c, mustTopic(t, "alice"), Range{}, func(evs []event.Event) error {
			size := 0
			for i := range evs {
				size += len(evs[i].Line())
			}
			if most := maxPageBytes + 500; size > most {
				t.Errorf("foreign %v: %d bytes are placed at a time, want at most %d", foreign, size, most)
			}
			return nil
		})
		synced(t, f, db, s, err)
		if got := c.Stats().Events; got != 40 || s.Compared.Saved != 360 {
			t.Errorf("foreign %v: %d events came, %d saved: %s", foreign, got, s.Compared.Saved, s.Compared.Why)
		}
	}
}

// If an event is gone from the log, those before it are stored and not fetched again.
func TestPlacedBeforeGone(t *testing.T) {
	noLeaks(t)
	f := newFixture(t)
	f.put("alice/x", 100)
	all := logged(t, f, "alice")
	db := f.newCache()
	store := &importing{dbStore: storeOf(db)}
	for i, ev := range all {
		if i%10 > 0 {
			store.events = append(store.events, ev)
		}
	}
	f.through(between("/get", func(_, answer []byte) []byte {
		answer = bytes.Replace(answer, all[30].Line(), nil, 1)
		answer = bytes.Replace(answer, []byte(",,"), []byte(","), 1)
		answer = bytes.Replace(answer, []byte("[,"), []byte("["), 1)
		return bytes.Replace(answer, []byte(",]"), []byte("]"), 1)
	}))
	c := newTestClient(t, store, hasty(f.http.URL))
	s, err := c.Sync(t.Context(), mustTopic(t, "alice"), SyncOptions{})
	synced(t, f, db, s, err)
	if got := c.Stats().Events; got > 9+9+70 || s.Compared.Saved != 27 {
		t.Errorf("%d events came, %d saved: %s", got, s.Compared.Saved, s.Compared.Why)
	}
}

// between lets change alter the server's responses to requests whose path contains path.
func between(path string, change func(request, answer []byte) []byte) func(http.Handler) http.Handler {
	return func(h http.Handler) http.Handler {
		return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			if !strings.HasPrefix(r.URL.RequestURI(), path) {
				h.ServeHTTP(w, r)
				return
			}
			request, _ := io.ReadAll(r.Body)
			r.Body = io.NopCloser(bytes.NewReader(request))
			rec := httptest.NewRecorder()
			h.ServeHTTP(rec, r)
			for name, values := range rec.Header() {
				w.Header()[name] = values
			}
			w.Header().Del("Content-Length")
			answer := rec.Body.Bytes()
			if rec.Code == http.StatusOK {
				answer = change(request, answer)
			}
			w.WriteHeader(rec.Code)
			_, _ = w.Write(answer)
		})
	}
}

// A filter with false positives loses no event: for all events, half of them, or a chosen
// one.
func TestLyingFilters(t *testing.T) {
	longtest.Require(t)
	noLeaks(t)
	f := newFixture(t)
	f.put("alice/x", 300)
	all := logged(t, f, "alice")
	rng := rand.New(rand.NewPCG(3, 4))
	some := keep(rng, all, 0.8)
	chosen := slices.IndexFunc(all, func(ev event.Event) bool {
		return !slices.ContainsFunc(some, func(s event.Event) bool { return s.ID == ev.ID })
	})
	for name, seen := range map[string]func(event.Hash) bool{
		"everything": func(event.Hash) bool { return true },
		"half":       func(h event.Hash) bool { return h[5] < 128 },
		"one":        func(h event.Hash) bool { return h == all[chosen].Hash },
	} {
		f.through(between("/bloom", func(request, answer []byte) []byte {
			req, err := reconcile.ParseRequest(request, reconcile.Limits{})
			if err != nil {
				t.Error(err)
				return answer
			}
			resp, err := reconcile.ParseResponse(answer, req, reconcile.Limits{})
			if s := req.Strategy(); err != nil || s != reconcile.Bloom && s != reconcile.Inverse && s != reconcile.List {
				return answer
			}
			resp.Missing = slices.DeleteFunc(resp.Missing, func(it reconcile.Item) bool { return seen(it.Hash) })
			return resp.AppendTo(nil, req.Shared)
		}))
		forced := []reconcile.Strategy{reconcile.Bloom}
		if name == "half" {
			forced = append(forced, reconcile.Auto, reconcile.Inverse)
		}
		for _, strategy := range forced {
			db := f.newCache()
			cfg := hasty(f.http.URL)
			cfg.Reconcile.Strategy = strategy
			c := newTestClient(t, &importing{dbStore: storeOf(db), events: slices.Clone(some)}, cfg)
			s, err := c.Sync(t.Context(), mustTopic(t, "alice"), SyncOptions{})
			synced(t, f, db, s, err)
			if got := int(c.Stats().Events); got != len(all)-len(some) {
				t.Errorf("%s, %s: %d events came, %d were missing: %s, %s", name, strategy, got, len(all)-len(some), s.Compared.Outcome, s.Compared.Why)
			}
		}
	}
}

// If a server lies in any byte of its responses, the sync ends with an error or with the
// log's events: no wrong event is ever held. Some candidates are wrong, too.
func TestLyingAnswers(t *testing.T) {
	longtest.Require(t)
	noLeaks(t)
	f := newFixture(t)
	f.put("alice/x", 120)
	all := logged(t, f, "alice")
	seed := rand.Uint64()
	rng := rand.New(rand.NewPCG(seed, 6))
	candidates := slices.Concat(all[:40], []event.Event{invented(41, "wrong")}, all[60:90])
	right, refused := 0, 0
	for i := range longtest.Scale(12, 120, 1000) {
		path := []string{"/bloom", "/bloom", "/get"}[i%3]
		f.through(between(path, func(_, answer []byte) []byte {
			answer = bytes.Clone(answer)
			switch at := rng.IntN(len(answer)); rng.IntN(4) {
			case 0:
				return answer[:at]
			case 1:
				answer[min(at, rng.IntN(60)+4, len(answer)-1)] ^= 1 << rng.IntN(8)
			case 2:
				answer[at] ^= 1 << rng.IntN(8)
			default:
				answer = slices.Concat(answer[:at], answer[at:], answer[at:])
			}
			return answer
		}))
		db := f.newCache()
		cfg := hasty(f.http.URL)
		cfg.Reconcile.Strategy = strategies[rng.IntN(len(strategies))]
		c := newTestClient(t, &importing{dbStore: storeOf(db), events: slices.Clone(candidates)}, cfg)
		ctx, cancel := context.WithCancel(t.Context())
		c.cfg.OnRetry = countdown(4, cancel) // an answer that is always cut is asked for again for ever
		s, err := c.Sync(ctx, mustTopic(t, "alice"), SyncOptions{})
		cancel()
		if err == nil {
			right++
			synced(t, f, db, s, nil)
		} else {
			refused++
		}
		wrong := 0
		windows, _ := db.Held(t.Context(), mustTopic(t, "alice"))
		for _, span := range windows {
			_ = db.Each(t.Context(), []event.Topic{mustTopic(t, "alice")}, span, func(ev *event.Event) error {
				if ev.Hash != all[ev.ID-1].Hash {
					wrong++
				}
				return nil
			})
		}
		if wrong > 0 {
			t.Fatalf("seed %d, lie %d: %d wrong events are held, %v", seed, i, wrong, err)
		}
		f.through(func(h http.Handler) http.Handler { return h })
		if s, err := c.Sync(t.Context(), mustTopic(t, "alice"), SyncOptions{}); err != nil {
			t.Fatalf("seed %d, lie %d: an honest server afterwards: %+v, %v", seed, i, s, err)
		}
	}
	if right == 0 || refused == 0 {
		t.Errorf("%d ended well, %d were refused", right, refused)
	}
}

// countdown returns an OnRetry that calls cancel after n attempts.
func countdown(n int, cancel func()) func(error, time.Duration) {
	return func(error, time.Duration) {
		if n--; n == 0 {
			cancel()
		}
	}
}

// Both sides grow while they compare. New events wait for the next sync, and two concurrent
// syncs of one copy fetch no event twice.
func TestGrowingWhileComparing(t *testing.T) {
	longtest.Require(t)
	noLeaks(t)
	f := newFixture(t)
	f.put("alice/x", 700)
	all := logged(t, f, "alice")
	rng := rand.New(rand.NewPCG(7, 8))
	some := keep(rng, all, 0.7)
	for _, strategy := range []reconcile.Strategy{reconcile.Auto, reconcile.Bloom} {
		db := f.newCache()
		store := &importing{dbStore: storeOf(db), events: slices.Clone(some[:300])}
		f.through(func(h http.Handler) http.Handler {
			return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
				if r.Method == http.MethodPost {
					f.put("alice/y", 3)
					store.mu.Lock()
					if n := len(store.events); n < len(some) && n >= 300 {
						store.events = append(store.events, some[n])
					}
					store.mu.Unlock()
				}
				h.ServeHTTP(w, r)
			})
		})
		cfg := hasty(f.http.URL)
		cfg.Reconcile.Strategy = strategy
		c := newTestClient(t, store, cfg)
		until := c.momentAt(event.ID(len(all)))
		// As another process would: with a file and a client of its own.
		other := newTestClient(t, &importing{dbStore: storeOf(f.openCache(db.Path(), nil)), events: slices.Clone(some[:300])}, cfg)
		var both sync.WaitGroup
		for _, c := range []*Client{c, other} {
			both.Go(func() {
				if _, err := c.Sync(t.Context(), mustTopic(t, "alice"), SyncOptions{Range: Range{Until: &until}}); err != nil {
					t.Errorf("%s: %v", strategy, err)
				}
			})
		}
		both.Wait()
		most := len(all) - 300 // except those imported meanwhile
		if got := int(c.Stats().Events + other.Stats().Events); got > most {
			t.Errorf("%s: %d events came, %d were missing", strategy, got, most)
		}
		s, err := c.Sync(t.Context(), mustTopic(t, "alice"), SyncOptions{})
		synced(t, f, db, s, err)
	}
}
