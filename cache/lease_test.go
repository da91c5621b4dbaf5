package cache

import (
	"context"
	"errors"
	"fmt"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/rstream-dev/rstream/cache/internal/dbfile"
	"github.com/rstream-dev/rstream/event"
	"github.com/rstream-dev/rstream/window"
)

// openTwo opens one client file as two processes would, with one clock.
func openTwo(t *testing.T) (a, b *DB, c *clock) {
	t.Helper()
	c = newClock()
	path := filepath.Join(t.TempDir(), "copy.db")
	a = mustOpen(t, path, Config{Role: Client, Log: testLog, Now: c.now})
	b = mustOpen(t, path, Config{Role: Client, Log: testLog, Now: c.now})
	t.Cleanup(func() { a.Close(); b.Close() })
	return a, b, c
}

func mustClaim(t *testing.T, db *DB, topic string, from, to event.ID) *Lease {
	t.Helper()
	l, busy, err := db.Leases().Claim(context.Background(), topics(t, topic), window.Span{From: from, To: to})
	if err != nil || busy || l == nil {
		t.Fatalf("Claim(%s, %d-%d) = %v, busy %v, %v", topic, from, to, l, busy, err)
	}
	return l
}

func mustFollow(t *testing.T, db *DB, from event.ID, names ...string) *Lease {
	t.Helper()
	l, err := db.Leases().Follow(context.Background(), topics(t, names...), from)
	if err != nil {
		t.Fatal(err)
	}
	return l
}

func mustApply(t *testing.T, l *Lease, to event.ID, evs ...event.Event) {
	t.Helper()
	if _, err := l.Apply(context.Background(), evs, to); err != nil {
		t.Fatal(err)
	}
}

func mustDo(t *testing.T, do func(context.Context) error) {
	t.Helper()
	if err := do(context.Background()); err != nil {
		t.Fatal(err)
	}
}

// list returns the windows as text: topic, state, held and missing span.
func list(t *testing.T, db *DB) string {
	t.Helper()
	ws, err := db.Windows(context.Background())
	if err != nil {
		t.Fatal(err)
	}
	var lines []string
	for _, w := range ws {
		line := fmt.Sprintf("%s %s %d-%d", w.Topic, w.State, w.Held().From, w.Held().To)
		if m := w.Missing(); m.To == event.MaxID {
			line += "…"
		} else if !m.Empty() {
			line += fmt.Sprintf("…%d", m.To)
		}
		lines = append(lines, line)
	}
	return strings.Join(lines, ", ")
}

func checkList(t *testing.T, what string, db *DB, want string) {
	t.Helper()
	if got := list(t, db); got != want {
		t.Errorf("%s: the windows are\n%s, want\n%s", what, got, want)
	}
}

func TestClaimTakesWhatIsFree(t *testing.T) {
	a, b, _ := openTwo(t)
	first := mustClaim(t, a, "alice", 0, 10)
	if l, busy, err := b.Leases().Claim(context.Background(), topics(t, "alice/posts"), window.Span{To: 10}); l != nil || !busy || err != nil {
		t.Errorf("a part of what is being pulled: %v, busy %v, %v", l, busy, err)
	}
	second := mustClaim(t, b, "alice", 5, 20)
	if second.Span() != (window.Span{From: 10, To: 20}) {
		t.Errorf("beside it %s is claimed", second.Span())
	}
	mustApply(t, first, 10)
	mustApply(t, second, 20, madeEvent("alice", "x", 15))
	mustDo(t, first.Commit)
	mustDo(t, second.Release) // complete, so the same
	checkList(t, "both done", a, "alice committed 0-20")
	if l, busy, err := b.Leases().Claim(context.Background(), topics(t, "alice/x$"), window.Span{From: 3, To: 20}); l != nil || busy || err != nil {
		t.Errorf("what is held: %v, busy %v, %v", l, busy, err)
	}
}

