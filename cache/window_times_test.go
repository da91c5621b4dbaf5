package cache

import (
	"context"
	"fmt"
	"path/filepath"
	"slices"
	"testing"

	"pgregory.net/rapid"

	"github.com/rstream-dev/rstream/event"
	"github.com/rstream-dev/rstream/window"
)

// A boundModel is a log of a few events, some of the same time, and a copy of some
// windows of it that knows the times at their bounds.
type boundModel struct {
	t    *rapid.T
	db   *DB
	log  []event.Event
	held map[event.Topic]window.Spans
}

// position returns the last event at or before a time.
func (m *boundModel) position(t event.Time) (at event.ID) {
	for i := range m.log {
		if m.log[i].Time <= t {
			at = m.log[i].ID
		}
	}
	return at
}

func (m *boundModel) timeAt(at event.ID) event.Time {
	if at == event.Beginning {
		return 0
	}
	return m.log[at-1].Time
}

func (m *boundModel) sync(topic event.Topic, span window.Span) {
	ctx := context.Background()
	l, busy, err := m.db.Leases().Claim(ctx, []event.Topic{topic}, span)
	if err != nil || busy {
		m.t.Fatalf("Claim: busy %v, %v", busy, err)
	}
	for ; l != nil && err == nil; l, _, err = m.db.Leases().Claim(ctx, []event.Topic{topic}, span) {
		to := l.Span().To
		if _, err := l.Apply(ctx, among(m.log, topic, l.Span()), to); err != nil {
			m.t.Fatalf("%v", err)
		}
		if err := l.Commit(ctx); err != nil {
			m.t.Fatalf("%v", err)
		}
	}
	times := map[event.ID]event.Time{span.To: m.timeAt(span.To)}
	if span.From > event.Beginning {
		times[span.From] = m.timeAt(span.From)
	}
	if err := m.db.NoteTimes(ctx, times); err != nil {
		m.t.Fatalf("%v", err)
	}
	m.held[topic] = window.Union(append(m.held[topic], span)...)
}

// check resolves a time. A result must be right, and inside a synced window there must be
// one.
func (m *boundModel) check(topic event.Topic, t event.Time) {
	at, ok, err := m.db.Snapshots().StateTime(context.Background(), topic, t)
	if err != nil {
		m.t.Fatalf("%v", err)
	}
	want := m.position(t)
	if got := among(m.log, topic, window.Span{To: at}); ok && !slices.Equal(ids(got), ids(among(m.log, topic, window.Span{To: want}))) {
		m.t.Fatalf("the state of %s at %d is told to be that of %s, it is that of %s", topic, t, at, want)
	}
	for _, span := range m.held[topic] {
		first := span.From == event.Beginning || m.timeAt(span.From) < t
		if first && t < m.timeAt(span.To) && !ok {
			m.t.Fatalf("the state of %s at %d, in the window %s, is not known", topic, t, span)
		}
	}
}

// Whichever windows a copy holds, a time in one of them is resolved without a server, and
// always to the state of the log.
func TestTimesInWindows(t *testing.T) {
	alone(t)
	dir, n := t.TempDir(), 0
	rapid.Check(t, func(t *rapid.T) {
		n++
		db := mustOpen(t, filepath.Join(dir, fmt.Sprint(n)), Config{Role: Client, Log: testLog})
		defer db.Close()
		m := boundModel{t: t, db: db, held: map[event.Topic]window.Spans{}}
		var at event.Time
		for i := range rapid.IntRange(1, 30).Draw(t, "events") {
			at += event.Time(rapid.IntRange(0, 1).Draw(t, "later"))
			d := draft(rapid.SampledFrom([]string{"alice", "bob", "carol"}).Draw(t, "user"), "x", fmt.Sprint(i))
			m.log = append(m.log, event.New(event.ID(i+1), event.TimeOf(newClock().at)+at, d, d.Hash()))
		}
		some := topics(t, "alice", "bob", "carol", "*")
		for range rapid.IntRange(1, 6).Draw(t, "windows") {
			from := rapid.IntRange(0, len(m.log)-1).Draw(t, "from")
			to := rapid.IntRange(from+1, len(m.log)).Draw(t, "to")
			m.sync(rapid.SampledFrom(some).Draw(t, "topic"), window.Span{From: event.ID(from), To: event.ID(to)})
			for _, topic := range some {
				for d := event.Time(-1); d <= at+1; d++ {
					m.check(topic, event.TimeOf(newClock().at)+d)
				}
			}
		}
	})
}

