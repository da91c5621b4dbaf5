package client

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"net/http"
	"net/http/httptest"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/rstream-dev/rstream/cache"
	"github.com/rstream-dev/rstream/event"
	"github.com/rstream-dev/rstream/internal/longtest"
	"github.com/rstream-dev/rstream/internal/wire"
	"github.com/rstream-dev/rstream/window"
)

// putTwo appends events of alice and bob in turns, n of each.
func (m *mesh) putTwo(n int) {
	m.t.Helper()
	var drafts []event.Draft
	for i := range 2 * n {
		of := []event.Storage{{User: "alice", Path: "x"}, {User: "bob", Path: "y"}}[i/10%2]
		drafts = append(drafts, event.Draft{User: of.User, Path: of.Path, Type: event.Put, Key: fmt.Sprint(m.puts.Add(1)), Value: []byte(`"` + strings.Repeat("x", 150) + `"`)})
	}
	if _, err := m.db.Append(m.t.Context(), drafts); err != nil {
		m.t.Fatal(err)
	}
}

// invent changes some events of a user and gives others to that user or takes them away.
func invent(from, to string) forgery {
	return func(ev *event.Event) *event.Draft {
		if ev.User != from || ev.ID%7 != 0 {
			return nil
		}
		return &event.Draft{User: to, Path: ev.Path, Type: ev.Type, Key: ev.Key, Value: []byte(`"forged"`)}
	}
}

// noted is what a test sees of a client.
type noted struct {
	why   map[string]string // of the servers that were set aside
	shown []string          // the events that were shown
}

func (s *noted) config(limit int) func(*Config) {
	s.why = map[string]string{}
	return func(cfg *Config) {
		cfg.PageLimit = limit
		cfg.OnAside = func(server string, cause error) { s.why[strings.TrimPrefix(server, "http://")] = cause.Error() }
	}
}

func (s *noted) show(evs []event.Event) error {
	for i := range evs {
		s.shown = append(s.shown, string(evs[i].Line()))
	}
	return nil
}

// wantAside checks that one server was set aside, "" for none, for a reason.
func (s *noted) wantAside(t *testing.T, server, reason string) {
	t.Helper()
	if why, ok := s.why[server]; server == "" && len(s.why) > 0 || server != "" && (len(s.why) != 1 || !ok || !strings.Contains(why, reason)) {
		t.Errorf("set aside are %q, want %q because %q", s.why, server, reason)
	}
}

// wantSame checks that a copy has the events of a topic that the log has, and no doubts.
func wantSame(t *testing.T, m *mesh, db *cache.DB, topic event.Topic) {
	t.Helper()
	evs, _, err := db.Read(t.Context(), []event.Topic{topic}, event.Beginning, m.db.Head(), 1<<20)
	var got []string
	for i := range evs {
		got = append(got, string(evs[i].Line()))
	}
	if want := lines(t, m.db, topic); err != nil || !slices.Equal(got, want) {
		t.Errorf("the copy has %d events, %v, and the log has %d, or they differ", len(got), err, len(want))
	}
	doubted, err := db.Doubted(t.Context(), topic)
	if err != nil || len(doubted) != 0 {
		t.Errorf("in doubt are %v, %v", doubted, err)
	}
}