// A lease may cover several topics: others wait for each of them, and it begins at the first
// position where one is not held.
func TestClaimOfSeveral(t *testing.T) {
	a, b, _ := openTwo(t)
	held := mustClaim(t, a, "alice", 0, 10)
	mustApply(t, held, 10)
	mustDo(t, held.Commit)
	both := topics(t, "alice", "bob", "alice")
	l, busy, err := a.Leases().Claim(context.Background(), both, window.Span{From: 5, To: 20})
	if err != nil || busy || l.Span() != (window.Span{From: 5, To: 20}) {
		t.Fatalf("Claim = %v, busy %v, %v", l, busy, err)
	}
	checkList(t, "claimed", a, "alice committed 0-10, alice pulling 5-5…20, bob pulling 5-5…20")
	for _, name := range []string{"alice", "bob/x", "*/y"} {
		if l, busy, err := b.Leases().Claim(context.Background(), topics(t, name), window.Span{From: 10, To: 20}); l != nil || !busy || err != nil {
			t.Errorf("%s meanwhile: %v, busy %v, %v", name, l, busy, err)
		}
	}
	parts, end, err := a.Narrower(context.Background(), both, l.Reached(), 20)
	if err != nil || len(parts) != 1 || parts[0] != both[0] || end != 10 {
		t.Errorf("Narrower = %v up to %d, %v", parts, end, err)
	}
	mustApply(t, l, 10, madeEvent("bob", "x", 7))
	mustApply(t, l, 20, madeEvent("alice", "x", 11), madeEvent("bob", "x", 12))
	mustDo(t, l.Commit)
	checkList(t, "done", b, "alice committed 0-20, bob committed 5-20")
}

func TestClaimAfterGoneOwner(t *testing.T) {
	for name, pass := range map[string]func(*clock){
		"lease over":     func(c *clock) { c.add(dbfile.LeaseTime) },
		"clock set back": func(c *clock) { c.add(-time.Hour) },
	} {
		a, b, c := openTwo(t)
		lost := mustClaim(t, a, "alice", 0, 10)
		mustApply(t, lost, 4, madeEvent("alice", "x", 3))
		pass(c)
		l := mustClaim(t, b, "alice", 0, 10)
		if l.Span() != (window.Span{From: 4, To: 10}) {
			t.Errorf("%s: %s is claimed", name, l.Span())
		}
		_, err := lost.Apply(context.Background(), nil, 6)
		wantError(t, name+": the old owner", err, ErrLost)
		mustApply(t, l, 10)
		mustDo(t, lost.Release)
		mustDo(t, l.Commit)
		checkList(t, name, a, "alice committed 0-10")
	}
}

// A clock that steps back a little ends no lease.
func TestClockSetBackALittle(t *testing.T) {
	a, b, c := openTwo(t)
	l := mustClaim(t, a, "alice", 0, 10)
	c.add(-5 * time.Second)
	if _, busy, err := b.Leases().Claim(context.Background(), topics(t, "alice"), window.Span{To: 10}); !busy || err != nil {
		t.Errorf("busy %v, %v", busy, err)
	}
	mustApply(t, l, 10)
}

// A pull whose lease has expired continues if nobody took it over.
func TestApplyAfterLease(t *testing.T) {
	a, b, c := openTwo(t)
	l := mustClaim(t, a, "alice", 0, 10)
	mustApply(t, l, 2)
	c.add(time.Hour)
	mustClaim(t, b, "bob", 0, 10) // normalizes
	checkList(t, "freed", b, "alice pulling 0-2…10, bob pulling 0-0…10")
	mustApply(t, l, 10)
	mustDo(t, l.Commit)
	checkList(t, "gone on", b, "alice committed 0-10, bob pulling 0-0…10")
}

// After a computer slept, a look at the file by another process must not end a tail.
func TestFollowAfterSleep(t *testing.T) {
	a, b, c := openTwo(t)
	l := mustFollow(t, a, 10, "alice", "bob")
	mustApply(t, l, 12, madeEvent("alice", "x", 11))
	c.add(time.Hour)
	other := mustClaim(t, b, "zed", 0, 5)
	checkList(t, "settled", b, "zed pulling 0-0…5, alice committed 10-12, bob committed 10-12")
	mustApply(t, l, 15, madeEvent("bob", "x", 14))
	checkList(t, "gone on", b, "zed pulling 0-0…5, alice committed 10-12, bob committed 10-12, alice live 12-15…, bob live 12-15…")
	mustDo(t, other.Commit)
	mustDo(t, l.Commit)
	checkList(t, "committed", b, "alice committed 10-15, bob committed 10-15")
}

