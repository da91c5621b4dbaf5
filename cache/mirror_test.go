package cache

import (
	"context"
	"database/sql"
	"errors"
	"fmt"
	"io/fs"
	"iter"
	"math/rand/v2"
	"path/filepath"
	"reflect"
	"testing"
	"testing/synctest"
	"time"

	"github.com/rstream-dev/rstream/event"
	"github.com/rstream-dev/rstream/window"
)

// A mirroring is a log and its mirror.
type mirroring struct {
	log, mirror *DB
	path        string // of the mirror
	rng         *rand.Rand
	n           int // appends so far

	answers    map[string]any // of the log, since it has changed
	answeredAt window.Span    // its window then
}

func newMirroring(t *testing.T) *mirroring {
	t.Helper()
	seed := rand.Uint64()
	t.Logf("seed %d", seed)
	m := &mirroring{log: openServer(t), path: filepath.Join(t.TempDir(), "mirror.db"), rng: rand.New(rand.NewPCG(seed, 0))}
	m.open(t)
	t.Cleanup(func() { m.mirror.Close() })
	return m
}

func (m *mirroring) open(t *testing.T) {
	t.Helper()
	db, err := Open(context.Background(), m.path, Config{Role: Server, Log: m.log.Log(), Mirror: &Mirrored{}})
	if err != nil {
		t.Fatal(err)
	}
	m.mirror = db
}

// grow appends n events to the log: of few storages many, of many storages one, and DELs.
func (m *mirroring) grow(t *testing.T, n int) {
	t.Helper()
	for n > 0 {
		var ds []event.Draft
		for range min(n, 1+m.rng.IntN(700)) {
			m.n++
			d := draft(fmt.Sprintf("user%d", m.rng.IntN(5)), fmt.Sprintf("p/%d", m.rng.IntN(40)), fmt.Sprint(m.n))
			switch m.rng.IntN(40) {
			case 0:
				d.Path = fmt.Sprintf("once/%d", m.n)
			case 1, 2, 3, 4:
				d.Type, d.Value = event.Del, nil
			}
			ds = append(ds, d)
		}
		mustAppend(t, m.log, ds...)
		n -= len(ds)
	}
}

// follow receives what the mirror lacks, in transactions of any size.
func (m *mirroring) follow(t *testing.T) {
	t.Helper()
	for m.mirror.Head() < m.log.Head() {
		evs, _, err := m.log.Read(t.Context(), []event.Topic{event.All}, m.mirror.Head(), event.MaxID, 1+m.rng.IntN(900))
		if err != nil {
			t.Fatal(err)
		}
		if err := m.mirror.Receive(t.Context(), evs); err != nil {
			t.Fatal(err)
		}
	}
}

