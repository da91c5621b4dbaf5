package cache

import (
	"context"
	"errors"
	"fmt"
	"path/filepath"
	"slices"
	"testing"
	"time"

	"pgregory.net/rapid"

	"github.com/rstream-dev/rstream/event"
	"github.com/rstream-dev/rstream/window"
)

// clientLog is the whole log that a modelled client copies parts of. It crosses the
// edge of a block.
var clientLog = func() (evs []event.Event) {
	for i := range 60 {
		user, path := modelUsers[i*7%3], modelPaths[i*5%6]
		evs = append(evs, madeEvent(user, path, event.ID(event.BlockSize-30+i)))
	}
	return evs
}()

var (
	clientFirst  = clientLog[0].ID - 2
	clientLast   = clientLog[len(clientLog)-1].ID + 2
	clientTopics = []string{"*", "alice", "alice2", "bob", "alice/posts", "alice/posts/", "alice/posts/1$", "*/posts", "*/posts/1", "bob/p*"}
)

// A heldSet records the held positions of a topic one by one.
type heldSet map[event.ID]bool

func (h heldSet) add(s window.Span) {
	for id := s.From + 1; id <= s.To; id++ {
		h[id] = true
	}
}

// A modelLease is a lease and the windows it may have lost.
type modelLease struct {
	*Lease
	db     int
	topics []event.Topic
}

// A clientModel is two processes on one file. held maps each requested topic to the events
// stored for it; those of a wider topic count as well.
type clientModel struct {
	t      *rapid.T
	path   string
	clock  *clock
	dbs    [2]*DB
	leases []*modelLease
	held   map[event.Topic]heldSet
}

func TestClientAgainstSets(t *testing.T) {
	dir := t.TempDir()
	n := 0
	rapid.Check(t, func(t *rapid.T) {
		n++
		m := clientModel{t: t, path: filepath.Join(dir, fmt.Sprint(n)), clock: newClock(), held: map[event.Topic]heldSet{}}
		m.open(0)
		m.open(1)
		defer func() { m.dbs[0].Close(); m.dbs[1].Close() }()
		t.Repeat(map[string]func(*rapid.T){
			"":        m.check,
			"claim":   m.claim,
			"apply":   m.apply,
			"apply2":  m.apply,
			"apply3":  m.apply,
			"follow":  m.follow,
			"join":    m.join,
			"leave":   m.leave,
			"end":     m.end,
			"kill":    m.kill,
			"reopen":  m.reopen,
			"clock":   m.jump,
			"tidy":    m.tidy,
			"compare": m.compareReads,
		})
	})
}

func (m *clientModel) open(i int) {
	m.dbs[i] = mustOpen(m.t, m.path, Config{Role: Client, Log: testLog, Now: m.clock.now})
}

func (m *clientModel) topic(t *rapid.T) event.Topic {
	return topics(t, rapid.SampledFrom(clientTopics).Draw(t, "topic"))[0]
}

func anyPosition(t *rapid.T, name string) event.ID {
	return event.ID(rapid.Uint64Range(uint64(clientFirst), uint64(clientLast)).Draw(t, name))
}

func (m *clientModel) lease(t *rapid.T) *modelLease {
	if len(m.leases) == 0 {
		t.Skip("no lease")
	}
	return rapid.SampledFrom(m.leases).Draw(t, "lease")
}

func (m *clientModel) claim(t *rapid.T) {
	i := rapid.IntRange(0, 1).Draw(t, "process")
	topic, span := m.topic(t), window.Span{From: anyPosition(t, "from"), To: anyPosition(t, "to")}
	missing := m.missing(topic, span)
	l, busy, err := m.dbs[i].Leases().Claim(context.Background(), []event.Topic{topic}, span)
	switch {
	case err != nil:
		t.Fatalf("%v", err)
	case busy && l != nil, missing != (busy || l != nil):
		t.Fatalf("Claim(%s, %s) = %v, busy %v; something is missing: %v", topic, span, l, busy, missing)
	case l == nil:
		return
	}
	if !span.Contains(l.Span()) || l.Span().Empty() || m.anyHeld(topic, l.Span()) {
		t.Fatalf("Claim(%s, %s) is for %s, part of which is held or was not asked for", topic, span, l.Span())
	}
	m.leases = append(m.leases, &modelLease{Lease: l, db: i, topics: []event.Topic{topic}})
}

