package cache

import (
	"context"
	"errors"
	"fmt"
	"path/filepath"
	"slices"
	"testing"

	"github.com/rstream-dev/rstream/cache/internal/rows"
	"github.com/rstream-dev/rstream/event"
	"github.com/rstream-dev/rstream/internal/longtest"
	"github.com/rstream-dev/rstream/window"
)

// newPartMirroring returns a log and its mirror of topics.
func newPartMirroring(t *testing.T, names ...string) *mirroring {
	t.Helper()
	m := newMirroring(t)
	if err := m.mirror.Close(); err != nil {
		t.Fatal(err)
	}
	m.path = filepath.Join(t.TempDir(), "part.db")
	m.openPart(t, names...)
	return m
}

func (m *mirroring) openPart(t *testing.T, names ...string) {
	t.Helper()
	db, err := Open(context.Background(), m.path, Config{Role: Server, Log: m.log.Log(), Mirror: &Mirrored{Topics: topics(t, names...)}})
	if err != nil {
		t.Fatal(err)
	}
	m.mirror = db
}

// followPart receives what the mirror lacks, up to positions anywhere, some of it twice, and
// some positions without their marks.
func (m *mirroring) followPart(t *testing.T) {
	t.Helper()
	for m.mirror.Head() < m.log.Head() {
		from := m.mirror.Head()
		from -= min(from, event.ID(m.rng.IntN(30)))
		horizon, err := m.log.Horizon(t.Context())
		if err != nil {
			t.Fatal(err)
		}
		evs, next, err := m.log.Read(t.Context(), m.mirror.MirroredTopics(), max(from, horizon), event.MaxID, 1+m.rng.IntN(300))
		if err != nil {
			t.Fatal(err)
		}
		_, mark, _, err := m.log.LastAt(t.Context(), next)
		if err != nil {
			t.Fatal(err)
		}
		if m.rng.IntN(3) == 0 && next < m.log.Head() {
			mark = 0
		}
		if err := m.mirror.ReceiveUpTo(t.Context(), evs, event.Point{ID: next, Mark: mark}); err != nil {
			t.Fatal(err)
		}
	}
}

// checkPart checks that a mirror of some topics says the same of them as the log, and nothing
// that may be wrong of others.
func (m *mirroring) checkPart(t *testing.T, what string, asked ...string) {
	t.Helper()
	ctx := t.Context()
	head := m.log.HeadPoint()
	same(t, what+": head", head, m.mirror.HeadPoint)
	horizon, err := m.log.Horizon(ctx)
	if err != nil {
		t.Fatal(err)
	}
	span := window.Span{From: horizon, To: head.ID}
	has := map[event.ID]bool{}
	for _, ev := range readAll(t, m.log, m.mirror.MirroredTopics(), span, 3000) {
		has[ev.ID] = true
	}
	for _, topic := range topics(t, asked...) {
		asks := func(question string, ask func(db *DB) any) {
			t.Helper()
			m.sameAnswer(t, span, what, question+" of "+topic.String(), ask)
		}
		asks("lines", func(db *DB) any { return linesOf(readAll(t, db, []event.Topic{topic}, span, 3000)) })
		asks("leaves", func(db *DB) any { leaves, err := db.Leaves(ctx, topic, span); return fmt.Sprint(leaves, err) })
		asks("checked leaves", func(db *DB) any {
			leaves, err := db.CheckedLeaves(ctx, topic, span)
			return fmt.Sprint(leaves, err)
		})
		asks("usage", func(db *DB) any { return fmt.Sprint(usagesOf(t, db, topic, head.ID)) })
		asks("last events", func(db *DB) any {
			at, err := db.BeforeLast(ctx, []event.Topic{topic}, 3, horizon, head.ID)
			return fmt.Sprint(linesOf(readAll(t, db, []event.Topic{topic}, window.Span{From: at, To: head.ID}, 100)), err)
		})
		for _, at := range []event.ID{horizon, horizon + (head.ID-horizon)/2, head.ID} {
			asks("state at "+at.String(), func(db *DB) any {
				var lines []string
				err := db.State(ctx, topic, at, func(ev *event.Event) error { lines = append(lines, string(ev.Line())); return nil })
				return fmt.Sprint(lines, err)
			})
		}
	}
	for range longtest.Size(50, 200) {
		at := horizon + event.ID(m.rng.Uint64N(uint64(head.ID-horizon)+1))
		last, mark, _, err := m.log.LastAt(ctx, at)
		last2, mark2, ok, err2 := m.mirror.LastAt(ctx, at)
		if err := errors.Join(err, err2); err != nil {
			t.Fatal(err)
		}
		if !mark.Agrees(mark2) || has[at] && mark2 == 0 || ok && last2 != last || last2 > last {
			t.Errorf("%s: at %s, here %v: mark %s and time %s (%v), want %s and %s", what, at, has[at], mark2, last2, ok, mark, last)
		}
	}
	other := topics(t, "*")
	var hole *window.NotHeldError
	if _, _, err := m.mirror.Read(ctx, other, horizon, head.ID, 10); !errors.As(err, &hole) {
		t.Errorf("%s: reading %s: %v", what, other, err)
	}
	if err := m.mirror.State(ctx, event.All, head.ID, func(*event.Event) error { return nil }); !errors.As(err, &hole) {
		t.Errorf("%s: the state of %s: %v", what, event.All, err)
	}
	if _, err := m.mirror.CheckContents(ctx, func(f Fault) error { return fmt.Errorf("fault %+v", f) }); err != nil {
		t.Fatalf("%s: %v", what, err)
	}
}

