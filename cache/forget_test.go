package cache

import (
	"context"
	"database/sql"
	"errors"
	"fmt"
	"path/filepath"
	"slices"
	"sync"
	"testing"

	"pgregory.net/rapid"

	"github.com/rstream-dev/rstream/cache/internal/dbfile"
	"github.com/rstream-dev/rstream/event"
	"github.com/rstream-dev/rstream/internal/pagetest"
	"github.com/rstream-dev/rstream/window"
)

// A forgetModel keeps the events fetched for each requested topic.
type forgetModel struct {
	db   *DB
	held map[event.Topic]heldSet
}

func (m *forgetModel) fetch(t *rapid.T) {
	topic := topics(t, rapid.SampledFrom(clientTopics).Draw(t, "fetched"))[0]
	a, b := anyPosition(t, "from"), anyPosition(t, "to")
	if m.held[topic] == nil {
		m.held[topic] = heldSet{}
	}
	for _, s := range obtain(t, m.db, topic, clientLog, window.Span{From: min(a, b), To: max(a, b)}) {
		m.held[topic].add(s)
	}
}

func (m *forgetModel) forget(t *rapid.T) {
	topic := topics(t, rapid.SampledFrom(clientTopics).Draw(t, "forgotten"))[0]
	before := rapid.SampledFrom([]event.ID{event.MaxID, anyPosition(t, "before")}).Draw(t, "to")
	mustLeaves(t, m.db, topic, window.BlockSpan(1))
	refused := false
	for wider, set := range m.held {
		for id := range set {
			refused = refused || wider != topic && wider.Contains(topic) && id <= before
		}
	}
	stored := len(storedIDs(t, m.db))
	n, err := m.db.Forget(context.Background(), topic, before)
	var as *HeldAsError
	if refused {
		if n != 0 || !errors.As(err, &as) || as.Topic != topic || !as.As.Contains(topic) {
			t.Fatalf("Forget(%s, %s) = %d, %v, want it refused", topic, before, n, err)
		}
		return
	}
	if err != nil {
		t.Fatalf("%v", err)
	}
	for part, set := range m.held {
		for id := range set {
			if topic.Contains(part) && id <= before {
				delete(set, id)
			}
		}
	}
	if left := len(storedIDs(t, m.db)); left != stored-n {
		t.Fatalf("Forget = %d, but there were %d events and are %d", n, stored, left)
	}
}

// check checks that exactly the held events are stored and can be read.
func (m *forgetModel) check(t *rapid.T) {
	holding := func(covers func(event.Topic) bool) heldSet {
		all := heldSet{}
		for topic, set := range m.held {
			if covers(topic) {
				for id := range set {
					all[id] = true
				}
			}
		}
		return all
	}
	for _, name := range clientTopics {
		topic := topics(t, name)[0]
		want, got := holding(func(u event.Topic) bool { return u.Contains(topic) }), heldSet{}
		for _, s := range mustHeld(t, m.db, topic) {
			got.add(s)
		}
		for id := clientFirst; id <= clientLast; id++ {
			if got[id] != want[id] {
				t.Fatalf("%s of %s is held: %v, want %v", id, topic, got[id], want[id])
			}
		}
		for _, s := range mustHeld(t, m.db, topic) {
			if leaves := mustLeaves(t, m.db, topic, s); !slices.Equal(leaves, slowLeaves(among(clientLog, topic, s))) {
				t.Fatalf("the leaves of %s %s are %v", topic, s, leaves)
			}
		}
	}
	var want []event.ID
	for i := range clientLog {
		ev := &clientLog[i]
		if holding(func(u event.Topic) bool { return u.Matches(ev.User, ev.Path) })[ev.ID] {
			want = append(want, ev.ID)
		}
	}
	if got := storedIDs(t, m.db); !slices.Equal(got, want) {
		t.Fatalf("stored are %v, want %v", got, want)
	}
	checkPostings(t, m.db)
}

func storedIDs(t fataler, db *DB) (ids []event.ID) {
	t.Helper()
	for _, ev := range mustStored(t, db) {
		ids = append(ids, ev.ID)
	}
	return ids
}

func setForgetPages(t testing.TB, n int) {
	old := forgetPages
	forgetPages = n
	t.Cleanup(func() { forgetPages = old })
}

