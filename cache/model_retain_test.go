package cache

import (
	"bytes"
	"context"
	"database/sql"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"sync"
	"testing"
	"time"

	"pgregory.net/rapid"

	"github.com/rstream-dev/rstream/cache/internal/retention"
	"github.com/rstream-dev/rstream/cache/internal/rows"
	"github.com/rstream-dev/rstream/cache/internal/seen"
	"github.com/rstream-dev/rstream/event"
	"github.com/rstream-dev/rstream/internal/longtest"
	"github.com/rstream-dev/rstream/internal/pagetest"
	"github.com/rstream-dev/rstream/window"
)

// A retainModel is a log as a slice of all events that were ever appended, and its expected
// horizon.
type retainModel struct {
	t       *rapid.T
	path    string
	clock   *clock
	kept    event.Time    // the time of the watch that is durable
	passed  time.Duration // by the monotonic clock
	watch   watch
	db      *DB
	r       *retention.Retainer
	log     []event.Event
	horizon event.ID
	done    bool // nothing is left to do for retention
	keys    int
	rules   []TTL
}

// A retainStart is a log of a little over three blocks, with a few hundred events a minute.
type retainStart struct {
	bytes []byte
	evs   []event.Event
	clock time.Time
}

var retainStartFile = sync.OnceValue(func() (s retainStart) {
	clock := newClock()
	s.bytes = fileOf(Config{Role: Server, Now: clock.now}, func(db *DB) error {
		for len(s.evs) < 3*event.BlockSize+100 {
			var ds []event.Draft
			for i := range 500 {
				n := len(s.evs) + i
				d := draft(modelUsers[n*7%len(modelUsers)], modelPaths[n*n*5%len(modelPaths)], fmt.Sprint("start", n))
				if n%20 == 0 {
					d.Path = fmt.Sprint("once/", n%5000)
				}
				if n%9 == 0 {
					d.Type, d.Value = event.Del, nil
				}
				ds = append(ds, d)
			}
			clock.add(time.Minute)
			rs, err := db.Append(context.Background(), ds)
			if err != nil {
				return err
			}
			for i := range rs {
				s.evs = append(s.evs, rs[i].Event)
			}
		}
		return nil
	})
	s.clock = clock.now()
	return s
})

func TestRetainAgainstSlice(t *testing.T) {
	dir := t.TempDir()
	span := seen.HashSpan
	step := retention.StepTime
	t.Cleanup(func() { seen.HashSpan, retention.StepTime = span, step })
	start, draw := retainStartFile(), setState(t)
	n, logs := 0, longtest.Scale(1, 5, 20) // each has three blocks, which are read completely again and again
	rapid.Check(t, func(t *rapid.T) {
		if n++; n > logs {
			return
		}
		draw(t)
		retention.StepTime = rapid.SampledFrom([]time.Duration{step, 20 * step}).Draw(t, "stepTime")
		seen.HashSpan = rapid.SampledFrom([]event.ID{span, event.BlockSize}).Draw(t, "hashSpan")
		m := retainModel{t: t, path: filepath.Join(dir, fmt.Sprint(n)), clock: newClock(), log: slices.Clone(start.evs)}
		m.clock.at = start.clock
		if err := os.WriteFile(m.path, start.bytes, 0o600); err != nil {
			t.Fatalf("%v", err)
		}
		m.open()
		defer func() { m.db.Close(); removeFiles(m.path) }()
		m.retain()
		for range rapid.IntRange(0, longtest.Size(1, 4)).Draw(t, "steps") {
			m.step()
		}
		m.check()
		checkLookUp(t, m.db, m.log)
		integrity(t, m.db)
	})
}

func (m *retainModel) step() {
	switch rapid.IntRange(0, 9).Draw(m.t, "step") {
	case 0:
		m.reopen()
	case 1:
		m.append(event.BlockSize - len(m.log)%event.BlockSize + rapid.IntRange(-1, 1).Draw(m.t, "over"))
	case 2:
		if err := m.db.Snapshots().SealStates(context.Background(), event.All); err != nil {
			m.t.Fatalf("%v", err)
		}
	case 3:
		m.jump()
	case 4, 5, 6:
		m.retain()
	case 7:
		m.check()
	default:
		m.append(rapid.IntRange(1, 600).Draw(m.t, "drafts"))
	}
	d := time.Duration(rapid.IntRange(0, 20).Draw(m.t, "minutes")) * time.Minute
	m.clock.add(d)
	m.passed += d
}

