package client

import (
	"bytes"
	"context"
	"errors"
	"net/http"
	"slices"
	"strings"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/rstream-dev/rstream/cache"
	"github.com/rstream-dev/rstream/event"
	"github.com/rstream-dev/rstream/internal/wire"
)

// wantWhole checks that a copy has all events of the log.
func wantWhole(t *testing.T, m *mesh, db *cache.DB) {
	t.Helper()
	want := lines(t, m.db, event.All)
	evs, _, err := db.Read(t.Context(), []event.Topic{event.All}, event.Beginning, m.db.Head(), 1<<20)
	if err != nil || len(evs) != len(want) {
		t.Fatalf("the copy has %d events, %v, want %d", len(evs), err, len(want))
	}
	for i := range evs {
		if string(evs[i].Line()) != want[i] {
			t.Fatalf("event %d is %s, want %s", i, evs[i].Line(), want[i])
		}
	}
}

// A sync with several servers, one of which is good, is complete and soon done, and nothing
// comes twice but what was under way.
func TestSyncFromBestServer(t *testing.T) {
	flip := func(_ http.Header, b []byte) []byte { return bytes.Replace(b, []byte("xxx"), []byte("xyx"), 1) }
	otherStretch := func(h http.Header, b []byte) []byte {
		h.Set(wire.HeaderTo, event.ID(7).String())
		return b
	}
	fewer := func(h http.Header, b []byte) []byte {
		rest := b[bytes.IndexByte(b, '\n')+1:]
		wire.SetEvents(h, bytes.Count(rest, []byte("\n")))
		return rest
	}
	shorter := func(_ http.Header, b []byte) []byte { return b[:bytes.IndexByte(b, '\n')+1] }
	const n, within = 600, 5 * time.Second
	for _, tc := range []struct {
		name   string
		fronts []front
		twice  int    // events that may come twice
		aside  string // in the reason why the first server is set aside, "" if it is not
		pages  int    // requested of the first server at most
	}{
		{"good", []front{good, good}, 0, "", 100},
		{"hung", []front{silent, good}, 0, "", 0},
		{"hung for pages", []front{silentForPages, good}, 0, "", 2},
		{"two hung", []front{silent, silent, good}, 0, "", 0},
		{"hung after the head of a page", []front{stuckAfter(0), good}, 0, "", 2},
		{"hung within a page", []front{stuckAfter(300), good}, 0, "", 2},
		{"slow", []front{slow(8 << 10), good}, 0, "", 2},
		{"bad hash", []front{lying(flip), good}, 150, "sent a bad event", 2},
		{"another stretch", []front{lying(otherStretch), good}, 0, "was asked for", 2},
		{"shortened", []front{lying(shorter), good}, 150, "", 2},
		{"fewer events", []front{lying(fewer), good}, 150, "its events of * in", 2},
		{"misdirected", []front{refusingAll(421), good}, 0, "", 100},
		{"conflict", []front{refusingAll(409), good}, 0, "", 2},
		{"forbidden", []front{refusingAll(403), good}, 0, "", 100},
		{"no history", []front{refusingAll(410), good}, 0, "", 100},
		{"down", []front{refusingAll(503), good}, 0, "", 2},
		{"hung, lying, slow, good", []front{silent, lying(flip), slow(8 << 10), good}, 150, "", 0},
	} {
		t.Run(tc.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				m := newMesh(t, n, tc.fronts...)
				start := time.Now()
				m.use(func(cfg *Config) { cfg.PageLimit, cfg.Token, cfg.Header = 150, ownToken, ownHeader }, func(c *Client, db *cache.DB) {
					s, err := c.Sync(t.Context(), event.All, SyncOptions{})
					if err != nil || s.Held != n || s.Added != n {
						t.Fatalf("Sync = %+v, %v", s, err)
					}
					if took := time.Since(start); took > within {
						t.Errorf("took %v", took)
					}
					wantWhole(t, m, db)
					if got := c.Stats().Events; got > int64(n+tc.twice) {
						t.Errorf("%d events were received, want %d and at most %d twice", got, n, tc.twice)
					}
					if got := m.requests("a", "limit=150"); got > tc.pages {
						t.Errorf("%d pages were requested of a, want at most %d", got, tc.pages)
					}
					m.wantOwnSecrets()
					problem := ""
					if err := c.servers[0].problem; err != nil && !c.servers[0].aside.IsZero() {
						problem = err.Error()
					}
					if (tc.aside == "") != (problem == "") || !strings.Contains(problem, tc.aside) {
						t.Errorf("the first server is set aside because %q, want %q", problem, tc.aside)
					}
				})
			})
		})
	}
}