// A late lease must not reach another window that has the number of a removed one.
func TestLateLeaseTouchesNothingElse(t *testing.T) {
	a, b, c := openTwo(t)
	late := mustClaim(t, a, "alice", 0, 100)
	c.add(time.Hour)
	mustDo(t, mustClaim(t, b, "alice", 0, 100).Commit) // takes it over and leaves nothing to do
	checkList(t, "taken over", b, "")
	own := mustClaim(t, a, "bob", 0, 50)
	_, err := late.Apply(context.Background(), nil, 40)
	wantError(t, "the late one", err, ErrLost)
	mustDo(t, late.Commit)
	if held := mustHeld(t, a, topics(t, "bob")...); len(held) > 0 {
		t.Errorf("of bob %v is held", held)
	}
	mustApply(t, own, 50)
}

// A lease that was abandoned without Release must not block its own process.
func TestOwnLeaseGrowsStale(t *testing.T) {
	a, _, c := openTwo(t)
	mustApply(t, mustClaim(t, a, "alice", 0, 10), 3)
	if _, busy, _ := a.Leases().Claim(context.Background(), topics(t, "alice"), window.Span{To: 10}); !busy {
		t.Error("claimed twice at once")
	}
	c.add(dbfile.LeaseTime)
	if l := mustClaim(t, a, "alice", 0, 10); l.Reached() != 3 {
		t.Errorf("goes on at %s", l.Reached())
	}
}

func TestApplyRefuses(t *testing.T) {
	db := openClient(t)
	ctx := context.Background()
	l := mustClaim(t, db, "alice", 5, 20)
	one, two := madeEvent("alice", "x", 7), madeEvent("alice", "x", 8)
	for name, c := range map[string]struct {
		evs []event.Event
		to  event.ID
	}{
		"out of order":    {[]event.Event{two, one}, 9},
		"twice":           {[]event.Event{one, one}, 9},
		"before its time": {[]event.Event{madeEvent("alice", "x", 5)}, 9},
		"beyond reached":  {[]event.Event{one, two}, 7},
		"beyond the end":  {nil, 21},
		"backwards":       {nil, 4},
	} {
		if _, err := l.Apply(ctx, c.evs, c.to); err == nil {
			t.Errorf("%s is accepted", name)
		}
	}
	added, err := l.Apply(ctx, []event.Event{one, two}, 9)
	if len(added) != 2 || err != nil {
		t.Fatalf("%d added, %v", len(added), err)
	}
	removals, err := db.Removals(ctx)
	if err == nil {
		err = db.Prove(ctx, topics(t, "alice")[0], window.Span{From: 5, To: 9}, removals, 0)
	}
	if err != nil {
		t.Fatal(err)
	}
	other := mustClaim(t, db, "*", 6, 9)
	forged := event.New(8, two.Time+1, two.Draft, two.Hash)
	var conflict *ConflictError
	if _, err := other.Apply(ctx, []event.Event{one, forged}, 9); !errors.As(err, &conflict) || conflict.ID != 8 {
		t.Errorf("another event under the id of a proven one: %v", err)
	}
	if added, err := other.Apply(ctx, []event.Event{one, two}, 9); len(added) != 0 || err != nil {
		t.Errorf("known events: %d added, %v", len(added), err)
	}
}

// Events stored by a lease that has ended would belong to no window.
func TestEndedLease(t *testing.T) {
	db := openClient(t)
	ctx := context.Background()
	for name, end := range map[string]func(*Lease) error{
		"Commit":  func(l *Lease) error { return l.Commit(ctx) },
		"Release": func(l *Lease) error { return l.Release(ctx) },
		"Fail":    func(l *Lease) error { return l.Fail(ctx, errInjected) },
		"Leave":   func(l *Lease) error { return l.Leave(ctx, l.topics) },
	} {
		for _, live := range []bool{false, true} {
			l := mustFollow(t, db, 0, name)
			if !live {
				l = mustClaim(t, db, name, 0, 9)
			}
			mustApply(t, l, 3)
			for range 2 {
				if err := end(l); err != nil {
					t.Errorf("%s: %v", name, err)
				}
			}
			if _, err := l.Apply(ctx, []event.Event{madeEvent(name, "x", 5)}, 6); err == nil {
				t.Errorf("after %s (live %v) events are stored", name, live)
			}
			mustDo(t, l.Commit)
		}
	}
	if n, err := db.Count(ctx); n.Events != 0 || err != nil {
		t.Errorf("%d events are stored, %v", n.Events, err)
	}
}

