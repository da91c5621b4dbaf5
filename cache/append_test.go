package cache

import (
	"context"
	"database/sql"
	"errors"
	"fmt"
	"net/http"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/rstream-dev/rstream/event"
	"github.com/rstream-dev/rstream/internal/pagetest"
	"github.com/rstream-dev/rstream/window"
)

// hold stops the committer inside the next COMMIT until release is called. It does not
// stop a second COMMIT.
func hold(db *DB) (reached chan struct{}, release func()) {
	reached, gate := make(chan struct{}), make(chan struct{})
	var held atomic.Bool
	db.commitTx = func(tx *sql.Tx) error {
		if !held.Swap(true) {
			close(reached)
			<-gate
		}
		return tx.Commit()
	}
	return reached, func() { close(gate) }
}

type appended struct {
	receipts []event.Receipt
	err      error
}

func appendSoon(ctx context.Context, db *DB, ds []event.Draft) chan appended {
	c := make(chan appended, 1)
	go func() {
		rs, err := db.Append(ctx, ds)
		c <- appended{rs, err}
	}()
	return c
}

func TestAppendIsAllOrNone(t *testing.T) {
	db := openServer(t)
	bad := append(drafts("alice", "x", "k", 3), event.Draft{User: "a/b", Path: "x", Type: event.Del})
	if rs, err := db.Append(context.Background(), bad); err == nil || rs != nil || db.Head() != 0 {
		t.Errorf("Append of a bad draft: %v, %v, head %s", rs, err, db.Head())
	}
	if rs, err := db.Append(context.Background(), nil); rs != nil || err != nil {
		t.Errorf("Append of nothing: %v, %v", rs, err)
	}
	if rs := mustAppend(t, db, drafts("alice", "x", "k", 3)...); rs[0].ID != 1 || rs[2].ID != 3 || rs[0].Duplicate {
		t.Errorf("Append gave %v", rs)
	}
}

// A request that cannot be written must not fail the others of its transaction.
func TestAppendFailsAlone(t *testing.T) {
	db := openServer(t)
	setHashSpan(t, event.BlockSize)
	gone := draft("alice", "x", "gone")
	head := mustAppend(t, db, append(drafts("alice", "x", "before", event.BlockSize-1), gone)...)[event.BlockSize-1].ID
	if err := edit(db, pagetest.RemoveAll); err != nil {
		t.Fatal(err)
	}
	good := appendRequest{ctx: context.Background(), drafts: drafts("alice", "x", "k", 2), done: make(chan error, 1)}
	bad := appendRequest{ctx: context.Background(), drafts: []event.Draft{draft("alice", "x", "new"), gone}, done: make(chan error, 1)}
	more := appendRequest{ctx: context.Background(), drafts: drafts("alice", "x", "l", 2), done: make(chan error, 1)}
	for _, r := range []*appendRequest{&good, &bad, &more} {
		for i := range r.drafts {
			r.hashes = append(r.hashes, r.drafts[i].Hash())
		}
	}
	db.commitRequests([]*appendRequest{&good, &bad, &more})
	if err := errors.Join(<-good.done, <-more.done); err != nil || good.receipts[1].ID != head+2 || more.receipts[1].ID != head+4 {
		t.Errorf("the good ones: %v, %v, %v", good.receipts, more.receipts, err)
	}
	if err := <-bad.done; err == nil || bad.receipts != nil {
		t.Errorf("the bad one: %v, %v", bad.receipts, err)
	}
}

func TestAppendLogFull(t *testing.T) {
	db := openServer(t)
	const before = event.MaxID - 2 // of the horizon: above it no id is missing
	if err := changeLog(db, `next = ?1 + 1, horizon = ?1`, before); err != nil {
		t.Fatal(err)
	}
	_, err := db.Append(context.Background(), drafts("alice", "x", "k", 2))
	wantError(t, "two where one fits", err, ErrLogFull)
	if rs := mustAppend(t, db, draft("alice", "x", "k")); rs[0].ID != event.MaxID-1 {
		t.Errorf("the last id is %s", rs[0].ID)
	}
	_, err = db.Append(context.Background(), drafts("alice", "x", "l", 1))
	wantError(t, "one more", err, ErrLogFull)
	checkIDs(t, "the log", readAll(t, db, topics(t, "alice"), window.Span{From: before, To: event.MaxID}, 10), []event.ID{event.MaxID - 1})
}