// A server that begins to lie is set aside after one page, which is fetched once more from another
// one. Nothing that it has invented is stored or shown.
func TestLiarCostsOnePage(t *testing.T) {
	alice := mustTopic(t, "alice")
	const n, limit, begin = 250, 50, 310 // of alice's events; of pages; position
	slowly := slow(8 << 10)
	lies := map[string]forgery{"changes": invent("alice", "alice"), "adds": invent("bob", "alice"), "leaves out": invent("alice", "bob")}
	for what, lie := range lies {
		late := forgeAfter(begin, lie)
		liar, careless := forging(late, true), forging(late, false)
		twofold := both(careless, forging(forgeAfter(begin, forgeEvery(11)), true))
		const minority, itself = "its digest of alice in", "its events of alice in"
		for name, tc := range map[string]struct {
			fronts []front
			aside  string
			why    string
		}{
			"first of three":              {[]front{liar, good, good}, "a", minority},
			"second of three":             {[]front{both(slowly, good), liar, good}, "b", minority},
			"last of three":               {[]front{good, good, liar}, "", ""},
			"its digest alone":            {[]front{good, liar}, "b", minority},
			"second of two":               {[]front{both(slowly, good), liar}, "b", minority},
			"against its digest":          {[]front{careless, good}, "a", itself},
			"against its digest, second":  {[]front{both(slowly, good), careless}, "b", itself},
			"and otherwise in the digest": {[]front{twofold, good}, "a", " of alice in "},
			"among a hung and a slow one": {[]front{silent, liar, both(slowly, good), good}, "b", minority},
		} {
			t.Run(what+"/"+name, func(t *testing.T) {
				if what != "changes" && name != "first of three" {
					longtest.Require(t)
				}
				synctest.Test(t, func(t *testing.T) {
					m := newMesh(t, 0, tc.fronts...)
					m.putTwo(n)
					var seen noted
					m.use(seen.config(limit), func(c *Client, db *cache.DB) {
						s, err := syncNew(t.Context(), c, alice, Range{}, seen.show)
						if err != nil || s.Held != n || s.Added != n {
							t.Fatalf("Sync = %+v, %v, set aside %v", s, err, seen.why)
						}
						seen.wantAside(t, tc.aside, tc.why)
						wantSame(t, m, db, alice)
						if !slices.Equal(seen.shown, lines(t, m.db, alice)) {
							t.Errorf("%d events were shown, not the %d of the log", len(seen.shown), n)
						}
						// A page that events are added to has some more, and a slow server may have begun the block.
						if got := c.Stats().Events; got > n+2*limit {
							t.Errorf("%d events were received, want %d and a page", got, n)
						}
					})
				})
			})
		}
	}
}

// refusingPath is a front that answers requests of a path with a status.
func refusingPath(path string, status int) front {
	return func(m *mesh, next http.Handler) http.Handler {
		return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			if r.URL.Path != path {
				next.ServeHTTP(w, r)
				return
			}
			w.Header().Set(wire.HeaderLog, m.db.Log())
			wire.Errorf(status, "no").Write(w)
		})
	}
}

// laggingFor is a front of a server that waits before it says that it is behind.
func laggingFor(d time.Duration) front {
	return func(m *mesh, next http.Handler) http.Handler {
		return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			if r.URL.Path != "/windows" {
				next.ServeHTTP(w, r)
				return
			}
			select {
			case <-time.After(d):
			case <-r.Context().Done():
			}
			refusingPath("/windows", http.StatusConflict)(m, next).ServeHTTP(w, r)
		})
	}
}

// A server that does not give digests of pages makes a sync neither fail nor slow, and is soon not
// asked for them.
func TestSyncWithoutSecondDigest(t *testing.T) {
	garbage := func(_ *mesh, next http.Handler) http.Handler { return lyingAbout("/windows", `{`, `[`)(next) }
	otherRange := func(_ *mesh, next http.Handler) http.Handler {
		return lyingAbout("/windows", `"from":"0000000000`, `"from":"000000000Z`)(next)
	}
	const n = 500
	for name, tc := range map[string]struct {
		second front
		aside  string
	}{
		"hung":          {hungFor("/windows"), ""},
		"behind":        {laggingFor(5 * time.Second), ""},
		"no route":      {refusingPath("/windows", 404), ""},
		"bad request":   {refusingPath("/windows", 400), ""},
		"misdirected":   {refusingPath("/windows", 421), ""},
		"forbidden":     {refusingPath("/windows", 403), ""},
		"no history":    {refusingPath("/windows", 410), ""},
		"broken":        {refusingPath("/windows", 500), ""},
		"away":          {silent, ""},
		"garbage":       {garbage, "sent"},
		"another range": {otherRange, "which is not the range requested"},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				m := newMesh(t, n, good, tc.second)
				var seen noted
				m.use(seen.config(100), func(c *Client, db *cache.DB) {
					if _, err := c.Info(t.Context()); err != nil { // asks all servers for their log
						t.Fatal(err)
					}
					start := time.Now()
					s, err := c.Sync(t.Context(), event.All, SyncOptions{})
					if err != nil || s.Held != n || c.Stats().Events != n {
						t.Fatalf("Sync = %+v, %v, of %d events", s, err, c.Stats().Events)
					}
					wantWhole(t, m, db)
					if took := time.Since(start); took > checkTime {
						t.Errorf("took %v", took)
					}
					if asked := m.requests("b", "/windows"); asked > 2 { // one may be under way
						t.Errorf("it was asked for %d digests", asked)
					}
					if tc.aside == "" {
						seen.wantAside(t, "", "")
					} else {
						seen.wantAside(t, "b", tc.aside)
					}
				})
			})
		})
	}
}