// Commit and Release can be repeated after an error.
func TestEndAgain(t *testing.T) {
	db := openClient(t)
	l := mustClaim(t, db, "alice", 0, 9)
	mustApply(t, l, 3)
	ctx, cancel := context.WithCancel(context.Background())
	cancel()
	for _, end := range []func(context.Context) error{l.Release, l.Commit} {
		wantError(t, "cancelled", end(ctx), context.Canceled)
	}
	wantError(t, "cancelled", l.Fail(ctx, errInjected), context.Canceled)
	checkList(t, "cancelled", db, "alice pulling 0-3…9")
	mustDo(t, l.Commit)
	checkList(t, "again", db, "alice committed 0-3")
	live := mustFollow(t, db, 3, "alice", "bob")
	wantError(t, "cancelled", live.Join(ctx, topics(t, "zed")), context.Canceled)
	mustApply(t, live, 5)
	checkList(t, "cancelled", db, "alice committed 0-3, alice live 3-5…, bob live 3-5…")
	mustDo(t, live.Commit)
}

// A topic has left even if that could not be stored: its window stays where it is, since its
// events are not requested any more. A later Apply, Leave or Commit commits it.
func TestLeaveFails(t *testing.T) {
	ctx, cancel := context.WithCancel(context.Background())
	cancel()
	next := map[string]func(l *Lease) error{
		"Apply":  func(l *Lease) error { _, err := l.Apply(context.Background(), nil, 9); return err },
		"Join":   func(l *Lease) error { return l.Join(context.Background(), topics(t, "bob")) },
		"Leave":  func(l *Lease) error { return l.Leave(context.Background(), topics(t, "zed")) },
		"Commit": func(l *Lease) error { return l.Commit(context.Background()) },
	}
	for name, want := range map[string]string{
		"Apply":  "bob committed 3-5, alice live 3-9…",
		"Join":   "alice live 3-5…, bob live 3-5…, bob live 5-5…",
		"Leave":  "bob committed 3-5, alice live 3-5…",
		"Commit": "alice committed 3-5, bob committed 3-5",
	} {
		db := openClient(t)
		l := mustFollow(t, db, 3, "alice", "bob")
		mustApply(t, l, 5, madeEvent("bob", "x", 4))
		wantError(t, name, l.Leave(ctx, topics(t, "bob")), context.Canceled)
		if err := next[name](l); err != nil {
			t.Fatal(err)
		}
		checkList(t, "left before "+name, db, want)
	}
}

// The windows of topics that have left are not those of topics that join again, not even if
// they could not be committed in between.
func TestLeaveFailsAndJoin(t *testing.T) {
	db := openClient(t)
	ctx, cancel := context.WithCancel(context.Background())
	cancel()
	l := mustFollow(t, db, 3, "alice", "bob")
	mustApply(t, l, 5)
	wantError(t, "cancelled", l.Leave(ctx, topics(t, "bob")), context.Canceled)
	mustApply(t, l, 8) // without the events of bob
	if err := l.Join(context.Background(), topics(t, "bob")); err != nil {
		t.Fatal(err)
	}
	wantError(t, "cancelled", l.Leave(ctx, topics(t, "alice")), context.Canceled)
	mustApply(t, l, 9, madeEvent("bob", "x", 9))
	checkList(t, "joined again", db, "bob committed 3-5, alice committed 3-8, bob live 8-9…")
	mustDo(t, l.Commit)
}

func TestFailedWindow(t *testing.T) {
	db := openClient(t)
	l := mustClaim(t, db, "alice", 0, 9)
	mustApply(t, l, 3)
	if err := l.Fail(context.Background(), errInjected); err != nil {
		t.Fatal(err)
	}
	checkList(t, "failed", db, "alice failed 0-3…9")
	ws, err := db.Windows(context.Background())
	if err != nil || ws[0].Err != errInjected.Error() {
		t.Errorf("the window says %q, %v", ws[0].Err, err)
	}
	again := mustClaim(t, db, "alice", 0, 9)
	checkList(t, "gone on with", db, "alice committed 0-3, alice pulling 3-3…9")
	mustApply(t, again, 9)
	mustDo(t, again.Commit)
	checkList(t, "done", db, "alice committed 0-9")
}