// begin makes the mirror begin at the horizon of the log.
func (m *mirroring) begin(t *testing.T) error {
	t.Helper()
	at, err := m.log.Horizon(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	last, mark, _, err := m.log.LastAt(t.Context(), at)
	if err != nil {
		t.Fatal(err)
	}
	return m.mirror.BeginAt(t.Context(), event.Point{ID: at, Mark: mark}, last, stateOf(t.Context(), m.log, at))
}

// stateOf yields the state of a log.
func stateOf(ctx context.Context, db *DB, at event.ID) iter.Seq2[event.Event, error] {
	return func(yield func(event.Event, error) bool) {
		errDone := errors.New("done")
		err := db.State(ctx, event.All, at, func(ev *event.Event) error {
			if !yield(*ev, nil) {
				return errDone
			}
			return nil
		})
		if err != nil && err != errDone {
			yield(event.Event{}, err)
		}
	}
}

// dropBelow drops the history of both below a position.
func (m *mirroring) dropBelow(t *testing.T, at event.ID) {
	t.Helper()
	for _, db := range []*DB{m.log, m.mirror} {
		if err := db.RetainOnce(t.Context(), Retention{Horizon: func() event.ID { return at }}); err != nil {
			t.Fatal(err)
		}
	}
}

// sameAnswer checks that the mirror answers what the log answers. The log is asked a question
// once, unless its window has changed in the meantime.
func (m *mirroring) sameAnswer(t *testing.T, of window.Span, what, question string, ask func(db *DB) any) {
	t.Helper()
	if m.answers == nil || m.answeredAt != of {
		m.answers, m.answeredAt = map[string]any{}, of
	}
	want, ok := m.answers[question]
	if !ok {
		want = ask(m.log)
		m.answers[question] = want
	}
	same(t, what+": "+question, want, func() any { return ask(m.mirror) })
}

// check checks that the mirror says the same as the log, whatever it is asked.
func (m *mirroring) check(t *testing.T, what string) {
	t.Helper()
	ctx := t.Context()
	horizon, err := m.log.Horizon(ctx)
	same(t, what+": horizon", fmt.Sprint(horizon, err), func() string { return fmt.Sprint(m.mirror.Horizon(ctx)) })
	head := m.log.HeadPoint()
	same(t, what+": head", head, m.mirror.HeadPoint)
	span := window.Span{From: horizon, To: head.ID}
	var hashes []event.Hash // of events in the mirror
	for _, topic := range topics(t, "*", "*/p/7") {
		asks := func(question string, ask func(db *DB) any) {
			t.Helper()
			m.sameAnswer(t, span, what, question+" of "+topic.String(), ask)
		}
		asks("lines", func(db *DB) any {
			evs := readAll(t, db, []event.Topic{topic}, span, 3000)
			for i := 0; i < len(evs) && db == m.mirror; i += 9 {
				hashes = append(hashes, evs[i].Hash)
			}
			return linesOf(evs)
		})
		asks("leaves", func(db *DB) any { leaves, err := db.Leaves(ctx, topic, span); return fmt.Sprint(leaves, err) })
		asks("checked leaves", func(db *DB) any {
			leaves, err := db.CheckedLeaves(ctx, topic, span)
			return fmt.Sprint(leaves, err)
		})
		asks("usage", func(db *DB) any {
			return fmt.Sprint(usagesOf(t, db, topic, head.ID))
		})
		for _, at := range []event.ID{horizon, horizon + (head.ID-horizon)/2, head.ID} {
			asks("state at "+at.String(), func(db *DB) any {
				var lines []string
				err := db.State(ctx, topic, at, func(ev *event.Event) error {
					lines = append(lines, string(ev.Line()))
					if at == horizon && db == m.mirror {
						hashes = append(hashes, ev.Hash)
					}
					return nil
				})
				return fmt.Sprint(lines, err)
			})
		}
	}
	for range 20 {
		at := horizon + event.ID(m.rng.Uint64N(uint64(head.ID-horizon)+1))
		ask := func(db *DB) any {
			last, mark, ok, err := db.LastAt(ctx, at)
			position, err2 := db.PositionAt(ctx, last)
			return fmt.Sprint(last, mark, ok, position, err, err2)
		}
		same(t, what+": position "+at.String(), ask(m.log), func() any { return ask(m.mirror) })
	}
	ask := func(db *DB) any {
		var lines []string
		err := db.ByHash(ctx, hashes, func(ev *event.Event) error {
			lines = append(lines, string(ev.Line()))
			return nil
		})
		return fmt.Sprint(len(lines), lines, err)
	}
	same(t, what+": by hash", ask(m.log), func() any { return ask(m.mirror) })
	if _, err := m.mirror.CheckContents(ctx, func(f Fault) error { return fmt.Errorf("fault %+v", f) }); err != nil {
		t.Fatalf("%s: %v", what, err)
	}
}

// usagesOf returns all usages of a topic: a list may end early on a busy machine.
func usagesOf(t *testing.T, db *DB, topic event.Topic, until event.ID) (all []event.Usage) {
	t.Helper()
	for after := (event.Storage{}); ; {
		list, err := db.Usage(t.Context(), topic, after, until, 10_000)
		if err != nil {
			t.Fatal(err)
		}
		all = append(all, list.Usages...)
		if list.Next == (event.Storage{}) {
			return all
		}
		after = list.Next
	}
}

func linesOf(evs []event.Event) (lines []string) {
	for i := range evs {
		lines = append(lines, string(evs[i].Line()))
	}
	return lines
}

func same[T any](t *testing.T, what string, want T, get func() T) {
	t.Helper()
	if got := get(); !reflect.DeepEqual(got, want) {
		t.Fatalf("%s: the mirror says\n%.2000v\nwant\n%.2000v", what, got, want)
	}
}

// A mirror answers what its log answers: after any batches, when it is opened again, when
// both drop history, and when it was away for so long that it has to begin again.
func TestMirror(t *testing.T) {
	m := newMirroring(t)
	m.check(t, "empty")
	m.grow(t, event.BlockSize+700)
	m.follow(t)
	m.check(t, "received")
	if err := m.mirror.Close(); err != nil {
		t.Fatal(err)
	}
	m.open(t)
	m.grow(t, event.BlockSize/2)
	m.follow(t)
	m.dropBelow(t, event.BlockSize+5)

	m.grow(t, event.BlockSize+600)
	behind := m.mirror.Head()
	if err := m.log.RetainOnce(t.Context(), Retention{MaxBytes: 1}); err != nil {
		t.Fatal(err)
	}
	if err := m.begin(t); err != nil {
		t.Fatal(err)
	}
	var hole *window.NotHeldError
	if _, _, err := m.mirror.Read(t.Context(), []event.Topic{event.All}, behind, event.MaxID, 1); !errors.As(err, &hole) {
		t.Errorf("after it has begun again, %s can be read: %v", behind, err)
	}
	m.follow(t)
	m.grow(t, event.BlockSize)
	m.follow(t)
	m.dropBelow(t, 3*event.BlockSize)
	if err := m.mirror.Close(); err != nil {
		t.Fatal(err)
	}
	m.open(t)
	m.check(t, "opened at last")
}

// growApart appends a block whose state, in chunks of two events, fills pages that overlap. The last
// page begins before another one and ends with the last event of the block.
func (m *mirroring) growApart(t *testing.T) {
	t.Helper()
	put := func(user string, n int) {
		t.Helper()
		m.n++
		mustAppend(t, m.log, drafts(user, "x", fmt.Sprint(m.n), n)...)
	}
	put("zed", 1)
	put("alice", 1)
	put("bob", event.BlockSize-3)
	put("zoe", 1)
}

// setStateChunk sets how many events of a state are stored at a time, until the test ends.
func setStateChunk(t *testing.T, n int) {
	t.Helper()
	before := stateChunk
	stateChunk = n
	t.Cleanup(func() { stateChunk = before })
}

// What a mirror receives after a state is not put into a page of the state, since another one may
// begin within it: neither by the process that has stored the state, nor by the next.
func TestMirrorAfterState(t *testing.T) {
	setStateChunk(t, 2)
	for _, reopen := range []bool{false, true} {
		t.Run(fmt.Sprint("opened again ", reopen), func(t *testing.T) {
			m := newMirroring(t)
			m.growApart(t)
			m.grow(t, 10)
			if err := m.log.RetainOnce(t.Context(), Retention{Horizon: func() event.ID { return event.BlockSize }}); err != nil {
				t.Fatal(err)
			}
			if err := m.begin(t); err != nil {
				t.Fatal(err)
			}
			if reopen {
				if err := m.mirror.Close(); err != nil {
					t.Fatal(err)
				}
				m.open(t)
			}
			m.follow(t)
			m.check(t, "received")
		})
	}
}

// An earlier version has put what a mirror received after a state into the last page of the state,
// within which another one begins. It is found there.
func TestMirrorStateContinued(t *testing.T) {
	m := newMirroring(t)
	m.growApart(t)
	m.grow(t, 10)
	if err := m.log.RetainOnce(t.Context(), Retention{Horizon: func() event.ID { return event.BlockSize }}); err != nil {
		t.Fatal(err)
	}
	if err := m.begin(t); err != nil {
		t.Fatal(err)
	}
	var parts [2][]event.Event // each is stored in a page
	for ev, err := range stateOf(t.Context(), m.log, event.BlockSize) {
		if err != nil {
			t.Fatal(err)
		}
		i := 0
		if ev.ID == 1 || ev.ID == event.BlockSize {
			i = 1
		}
		parts[i] = append(parts[i], ev)
	}
	span := window.Span{From: event.BlockSize, To: m.log.Head()}
	parts[1] = append(parts[1], readAll(t, m.log, []event.Topic{event.All}, span, 100)...)
	err := m.mirror.file.Update(t.Context(), func(tx *sql.Tx) error {
		if _, err := tx.Exec(`DELETE FROM page; DELETE FROM page_posting`); err != nil {
			return err
		}
		m.mirror.tables.ForgetWritten()
		for _, evs := range parts {
			storages, err := m.mirror.tables.StorageIDs(tx, evs)
			if err != nil {
				return err
			}
			if _, _, err := m.mirror.tables.Pages.Store(tx, evs, storages); err != nil {
				return err
			}
		}
		return nil
	})
	last := parts[1][len(parts[1])-1]
	if err := errors.Join(err, changeLog(m.mirror, "next = ?, time = ?", int64(last.ID)+1, int64(last.Time)), m.mirror.Close()); err != nil {
		t.Fatal(err)
	}
	m.open(t)
	m.check(t, "opened")
	m.grow(t, 10)
	m.follow(t)
	m.check(t, "received")
}

// A seed of a log, of its mirror or of a backup is the file of a mirror, which receives only what
// it lacks.
func TestMirrorSeed(t *testing.T) {
	ctx := t.Context()
	m := newMirroring(t)
	m.grow(t, event.BlockSize+100)
	if _, err := m.log.AppendFrom(ctx, sourceMove("", "a"), drafts("alice", "x", "k", 1)); err != nil {
		t.Fatal(err)
	}
	head := m.log.Head()
	backup := filepath.Join(t.TempDir(), "backup.db")
	m.follow(t)
	if err := m.log.BackupTo(ctx, backup); err != nil {
		t.Fatal(err)
	}
	backedUp := mustOpen(t, backup, Config{})
	defer backedUp.Close()
	var seeds []string
	for name, db := range map[string]*DB{"log": m.log, "mirror": m.mirror, "backup": backedUp} {
		seed := filepath.Join(t.TempDir(), name)
		if err := db.SeedTo(ctx, seed); err != nil {
			t.Fatal(err)
		}
		seeds = append(seeds, seed)
	}
	wantError(t, "onto a file", m.log.SeedTo(ctx, backup), fs.ErrExist)
	wantError(t, "of a copy", openClient(t).SeedTo(ctx, filepath.Join(t.TempDir(), "copy.db")), ErrRole)
	m.grow(t, event.BlockSize)
	for _, seed := range seeds {
		wantError(t, "Open as a log of its own", openError(seed, Config{Role: Server}), ErrMirror)
		wantError(t, "Open of another log", openError(seed, Config{Role: Server, Log: openServer(t).Log(), Mirror: &Mirrored{}}), ErrOtherLog)
		m.mirror.Close()
		m.path = seed
		m.open(t)
		if at := m.mirror.Head(); at != head {
			t.Fatalf("%s begins at %s, not %s", seed, at, head)
		}
		if state, err := m.mirror.SourceState(ctx, "wiki"); state != nil || err != nil {
			t.Errorf("%s knows of a source: %q, %v", seed, state, err)
		}
		m.follow(t)
		m.check(t, seed)
	}
}

// What does not follow the head is refused, and nothing of it is stored.
func TestMirrorOrder(t *testing.T) {
	m := newMirroring(t)
	m.grow(t, 10)
	evs := readAll(t, m.log, []event.Topic{event.All}, window.Span{To: m.log.Head()}, 100)
	late := event.New(4, evs[2].Time-1, evs[3].Draft, evs[3].Hash)
	for name, some := range map[string][]event.Event{
		"gap": evs[1:3], "hole": {evs[0], evs[2]}, "twice": {evs[0], evs[0]}, "back": {evs[0], evs[1], evs[2], late},
	} {
		var order *OrderError
		if err := m.mirror.Receive(t.Context(), some); !errors.As(err, &order) || m.mirror.Head() != event.Beginning {
			t.Errorf("%s: %v, at %s", name, err, m.mirror.Head())
		}
	}
	if err := m.mirror.Receive(t.Context(), evs[:3]); err != nil {
		t.Fatal(err)
	}
	var order *OrderError
	if err := m.mirror.Receive(t.Context(), evs[:4]); !errors.As(err, &order) || order.Last != 3 || order.Next != 1 {
		t.Errorf("received again: %v", err)
	}
	m.follow(t)
	m.check(t, "at last")
}

// Retention that would move the horizon of a mirror's old history, and waits while the state is
// stored from which its new one begins, changes nothing of the new one.
func TestMirrorBeginRetains(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		ctx := context.Background()
		const at = 2 * event.BlockSize
		m := newMirroring(t)
		m.grow(t, event.BlockSize+50)
		m.follow(t)
		m.grow(t, event.BlockSize)
		if err := m.log.RetainOnce(ctx, Retention{Horizon: func() event.ID { return at }}); err != nil {
			t.Fatal(err)
		}
		last, mark, _, err := m.log.LastAt(ctx, at)
		if err != nil {
			t.Fatal(err)
		}
		moved := make(chan error, 1)
		err = m.mirror.BeginAt(ctx, event.Point{ID: at, Mark: mark}, last, func(yield func(event.Event, error) bool) {
			go func() { moved <- m.mirror.history.MoveHorizon(ctx, event.BlockSize) }()
			synctest.Wait() // it waits for the file
			stateOf(ctx, m.log, at)(yield)
		})
		if err := errors.Join(err, <-moved); err != nil {
			t.Fatal(err)
		}
		ask := func(db *DB) any {
			var horizon, dropped event.ID
			var mark string
			err := db.file.ViewLog(ctx, `horizon, dropped, horizon_mark`, &horizon, &dropped, &mark)
			known, err2 := db.Horizon(ctx)
			return fmt.Sprint(horizon, dropped, mark, known, errors.Join(err, err2))
		}
		same(t, "the horizon", ask(m.log), func() any { return ask(m.mirror) })
		if err := errors.Join(m.mirror.Close(), m.log.Close()); err != nil {
			t.Error(err)
		}
	})
}