func TestAppendGathers(t *testing.T) {
	db := openServer(t)
	var shown [][]event.ID
	db.OnCommit(func(evs []event.Event, head event.ID) {
		shown = append(shown, ids(evs))
		if head != db.Head() || head != evs[len(evs)-1].ID {
			t.Errorf("shown %v with head %s", ids(evs), head)
		}
	})
	reached, release := hold(db)
	first := appendSoon(context.Background(), db, drafts("alice", "x", "first", 1))
	<-reached
	var wg sync.WaitGroup
	for i := range 20 {
		wg.Go(func() {
			rs, err := db.Append(context.Background(), drafts("alice", "x", fmt.Sprint(i), 3))
			if err != nil || rs[2].ID != rs[0].ID+2 || rs[1].ID != rs[0].ID+1 {
				t.Errorf("%v, %v: want three ids next to one another", rs, err)
			}
		})
	}
	release()
	wg.Wait()
	if a := <-first; a.err != nil {
		t.Error(a.err)
	}
	var all []event.ID
	for _, some := range shown {
		all = append(all, some...)
	}
	if fmt.Sprint(all) != fmt.Sprint(allIDs(61)) {
		t.Errorf("shown were %v", all)
	}
}

func TestAppendUnknownOutcome(t *testing.T) {
	for _, afterwards := range []bool{false, true} {
		db := openServer(t)
		mustAppend(t, db, draft("alice", "x", "before"))
		var shown, head []int
		db.OnCommit(func(evs []event.Event, h event.ID) {
			if shown = append(shown, len(evs)); evs == nil {
				shown[len(shown)-1] = -1
			}
			head = append(head, int(h))
		})
		failCommit(db, afterwards)
		ds := drafts("bob", "y", "k", 2)
		rs, err := db.Append(context.Background(), ds)
		wantError(t, "Append", err, ErrUnknown)
		wantError(t, "Append", err, errInjected)
		var status interface{ HTTPStatus() int }
		if rs != nil || !errors.As(err, &status) || status.HTTPStatus() != http.StatusServiceUnavailable {
			t.Errorf("Append = %v, %v", rs, err)
		}
		again := mustAppend(t, db, ds...)
		if again[0].ID != 2 || again[1].ID != 3 || again[0].Duplicate != afterwards {
			t.Errorf("again: %v, known %v", again[1].ID, again[0].Duplicate)
		}
		want := "[-1 2] [1 3]"
		if afterwards {
			want = "[-1] [3]"
		}
		if got := fmt.Sprint(shown, head); got != want {
			t.Errorf("shown were %s, want %s", got, want)
		}
		checkIDs(t, "the log", readAll(t, db, topics(t, "*"), window.Span{To: 9}, 10), allIDs(3))
	}
}

func TestAppendCancelled(t *testing.T) {
	db := openServer(t)
	ctx, cancel := context.WithCancel(context.Background())
	reached, release := hold(db)
	writing := appendSoon(ctx, db, drafts("alice", "x", "writing", 1))
	<-reached
	waiting := appendSoon(ctx, db, drafts("alice", "x", "waiting", 1)) // not taken by the committer yet
	cancel()
	if a := <-writing; !errors.Is(a.err, ErrUnknown) || !errors.Is(a.err, context.Canceled) {
		t.Errorf("while it was written: %v", a.err)
	}
	if a := <-waiting; !errors.Is(a.err, context.Canceled) || errors.Is(a.err, ErrUnknown) {
		t.Errorf("while it waited: %v", a.err)
	}
	_, err := db.Append(ctx, drafts("alice", "x", "late", 1))
	wantError(t, "afterwards", err, context.Canceled)
	release()
	if rs := mustAppend(t, db, draft("alice", "x", "writing-0"), draft("alice", "x", "waiting-0")); !rs[0].Duplicate || rs[1].Duplicate {
		t.Errorf("written %v, waiting %v; want true, false", rs[0].Duplicate, rs[1].Duplicate)
	}
}

func TestAppendCancelledInBatch(t *testing.T) {
	db := openServer(t)
	ctx, cancel := context.WithCancel(context.Background())
	cancel()
	gone := &appendRequest{ctx: ctx, drafts: drafts("alice", "x", "k", 1), done: make(chan error, 1)}
	db.commitRequests([]*appendRequest{gone})
	wantError(t, "nobody waits for it", <-gone.done, context.Canceled)
	if db.Head() != 0 {
		t.Errorf("head %s", db.Head())
	}
}