// ownToken and ownHeader are secrets of one server.
func ownToken(_ context.Context, server string) (string, error) { return "of-" + server, nil }

func ownHeader(server string) http.Header { return http.Header{"X-Key": {server}} }

// wantOwnSecrets checks that each server has got its own secrets, and no other's.
func (m *mesh) wantOwnSecrets() {
	m.t.Helper()
	m.mu.Lock()
	defer m.mu.Unlock()
	for host, requests := range m.asked {
		for _, r := range requests {
			if token, key := r.Header.Get("Authorization"), r.Header.Get("X-Key"); token != "Bearer of-http://"+host || key != "http://"+host {
				m.t.Errorf("%s got %q and %q with %s", host, token, key, r.URL)
			}
		}
	}
}

// If all servers refuse a request or answer it wrongly, the call ends with the reason.
func TestSyncRefusedByAll(t *testing.T) {
	flip := func(_ http.Header, b []byte) []byte { return bytes.Replace(b, []byte("xxx"), []byte("xyx"), 1) }
	status := func(want int) func(error) bool {
		return func(err error) bool { return statusOf(err) == want }
	}
	for name, tc := range map[string]struct {
		fronts []front
		is     func(error) bool
	}{
		"misdirected":               {[]front{refusingAll(421), refusingAll(421)}, status(421)},
		"misdirected and forbidden": {[]front{refusingAll(421), refusingAll(403)}, status(403)},
		"conflict":                  {[]front{refusingAll(409), refusingAll(409)}, status(409)},
		"conflict and hung":         {[]front{refusingAll(409), silent}, status(409)},
		"hung and gone":             {[]front{silent, refusingAll(404)}, status(404)},
		"lies":                      {[]front{lying(flip), lying(flip)}, func(err error) bool { return errors.As(err, new(*ProtocolError)) }},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				m := newMesh(t, 100, tc.fronts...)
				start := time.Now()
				m.use(nil, func(c *Client, db *cache.DB) {
					s, err := c.Sync(t.Context(), event.All, SyncOptions{})
					if !tc.is(err) {
						t.Errorf("Sync = %+v, %v", s, err)
					}
					if took := time.Since(start); took > 8*time.Second {
						t.Errorf("took %v", took)
					}
				})
			})
		})
	}
}

// A server that was set aside is not asked by the next client of the copy either, and the copy
// has the reason and the numbers.
func TestServersAreNoted(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		flip := func(_ http.Header, b []byte) []byte { return bytes.Replace(b, []byte("xxx"), []byte("xyx"), 1) }
		m := newMesh(t, 100, lying(flip), slow(1<<10), good)
		m.use(nil, func(c *Client, db *cache.DB) {
			if _, err := c.Sync(t.Context(), event.All, SyncOptions{}); err != nil {
				t.Fatal(err)
			}
			c.Close()
			asked := m.requests("a", "/events")
			m.put("alice/x", 10)
			cfg, closeIdle := m.config()
			defer closeIdle()
			next := newTestClient(t, db, cfg)
			if _, err := next.Sync(t.Context(), event.All, SyncOptions{}); err != nil || m.requests("a", "/events") != asked {
				t.Errorf("Sync = %v, and the server that lied was asked again", err)
			}
			next.Close()
			wantWhole(t, m, db)
			notes, err := db.ServerNotes(t.Context())
			if err != nil || len(notes) != 3 {
				t.Fatalf("the notes are %+v, %v", notes, err)
			}
			a, b, good := notes[0], notes[1], notes[2]
			if a.URL != "http://a" || !strings.Contains(a.Problem, "sent a bad event") || a.AsideUntil.Time().Before(time.Now()) {
				t.Errorf("of the liar is noted %+v", a)
			}
			if b.Overtaken == 0 || b.Speed == 0 || b.Speed > 2<<10 || b.Problem != errOvertaken.Error() || b.AsideUntil != 0 {
				t.Errorf("of the slow one is noted %+v", b)
			}
			if good.Problem != "" || good.Head != 110 || good.Requests < 5 || good.Received < 10_000 {
				t.Errorf("of the good one is noted %+v", good)
			}
			if now := next.Servers(); len(now) != 3 || now[2].URL != "http://c" || now[2].Requests >= good.Requests {
				t.Errorf("the next client has seen %+v", now)
			}
		})
	})
}