// open opens the log with the model's configuration and clocks.
func (m *retainModel) open() {
	m.db = mustOpen(m.t, m.path, Config{Role: Server, Now: m.clock.now})
	m.db.mono = func() time.Duration { return m.passed }
	m.r = nil
}

func (m *retainModel) reopen() {
	if rapid.Bool().Draw(m.t, "kill") {
		kill(m.db)
	} else if err := m.db.Close(); err != nil {
		m.t.Fatalf("%v", err)
	}
	m.open()
}

// jump sets the wall clock far ahead, back, or to the right time.
func (m *retainModel) jump() {
	right := newClock().at.Add(m.passed)
	m.clock.at = rapid.SampledFrom([]time.Time{
		time.Date(2099, 1, 1, 0, 0, 0, 0, time.UTC), time.Date(1970, 1, 2, 0, 0, 0, 0, time.UTC), right, right.Add(time.Hour),
	}).Draw(m.t, "clock")
}

// append appends n drafts, some of which repeat stored events.
func (m *retainModel) append(n int) {
	var ds []event.Draft
	for range n {
		d := draft(modelUsers[m.keys*m.keys%len(modelUsers)], modelPaths[m.keys/3%len(modelPaths)], fmt.Sprint("key", m.keys))
		m.keys++
		switch {
		case m.keys%7 == 0:
			d = m.log[m.keys*7919%len(m.log)].Draft
		case m.keys%5 == 0:
			d.Type, d.Value = event.Del, nil
		case m.keys%11 == 0:
			d.Path = fmt.Sprint("once/", m.keys)
		}
		ds = append(ds, d)
	}
	for _, r := range mustAppend(m.t, m.db, ds...) {
		if !r.Duplicate {
			m.take(r.Event)
		} else {
			m.checkKnown(&r)
		}
	}
}

// take records a new event.
func (m *retainModel) take(ev event.Event) {
	last := m.log[len(m.log)-1]
	if ev.ID != last.ID+1 || ev.Time < last.Time {
		m.t.Fatalf("event %s of %s follows %s of %s", ev.ID, ev.Time, last.ID, last.Time)
	}
	m.log = append(m.log, ev)
}

// checkKnown checks the receipt of a repeated append: all of the first event, unless that may
// be dropped.
func (m *retainModel) checkKnown(r *event.Receipt) {
	first := m.log[r.ID-1]
	switch {
	case first.Hash != r.Hash || first.Draft.Hash() != r.Draft.Hash():
		m.t.Fatalf("event %s again is %s", first.Line(), r.Line())
	case r.Dropped && r.ID > m.horizon:
		m.t.Fatalf("event %s is gone, the horizon is %s", r.ID, m.horizon)
	case !r.Dropped && string(r.Line()) != string(first.Line()):
		m.t.Fatalf("event %s has come back as %s", first.Line(), r.Line())
	}
}

// retain runs a round of retention, which may be interrupted anywhere.
func (m *retainModel) retain() {
	age := rapid.Custom(func(t *rapid.T) time.Duration {
		return time.Duration(rapid.IntRange(0, 60).Draw(t, "age")) * time.Minute
	})
	cfg := Retention{History: age.Draw(m.t, "history"), TTL: m.ttls(age)}
	m.retainer(cfg)
	cuts := -1
	if rapid.Bool().Draw(m.t, "cut") {
		cuts = rapid.IntRange(0, 12).Draw(m.t, "steps")
	}
	m.r.Throttle = func(context.Context, time.Duration) error {
		if cuts--; cuts == -1 {
			return errInjected
		}
		return nil
	}
	now := m.watch.look(m.clock.now(), m.passed)
	if !cfg.None() {
		m.kept = m.watch.tick
	}
	before, old := m.horizon, event.Time(cfg.History/time.Microsecond)
	if cfg.History > 0 {
		m.raise(now - old)
	}
	err := m.r.Round(context.Background())
	if err != nil && !errors.Is(err, errInjected) {
		m.t.Fatalf("%v", err)
	}
	m.done = err == nil
	if len(cfg.TTL) > 0 {
		m.takeEnds(cfg.TTL, now)
		if at, err := m.db.Horizon(context.Background()); err == nil && at == before && !m.done {
			m.horizon = before // the round had not reached that point
		}
	}
	if !m.done && rapid.Bool().Draw(m.t, "kill") {
		kill(m.db)
		m.open()
	}
	m.check()
}

