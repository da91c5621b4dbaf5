package client

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"net/http"
	"slices"
	"strings"
	"testing"
	"testing/synctest"

	"github.com/rstream-dev/rstream/cache"
	"github.com/rstream-dev/rstream/event"
	"github.com/rstream-dev/rstream/internal/wire"
	"github.com/rstream-dev/rstream/window"
)

// A forgery is what a server changes in a log: it gives each event that it changes a valid hash.
type forgery func(ev *event.Event) *event.Draft

// forgeEvery changes the value of the events whose ids n divides.
func forgeEvery(n event.ID) forgery {
	return func(ev *event.Event) *event.Draft {
		if ev.ID%n != 0 {
			return nil
		}
		return &event.Draft{User: ev.User, Path: ev.Path, Type: ev.Type, Key: ev.Key, Value: []byte(`"forged"`)}
	}
}

func (f forgery) forge(evs []event.Event) (forged []event.Event) {
	for _, ev := range evs {
		if d := f(&ev); d != nil {
			ev = event.New(ev.ID, ev.Time, *d, d.Hash())
		}
		forged = append(forged, ev)
	}
	return forged
}

// forging is a front that sends forged events and, if consistent, their digests.
func forging(f forgery, consistent bool) front {
	return func(m *mesh, next http.Handler) http.Handler {
		return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			if !isPage(r) && !(consistent && r.URL.Path == "/windows") {
				next.ServeHTTP(w, r)
				return
			}
			answer := record(next, r)
			body := answer.Body.Bytes()
			switch {
			case answer.Code != http.StatusOK:
			case isPage(r):
				body = f.forgePage(m, answer.Header(), body)
			default:
				body = f.forgeWindows(m, r, body)
			}
			answer.Header().Del("Content-Length")
			copyHeader(w.Header(), answer.Header())
			w.WriteHeader(answer.Code)
			_, _ = w.Write(body)
		})
	}
}

func (f forgery) forgePage(m *mesh, header http.Header, body []byte) (page []byte) {
	var evs []event.Event
	for line := range bytes.Lines(body) {
		ev, err := event.ParseLine(bytes.TrimSpace(line))
		if err != nil {
			m.t.Error(err)
		}
		evs = append(evs, ev)
	}
	forged := f.forge(evs)
	wire.SetEvents(header, len(forged))
	for i := range forged {
		page = append(append(page, forged[i].Line()...), '\n')
	}
	return page
}

// forgeWindows gives windows the digests of the forged events.
func (f forgery) forgeWindows(m *mesh, r *http.Request, body []byte) []byte {
	topic, err := event.ParseTopic(r.URL.Query().Get("topic"))
	if err != nil {
		m.t.Error(err)
	}
	forge := func(w *wire.Window) {
		evs, _, err := m.db.Read(context.WithoutCancel(r.Context()), []event.Topic{topic}, w.From.ID, w.To.ID, 1<<20)
		if err != nil {
			m.t.Error(err)
		}
		var l window.Leafer
		for _, ev := range f.forge(evs) {
			l.Add(ev.ID, ev.Time, ev.Hash)
		}
		w.Digest, w.Count = window.DigestOf(l.Leaves())
	}
	var answer any
	if strings.Contains(string(body), `"windows":`) {
		list := &wire.WindowList{}
		err = json.Unmarshal(body, list)
		for i := range list.Windows {
			forge(&list.Windows[i])
		}
		answer = list
	} else {
		w := &wire.Window{}
		err = json.Unmarshal(body, w)
		forge(w)
		answer = w
	}
	if err != nil {
		m.t.Error(err)
	}
	body, err = json.Marshal(answer)
	if err != nil {
		m.t.Error(err)
	}
	return body
}

// both is a front before another one.
func both(outer, inner front) front {
	return func(m *mesh, next http.Handler) http.Handler { return outer(m, inner(m, next)) }
}

// wantForged checks that a copy has all events of a forged log.
func wantForged(t *testing.T, m *mesh, db *cache.DB, f forgery) {
	t.Helper()
	read := func(db *cache.DB) []event.Event {
		evs, _, err := db.Read(t.Context(), []event.Topic{event.All}, event.Beginning, m.db.Head(), 1<<20)
		if err != nil {
			t.Fatal(err)
		}
		return evs
	}
	want := read(m.db)
	if f != nil {
		want = f.forge(want)
	}
	same := func(a, b event.Event) bool { return bytes.Equal(a.Line(), b.Line()) }
	if got := read(db); !slices.EqualFunc(got, want, same) {
		t.Errorf("the copy has %d other events than the log, which has %d", len(got), len(want))
	}
}