// With a second server each page costs one request more, and little else.
func TestSecondDigestCostsLittle(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		const n, limit = 1000, 200
		m := newMesh(t, n, good, good)
		m.use(nil, func(c *Client, _ *cache.DB) {
			stats := func(servers ...string) Stats {
				db := m.newCopy()
				defer db.Close()
				cfg, closeIdle := m.config()
				defer closeIdle()
				cfg.Servers, cfg.PageLimit = servers, limit
				c := newTestClient(t, db, cfg)
				defer c.Close()
				if s, err := c.Sync(t.Context(), event.All, SyncOptions{}); err != nil || s.Held != n {
					t.Fatalf("Sync = %+v, %v", s, err)
				}
				return c.Stats()
			}
			one, two := stats("http://a"), stats("http://a", "http://b")
			// Both servers are asked for their log first.
			if more := two.Requests - one.Requests; more > n/limit+2 {
				t.Errorf("%d requests with one server, %d with two", one.Requests, two.Requests)
			}
			if more := two.Bytes - one.Bytes; two.Events != n || more > n/limit*250+2000 {
				t.Errorf("%d bytes with one server, %d with two, and %d events", one.Bytes, two.Bytes, two.Events)
			}
			if got := m.requests("b", "/windows"); got != n/limit {
				t.Errorf("%d digests were requested of the second server, want one for each page", got)
			}
		})
	})
}

// Several topics that are pulled together are compared, too.
func TestGroupWithLiar(t *testing.T) {
	const n, limit, begin = 300, 100, 350
	const most = 2*n + limit*3/2 // the page, and the part of bob once more
	late := forgeAfter(begin, invent("bob", "bob"))
	older := both(func(_ *mesh, next http.Handler) http.Handler { // knows digests of one topic only
		return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			if topics := r.URL.Query()["topic"]; r.URL.Path == "/windows" && len(topics) > 1 {
				r.URL.RawQuery = "topic=a&topic=b&at=now"
			}
			next.ServeHTTP(w, r)
		})
	}, good)
	for name, tc := range map[string]struct {
		fronts []front
		most   int // events
		aside  string
	}{
		"no liar":                   {[]front{good, good}, 2 * n, ""},
		"first of three":            {[]front{forging(late, true), good, good}, most, "a"},
		"second of two":             {[]front{both(slow(8<<10), good), forging(late, true)}, most, "b"},
		"against its digest":        {[]front{forging(late, false), good}, most, "a"},
		"older servers":             {[]front{older, older}, 2 * n, ""},
		"a liar among older others": {[]front{both(slow(8<<10), older), forging(late, true), older}, 4*n + limit, "b"},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				m := newMesh(t, 0, tc.fronts...)
				m.putTwo(n)
				var seen noted
				m.use(seen.config(limit), func(c *Client, db *cache.DB) {
					topics := []event.Topic{mustTopic(t, "alice"), mustTopic(t, "bob")}
					if _, err := syncGroup(t.Context(), c, topics); err != nil {
						t.Fatalf("%v, set aside %v", err, seen.why)
					}
					seen.wantAside(t, tc.aside, " of bob in ")
					for _, topic := range topics {
						wantSame(t, m, db, topic)
					}
					if got := c.Stats().Events; got > int64(tc.most) {
						t.Errorf("%d events were received, want at most %d", got, tc.most)
					}
				})
			})
		})
	}
}