// A state that cannot be stored to its end leaves the mirror as it is.
func TestMirrorBeginFails(t *testing.T) {
	m := newMirroring(t)
	m.grow(t, event.BlockSize+50)
	if err := m.mirror.Receive(t.Context(), readAll(t, m.log, []event.Topic{event.All}, window.Span{To: 100}, 100)); err != nil {
		t.Fatal(err)
	}
	before := m.mirror.HeadPoint()
	torn := errors.New("torn")
	wrong := madeEvent("alice", "x", event.BlockSize+1)
	for name, last := range map[string]func(yield func(event.Event, error) bool) bool{
		"torn":  func(yield func(event.Event, error) bool) bool { return yield(event.Event{}, torn) },
		"later": func(yield func(event.Event, error) bool) bool { return yield(wrong, nil) },
	} {
		err := m.mirror.BeginAt(t.Context(), event.Point{ID: event.BlockSize}, 1, func(yield func(event.Event, error) bool) {
			for ev, err := range stateOf(t.Context(), m.log, event.BlockSize) {
				if !yield(ev, err) {
					return
				}
			}
			last(yield)
		})
		if err == nil || m.mirror.HeadPoint() != before {
			t.Errorf("%s: %v, at %v", name, err, m.mirror.HeadPoint())
		}
	}
	for _, at := range []event.ID{100, event.BlockSize + 1, 0} {
		if err := m.mirror.BeginAt(t.Context(), event.Point{ID: at}, 1, stateOf(t.Context(), m.log, at)); err == nil {
			t.Errorf("began at %s", at)
		}
	}
	m.follow(t)
	m.check(t, "at last")
}