// A server that invents events with valid hashes is found out and set aside, and the copy gets
// those of the others.
func TestSyncWithInventedEvents(t *testing.T) {
	const n = 600
	some := forgeEvery(100)
	pages, all := forging(some, false), forging(some, true)
	slowly := slow(16 << 10)
	for name, tc := range map[string]struct {
		fronts []front
		before bool     // the copy has proven the events before
		aside  []string // in the order of the configuration
		why    string   // of the first of them
		forged bool     // the copy ends with the forged events
	}{
		"its digest is of others":       {[]front{pages, good}, false, []string{"a"}, "sent other events of * in", false},
		"the second, of others":         {[]front{both(slowly, good), pages}, false, []string{"b"}, "its events of * in", false},
		"its digest is of them":         {[]front{both(slowly, good), all}, false, []string{"b"}, "its digest of * in", false},
		"two agree against the first":   {[]front{both(slowly, all), good, good}, false, []string{"a"}, "its digest of * in", false},
		"two liars":                     {[]front{pages, all, good}, false, []string{"a", "b"}, "its events of * in", false},
		"known before":                  {[]front{all, good}, true, []string{"a"}, "is not the one proven before", false},
		"nobody can tell: the first is": {[]front{both(slowly, all), good}, false, []string{"b"}, "its digest of * in", true},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				m := newMesh(t, n, tc.fronts...)
				why := map[string]string{}
				m.use(func(cfg *Config) {
					cfg.PageLimit = 150
					cfg.OnAside = func(server string, cause error) { why[strings.TrimPrefix(server, "http://")] = cause.Error() }
				}, func(c *Client, db *cache.DB) {
					if tc.before {
						m.serve("z", m.server)
						syncFrom(t, c, db, "http://z")
						m.put("alice/x", 10)
					}
					s, err := c.Sync(t.Context(), event.All, SyncOptions{})
					if err != nil || s.Held != uint64(m.db.Head()) {
						t.Fatalf("Sync = %+v, %v, set aside %v", s, err, why)
					}
					var aside []string
					for i := range c.servers {
						if !c.servers[i].aside.IsZero() {
							aside = append(aside, string(rune('a'+i)))
						}
					}
					if !slices.Equal(aside, tc.aside) || len(why) != len(aside) || !strings.Contains(why[tc.aside[0]], tc.why) {
						t.Errorf("set aside %v, %v, want %v: %s", aside, why, tc.aside, tc.why)
					}
					forged := forgery(nil)
					if tc.forged {
						forged = some
					}
					wantForged(t, m, db, forged)
					doubted, err := db.Doubted(t.Context(), event.All)
					if err != nil || len(doubted) != 0 {
						t.Errorf("in doubt are %v, %v", doubted, err)
					}
				})
			})
		})
	}
}

// The events that take the place of invented ones are passed on.
func TestReplacedEventsAreShown(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		m := newMesh(t, 50, forging(forgeEvery(20), false), good)
		m.use(nil, func(c *Client, db *cache.DB) {
			shown := map[event.ID]string{}
			n := 0
			_, err := syncNew(t.Context(), c, event.All, Range{}, func(evs []event.Event) error {
				for i := range evs {
					shown[evs[i].ID] = string(evs[i].Line())
					n++
				}
				return nil
			})
			if err != nil || n != 52 {
				t.Errorf("%d events were shown, %v, want 50, and two twice", n, err)
			}
			for i, line := range lines(t, m.db, event.All) {
				if shown[event.ID(i+1)] != line {
					t.Errorf("event %d is shown as %s", i+1, shown[event.ID(i+1)])
				}
			}
		})
	})
}

// The window around a moment is compared with another server, too, if the first one lies about
// it or sends wrong events of it.
func TestSyncAroundWithLiar(t *testing.T) {
	wrongCount := func(_ *mesh, next http.Handler) http.Handler {
		return lyingAbout("/windows", `"count":300`, `"count":301`)(next)
	}
	for name, liar := range map[string]front{"digest": wrongCount, "events": forging(forgeEvery(100), false)} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				m := newMesh(t, 300, liar, good)
				var aside []string
				m.use(func(cfg *Config) { cfg.OnAside = func(server string, _ error) { aside = append(aside, server) } }, func(c *Client, db *cache.DB) {
					s, err := syncAt(t.Context(), c, event.All, c.momentAt(20))
					if err != nil || s.Held != 300 || !slices.Equal(aside, []string{"http://a"}) {
						t.Errorf("Sync = %+v, %v, set aside %v", s, err, aside)
					}
					wantForged(t, m, db, nil)
				})
			})
		})
	}
}

// If all servers contradict what was proven before, nothing is replaced: they may be the ones that
// are wrong, or the copy.
func TestProvenEventsAreNotReplaced(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		all := forging(forgeEvery(20), true)
		m := newMesh(t, 50, all, all)
		m.use(nil, func(c *Client, db *cache.DB) {
			m.serve("z", m.server)
			syncFrom(t, c, db, "http://z")
			if s, err := c.Sync(t.Context(), event.All, SyncOptions{}); !errors.As(err, new(*MismatchError)) {
				t.Errorf("Sync = %+v, %v", s, err)
			}
			wantForged(t, m, db, nil)
		})
	})
}

// syncFrom syncs a copy with one server, and with the settings of c otherwise.
func syncFrom(t *testing.T, c *Client, db *cache.DB, server string) {
	t.Helper()
	cfg := c.cfg
	cfg.Servers = []string{server}
	only := newTestClient(t, db, cfg)
	defer only.Close()
	if _, err := only.Sync(t.Context(), event.All, SyncOptions{}); err != nil {
		t.Fatal(err)
	}
}