func (m *clientModel) follow(t *rapid.T) {
	i := rapid.IntRange(0, 1).Draw(t, "process")
	ts := []event.Topic{m.topic(t), m.topic(t)}
	l, err := m.dbs[i].Leases().Follow(context.Background(), ts, anyPosition(t, "from"))
	if err != nil {
		t.Fatalf("%v", err)
	}
	m.leases = append(m.leases, &modelLease{Lease: l, db: i, topics: ts})
}

func (m *clientModel) join(t *rapid.T) {
	l := m.lease(t)
	ts := []event.Topic{m.topic(t)}
	if err := l.Join(context.Background(), ts); err != nil {
		if l.live && !l.ended {
			t.Fatalf("%v", err)
		}
		return
	}
	l.topics = append(l.topics, ts...)
}

func (m *clientModel) leave(t *rapid.T) {
	l := m.lease(t)
	gone := m.topic(t)
	if !l.live {
		t.Skip("not live")
	}
	ctx, cancel := context.WithCancel(context.Background())
	defer cancel()
	fails := rapid.Bool().Draw(t, "fails")
	if fails {
		cancel()
	}
	if err := l.Leave(ctx, []event.Topic{gone}); fails != errors.Is(err, context.Canceled) && !l.ended {
		t.Fatalf("fails: %v, %v", fails, err)
	}
	l.topics = slices.DeleteFunc(slices.Clone(l.topics), func(u event.Topic) bool { return u == gone })
}

// apply stores the next events of a lease, if it has not lost its window.
func (m *clientModel) apply(t *rapid.T) {
	l := m.lease(t)
	from := l.Reached()
	to := min(l.span.To, from+event.ID(rapid.IntRange(0, 25).Draw(t, "step")))
	var evs []event.Event
	for i := range clientLog {
		ev := clientLog[i]
		if from < ev.ID && ev.ID <= to && slices.ContainsFunc(l.topics, func(t event.Topic) bool { return t.Matches(ev.User, ev.Path) }) {
			evs = append(evs, ev)
		}
	}
	usable := !l.ended && len(l.topics) > 0
	switch _, err := l.Apply(context.Background(), evs, to); {
	case !usable && err == nil:
		t.Fatalf("a lease that has ended stores events")
	case !usable, errors.Is(err, ErrLost) && !l.live:
		return
	case err != nil:
		t.Fatalf("%v", err)
	}
	for _, topic := range l.topics {
		m.set(topic).add(window.Span{From: from, To: to})
	}
}

func (m *clientModel) set(topic event.Topic) heldSet {
	if m.held[topic] == nil {
		m.held[topic] = heldSet{}
	}
	return m.held[topic]
}

func (m *clientModel) end(t *rapid.T) {
	l := m.lease(t)
	var err error
	switch rapid.IntRange(0, 3).Draw(t, "how") {
	case 0:
		err = l.Commit(context.Background())
	case 1:
		err = l.Release(context.Background())
	case 2:
		err = l.Fail(context.Background(), errInjected)
	case 3:
		m.forget(func(o *modelLease) bool { return o == l }) // abandoned without Release
	}
	if err != nil {
		t.Fatalf("%v", err)
	}
}

func (m *clientModel) forget(gone func(*modelLease) bool) {
	m.leases = slices.DeleteFunc(m.leases, gone)
}

func (m *clientModel) kill(t *rapid.T) {
	i := rapid.IntRange(0, 1).Draw(t, "process")
	kill(m.dbs[i])
	m.forget(func(l *modelLease) bool { return l.db == i })
	m.open(i)
}

func (m *clientModel) reopen(t *rapid.T) {
	i := rapid.IntRange(0, 1).Draw(t, "process")
	if err := m.dbs[i].Close(); err != nil {
		t.Fatalf("%v", err)
	}
	m.forget(func(l *modelLease) bool { return l.db == i })
	m.open(i)
}

func (m *clientModel) jump(t *rapid.T) {
	m.clock.add(time.Duration(rapid.IntRange(-200, 200).Draw(t, "seconds")) * time.Second)
}