func TestJoinAndLeave(t *testing.T) {
	db := openClient(t)
	l := mustFollow(t, db, 5, "alice", "alice", "bob")
	mustApply(t, l, 8, madeEvent("alice", "x", 7))
	for range 2 {
		if err := l.Join(context.Background(), topics(t, "zed", "alice", "zed")); err != nil {
			t.Fatal(err)
		}
	}
	mustApply(t, l, 9)
	checkList(t, "joined", db, "alice live 5-9…, bob live 5-9…, zed live 8-9…")
	for range 2 {
		if err := l.Leave(context.Background(), topics(t, "alice", "nobody")); err != nil {
			t.Fatal(err)
		}
	}
	mustApply(t, l, 12)
	checkList(t, "left", db, "alice committed 5-9, bob live 5-12…, zed live 8-12…")
	mustDo(t, l.Release)
	checkList(t, "ended", db, "alice committed 5-9, bob committed 5-12, zed committed 8-12")
}

// Windows of a wider topic absorb those of its subtopics, and proven windows stay separate
// from unproven ones.
func TestTidyMerges(t *testing.T) {
	db := openClient(t)
	store(t, db, "alice/posts", madeEvent("alice", "posts/1", 10))
	store(t, db, "bob", madeEvent("bob", "x", 30))
	wide := mustClaim(t, db, "*", 5, 20)
	mustApply(t, wide, 20, madeEvent("alice", "posts/1", 10))
	mustDo(t, wide.Commit)
	checkList(t, "a part sticks out", db, "alice/posts committed 0-10, bob committed 0-30, * committed 5-20")
	wide = mustClaim(t, db, "*", 0, 20)
	mustApply(t, wide, 5)
	mustDo(t, wide.Commit)
	checkList(t, "it does not", db, "* committed 0-20, bob committed 0-30")
}

func TestCursor(t *testing.T) {
	a, b, c := openTwo(t)
	ctx := context.Background()
	ts := topics(t, "alice", "bob")
	cur, err := a.HoldCursor(ctx, "mine", ts)
	if err != nil || cur.Position() != 0 || cur.State() != nil {
		t.Fatalf("%v, %v", cur, err)
	}
	for _, db := range []*DB{a, b} {
		_, err := db.HoldCursor(ctx, "mine", ts)
		wantError(t, "held", err, ErrHeld)
	}
	if err := cur.Move(ctx, 7, []byte("x")); err != nil || cur.Position() != 7 || string(cur.State()) != "x" {
		t.Errorf("Move: %v, at %s", err, cur.Position())
	}
	if _, err := b.HoldCursor(ctx, "\n", ts); err == nil {
		t.Error("a name with a control character is taken")
	}
	c.add(time.Hour) // asleep, not gone
	_, err = b.HoldCursor(ctx, "mine", ts)
	wantError(t, "held for an hour", err, ErrHeld)
	if err := cur.Release(ctx); err != nil {
		t.Error(err)
	}
	if infos, _ := a.Cursors(ctx); infos[0].Held {
		t.Error("held after Release")
	}
	if _, err := b.HoldCursor(ctx, "mine", ts[:1]); err == nil {
		t.Error("a cursor of other topics is taken")
	}
	taken, err := b.HoldCursor(ctx, "mine", ts)
	if err != nil || taken.Position() != 7 || string(taken.State()) != "x" {
		t.Fatalf("%v, %v", taken, err)
	}
	wantError(t, "Move of the old holder", cur.Move(ctx, 9, nil), ErrLost)
	if err := cur.Release(ctx); err != nil { // it belongs to another holder
		t.Error(err)
	}
	infos, err := a.Cursors(ctx)
	if err != nil || len(infos) != 1 || !infos[0].Held || infos[0].Position != 7 || len(infos[0].Topics) != 2 {
		t.Errorf("Cursors = %v, %v", infos, err)
	}
}