func TestForgetAgainstSets(t *testing.T) {
	alone(t)
	setForgetPages(t, 3)
	setStorageChunk(t, 2)
	dir := t.TempDir()
	n := 0
	rapid.Check(t, func(t *rapid.T) {
		n++
		m := forgetModel{db: mustOpen(t, filepath.Join(dir, fmt.Sprint(n)), Config{Role: Client, Log: testLog}), held: map[event.Topic]heldSet{}}
		defer m.db.Close()
		for range rapid.IntRange(1, 5).Draw(t, "rounds") {
			for range rapid.IntRange(1, 3).Draw(t, "fetches") {
				m.fetch(t)
			}
			m.forget(t)
			m.check(t)
		}
	})
}

// A forgetCase is a window in some state and the effect of Forget of alice/posts up to a
// position on it.
type forgetCase struct {
	name   string
	topic  string
	before event.ID
	begin  func(t *testing.T, db *DB, topic event.Topic) *Lease
	dead   bool // its process ended long ago
	err    error
	held   window.Spans // of alice/posts/1 then
}

var (
	forgetSpan = window.Span{From: clientFirst, To: clientLast}
	forgetHalf = clientLog[30].ID
	forgetPart = clientLog[10].ID
)

// pulling pulls the first half.
func pulling(t *testing.T, db *DB, topic event.Topic) *Lease {
	l, _, err := db.Leases().Claim(context.Background(), []event.Topic{topic}, forgetSpan)
	if err != nil {
		t.Fatal(err)
	}
	applyHalf(t, l, topic)
	return l
}

func applyHalf(t *testing.T, l *Lease, topic event.Topic) {
	half := window.Span{From: clientFirst, To: forgetHalf}
	if _, err := l.Apply(context.Background(), among(clientLog, topic, half), half.To); err != nil {
		t.Fatal(err)
	}
}

func begun(t *testing.T, db *DB, topic event.Topic) *Lease {
	l, _, err := db.Leases().Claim(context.Background(), []event.Topic{topic}, forgetSpan)
	if err != nil {
		t.Fatal(err)
	}
	return l
}

func live(t *testing.T, db *DB, topic event.Topic) *Lease {
	l, err := db.Leases().Follow(context.Background(), []event.Topic{topic}, clientFirst)
	if err != nil {
		t.Fatal(err)
	}
	applyHalf(t, l, topic)
	return l
}

func released(t *testing.T, db *DB, topic event.Topic) *Lease {
	l := pulling(t, db, topic)
	if err := l.Release(context.Background()); err != nil {
		t.Fatal(err)
	}
	return l
}

func failed(t *testing.T, db *DB, topic event.Topic) *Lease {
	l := pulling(t, db, topic)
	if err := l.Fail(context.Background(), errInjected); err != nil {
		t.Fatal(err)
	}
	return l
}

func pending(t *testing.T, db *DB, topic event.Topic) *Lease {
	if p, _, err := db.Leases().Pend(context.Background(), topic, event.Now); p == nil {
		t.Fatal(err)
	}
	return nil
}

func TestForgetStates(t *testing.T) {
	alone(t)
	all, rest := event.MaxID, window.Spans{{From: forgetPart, To: forgetHalf}}
	half := window.Spans{{From: clientFirst, To: forgetHalf}}
	heldAs := &HeldAsError{}
	for _, c := range []forgetCase{
		{"interrupted", "alice/posts", all, released, false, nil, nil},
		{"interrupted, in part", "alice/posts", forgetPart, released, false, nil, rest},
		{"interrupted, of a part", "alice/posts/1$", all, released, false, nil, nil},
		{"interrupted, of more", "alice", all, released, false, heldAs, half},
		{"failed", "alice/posts", all, failed, false, nil, nil},
		{"failed, in part", "alice/posts", forgetPart, failed, false, nil, rest},
		{"failed, of more", "*", all, failed, false, heldAs, half},
		{"pulling", "alice/posts", all, pulling, false, ErrInUse, half},
		{"pulling, in part", "alice/posts", forgetPart, pulling, false, nil, rest},
		{"pulling, of a part", "alice/posts/1$", all, pulling, false, ErrInUse, half},
		{"pulling, of more", "alice", all, pulling, false, ErrInUse, half},
		{"pulling, of others", "*/posts/1", all, pulling, false, ErrInUse, half},
		{"begun to pull, of more", "alice", all, begun, false, ErrInUse, nil},
		{"dead while pulling", "alice/posts", all, pulling, true, nil, nil},
		{"dead while pulling more", "alice", all, pulling, true, heldAs, half},
		{"dead while pulling others", "*/posts/1", all, pulling, true, nil, half},
		{"dead when it began to pull more", "alice", all, begun, true, nil, nil},
		{"live", "alice/posts", all, live, false, ErrInUse, half},
		{"live, in part", "alice/posts", forgetPart, live, false, nil, rest},
		{"live, up to here", "alice/posts", forgetHalf, live, false, nil, nil},
		{"live, of more", "alice", all, live, false, heldAs, half},
		{"live, of others", "*/posts/1", all, live, false, nil, half},
		{"dead while live", "alice/posts", all, live, true, nil, nil},
		{"pending", "alice/posts", all, pending, false, nil, nil},
		{"pending, of more", "alice", all, pending, false, nil, nil},
		{"dead while pending", "alice/posts", all, pending, true, nil, nil},
	} {
		t.Run(c.name, func(t *testing.T) {
			t.Parallel()
			checkForget(t, c)
		})
	}
}