// A server whose digest is not that of its own events is set aside, and the digest of
// another one proves the copy.
func TestSyncWithWrongDigest(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		wrong := func(_ *mesh, next http.Handler) http.Handler {
			return lyingAbout("/windows", `"count":300`, `"count":301`)(next)
		}
		m := newMesh(t, 300, wrong, good)
		var aside []string
		m.use(func(cfg *Config) { cfg.OnAside = func(server string, _ error) { aside = append(aside, server) } }, func(c *Client, db *cache.DB) {
			s, err := c.Sync(t.Context(), event.All, SyncOptions{})
			if err != nil || s.Held != 300 || !slices.Equal(aside, []string{"http://a"}) {
				t.Errorf("Sync = %+v, %v, set aside %v", s, err, aside)
			}
			wantWhole(t, m, db)
			doubted, err := db.Doubted(t.Context(), event.All)
			if err != nil || len(doubted) != 0 {
				t.Errorf("in doubt are %v, %v", doubted, err)
			}
		})
	})
}

// A tail continues with the next server, without a gap and without an event twice, if its
// server falls silent, sends a wrong event or is not there.
func TestTailMovesOn(t *testing.T) {
	isLive := func(r *http.Request) bool { return r.Header.Get("Accept") == wire.SSE }
	var streams atomic.Int64
	quiet := func(m *mesh, next http.Handler) http.Handler { // begins, and sends no heartbeat
		return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			if !isLive(r) || streams.Add(1) > 1 {
				next.ServeHTTP(w, r)
				return
			}
			at, _, _ := strings.Cut(r.Header.Get("Last-Event-ID"), ".")
			w.Header().Set("Content-Type", wire.SSE)
			w.Header().Set(wire.HeaderLog, m.db.Log())
			w.Header().Set(wire.HeaderFrom, at)
			w.Header().Set(wire.HeaderHead, m.db.HeadPoint().Cursor(m.db.Log()).String())
			_ = http.NewResponseController(w).Flush()
			hang(m, r)
		})
	}
	foreign := func(m *mesh, next http.Handler) http.Handler {
		return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			if !isLive(r) {
				next.ServeHTTP(w, r)
				return
			}
			at, _, _ := strings.Cut(r.Header.Get("Last-Event-ID"), ".")
			w.Header().Set("Content-Type", wire.SSE)
			w.Header().Set(wire.HeaderLog, m.db.Log())
			w.Header().Set(wire.HeaderFrom, at)
			w.Header().Set(wire.HeaderHead, m.db.HeadPoint().Cursor(m.db.Log()).String())
			_, _ = w.Write([]byte("id: " + m.db.HeadPoint().Cursor(m.db.Log()).String() + "\nevent: PUT\ndata: {}\n\n"))
			_ = http.NewResponseController(w).Flush()
			hang(m, r)
		})
	}
	hungLive := func(m *mesh, next http.Handler) http.Handler {
		return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			if isLive(r) {
				hang(m, r)
				return
			}
			next.ServeHTTP(w, r)
		})
	}
	for name, tc := range map[string]struct {
		first  front
		within time.Duration
	}{
		"silent stream": {quiet, 46 * time.Second}, // Idle, which is three heartbeats
		"wrong event":   {foreign, 3 * time.Second},
		"hung":          {hungLive, 5 * time.Second},
		"refused":       {refusingAll(421), 5 * time.Second},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				streams.Store(0)
				m := newMesh(t, 10, tc.first, good)
				m.use(nil, func(c *Client, db *cache.DB) {
					ctx, cancel := context.WithTimeout(t.Context(), 2*time.Minute)
					defer cancel()
					var got []event.ID
					start := time.Now()
					for ev, err := range c.Tail(ctx, event.All, TailOptions{}) {
						if err != nil {
							t.Fatal(err)
						}
						if got = append(got, ev.ID); len(got) == 10 {
							m.put("alice/x", 5)
							start = time.Now()
						}
						if len(got) == 15 {
							break
						}
					}
					for i, id := range got {
						if id != event.ID(i+1) {
							t.Fatalf("event %d is %s", i+1, id)
						}
					}
					if took := time.Since(start); len(got) != 15 || took > tc.within {
						t.Errorf("%d events, the last after %v", len(got), took)
					}
					if m.requests("b", "/events") == 0 {
						t.Error("the second server was not asked")
					}
				})
			})
		})
	}
}