func TestCloseWithWaitingAppends(t *testing.T) {
	db := openServer(t)
	reached, release := hold(db)
	writing := appendSoon(context.Background(), db, drafts("alice", "x", "writing", 1))
	<-reached
	var waiting []chan appended
	for i := range 5 {
		waiting = append(waiting, appendSoon(context.Background(), db, drafts("alice", "x", fmt.Sprint(i), 1)))
	}
	closed := make(chan error)
	go func() { closed <- db.Close() }()
	<-db.closing
	release()
	if a := <-writing; a.err != nil {
		t.Errorf("what was being written: %v", a.err)
	}
	done := 1
	for _, c := range waiting {
		switch a := <-c; {
		case a.err == nil:
			done++
		case !errors.Is(a.err, ErrClosed):
			t.Errorf("a waiting append: %v", a.err)
		}
	}
	if err := errors.Join(<-closed, db.Close()); err != nil {
		t.Error(err)
	}
	_, err := db.Append(context.Background(), drafts("alice", "x", "late", 1))
	wantError(t, "after Close", err, ErrClosed)
	again := mustOpen(t, db.Path(), Config{Role: Server})
	defer again.Close()
	if again.Head() != event.ID(done) {
		t.Errorf("head %s, acknowledged were %d", again.Head(), done)
	}
}

func TestTimeNeverGoesBack(t *testing.T) {
	c := newClock()
	path := t.TempDir() + "/log.db"
	db := mustOpen(t, path, Config{Role: Server, Now: c.now})
	first := mustAppend(t, db, draft("alice", "x", "1"))[0].Time
	db.Close()
	c.add(-48 * time.Hour)
	db = mustOpen(t, path, Config{Role: Server, Now: c.now})
	defer db.Close()
	if got := mustAppend(t, db, draft("alice", "x", "2"))[0].Time; got != first {
		t.Errorf("after the clock was set back: %s, want %s", got, first)
	}
	c.at = time.Date(12026, 1, 1, 0, 0, 0, 0, time.UTC)
	if _, err := db.Append(context.Background(), drafts("alice", "x", "3", 1)); err == nil {
		t.Error("a time without a text is taken")
	}
	c.at = newClock().at.Add(time.Hour)
	if got := mustAppend(t, db, draft("alice", "x", "4"))[0]; got.ID != 3 || got.Time != event.TimeOf(c.at) {
		t.Errorf("afterwards: %s at %s", got.ID, got.Time)
	}
}

// limitPages lets the file grow by no more than n pages, by any writer.
func limitPages(t *testing.T, db *DB, n int) {
	t.Helper()
	var pages int
	if err := db.file.ViewRow(context.Background(), `PRAGMA page_count`, nil, &pages); err != nil {
		t.Fatal(err)
	}
	if err := rawExec(db, fmt.Sprintf(`PRAGMA max_page_count = %d`, pages+n)); err != nil {
		t.Fatal(err)
	}
}

func TestAppendFullDisk(t *testing.T) {
	db := openServer(t)
	mustAppend(t, db, drafts("alice", "x", "k", 10)...)
	limitPages(t, db, 20)
	big := drafts("bob", "y", "big", 50)
	for i := range big {
		big[i].Value = []byte(`"` + strings.Repeat("x", 10_000) + `"`)
	}
	_, err := db.Append(context.Background(), big)
	wantError(t, "Append", err, ErrFull)
	if head := db.Head(); head != 10 {
		t.Fatalf("head %s", head)
	}
	checkIDs(t, "the log", readAll(t, db, topics(t, "*"), window.Span{To: 10}, 100), allIDs(10))
	mustAppend(t, db, draft("bob", "y", "small")) // a small one still fits
	limitPages(t, db, 100_000)
	if rs := mustAppend(t, db, big...); rs[0].ID != 12 || rs[49].ID != 61 {
		t.Errorf("afterwards: %s-%s", rs[0].ID, rs[49].ID)
	}
	checkIDs(t, "bob", readAll(t, db, topics(t, "bob/y$"), window.Span{To: 61}, 100), allIDs(61)[10:])
	integrity(t, db)
}

func TestApplyFullDisk(t *testing.T) {
	db := openClient(t)
	alice := topics(t, "alice")
	l, _, err := db.Leases().Claim(context.Background(), alice, window.Span{To: 100})
	if err != nil {
		t.Fatal(err)
	}
	limitPages(t, db, 20)
	var evs []event.Event
	for id := event.ID(1); id <= 50; id++ {
		d := draft("alice", fmt.Sprint(id), "k")
		d.Value = []byte(`"` + strings.Repeat("x", 10_000) + `"`)
		evs = append(evs, event.New(id, 1, d, d.Hash()))
	}
	_, err = l.Apply(context.Background(), evs, 100)
	wantError(t, "Apply", err, ErrFull)
	if held := mustHeld(t, db, alice...); len(held) > 0 || l.Reached() != 0 {
		t.Fatalf("held %v, reached %s", held, l.Reached())
	}
	limitPages(t, db, 100_000)
	if added, err := l.Apply(context.Background(), evs, 100); len(added) != 50 || err != nil {
		t.Fatalf("afterwards: %d, %v", len(added), err)
	}
	checkIDs(t, "alice", readAll(t, db, alice, window.Span{To: 100}, 100), allIDs(50))
}
