package client

import (
	"errors"
	"flag"
	"fmt"
	"path/filepath"
	"slices"
	"sync"
	"testing"

	"pgregory.net/rapid"

	"github.com/rstream-dev/rstream/cache"
	"github.com/rstream-dev/rstream/event"
	"github.com/rstream-dev/rstream/internal/longtest"
	"github.com/rstream-dev/rstream/window"
)

// underRace is set under the race detector, which makes SQLite twenty times slower.
var underRace bool

// checksGiven looks once: setting the flag makes it a given one.
var checksGiven = sync.OnceValue(func() (given bool) {
	flag.Visit(func(f *flag.Flag) { given = given || f.Name == "rapid.checks" })
	return given
})

// fewChecks makes rapid run few checks, each of which makes files, unless the
// command line says how many.
func fewChecks(t *testing.T, n int) {
	if underRace {
		n = 2
	}
	if checksGiven() {
		return
	}
	before := flag.Lookup("rapid.checks").Value.String()
	if err := flag.Set("rapid.checks", fmt.Sprint(n)); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = flag.Set("rapid.checks", before) })
}

// Random pulls, tails, windows around moments, appends, cuts, restarts of the
// server, lost caches, forgotten topics and new clients, two of them on one cache
// and each with two servers, of which either may be gone: at the end each window
// that the cache calls held equals the log as the slow reader sees it, and so does
// verify.
func TestModel(t *testing.T) {
	fewChecks(t, longtest.Scale(4, 12, 100))
	f := newFixture(t)
	p := newTearingProxy(t, f.http.URL, 1, 20_000)
	other := newTearingProxy(t, f.http.URL, 2, 20_000)
	topics := []string{"*", "alice", "alice/posts", "alice/posts/1$", "bob", "*/posts", "alice/po*"}
	storages := []string{"alice/posts/1", "alice/posts/2", "alice/x", "bob/posts", "bob/y"}
	dir, runs := t.TempDir(), 0
	rapid.Check(t, func(rt *rapid.T) {
		runs++
		path := filepath.Join(dir, fmt.Sprint(runs))
		m := &model{t: rt, f: f, servers: []*tearingProxy{p, other}}
		defer m.close()
		for range 2 {
			m.open(path)
		}
		for range rapid.IntRange(1, 8).Draw(rt, "steps") {
			switch rapid.SampledFrom([]string{"put", "sync", "sync", "at", "tail", "reopen", "restart", "lose", "forget"}).Draw(rt, "step") {
			case "put":
				f.put(rapid.SampledFrom(storages).Draw(rt, "storage"), rapid.IntRange(1, 40).Draw(rt, "n"))
			case "sync":
				m.sync(rapid.IntRange(0, 1).Draw(rt, "client"), rapid.SampledFrom(topics).Draw(rt, "topic"))
			case "tail":
				m.tail(rapid.IntRange(0, 1).Draw(rt, "client"), rapid.SliceOfNDistinct(rapid.SampledFrom(topics), 1, 3, rapid.ID).Draw(rt, "topics"))
			case "at":
				m.at(rapid.IntRange(0, 1).Draw(rt, "client"), rapid.SampledFrom(topics).Draw(rt, "topic"))
			case "reopen":
				m.reopen(path)
			case "restart":
				m.restart(rapid.IntRange(0, 1).Draw(rt, "server"))
			case "lose":
				path += "x"
				m.reopen(path)
				m.reopen(path)
				m.received = 0
			case "forget":
				m.forget(rapid.SampledFrom(topics).Draw(rt, "topic"))
			}
		}
		m.check()
	})
}

type model struct {
	t        *rapid.T
	f        *fixture
	servers  []*tearingProxy
	dbs      []*cache.DB
	clients  []*Client
	received int64 // by clients that are gone
}

// reopen ends the older client and makes a new one.
func (m *model) reopen(path string) {
	m.clients[0].Close()
	_ = m.dbs[0].Close()
	m.received += m.clients[0].Stats().Events
	m.clients, m.dbs = m.clients[1:], m.dbs[1:]
	m.open(path)
}

// restart ends the server and starts it on the same file; one of the two ways to it
// leads nowhere from then on, until the next restart.
func (m *model) restart(lost int) {
	m.f.stop()
	m.f.start()
	m.servers[lost].point("http://127.0.0.1:0")
	m.servers[1-lost].point(m.f.http.URL)
}

// forget forgets a topic, unless it is held as a part of another.
func (m *model) forget(topic string) {
	parsed, _ := event.ParseTopic(topic)
	n, err := m.dbs[0].Forget(m.f.t.Context(), parsed, event.MaxID)
	var as *cache.HeldAsError
	if err != nil && !errors.As(err, &as) {
		m.t.Fatal(err)
	}
	m.received -= int64(n)
}