func TestSetCursor(t *testing.T) {
	a, b, _ := openTwo(t)
	ctx := context.Background()
	ts := topics(t, "alice", "bob")
	_, err := a.SetCursor(ctx, "mine", nil, 5)
	wantError(t, "SetCursor without topics", err, ErrNoCursor)
	if c, err := a.SetCursor(ctx, "mine", ts, 5); err != nil || c.Position != 5 || c.Held || len(c.Topics) != 2 {
		t.Fatalf("SetCursor = %+v, %v", c, err)
	}
	if _, err := a.SetCursor(ctx, "mine", ts[:1], 6); err == nil {
		t.Error("a cursor of other topics is set")
	}
	if _, err := a.SetCursor(ctx, "a\nb", ts, 6); err == nil {
		t.Error("a name with a control character is taken")
	}
	held, err := b.HoldCursor(ctx, "mine", ts)
	if err != nil || held.Position() != 5 {
		t.Fatalf("HoldCursor: %v, %v", held, err)
	}
	if _, err := a.SetCursor(ctx, "other", ts[:1], 0); err != nil {
		t.Error(err)
	}
	_, err = a.SetCursor(ctx, "mine", nil, 1)
	wantError(t, "SetCursor of one that is held", err, ErrHeld)
	_, err = a.DropCursors(ctx, []string{"other", "mine"})
	wantError(t, "DropCursors of one that is held", err, ErrHeld)
	_, err = a.DropCursors(ctx, []string{"other", "none"})
	wantError(t, "DropCursors of one that is not there", err, ErrNoCursor)
	if cs, err := a.Cursors(ctx); err != nil || len(cs) != 2 || cs[0].Position != 5 {
		t.Errorf("after refusals Cursors = %+v, %v", cs, err)
	}
	if err := held.Release(ctx); err != nil {
		t.Error(err)
	}
	dropped, err := a.DropCursors(ctx, []string{"other", "mine"})
	if err != nil || len(dropped) != 2 || dropped[1].Position != 5 {
		t.Errorf("DropCursors = %+v, %v", dropped, err)
	}
	if cs, err := a.Cursors(ctx); err != nil || len(cs) != 0 {
		t.Errorf("Cursors = %+v, %v", cs, err)
	}
}

func TestRemember(t *testing.T) {
	db := openClient(t)
	ctx := context.Background()
	for _, url := range []string{"http://a", "http://b", ""} {
		if err := db.Remember(ctx, topics(t, "alice", "*/posts"), url); err != nil {
			t.Fatal(err)
		}
	}
	followed, err := db.Followed(ctx)
	if err != nil || fmt.Sprint(followed) != "[*/posts alice]" {
		t.Errorf("Followed = %v, %v", followed, err)
	}
	if err := db.Unfollow(ctx, topics(t, "*", "alice", "bob")...); err != nil {
		t.Fatal(err)
	}
	if followed, err = db.Followed(ctx); err != nil || fmt.Sprint(followed) != "[*/posts]" {
		t.Errorf("without alice, Followed = %v, %v", followed, err)
	}
	if urls, err := db.Sources(ctx); err != nil || len(urls) != 2 {
		t.Errorf("Sources = %v, %v", urls, err)
	}
}

// If ctx ends at any point, the error says so and no transaction or connection stays open.
func TestCancelledCalls(t *testing.T) {
	db := openClient(t)
	store(t, db, "alice", madeEvent("alice", "x", 3))
	ctx, cancel := context.WithCancel(context.Background())
	cancel()
	ts := topics(t, "alice")
	for name, call := range map[string]func() error{
		"Read":       func() error { _, _, err := db.Read(ctx, ts, 0, 3, 10); return err },
		"Held":       func() error { _, err := db.Held(ctx, ts...); return err },
		"Windows":    func() error { _, err := db.Windows(ctx); return err },
		"Claim":      func() error { _, _, err := db.Leases().Claim(ctx, ts[:1], window.Span{To: 10}); return err },
		"Follow":     func() error { _, err := db.Leases().Follow(ctx, ts, 3); return err },
		"HoldCursor": func() error { _, err := db.HoldCursor(ctx, "c", ts); return err },
		"PositionAt": func() error { _, err := db.PositionAt(ctx, 0); return err },
		"BeforeLast": func() error { _, err := db.BeforeLast(ctx, ts, 1, 0, 3); return err },
		"Open":       func() error { _, err := Open(ctx, db.Path(), Config{}); return err },
	} {
		wantError(t, name, call(), context.Canceled)
	}
	if err := db.file.Lock(context.Background()); err != nil { // as during a long write
		t.Fatal(err)
	}
	late, stop := context.WithTimeout(context.Background(), time.Millisecond)
	defer stop()
	_, _, err := db.Leases().Claim(late, ts[:1], window.Span{To: 10})
	wantError(t, "Claim while somebody writes", err, context.DeadlineExceeded)
	db.file.Unlock()
	mustClaim(t, db, "alice", 0, 10)
	if open := db.file.InUse(); open != 0 {
		t.Errorf("%d connections are in use", open)
	}
}
