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

// forgeAfter is a forgery that begins after a position.
func forgeAfter(at event.ID, f forgery) forgery {
	return func(ev *event.Event) *event.Draft {
		if ev.ID <= at {
			return nil
		}
		return f(ev)
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

// read returns the events of topics that the forged log has in a range.
func (f forgery) read(m *mesh, topics []event.Topic, span window.Span) (evs []event.Event) {
	all, _, err := m.db.Read(context.Background(), []event.Topic{event.All}, span.From, span.To, 1<<20)
	if err != nil {
		m.t.Error(err)
	}
	for _, ev := range f.forge(all) {
		if slices.ContainsFunc(topics, func(t event.Topic) bool { return t.Matches(ev.User, ev.Path) }) {
			evs = append(evs, ev)
		}
	}
	return evs
}

// forging is a front that sends forged events and, if consistent, their digests and marks.
func forging(f forgery, consistent bool) front {
	return func(m *mesh, next http.Handler) http.Handler {
		return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			if consistent {
				r = r.Clone(r.Context())
				r.Header.Del(wire.HeaderHeld) // it has each position with the mark of the copy
			}
			if !isPage(r) && !consistent || r.Header.Get("Accept") == wire.SSE {
				next.ServeHTTP(w, r)
				return
			}
			answer := record(next, r)
			body := answer.Body.Bytes()
			switch {
			case answer.Code != http.StatusOK, !isPage(r) && r.URL.Path != "/windows":
			case isPage(r):
				body = f.forgePage(m, r, answer.Header())
			default:
				body = f.forgeWindows(m, r, body)
			}
			if consistent {
				f.forgeMarks(m, answer.Header())
			}
			answer.Header().Del("Content-Length")
			copyHeader(w.Header(), answer.Header())
			w.WriteHeader(answer.Code)
			_, _ = w.Write(body)
		})
	}
}

// forgeMarks gives the positions in a header the marks of the forged log.
func (f forgery) forgeMarks(m *mesh, header http.Header) {
	for _, name := range []string{wire.HeaderFrom, wire.HeaderTo, wire.HeaderNext, wire.HeaderHead} {
		if at, ok := wire.CursorIn(header, name); ok {
			header.Set(name, f.forgeMark(m, at).String())
		}
	}
}

// forgeMark returns a position with the mark of the forged log.
func (f forgery) forgeMark(m *mesh, at event.Cursor) event.Cursor {
	if at.ID == event.Beginning || at.Mark == 0 {
		return at
	}
	evs := f.read(m, []event.Topic{event.All}, spanOfEvent(at.ID))
	return event.Point{ID: at.ID, Mark: evs[0].Mark()}.Cursor(m.db.Log())
}

// topicsOf returns the topics of a parameter of a request.
func (m *mesh) topicsOf(r *http.Request, param string) (topics []event.Topic) {
	if err := r.ParseForm(); err != nil {
		m.t.Error(err)
	}
	for _, name := range r.Form[param] {
		topic, err := event.ParseTopic(name)
		if err != nil {
			m.t.Error(err)
		}
		topics = append(topics, topic)
	}
	return topics
}

func (f forgery) forgePage(m *mesh, r *http.Request, header http.Header) (page []byte) {
	from, _ := wire.PositionIn(header, wire.HeaderFrom)
	next, _ := wire.CursorIn(header, wire.HeaderNext)
	evs := f.read(m, m.topicsOf(r, "topic"), window.Span{From: from, To: next.ID})
	except := m.topicsOf(r, "except")
	evs = slices.DeleteFunc(evs, func(ev event.Event) bool {
		return slices.ContainsFunc(except, func(t event.Topic) bool { return t.Matches(ev.User, ev.Path) })
	})
	wire.SetEvents(header, len(evs))
	for i := range evs {
		page = append(append(page, evs[i].Line()...), '\n')
	}
	return page
}

// forgeWindows gives windows the digests of the forged events.
func (f forgery) forgeWindows(m *mesh, r *http.Request, body []byte) []byte {
	topics := m.topicsOf(r, "topic")
	forge := func(w *wire.Window) {
		w.Digest, w.Count = window.DigestOf(leavesOf(f.read(m, topics, w.Span())))
		w.From, w.To = f.forgeMark(m, w.From), f.forgeMark(m, w.To)
	}
	var answer any
	var err error
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
		"its digest is of others":       {[]front{pages, good}, false, []string{"a"}, "its events of * in", false},
		"the second, of others":         {[]front{both(slowly, good), pages}, false, []string{"b"}, "its events of * in", false},
		"its digest is of them":         {[]front{both(slowly, good), all}, false, []string{"b"}, "its digest of * in", false},
		"two agree against the first":   {[]front{both(slowly, all), good, good}, false, []string{"a"}, "its digest of * in", false},
		"two liars":                     {[]front{pages, forging(forgeEvery(70), true), good}, false, []string{"a", "b"}, "its events of * in", false},
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

// The events that take the place of invented ones are passed on, if these were stored because no
// other server had given a digest of them by then.
func TestReplacedEventsAreShown(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		refused := false
		later := func(m *mesh, next http.Handler) http.Handler {
			return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
				if r.URL.Path == "/windows" && !refused {
					refused = true
					refusingPath("/windows", http.StatusNotFound)(m, next).ServeHTTP(w, r)
					return
				}
				next.ServeHTTP(w, r)
			})
		}
		m := newMesh(t, 50, forging(forgeEvery(20), false), later)
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