// Events that are held for a narrower topic are left out of a page, and belong to its digest.
func TestPageWithHeldEvents(t *testing.T) {
	alice := mustTopic(t, "alice")
	const n, limit, begin = 200, 50, 250
	liar := forging(forgeAfter(begin, invent("bob", "bob")), true)
	forged := forging(invent("alice", "alice"), true)
	for name, tc := range map[string]struct {
		fronts []front
		before front // the server from which the copy has got alice's events
		aside  string
	}{
		"no liar":          {[]front{good, good}, good, ""},
		"a liar":           {[]front{liar, good, good}, good, "a"},
		"held wrong":       {[]front{good, good}, forged, ""},
		"held wrong, liar": {[]front{liar, good, good}, forged, "a"},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				m := newMesh(t, 0, tc.fronts...)
				m.putTwo(n)
				var seen noted
				m.use(seen.config(limit), func(c *Client, db *cache.DB) {
					m.serve("z", tc.before(m, m.server))
					cfg := c.cfg
					cfg.Servers = []string{"http://z"}
					z := newTestClient(t, db, cfg)
					defer z.Close()
					if _, err := z.Sync(t.Context(), alice, SyncOptions{Unproven: true}); err != nil {
						t.Fatal(err)
					}
					s, err := c.Sync(t.Context(), event.All, SyncOptions{})
					if err != nil || s.Held != 2*n {
						t.Fatalf("Sync = %+v, %v, set aside %v", s, err, seen.why)
					}
					seen.wantAside(t, tc.aside, "")
					wantSame(t, m, db, event.All)
				})
			})
		})
	}
}

// A window around a moment and a tail that catches up are compared like a range.
func TestAroundAndTailWithLiar(t *testing.T) {
	alice := mustTopic(t, "alice")
	const n, limit, begin = 250, 50, 310
	for name, receive := range map[string]func(t *testing.T, c *Client) ([]string, error){
		"at": func(t *testing.T, c *Client) ([]string, error) {
			_, err := syncAt(t.Context(), c, alice, event.Now)
			return nil, err
		},
		"tail": func(t *testing.T, c *Client) (got []string, err error) {
			for ev, err := range c.Tail(t.Context(), alice, TailOptions{UntilLive: true}) {
				if err != nil {
					return got, err
				}
				got = append(got, string(ev.Line()))
			}
			return got, nil
		},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				m := newMesh(t, 0, forging(forgeAfter(begin, invent("alice", "alice")), true), good, good)
				m.putTwo(n)
				var seen noted
				m.use(seen.config(limit), func(c *Client, db *cache.DB) {
					got, err := receive(t, c)
					if err != nil || name == "tail" && !slices.Equal(got, lines(t, m.db, alice)) {
						t.Errorf("%d events, %v", len(got), err)
					}
					seen.wantAside(t, "a", "its digest of alice in")
					wantSame(t, m, db, alice)
					if got := c.Stats().Events; got > n+limit {
						t.Errorf("%d events were received, want %d and a page", got, n)
					}
				})
			})
		})
	}
}

// A server that contradicts what the copy has proven is not believed about new events either, even
// if it is named first.
func TestLiarAboutProvenEvents(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		m := newMesh(t, 600, forging(forgeEvery(100), true), good)
		var seen noted
		m.use(seen.config(150), func(c *Client, db *cache.DB) {
			m.serve("z", m.server)
			syncFrom(t, c, db, "http://z")
			m.put("alice/x", 300)
			if s, err := c.Sync(t.Context(), event.All, SyncOptions{}); err != nil || s.Held != 900 {
				t.Errorf("Sync = %+v, %v", s, err)
			}
			seen.wantAside(t, "a", "is not the one proven before")
			wantSame(t, m, db, event.All)
		})
	})
}