// A mirror whose log ends before the copy does is left until it has caught up, and nobody
// takes its log for one that was rolled back.
func TestSyncWithLaggingServer(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var lags atomic.Bool
		lagging := func(m *mesh, next http.Handler) http.Handler {
			return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
				if lags.Load() {
					w.Header().Set(wire.HeaderLog, m.db.Log())
					w.Header().Set(wire.HeaderHead, event.CursorOf(3, m.db.Log()).String())
					wire.Errorf(http.StatusConflict, "ahead").Write(w)
					return
				}
				next.ServeHTTP(w, r)
			})
		}
		m := newMesh(t, 10, lagging, lagging, good)
		m.use(nil, func(c *Client, db *cache.DB) {
			if _, err := c.Sync(t.Context(), event.All, SyncOptions{}); err != nil {
				t.Fatal(err)
			}
			m.put("alice/x", 10)
			lags.Store(true)
			if s, err := c.Sync(t.Context(), event.All, SyncOptions{}); err != nil || s.Held != 20 {
				t.Errorf("Sync = %+v, %v", s, err)
			}
			wantWhole(t, m, db)
			asked := m.requests("a", "/windows")
			lags.Store(false)
			time.Sleep(failedTime)
			c.recordFailure("http://c", errors.New("away"))
			if _, err := c.Sync(t.Context(), event.All, SyncOptions{}); err != nil || m.requests("a", "/windows") <= asked {
				t.Errorf("Sync = %v, and the first server was asked %d times", err, m.requests("a", "/windows")-asked)
			}
		})
	})
}

// A server of an older copy of the file ends before the copy does. Another one that has more
// answers instead; alone, it is a log that was rolled back.
func TestSyncWithOlderServer(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		older := func(m *mesh, _ http.Handler) http.Handler { return m.olderServer() }
		m := newMesh(t, 10, older, good)
		m.put("alice/x", 10)
		m.use(nil, func(c *Client, db *cache.DB) {
			sync := func(servers ...string) (Synced, error) {
				cfg, closeIdle := m.config()
				defer closeIdle()
				cfg.Servers = servers
				c := newTestClient(t, db, cfg)
				defer c.Close()
				return c.Sync(t.Context(), event.All, SyncOptions{})
			}
			if s, err := sync("http://b"); err != nil || s.Held != 20 {
				t.Fatalf("Sync = %+v, %v", s, err)
			}
			m.put("alice/x", 10)
			if s, err := sync("http://a", "http://b"); err != nil || s.Held != 30 {
				t.Errorf("Sync = %+v, %v", s, err)
			}
			wantWhole(t, m, db)
			var back *RolledBackError
			if s, err := sync("http://a"); !errors.As(err, &back) || back.Head != 10 {
				t.Errorf("with the older server alone, Sync = %+v, %v", s, err)
			}
		})
	})
}