// A mirror of some topics answers what its log answers of them and of narrower ones, and knows
// which positions it has no mark of.
func TestPartMirror(t *testing.T) {
	mirrored := []string{"user1", "*/p/7"}
	narrower := []string{"user1/p/3", "user2/p/7", "user1/once/"}
	asked := slices.Concat(mirrored, narrower)
	m := newPartMirroring(t, mirrored...)
	m.checkPart(t, "empty", asked...)
	turn := func(i int) []string { // by default, the narrower topics take turns
		if longtest.Enabled() {
			return asked
		}
		return append(slices.Clone(mirrored), narrower[i%len(narrower)])
	}
	m.grow(t, event.BlockSize+700)
	m.followPart(t)
	m.checkPart(t, "received", turn(0)...)
	if err := m.mirror.Close(); err != nil {
		t.Fatal(err)
	}
	m.openPart(t, mirrored...)
	m.checkPart(t, "opened", turn(0)...)
	m.grow(t, event.BlockSize/2)
	m.followPart(t)
	m.dropBelow(t, event.BlockSize+5)
	m.checkPart(t, "dropped", turn(1)...)

	m.grow(t, event.BlockSize+600)
	if err := m.log.RetainOnce(t.Context(), Retention{MaxBytes: 1}); err != nil {
		t.Fatal(err)
	}
	m.beginPart(t)
	m.followPart(t)
	m.checkPart(t, "begun again", turn(2)...)
	m.grow(t, event.BlockSize)
	m.followPart(t)
	m.dropBelow(t, 3*event.BlockSize)
	if err := m.mirror.Close(); err != nil {
		t.Fatal(err)
	}
	m.openPart(t, mirrored...)
	m.checkPart(t, "opened at last", turn(0)...)
	if err := m.mirror.RetainOnce(t.Context(), Retention{MaxBytes: 1}); err != nil {
		t.Fatal(err)
	}
	if at, err := m.mirror.Horizon(t.Context()); err != nil || at != m.log.Head()/event.BlockSize*event.BlockSize {
		t.Errorf("the horizon of a mirror that may have no bytes is %s, %v", at, err)
	}
}

// What a mirror of some topics receives after a state is not put into a page of the state.
func TestPartMirrorAfterState(t *testing.T) {
	setStateChunk(t, 2)
	for _, reopen := range []bool{false, true} {
		t.Run(fmt.Sprint("opened again ", reopen), func(t *testing.T) {
			mirrored := []string{"zed", "zoe", "alice", "bob"}
			m := newPartMirroring(t, mirrored...)
			m.growApart(t)
			mustAppend(t, m.log, drafts("alice", "x", "more", 10)...)
			if err := m.log.RetainOnce(t.Context(), Retention{Horizon: func() event.ID { return event.BlockSize }}); err != nil {
				t.Fatal(err)
			}
			m.beginPart(t)
			if reopen {
				if err := m.mirror.Close(); err != nil {
					t.Fatal(err)
				}
				m.openPart(t, mirrored...)
			}
			m.followPart(t)
			m.checkPart(t, "received", mirrored...)
		})
	}
}