func (m *clientModel) tidy(t *rapid.T) {
	if _, _, err := m.dbs[0].Leases().Claim(context.Background(), []event.Topic{event.All}, window.Span{}); err != nil {
		t.Fatalf("%v", err)
	}
}

// truth returns the held positions of topic: all that were stored for it or a wider one.
func (m *clientModel) truth(topic event.Topic) heldSet {
	all := heldSet{}
	for wider, set := range m.held {
		if wider.Contains(topic) {
			for id := range set {
				all[id] = true
			}
		}
	}
	return all
}

func (m *clientModel) missing(topic event.Topic, span window.Span) bool {
	truth := m.truth(topic)
	for id := span.From + 1; id <= span.To; id++ {
		if !truth[id] {
			return true
		}
	}
	return false
}

func (m *clientModel) anyHeld(topic event.Topic, span window.Span) bool {
	truth := m.truth(topic)
	for id := span.From + 1; id <= span.To; id++ {
		if truth[id] {
			return true
		}
	}
	return false
}

func (m *clientModel) check(t *rapid.T) {
	for _, name := range clientTopics {
		topic := topics(t, name)[0]
		truth := m.truth(topic)
		for _, db := range m.dbs {
			got := heldSet{}
			for _, s := range mustHeld(t, db, topic) {
				got.add(s)
			}
			if len(got) != len(truth) {
				t.Fatalf("%d positions of %s are held, want %d", len(got), topic, len(truth))
			}
			for id := range truth {
				if !got[id] {
					t.Fatalf("%s of %s is not held", id, topic)
				}
			}
		}
	}
	m.checkRows(t)
}

// checkRows checks that no needless windows are stored: committed spans are merged as far as
// possible, and each lease has one window for each topic.
func (m *clientModel) checkRows(t *rapid.T) {
	m.tidy(t)
	ws, err := m.dbs[1].Windows(context.Background())
	if err != nil {
		t.Fatalf("%v", err)
	}
	committed := map[event.Topic]window.Spans{}
	for _, w := range ws {
		if w.State != window.Committed {
			continue
		}
		before := committed[w.Topic]
		committed[w.Topic] = before.Add(w.Held())
		if w.Held().Empty() || len(committed[w.Topic]) != len(before)+1 {
			t.Fatalf("%s has the committed windows %v and %s apart", w.Topic, before, w.Held())
		}
	}
}

// compareReads checks that Read returns all held events and nothing else.
func (m *clientModel) compareReads(t *rapid.T) {
	ts := []event.Topic{m.topic(t), m.topic(t)}
	truths := []heldSet{m.truth(ts[0]), m.truth(ts[1])}
	after := anyPosition(t, "after")
	end := after
	for truths[0][end+1] && truths[1][end+1] {
		end++
	}
	_, next, err := m.dbs[0].Read(context.Background(), ts, after, event.MaxID, 1000)
	var notHeld *window.NotHeldError
	if errors.As(err, &notHeld) {
		m.checkNotHeld(t, notHeld, truths, after, end)
		return
	}
	if err != nil || next != end {
		t.Fatalf("Read(%v) after %s comes to %s, %v, want %s", ts, after, next, err, end)
	}
	var want []event.ID
	for i := range clientLog {
		ev := &clientLog[i]
		if after < ev.ID && ev.ID <= end && (ts[0].Matches(ev.User, ev.Path) || ts[1].Matches(ev.User, ev.Path)) {
			want = append(want, ev.ID)
		}
	}
	limit := rapid.IntRange(1, 30).Draw(t, "limit")
	got := readAll(t, m.dbs[1], ts, window.Span{From: after, To: clientLast}, limit)
	checkIDs(t, fmt.Sprintf("%v after %s", ts, after), got, want)
}

func (m *clientModel) checkNotHeld(t *rapid.T, e *window.NotHeldError, truths []heldSet, after, end event.ID) {
	if end > after {
		t.Fatalf("%v, but it is held up to %s", e, end)
	}
	for id := after + 1; id <= clientLast+10_000; id++ { // following has no end
		if truths[0][id] && truths[1][id] {
			if !e.Some || e.Oldest != id-1 {
				t.Fatalf("%v, want oldest %s", e, id-1)
			}
			return
		}
	}
	if e.Some {
		t.Fatalf("%v, want nothing", e)
	}
}