// The last time of a window does not resolve: the next event may have the same time.
func TestTimesThatAreShared(t *testing.T) {
	db, ctx := openClient(t), context.Background()
	base := madeEvent("alice", "x", 1).Time
	store(t, db, "alice", madeEvent("alice", "x", 1))
	l := mustClaim(t, db, "alice", 1, 4) // events 2 and 4 are bob's
	mustApply(t, l, 4, madeEvent("alice", "x", 3))
	if err := l.Commit(ctx); err != nil {
		t.Fatal(err)
	}
	if err := db.NoteTimes(ctx, map[event.ID]event.Time{4: base + 10}); err != nil {
		t.Fatal(err)
	}
	for t0, want := range map[event.Time]struct {
		at event.ID
		ok bool
	}{base - 1: {0, true}, base: {1, true}, base + 2: {3, true}, base + 9: {3, true}, base + 10: {4, false}, base + 11: {4, false}} {
		at, ok, err := db.Snapshots().StateTime(ctx, topics(t, "alice")[0], t0)
		if at != want.at || ok != want.ok || err != nil {
			t.Errorf("the state at %d is that of %s, %v, %v, want %s, %v", t0-base, at, ok, err, want.at, want.ok)
		}
	}
}

// Times are stored only for the bounds of windows.
func TestTimesAreBounded(t *testing.T) {
	db, ctx := openClient(t), context.Background()
	for i := range event.ID(20) {
		store(t, db, "alice", madeEvent("alice", "x", 2*i+1), madeEvent("alice", "x", 2*i+2))
		at := 2*i + 2
		if err := db.NoteTimes(ctx, map[event.ID]event.Time{at: event.Time(at), at - 1: 1}); err != nil {
			t.Fatal(err)
		}
		var n int
		if err := db.file.Read.QueryRow(`SELECT count(*) FROM bound`).Scan(&n); err != nil || n != 1 {
			t.Fatalf("%d times are kept, %v, want 1", n, err)
		}
	}
	if got, ok, err := db.TimeAt(ctx, 50); got != madeEvent("alice", "x", 40).Time || !ok || err != nil {
		t.Errorf("TimeAt = %v, %v, %v", got, ok, err)
	}
}

// The beginning has no time, whatever a server says and earlier versions stored.
func TestBeginningHasNoTime(t *testing.T) {
	db, ctx := openClient(t), context.Background()
	ev := madeEvent("alice", "x", 3)
	store(t, db, "alice", ev)
	last := ev.Time + 100
	note := func(times map[event.ID]event.Time) {
		t.Helper()
		if err := db.NoteTimes(ctx, times); err != nil {
			t.Fatal(err)
		}
	}
	check := func(what string) {
		t.Helper()
		at, ok, err := db.Snapshots().StateTime(ctx, topics(t, "alice")[0], ev.Time-1)
		if at != event.Beginning || !ok || err != nil {
			t.Errorf("%s: the state before all events is that of %s, %v, %v", what, at, ok, err)
		}
		if at, ok, err := db.TimeAt(ctx, 3); at != ev.Time || !ok || err != nil {
			t.Errorf("%s: the time of the last event is %s, %v, %v, want %s", what, at, ok, err, ev.Time)
		}
	}
	note(map[event.ID]event.Time{0: last})
	check("from a server")
	mustExec(t, db, replaceBound, 0, int64(last))
	check("in the file")
	note(map[event.ID]event.Time{3: ev.Time})
	var kept int
	if err := db.file.Read.QueryRow(`SELECT count(*) FROM bound WHERE at = 0`).Scan(&kept); kept != 0 || err != nil {
		t.Errorf("%d times of the beginning are kept, %v", kept, err)
	}
}