// A wrong mark in a header would make the servers of the log refuse the copy.
func TestWrongMarkIsNotKept(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		wrong := lying(func(h http.Header, body []byte) []byte {
			next, _ := wire.CursorIn(h, wire.HeaderNext)
			next.Mark ^= 1
			h.Set(wire.HeaderNext, next.String())
			return body
		})
		m := newMesh(t, 0, wrong, good)
		m.putTwo(10) // ends with an event of bob
		m.use(nil, func(c *Client, db *cache.DB) {
			alice := mustTopic(t, "alice")
			if _, err := c.Sync(t.Context(), alice, SyncOptions{Unproven: true}); err != nil {
				t.Fatal(err)
			}
			cfg := c.cfg
			cfg.Servers = []string{"http://b"}
			next := newTestClient(t, db, cfg)
			defer next.Close()
			if s, err := next.Sync(t.Context(), alice, SyncOptions{}); err != nil || s.Held != 10 {
				t.Errorf("Sync with the other server = %+v, %v", s, err)
			}
		})
	})
}

// A process that is killed while it finds out which server is wrong leaves nothing that the liar has
// invented, and the next one goes on.
func TestDisputeKilled(t *testing.T) {
	seed := rand.Uint64()
	random := rand.New(rand.NewPCG(seed, 0))
	const n, begin = 1000, 900 // of alice's events; position
	f := newFixture(t)
	m := &mesh{t: t, db: f.db}
	m.putTwo(n)
	alice := mustTopic(t, "alice")
	liar := forging(forgeAfter(begin, invent("alice", "alice")), true)(m, f.srv)
	for range longtest.Scale(3, 6, 40) {
		path := filepath.Join(t.TempDir(), "copy.db")
		db := f.openCache(path, nil)
		kill := 4 + random.IntN(22) // the first three are about the log
		k := &killer{killed: make(chan struct{}), left: kill, ready: func() {}}
		type host struct{}
		k.next = http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			r.Context().Value(host{}).(http.Handler).ServeHTTP(w, r)
		})
		var servers []string
		for _, h := range []http.Handler{liar, f.srv, f.srv} {
			web := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
				k.ServeHTTP(w, r.WithContext(context.WithValue(r.Context(), host{}, h)))
			}))
			defer web.Close()
			servers = append(servers, web.URL)
		}
		k.start(t, path, f.db.Log(), strings.Join(servers, " "), []event.Topic{alice})
		if err := k.child.Wait(); err == nil || k.child.ProcessState.Exited() {
			t.Fatalf("seed %d: the child has ended by itself: %v", seed, err)
		}
		truth := lines(t, f.db, alice)
		held, err := db.Held(t.Context(), alice)
		if err != nil {
			t.Fatal(err)
		}
		for _, span := range held {
			err := db.Each(t.Context(), []event.Topic{alice}, span, func(ev *event.Event) error {
				if !slices.Contains(truth, string(ev.Line())) {
					t.Errorf("seed %d: killed at request %d: held is %s", seed, kill, ev.Line())
				}
				return nil
			})
			if err != nil {
				t.Error(err)
			}
		}
		c := newTestClient(t, db, hasty(servers...))
		if s, err := c.Sync(t.Context(), alice, SyncOptions{}); err != nil || s.Held != n {
			t.Errorf("seed %d: killed at request %d: Sync = %+v, %v", seed, kill, s, err)
		}
		wantSame(t, m, db, alice)
		c.Close()
	}
}

// A server that was set aside on the word of a liar is heard again once a third one has something to
// say, and the liar is set aside.
func TestOverruledIsHeardAgain(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		const n, limit = 1000, 100
		busy := func(m *mesh, next http.Handler) http.Handler { // at first
			silent := hungFor("/windows")(m, next)
			until := time.Now().Add(listTime + time.Second)
			return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
				if time.Now().Before(until) {
					silent.ServeHTTP(w, r)
					return
				}
				next.ServeHTTP(w, r)
			})
		}
		slowly := both(slow(4<<10), forging(forgeAfter(1, invent("alice", "alice")), true))
		m := newMesh(t, n, slowly, good, busy)
		var why []string
		m.use(func(cfg *Config) {
			cfg.PageLimit = limit
			cfg.OnAside = func(server string, _ error) { why = append(why, server) }
		}, func(c *Client, db *cache.DB) {
			s, err := c.Sync(t.Context(), event.All, SyncOptions{})
			if err != nil || s.Held != n {
				t.Errorf("Sync = %+v, %v", s, err)
			}
			wantWhole(t, m, db)
			if want := []string{"http://b", "http://a"}; !slices.Equal(why, want) {
				t.Errorf("set aside were %v, want %v", why, want)
			}
			if c.isAside("http://b") || c.isAside("http://c") || !c.isAside("http://a") {
				t.Errorf("set aside are a %v, b %v, c %v", c.isAside("http://a"), c.isAside("http://b"), c.isAside("http://c"))
			}
		})
	})
}