// beginPart makes the mirror begin at the horizon of the log, with the state of its topics.
func (m *mirroring) beginPart(t *testing.T) {
	t.Helper()
	at, err := m.log.Horizon(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	last, mark, _, err := m.log.LastAt(t.Context(), at)
	if err != nil {
		t.Fatal(err)
	}
	state := func(yield func(event.Event, error) bool) {
		for ev, err := range stateOf(t.Context(), m.log, at) {
			wanted := false
			for _, topic := range m.mirror.MirroredTopics() {
				wanted = wanted || topic.Matches(ev.User, ev.Path)
			}
			if (wanted || err != nil) && !yield(ev, err) {
				return
			}
		}
	}
	if err := m.mirror.BeginAt(t.Context(), event.Point{ID: at, Mark: mark}, last, state); err != nil {
		t.Fatal(err)
	}
}

// A mirror of some topics takes a whole page of events at once, of several blocks, while it
// catches up.
func TestPartMirrorTakesManyEvents(t *testing.T) {
	for name, others := range map[string]int{"every other event": 2, "nearly all events": 100} {
		t.Run(name, func(t *testing.T) {
			m := newPartMirroring(t, "alice")
			for m.n < 2*event.BlockSize+500 {
				var ds []event.Draft
				for range 1000 {
					m.n++
					user := "alice"
					if m.n%others == 0 {
						user = "bob"
					}
					ds = append(ds, draft(user, fmt.Sprint("p/", m.n%30), fmt.Sprint(m.n)))
				}
				mustAppend(t, m.log, ds...)
			}
			evs := readAll(t, m.log, m.mirror.MirroredTopics(), window.Span{To: m.log.Head()}, 5000)
			if err := m.mirror.ReceiveUpTo(t.Context(), evs, m.log.HeadPoint()); err != nil {
				t.Fatal(err)
			}
			m.checkPart(t, "received", "alice/p/7")
		})
	}
}

// The file of a mirror keeps its topics, cannot become a log of its own, and no other can become
// one of some topics.
func TestPartMirrorFile(t *testing.T) {
	m := newPartMirroring(t, "user1", "user2")
	m.grow(t, 100)
	m.followPart(t)
	if err := m.mirror.BackupTo(t.Context(), filepath.Join(t.TempDir(), "backup.db")); !errors.Is(err, ErrPartMirror) {
		t.Errorf("backup: %v", err)
	}
	if err := m.mirror.Receive(t.Context(), nil); !errors.Is(err, ErrPartMirror) {
		t.Errorf("receive without a position: %v", err)
	}
	var order *OrderError
	evs := readAll(t, m.log, topics(t, "user1"), window.Span{To: m.log.Head()}, 100)
	m.grow(t, 1)
	late := event.New(m.log.Head(), 1, evs[0].Draft, evs[0].Hash)
	if err := m.mirror.ReceiveUpTo(t.Context(), []event.Event{late}, event.Point{ID: late.ID}); !errors.As(err, &order) {
		t.Errorf("an event whose time goes back: %v", err)
	}
	if err := m.mirror.Close(); err != nil {
		t.Fatal(err)
	}
	open := func(cfg Config) error {
		db, err := Open(t.Context(), m.path, cfg)
		if err == nil {
			db.Close()
		}
		return err
	}
	for want, cfg := range map[error]Config{
		ErrOtherTopics: {Role: Server, Mirror: &Mirrored{Topics: topics(t, "user1")}},
		ErrMirror:      {Role: Server},
		ErrPartMirror:  {Role: Server, AsNewLog: true},
	} {
		if err := open(cfg); !errors.Is(err, want) {
			t.Errorf("opened with %+v: %v, want %v", cfg, err, want)
		}
	}
	if err := open(Config{Role: Server, Mirror: &Mirrored{}}); !errors.Is(err, ErrOtherTopics) {
		t.Errorf("opened as a mirror of all topics: %v", err)
	}
	if err := open(Config{Role: Server, Mirror: &Mirrored{Topics: topics(t, "user2", "user1")}}); err != nil {
		t.Errorf("opened with the same topics: %v", err)
	}
	if _, err := Compact(t.Context(), m.path, Config{}, Retention{}); err != nil {
		t.Errorf("compact: %v", err)
	}
	s, err := OpenSalvage(t.Context(), m.path, nil)
	if err != nil {
		t.Fatal(err)
	}
	defer s.Close()
	if len(s.Missing) > 0 {
		t.Errorf("salvage says that %v are missing", s.Missing)
	}
}

// Marks of positions whose events are not here are kept, and bounded.
func TestPartMirrorMarks(t *testing.T) {
	defer func(n int) { rows.KeptMarks = n }(rows.KeptMarks)
	rows.KeptMarks = 10
	m := newPartMirroring(t, "nobody")
	var points []event.Point
	for range 25 {
		m.grow(t, 1)
		p := m.log.HeadPoint()
		points = append(points, p)
		if err := m.mirror.ReceiveUpTo(t.Context(), nil, p); err != nil {
			t.Fatal(err)
		}
	}
	for i, p := range points {
		_, mark, ok, err := m.mirror.LastAt(t.Context(), p.ID)
		if want := i >= len(points)-10; err != nil || ok || (mark == p.Mark) != want || !want && mark != 0 {
			t.Errorf("mark of %s, %d of %d: %s, %v, want %s", p.ID, i, len(points), mark, err, p.Mark)
		}
	}
	if n := m.mirror.HeadPoint(); n != points[len(points)-1] {
		t.Errorf("the head is %v", n)
	}
}