// retainer creates a retainer if there is none, as Retain does.
func (m *retainModel) retainer(cfg Retention) {
	if m.r == nil {
		var err error
		if m.r, err = m.db.newRetainer(context.Background(), cfg); err != nil {
			m.t.Fatalf("%v", err)
		}
		if m.watch.tick = m.kept; m.kept == 0 { // a log that was not served with a policy yet
			m.watch.tick = m.log[len(m.log)-1].Time
		}
		m.watch.begin(m.clock.now(), m.passed)
	}
	m.r.SetPolicy(cfg.policy())
}

// A watch models retention's clock.
type watch struct {
	tick   event.Time // the wall clock aside
	seen   time.Duration
	even   time.Duration // since when the wall clock was not set
	offset time.Duration // of the wall clock
}

func (w *watch) begin(wall time.Time, passed time.Duration) {
	w.seen, w.even, w.offset = passed, passed, wall.Sub(newClock().at)-passed
}

func (w *watch) look(wall time.Time, passed time.Duration) event.Time {
	w.tick += event.Time((passed - w.seen) / time.Microsecond)
	w.seen = passed
	if offset := wall.Sub(newClock().at) - passed; offset != w.offset {
		w.even, w.offset = passed, offset
	}
	missed := wall.Sub(w.tick.Time())
	if passed-w.even >= time.Hour && 0 < missed && missed <= 30*24*time.Hour {
		w.tick = event.TimeOf(wall)
	}
	return min(w.tick, event.TimeOf(wall))
}

// raise returns the horizon once events older than t are dropped.
func (m *retainModel) raise(t event.Time) {
	var at event.ID
	for i := range m.log {
		if m.log[i].Time <= t {
			at = m.log[i].ID
		}
	}
	m.horizon = max(m.horizon, at/event.BlockSize*event.BlockSize)
}

// check compares the log with the slice.
func (m *retainModel) check() {
	c := retainCheck{m.t, m.db, m.log, m.horizon}
	c.horizonIs()
	c.state(event.All, m.horizon)
	c.state(m.topic(), m.position("at"))
	c.above(m.topic(), window.Span{From: m.position("from"), To: m.position("to")})
	c.below()
	c.time(m.position("time"))
	if longtest.Enabled() {
		checkLookUp(m.t, m.db, m.log)
	}
	if m.done {
		c.left()
	}
}

func (m *retainModel) head() event.ID { return m.log[len(m.log)-1].ID }

func (m *retainModel) position(name string) event.ID {
	at := rapid.SampledFrom([]event.ID{m.horizon, m.horizon + 1, m.horizon + event.BlockSize, m.head() - 1, m.head()}).Draw(m.t, name)
	return max(m.horizon, min(at, m.head()))
}

func (m *retainModel) topic() event.Topic {
	return topics(m.t, rapid.SampledFrom(modelTopics).Draw(m.t, "topic"))[0]
}

// A retainCheck compares a log with all events that were ever appended.
type retainCheck struct {
	t       fataler
	db      *DB
	log     []event.Event
	horizon event.ID
}

func (c *retainCheck) head() event.ID { return c.log[len(c.log)-1].ID }