// An append goes to the next server, too, while one is silent, and is one event even if the silent
// one had it stored. Each server gets its own token only.
func TestPutIsHedged(t *testing.T) {
	storing := func(m *mesh, next http.Handler) http.Handler { // stores what it gets, and answers late
		return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			if r.URL.Path == "/set" {
				answer := record(next, r)
				select {
				case <-time.After(20 * time.Second):
				case <-r.Context().Done():
				}
				copyHeader(w.Header(), answer.Header())
				_, _ = w.Write(answer.Body.Bytes())
				return
			}
			next.ServeHTTP(w, r)
		})
	}
	for name, tc := range map[string]struct {
		fronts []front
		twice  bool // the log has got the append twice
	}{
		"hung":           {[]front{hungFor("/set"), good}, false},
		"two hung":       {[]front{hungFor("/set"), hungFor("/set"), good}, false},
		"stored":         {[]front{storing, good}, true},
		"stored by two":  {[]front{storing, storing, good}, true},
		"forbidden next": {[]front{late(3 * time.Second), refusingAll(403)}, false},
		"down next":      {[]front{late(3 * time.Second), refusingAll(503)}, false},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				m := newMesh(t, 1, tc.fronts...)
				m.use(func(cfg *Config) { cfg.Token, cfg.Header = ownToken, ownHeader }, func(c *Client, db *cache.DB) {
					start := time.Now()
					rs, err := c.Put(t.Context(), drafts("alice/x", "k", "l"))
					if err != nil || len(rs) != 2 || rs[0].ID != 2 || rs[1].ID != 3 || rs[0].Duplicate != tc.twice {
						t.Fatalf("Put = %+v, %v", rs, err)
					}
					if took := time.Since(start); took > 5*time.Second {
						t.Errorf("took %v", took)
					}
					if _, err := db.Outbox().Queue(t.Context(), drafts("alice/x", "m")); err != nil {
						t.Fatal(err)
					}
					start = time.Now()
					if s, err := c.Send(t.Context(), nil); err != nil || s.Sent != 1 || time.Since(start) > 5*time.Second {
						t.Errorf("Send = %+v, %v after %v", s, err, time.Since(start))
					}
					if m.db.Head() != 4 {
						t.Errorf("the log has %s events, want 4", m.db.Head())
					}
					m.wantOwnSecrets()
				})
			})
		})
	}
}

// A server that is busy with a large append is not silent before it has had time to receive it,
// and a refusal is final although another server has not answered.
func TestPutPatience(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var reading atomic.Bool
		slowly := func(_ *mesh, next http.Handler) http.Handler {
			return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
				if r.URL.Path == "/set" {
					reading.Store(true)
					time.Sleep(3 * time.Second)
				}
				next.ServeHTTP(w, r)
			})
		}
		m := newMesh(t, 1, slowly, good)
		m.use(nil, func(c *Client, _ *cache.DB) {
			large := event.Draft{User: "alice", Path: "x", Type: event.Put, Key: "k", Value: []byte(`"` + strings.Repeat("x", 1<<20-10) + `"`)}
			if _, err := c.Put(t.Context(), []event.Draft{large}); err != nil || !reading.Load() || m.requests("b", "/set") != 0 {
				t.Errorf("Put = %v, %d appends were sent to b", err, m.requests("b", "/set"))
			}
		})
	})
	synctest.Test(t, func(t *testing.T) {
		m := newMesh(t, 1, hungFor("/set"), refusingAll(400))
		m.use(nil, func(c *Client, _ *cache.DB) {
			start := time.Now()
			var unknown *UnknownOutcomeError
			if _, err := c.Put(t.Context(), drafts("alice/x", "k")); !errors.As(err, &unknown) || statusOf(err) != 400 || time.Since(start) > 5*time.Second {
				t.Errorf("Put = %v after %v", err, time.Since(start))
			}
		})
	})
}

// A mirror that has passed an append on answers before it has the events itself. That its head is
// below the copy's is no reason to doubt the answer.
func TestPutByMirrorThatIsBehind(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		behind := func(m *mesh, next http.Handler) http.Handler {
			return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
				answer := record(next, r)
				if r.URL.Path == "/set" {
					answer.Header().Set(wire.HeaderHead, event.CursorOf(3, m.db.Log()).String())
					answer.Header().Set(wire.HeaderBehind, "18")
				}
				copyHeader(w.Header(), answer.Header())
				w.WriteHeader(answer.Code)
				_, _ = w.Write(answer.Body.Bytes())
			})
		}
		m := newMesh(t, 20, behind, good)
		m.use(nil, func(c *Client, _ *cache.DB) {
			if _, err := c.Sync(t.Context(), event.All, SyncOptions{}); err != nil {
				t.Fatal(err)
			}
			d := event.Draft{User: "alice", Path: "x", Type: event.Put, Key: "k", Value: []byte("1")}
			rs, err := c.Put(t.Context(), []event.Draft{d})
			if err != nil || len(rs) != 1 || rs[0].ID != 21 || m.requests("b", "/set") != 0 {
				t.Errorf("Put = %+v, %v", rs, err)
			}
		})
	})
}