func checkForget(t *testing.T, c forgetCase) {
	at, path := newClock(), filepath.Join(t.TempDir(), "x.db")
	other := mustOpen(t, path, Config{Role: Client, Log: testLog, Now: at.now})
	db := mustOpen(t, path, Config{Role: Client, Now: at.now})
	defer other.Close()
	defer db.Close()
	topic := topics(t, c.topic)[0]
	l := c.begin(t, other, topic)
	if c.dead {
		at.add(2 * dbfile.LeaseTime)
	}
	_, err := db.Forget(context.Background(), topics(t, "alice/posts")[0], c.before)
	var as *HeldAsError
	if heldAs := errors.As(c.err, &as); heldAs && (!errors.As(err, &as) || as.As != topic) || !heldAs && !errors.Is(err, c.err) {
		t.Fatalf("Forget = %v, want %v", err, c.err)
	}
	checkStored := func() {
		t.Helper()
		for _, part := range topics(t, "alice/posts/1$", "alice/posts", "alice", "*") {
			for _, s := range mustHeld(t, db, part) {
				s = s.Intersect(forgetSpan)
				checkIDs(t, part.String(), readAll(t, db, []event.Topic{part}, s, 100), ids(among(clientLog, part, s)))
			}
		}
		checkPostings(t, db)
	}
	one := topics(t, "alice/posts/1$")
	if got := mustHeld(t, db, one...); !slices.Equal(got, c.held) {
		t.Errorf("held are %v, want %v", got, c.held)
	}
	checkStored()
	if l == nil || l.ended {
		return
	}
	// The process filling the window continues, or gets ErrLost.
	evs := among(clientLog, topic, window.Span{From: l.Reached(), To: clientLast})
	if _, err := l.Apply(context.Background(), evs, clientLast); err != nil && !errors.Is(err, ErrLost) {
		t.Fatal(err)
	}
	checkStored()
	if err := l.Commit(context.Background()); err != nil {
		t.Fatal(err)
	}
	checkStored()
}

func TestForgetFollowed(t *testing.T) {
	db := openClient(t)
	ctx := context.Background()
	if err := db.Remember(ctx, topics(t, "alice", "alice/posts", "bob", "*"), ""); err != nil {
		t.Fatal(err)
	}
	for _, c := range []struct {
		topic  string
		before event.ID
		want   []string
	}{
		{"alice", 100, []string{"*", "alice", "alice/posts", "bob"}},
		{"alice", event.MaxID, []string{"*", "bob"}},
		{"bob/x", event.MaxID, []string{"*", "bob"}},
		{"*", event.MaxID, nil},
	} {
		if _, err := db.Forget(ctx, topics(t, c.topic)[0], c.before); err != nil {
			t.Fatal(err)
		}
		followed, err := db.Followed(ctx)
		if err != nil || !slices.Equal(followed, topics(t, c.want...)) {
			t.Errorf("without %s up to %s, followed are %v, %v, want %v", c.topic, c.before, followed, err, c.want)
		}
	}
	_, err := openServer(t).Forget(ctx, event.All, event.MaxID)
	wantError(t, "a log", err, ErrRole)
}

// A damaged event can be forgotten.
func TestForgetDamaged(t *testing.T) {
	db, span := smallCopy(t)
	if err := edit(db, func(tx pagetest.DB) error {
		_, err := pagetest.EditEach(tx, func(ev *pagetest.Event) bool { ev.Line = []byte("x"); return true })
		return err
	}); err != nil {
		t.Fatal(err)
	}
	if n, err := db.Forget(context.Background(), event.All, span.To); n != len(clientLog) || err != nil {
		t.Errorf("Forget = %d, %v, want %d", n, err, len(clientLog))
	}
}