func (c *retainCheck) horizonIs() {
	if at, err := c.db.Horizon(context.Background()); err != nil || at != c.horizon {
		c.t.Fatalf("the horizon is %s, %v, want %s", at, err, c.horizon)
	}
	if span, err := c.db.logWindow(context.Background()); err != nil || span.From != c.horizon {
		c.t.Fatalf("in the file the horizon is %s, %v, want %s", span.From, err, c.horizon)
	}
}

func (c *retainCheck) state(topic event.Topic, at event.ID) {
	checkState(c.t, c.db, c.log, topic, at)
}

// above compares the events and the digest of a span.
func (c *retainCheck) above(topic event.Topic, span window.Span) {
	want := among(c.log, topic, span)
	got := readAll(c.t, c.db, []event.Topic{topic}, span, 5000)
	checkIDs(c.t, fmt.Sprint(topic, " of ", span), got, ids(want))
	var l window.Leafer
	for i := range want {
		if !bytes.Equal(got[i].Line(), want[i].Line()) {
			c.t.Fatalf("event %s has become %s", want[i].Line(), got[i].Line())
		}
		l.Add(want[i].ID, want[i].Time, want[i].Hash)
	}
	leaves, err := c.db.Leaves(context.Background(), topic, span)
	if err != nil || !slices.Equal(leaves, l.Leaves()) {
		c.t.Fatalf("the leaves of %s in %s are %v, %v, want %v", topic, span, leaves, err, l.Leaves())
	}
}

// below checks that nothing is reported about events that may be dropped.
func (c *retainCheck) below() {
	if c.horizon == event.Beginning {
		return
	}
	at := c.horizon - 1
	want := window.NotHeldError{After: at, Oldest: c.horizon, Some: true}
	_, _, err := c.db.Read(context.Background(), topics(c.t, "*"), at, c.head(), 1)
	wantNotHeld(c.t, err, want)
	wantNotHeld(c.t, c.db.State(context.Background(), event.All, at, noEvent), want)
	_, err = c.db.Leaves(context.Background(), event.All, window.Span{From: at, To: c.head()})
	wantNotHeld(c.t, err, want)
}

// time checks that the time and the mark of a position at or above the horizon have not
// changed.
func (c *retainCheck) time(at event.ID) {
	if at == event.Beginning {
		return
	}
	ev := c.log[at-1]
	want := event.MarkOf(at, ev.Time, ev.Hash)
	if got, mark, ok, err := c.db.LastAt(context.Background(), at); got != ev.Time || mark != want || !ok || err != nil {
		c.t.Fatalf("LastAt(%s) = %s, %s, %v, %v, want %s, %s", at, got, mark, ok, err, ev.Time, want)
	}
	for at < c.head() && c.log[at].Time == ev.Time {
		at++ // the last one of that time
	}
	if got, err := c.db.PositionAt(context.Background(), ev.Time); got != at || err != nil {
		c.t.Fatalf("PositionAt(%s) = %s, %v, want %s", ev.Time, got, err, at)
	}
}

// left checks that the events stored at or below the horizon are the state there, and that
// the postings name exactly those.
func (c *retainCheck) left() {
	var want, got, posted []event.ID
	for _, line := range fold(c.log, event.All, c.horizon) {
		ev, err := event.Stored([]byte(line))
		if err != nil {
			c.t.Fatalf("%v", err)
		}
		want = append(want, ev.ID)
	}
	slices.Sort(want)
	err := c.db.file.View(context.Background(), func(tx *sql.Tx) error {
		err := rows.EachOpenEvent(context.Background(), tx, event.Beginning, false, nil, func(ev rows.OpenEvent) {
			if ev.ID <= c.horizon {
				got = append(got, ev.ID)
			}
		})
		if err != nil {
			return err
		}
		all, err := pagetest.ListPosted(tx)
		for _, p := range all {
			if p.ID <= c.horizon {
				posted = append(posted, p.ID)
			}
		}
		return err
	})
	slices.Sort(posted)
	if err != nil || !slices.Equal(got, want) || !slices.Equal(posted, want) {
		c.t.Fatalf("%v: below the horizon %s are %d events and %d postings, want %d", err, c.horizon, len(got), len(posted), len(want))
	}
}