// The file of a mirror is no log of its own: that would give ids that the other server gives,
// too. It becomes one under a new id, with all that it has.
func TestMirrorRole(t *testing.T) {
	m, ctx := newMirroring(t), t.Context()
	m.grow(t, 100)
	m.follow(t)
	if !m.mirror.IsMirror() || m.log.IsMirror() {
		t.Error("the wrong one is the mirror")
	}
	_, err := m.mirror.Append(ctx, drafts("alice", "x", "k", 1))
	wantError(t, "append to a mirror", err, ErrMirror)
	wantError(t, "receive by a log", m.log.Receive(ctx, []event.Event{madeEvent("alice", "x", 101)}), ErrNotMirror)
	wantError(t, "begin of a log", m.log.BeginAt(ctx, event.Point{ID: event.BlockSize}, event.TimeOf(time.Now()), stateOf(ctx, m.log, 100)), ErrNotMirror)
	backup := filepath.Join(t.TempDir(), "backup.db")
	if err := m.mirror.BackupTo(ctx, backup); err != nil {
		t.Fatal(err)
	}
	head, id := m.mirror.Head(), m.mirror.Log()
	if err := errors.Join(m.mirror.Close(), m.log.Close()); err != nil {
		t.Fatal(err)
	}
	refused := func(what, path string, cfg Config, want error) {
		t.Helper()
		db, err := Open(ctx, path, cfg)
		if err == nil {
			db.Close()
		}
		wantError(t, what, err, want)
	}
	refused("a mirror as a log", m.path, Config{Role: Server}, ErrMirror)
	refused("a log as a mirror", m.log.Path(), Config{Role: Server, Log: id, Mirror: &Mirrored{}}, ErrNotMirror)
	refused("a backup as a mirror", backup, Config{Role: Server, Mirror: &Mirrored{}}, ErrRole)
	refused("a mirror of another log", m.path, Config{Role: Server, Log: testLog, Mirror: &Mirrored{}}, ErrOtherLog)
	refused("a copy that is a mirror", m.path, Config{Role: Client, Log: id, Mirror: &Mirrored{}}, ErrRole)
	refused("a new mirror of no log", filepath.Join(t.TempDir(), "new.db"), Config{Role: Server, Mirror: &Mirrored{}}, fs.ErrNotExist)
	for _, own := range []Config{{Role: Server, AsNewLog: true}, {Role: Server}} {
		path := m.path
		if !own.AsNewLog {
			path = backup
		}
		db, err := Open(ctx, path, own)
		if err != nil {
			t.Fatal(err)
		}
		parent, parted, err := db.Parent(ctx)
		if db.IsMirror() || db.Log() == id || parent != id || parted != head || err != nil {
			t.Errorf("%s is the log %s from %s at %s, %v", path, db.Log(), parent, parted, err)
		}
		mustAppend(t, db, drafts("alice", "x", "k", 1)...)
		if err := db.Close(); err != nil {
			t.Fatal(err)
		}
		refused("a log that was a mirror", path, Config{Role: Server, Mirror: &Mirrored{}}, ErrNotMirror)
	}
}

// A mirror knows what its log was made from.
func TestMirrorParent(t *testing.T) {
	for _, want := range []Mirrored{{}, {Parent: "FEDCBA9876543210", ParentHead: 7}, {Parent: "FEDCBA9876543210", ParentHead: event.MaxID}} {
		db, err := Open(t.Context(), filepath.Join(t.TempDir(), "mirror.db"), Config{Role: Server, Log: testLog, Mirror: &want})
		if err != nil {
			t.Fatal(err)
		}
		defer db.Close()
		if log, parted, err := db.Parent(t.Context()); log != want.Parent || parted != want.ParentHead || err != nil {
			t.Errorf("the parent is %q at %s, %v, want %+v", log, parted, err, want)
		}
	}
}