// Forgetting makes the file smaller.
func TestForgetShrinks(t *testing.T) {
	db, evs := bigCopy(t)
	before, err := db.Count(context.Background())
	if err != nil {
		t.Fatal(err)
	}
	size := fileSize(t, db.Path())
	n, err := db.Forget(context.Background(), event.All, evs[len(evs)-100].ID)
	if err != nil || n != len(evs)-99 {
		t.Fatalf("Forget = %d, %v, want %d", n, err, len(evs)-99)
	}
	after, err := db.Count(context.Background())
	if err != nil || after.Bytes > before.Bytes/4 || after.Events != 99 {
		t.Errorf("the file has become %+v of %+v, %v", after, before, err)
	}
	if now := fileSize(t, db.Path()); now > size/4 {
		t.Errorf("the file has become %d bytes of %d", now, size)
	}
	integrity(t, db)
}

// After a kill as soon as the windows are gone, no reader sees the forgotten events, and the
// next Forget completes.
func TestForgetKilled(t *testing.T) {
	db, span := smallCopy(t)
	alice := topics(t, "alice")[0]
	whole := window.Span{From: 0, To: event.MaxID}
	mustLeaves(t, db, alice, span)
	if _, err := db.Forget(context.Background(), event.All, clientLog[20].ID); err != nil {
		t.Fatal(err)
	}
	if err := db.file.Update(context.Background(), func(tx *sql.Tx) error { return db.forgetWindows(tx, event.All, whole) }); err != nil {
		t.Fatal(err)
	}
	kill(db)
	again := mustOpen(t, db.Path(), Config{})
	defer again.Close()
	if held := mustHeld(t, again, alice); len(held) != 0 {
		t.Errorf("held are %v", held)
	}
	_, _, err := again.Read(context.Background(), []event.Topic{alice}, span.From, span.To, 10)
	wantNotHeld(t, err, window.NotHeldError{After: span.From})
	if n, err := again.Forget(context.Background(), event.All, event.MaxID); n != len(clientLog)-21 || err != nil {
		t.Errorf("Forget = %d, %v, want %d", n, err, len(clientLog)-21)
	}
	if left := storedIDs(t, again); len(left) > 0 {
		t.Errorf("%v are left", left)
	}
	checkPostings(t, again)
}

// While another process fetches, Forget never removes an event that it holds, not even one
// that it did not fetch because it was already held.
func TestForgetWhileSyncing(t *testing.T) {
	setForgetPages(t, 2)
	path := filepath.Join(t.TempDir(), "x.db")
	syncing := mustOpen(t, path, Config{Role: Client, Log: testLog})
	defer syncing.Close()
	forgetting := mustOpen(t, path, Config{Role: Client})
	defer forgetting.Close()
	ts := topics(t, "alice/posts", "*/posts", "alice", "bob")
	var work sync.WaitGroup
	done := make(chan struct{})
	work.Go(func() {
		for i := 0; ; i++ {
			select {
			case <-done:
				return
			default:
			}
			_, err := forgetting.Forget(context.Background(), ts[i%len(ts)], event.MaxID)
			var as *HeldAsError
			if err != nil && !errors.Is(err, ErrInUse) && !errors.As(err, &as) {
				t.Error(err)
			}
		}
	})
	for round := range 12 {
		syncLikeAClient(t, syncing, ts[round%len(ts)])
		if t.Failed() {
			break
		}
	}
	close(done)
	work.Wait()
	for _, topic := range ts {
		for _, s := range mustHeld(t, syncing, topic) {
			s = s.Intersect(forgetSpan)
			checkIDs(t, topic.String(), readAll(t, syncing, []event.Topic{topic}, s, 100), ids(among(clientLog, topic, s)))
		}
	}
	checkPostings(t, syncing)
}

// syncLikeAClient pulls the missing events of a topic, except those held of its parts.
func syncLikeAClient(t *testing.T, db *DB, topic event.Topic) {
	ctx := context.Background()
	l, _, err := db.Leases().Claim(ctx, []event.Topic{topic}, forgetSpan)
	if err != nil {
		t.Error(err)
	}
	for l != nil && !l.Span().Empty() {
		parts, end, err := db.Narrower(ctx, []event.Topic{topic}, l.Reached(), min(l.Span().To, l.Reached()+16))
		if err != nil {
			t.Error(err)
			return
		}
		evs := among(clientLog, topic, window.Span{From: l.Reached(), To: end})
		evs = slices.DeleteFunc(evs, func(ev event.Event) bool {
			return slices.ContainsFunc(parts, func(p event.Topic) bool { return p.Matches(ev.User, ev.Path) })
		})
		if _, err := l.Apply(ctx, evs, end); errors.Is(err, ErrLost) {
			return
		} else if err != nil {
			t.Error(err)
			return
		}
	}
	if l != nil {
		if err := l.Commit(ctx); err != nil {
			t.Error(err)
		}
	}
}