func (m *model) at(i int, topic string) {
	parsed, _ := event.ParseTopic(topic)
	at := m.position("at")
	s, err := syncAt(m.f.t.Context(), m.clients[i], parsed, m.moment(at))
	if err != nil || at < s.Span.From || at > s.Span.To {
		m.t.Fatalf("sync %s at %s = %v, %v", topic, at, s, err)
	}
}

func (m *model) open(path string) {
	db, err := cache.Open(m.f.t.Context(), path, cache.Config{Role: cache.Client, Log: m.f.db.Log()})
	if err != nil {
		m.t.Fatal(err)
	}
	cfg := nervous(m.servers[0].url(), m.servers[1].url())
	cfg.Wait, cfg.PageLimit = true, 40
	c, err := New(db, cfg)
	if err != nil {
		m.t.Fatal(err)
	}
	m.dbs, m.clients = append(m.dbs, db), append(m.clients, c)
}

func (m *model) close() {
	for i := range m.clients {
		m.clients[i].Close()
		_ = m.dbs[i].Close()
	}
}

// position draws a position of the log.
func (m *model) position(name string) event.ID {
	return event.ID(rapid.Uint64Range(0, uint64(m.f.db.Head())).Draw(m.t, name))
}

func (m *model) moment(id event.ID) event.Moment { return event.At(event.CursorOf(id, m.f.db.Log())) }

func (m *model) sync(i int, topic string) {
	span := window.Span{From: m.position("from"), To: m.position("to")}
	if span.From > span.To {
		span.From, span.To = span.To, span.From
	}
	until := m.moment(span.To)
	parsed, _ := event.ParseTopic(topic)
	s, err := m.clients[i].Sync(m.f.t.Context(), parsed, SyncOptions{Range: Range{Since: m.moment(span.From), Until: &until}})
	if err != nil || s.Span != span {
		m.t.Fatalf("sync %s %s = %v, %v", topic, span, s, err)
	}
}

// tail reads to the head and compares.
func (m *model) tail(i int, names []string) {
	var topics []event.Topic
	for _, name := range names {
		topic, _ := event.ParseTopic(name)
		topics = append(topics, topic)
	}
	from := m.position("from")
	var got []string
	opts := TailOptions{Range: Range{Since: m.moment(from)}, UntilLive: rapid.Bool().Draw(m.t, "until live")}
	for b, err := range m.clients[i].Batches(m.f.t.Context(), topics, opts) {
		if err != nil {
			m.t.Fatalf("tail %v: %v", names, err)
		}
		for _, ev := range b.Events {
			got = append(got, string(ev.Line()))
		}
		if b.Live {
			break
		}
	}
	want := m.truth(topics, window.Span{From: from, To: m.f.db.Head()})
	if !slices.Equal(got, want) {
		m.t.Fatalf("tail %v from %s: %d events, want %d", names, from, len(got), len(want))
	}
}

func (m *model) truth(topics []event.Topic, span window.Span) (lines []string) {
	for _, ev := range m.f.truth("*", span.From.String(), span.To.String()) {
		if slices.ContainsFunc(topics, func(t event.Topic) bool { return t.Matches(ev.User, ev.Path) }) {
			lines = append(lines, ev.line)
		}
	}
	return lines
}

// check compares every window with the log.
func (m *model) check() {
	ctx := m.f.t.Context()
	windows, err := m.dbs[0].Windows(ctx)
	if err != nil {
		m.t.Fatal(err)
	}
	for _, w := range windows {
		var got []string
		err := m.dbs[0].Each(ctx, []event.Topic{w.Topic}, w.Held(), func(ev *event.Event) error {
			got = append(got, string(ev.Line()))
			return nil
		})
		if err != nil {
			m.t.Fatal(err)
		}
		if want := m.truth([]event.Topic{w.Topic}, w.Held()); !slices.Equal(got, want) {
			m.t.Errorf("%s %s %s holds %d events, want %d", w.Topic, w.State, w.Held(), len(got), len(want))
		}
		if w.State != window.Committed {
			m.t.Errorf("%s %s is %s in the end", w.Topic, w.Held(), w.State)
		}
	}
	for _, w := range windows {
		v, err := m.clients[0].Verify(ctx, w.Topic, false)
		if err != nil || len(v.Found) > 0 {
			m.t.Errorf("verify %s = %v, %v", w.Topic, v, err)
		}
	}
	count, err := m.dbs[0].Count(ctx)
	if err != nil {
		m.t.Fatal(err)
	}
	for _, c := range m.clients {
		m.received += c.Stats().Events
	}
	if m.received < count.Events {
		m.t.Errorf("%d events came, but %d are held", m.received, count.Events)
	}
}