// That a server was set aside on the word of a liar, while a third one was not heard, is forgotten with
// the client.
func TestOverruledIsAskedByNextClient(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		const n = 200
		liar := forging(forgeAfter(1, invent("alice", "alice")), true)
		m := newMesh(t, n, liar, good, hungFor("/windows"))
		m.use(nil, func(c *Client, db *cache.DB) {
			if _, err := c.Sync(t.Context(), event.All, SyncOptions{}); err != nil || !c.isAside("http://b") {
				t.Errorf("b was not set aside: %v", err)
			}
			next := newTestClient(t, db, c.cfg)
			defer next.Close()
			if _, err := next.Info(t.Context()); err != nil || next.isAside("http://b") {
				t.Errorf("b is not asked any more: %v", err)
			}
		})
	})
}

// Among three servers there is one liar, whichever it is and whatever the others are like: the copy
// gets the events of the log.
func TestRandomLiar(t *testing.T) {
	for range longtest.Scale(5, 24, 300) {
		seed := rand.Uint64()
		t.Run(fmt.Sprint(seed), func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) { syncWithRandomLiar(t, rand.New(rand.NewPCG(seed, 0))) })
		})
	}
}

func syncWithRandomLiar(t *testing.T, random *rand.Rand) {
	n := 10 * (1 + random.IntN(60))
	users := []string{"alice", "bob"}
	lie := forgeAfter(event.ID(random.IntN(2*n)), invent(users[random.IntN(2)], users[random.IntN(2)]))
	others := []front{good, good, slow(8 << 10), silentForPages, stuckAfter(500)}
	kind, consistent := random.IntN(len(others)), random.IntN(2) == 0
	fronts := []front{forging(lie, consistent), good, others[kind]}
	random.Shuffle(len(fronts), func(i, j int) { fronts[i], fronts[j] = fronts[j], fronts[i] })
	m := newMesh(t, 0, fronts...)
	m.putTwo(n)
	limit := 10 + random.IntN(n)
	t.Logf("%d events of each, pages of %d, the third server is of kind %d, the liar consistent: %v", n, limit, kind, consistent)
	m.use(func(cfg *Config) {
		cfg.PageLimit = limit
		cfg.OnAside = func(server string, cause error) { t.Logf("%s is set aside: %v", server, cause) }
	}, func(c *Client, db *cache.DB) {
		for _, name := range []string{"alice", "*", "bob"} {
			topic := mustTopic(t, name)
			if random.IntN(3) == 0 {
				continue
			}
			ctx, cancel := context.WithCancelCause(t.Context())
			if random.IntN(3) == 0 { // is ended within
				time.AfterFunc(time.Duration(random.IntN(3000))*time.Millisecond, func() { cancel(errEnough) })
			}
			s, err := c.Sync(ctx, topic, SyncOptions{})
			t.Logf("sync %s = %+v, %v", topic, s, err)
			if err != nil && !errors.Is(err, errEnough) {
				t.Errorf("sync %s: %v", topic, err)
			}
			cancel(nil)
		}
		s, err := c.Sync(t.Context(), event.All, SyncOptions{})
		if err != nil || s.Span != (window.Span{To: m.db.Head()}) {
			t.Fatalf("Sync = %+v, %v", s, err)
		}
		wantSame(t, m, db, event.All)
	})
}

var errEnough = errors.New("enough")
