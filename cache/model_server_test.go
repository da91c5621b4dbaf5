package cache

import (
	"context"
	"database/sql"
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

var errInjected = errors.New("injected")

// failCommit makes the next COMMIT fail, either before or after its work.
func failCommit(db *DB, afterwards bool) {
	db.commitTx = func(tx *sql.Tx) error {
		db.commitTx = nil
		if afterwards {
			return errors.Join(errInjected, tx.Commit())
		}
		return errors.Join(errInjected, tx.Rollback())
	}
}

var (
	modelUsers  = []string{"alice", "alice2", "bob", "é"}
	modelPaths  = []string{"posts", "posts/1", "posts/2", "posts/1/x", "posts-old", "p", "it's 100%_done", "z\U0001F642"}
	modelTopics = []string{"*", "alice", "alice/posts", "alice/posts/", "alice/po*", "alice/posts/1$", "*/posts",
		"*/posts/1$", "bob/posts", "é", "*/z\U0001F642", "nobody", "alice/nothing", "alice/posts/1/x$", "*/it's 100%_done"}
)

// A serverModel is a log as a slice.
type serverModel struct {
	t     *rapid.T
	path  string
	clock *clock
	db    *DB
	log   []event.Event
	taken map[event.Hash]event.ID
	keys  int
}

func TestServerAgainstSlice(t *testing.T) {
	dir := t.TempDir()
	n := 0
	rapid.Check(t, func(t *rapid.T) {
		n++
		m := serverModel{t: t, path: filepath.Join(dir, fmt.Sprint(n)), clock: newClock(), taken: map[event.Hash]event.ID{}}
		m.open()
		defer func() { m.db.Close() }()
		for range rapid.IntRange(1, 8).Draw(t, "steps") {
			switch rapid.IntRange(0, 9).Draw(t, "step") {
			case 0:
				m.reopen()
			case 1:
				failCommit(m.db, rapid.Bool().Draw(t, "afterwards"))
				m.append()
			case 2:
				m.fill() // to the edge of a block or over it
			default:
				m.append()
			}
			m.clock.add(time.Duration(rapid.Int64Range(-1e12, 1e12).Draw(t, "clock")))
		}
		m.check()
	})
}

func (m *serverModel) open() {
	m.db = mustOpen(m.t, m.path, Config{Role: Server, Now: m.clock.now})
}

func (m *serverModel) reopen() {
	if rapid.Bool().Draw(m.t, "kill") {
		kill(m.db)
	} else if err := m.db.Close(); err != nil {
		m.t.Fatalf("%v", err)
	}
	m.open()
}

func (m *serverModel) append() {
	var ds []event.Draft
	for range rapid.IntRange(1, 12).Draw(m.t, "drafts") {
		if m.keys++; m.keys > 1 && rapid.IntRange(0, 3).Draw(m.t, "again") == 0 {
			m.keys--
		}
		ds = append(ds, draft(rapid.SampledFrom(modelUsers).Draw(m.t, "user"), rapid.SampledFrom(modelPaths).Draw(m.t, "path"), fmt.Sprint(m.keys)))
	}
	m.send(ds)
}

func (m *serverModel) fill() {
	toEdge := event.BlockSize - len(m.log)%event.BlockSize
	m.keys++
	m.send(drafts("alice", "posts/1", fmt.Sprint("fill", m.keys), toEdge+rapid.IntRange(-1, 1).Draw(m.t, "over")))
}

// send appends ds, retrying while the outcome is unknown, and checks the receipts.
func (m *serverModel) send(ds []event.Draft) {
	if len(ds) == 0 {
		return
	}
	rs, err := m.db.Append(context.Background(), ds)
	retried := errors.Is(err, ErrUnknown)
	for errors.Is(err, ErrUnknown) {
		rs, err = m.db.Append(context.Background(), ds)
	}
	if err != nil {
		m.t.Fatalf("%v", err)
	}
	for i := range ds {
		h := ds[i].Hash()
		want, known := m.taken[h]
		if !known {
			want = event.ID(len(m.log) + 1)
			m.taken[h] = want
			m.log = append(m.log, rs[i].Event)
		}
		if rs[i].ID != want || rs[i].Hash != h || rs[i].Duplicate != known && !retried {
			m.t.Fatalf("draft %d is event %s, known %v, want %s, %v", i, rs[i].ID, rs[i].Duplicate, want, known)
		}
	}
	if m.db.Head() != event.ID(len(m.log)) {
		m.t.Fatalf("Head() = %s, want %d", m.db.Head(), len(m.log))
	}
}

func (m *serverModel) check() {
	for i := range m.log {
		if i > 0 && m.log[i].Time < m.log[i-1].Time {
			m.t.Fatalf("event %s is of %s, the one before it of %s", m.log[i].ID, m.log[i].Time, m.log[i-1].Time)
		}
	}
	head := event.ID(len(m.log))
	for range 6 {
		m.checkRead(head)
	}
	m.checkPositionAt()
	integrity(m.t, m.db)
}

func (m *serverModel) checkRead(head event.ID) {
	ts := topics(m.t, rapid.SliceOfNDistinct(rapid.SampledFrom(modelTopics), 1, 3, rapid.ID).Draw(m.t, "topics")...)
	position := rapid.Custom(func(t *rapid.T) event.ID {
		near := rapid.SampledFrom([]event.ID{0, event.BlockSize, 2 * event.BlockSize, head}).Draw(t, "near")
		at := int64(near) + rapid.Int64Range(-3, 3).Draw(t, "off")
		return event.ID(min(max(at, 0), int64(head)))
	})
	span := window.Span{From: position.Draw(m.t, "after"), To: position.Draw(m.t, "until")}
	var want []event.Event
	for i := range m.log {
		ev := &m.log[i]
		in := span.From < ev.ID && ev.ID <= span.To
		if in && slices.ContainsFunc(ts, func(t event.Topic) bool { return t.Matches(ev.User, ev.Path) }) {
			want = append(want, *ev)
		}
	}
	got := readAll(m.t, m.db, ts, span, rapid.SampledFrom([]int{1, 7, 5000}).Draw(m.t, "limit")*max(1, len(want)/50))
	checkIDs(m.t, fmt.Sprintf("%v of %s", ts, span), got, ids(want))
	for i := range got {
		if string(got[i].Line()) != string(want[i].Line()) {
			m.t.Fatalf("event %s has come back as %s", want[i].Line(), got[i].Line())
		}
	}
	n := rapid.IntRange(0, 5).Draw(m.t, "last")
	before := max(span.From, span.To)
	if n > 0 && !span.Empty() {
		if before = span.From; len(want) > n {
			before = want[len(want)-n-1].ID
		}
	}
	if at, err := m.db.BeforeLast(context.Background(), ts, n, span.From, span.To); err != nil || at != before {
		m.t.Fatalf("BeforeLast(%v, %d, %s) = %s, %v, want %s", ts, n, span, at, err, before)
	}
}

func (m *serverModel) checkPositionAt() {
	for range 3 {
		var at event.Time
		if len(m.log) > 0 {
			at = rapid.SampledFrom(m.log).Draw(m.t, "event").Time + event.Time(rapid.IntRange(-1, 1).Draw(m.t, "off"))
		}
		var want event.ID
		for i := range m.log {
			if m.log[i].Time <= at {
				want = m.log[i].ID
			}
		}
		if got, err := m.db.PositionAt(context.Background(), at); err != nil || got != want {
			m.t.Fatalf("PositionAt(%s) = %s, %v, want %s", at, got, err, want)
		}
	}
}
