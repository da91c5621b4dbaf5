package cache

import (
	"bytes"
	"context"
	"os"
	"path/filepath"
	"testing"

	"github.com/rstream-dev/rstream/event"
	"github.com/rstream-dev/rstream/internal/pagetest"
	"github.com/rstream-dev/rstream/window"
)

func wantNewest(t *testing.T, what string, db *DB, want Newest) {
	t.Helper()
	want.Log = testLog
	if got, err := db.Newest(context.Background()); got != want || err != nil {
		t.Errorf("%s: newest is %+v, %v, want %+v", what, got, err, want)
	}
}

// The newest mark is stored with its events, and stays whatever is merged, forgotten or
// dropped: events that were read once must not be mixed with another history.
func TestNewest(t *testing.T) {
	db, ctx := openClient(t), context.Background()
	wantNewest(t, "of a new copy", db, Newest{})
	told := func(id event.ID) event.Point { return event.Point{ID: id, Mark: 1<<30 | event.Mark(id)} }
	own := func(ev event.Event) event.Point { return event.Point{ID: ev.ID, Mark: ev.Mark()} }

	five := madeEvent("alice", "x", 5)
	l := mustClaim(t, db, "alice", 0, 10)
	wantNewest(t, "of a claim", db, Newest{})
	mustApply(t, l, 7, five)
	wantNewest(t, "without a told mark", db, Newest{Held: 7, Marked: own(five)})
	l.Marked(told(12))
	mustApply(t, l, 8)
	wantNewest(t, "with a mark beyond", db, Newest{Held: 8, Marked: own(five)})
	l.Marked(told(10))
	mustApply(t, l, 10)
	wantNewest(t, "with the mark of its end", db, Newest{Held: 10, Marked: told(10)})
	if err := l.Commit(ctx); err != nil {
		t.Fatal(err)
	}

	// An older span of another topic does not move it back, a newer proof moves it on.
	l = mustClaim(t, db, "bob", 0, 6)
	l.Marked(told(6))
	mustApply(t, l, 6)
	wantNewest(t, "after an older stretch", db, Newest{Held: 10, Marked: told(10)})
	removals, err := db.Removals(ctx)
	if err != nil {
		t.Fatal(err)
	}
	if err := db.Prove(ctx, topics(t, "alice")[0], window.Span{To: 20}, removals, told(20).Mark); err != nil {
		t.Fatal(err)
	}
	wantNewest(t, "after a proof", db, Newest{Held: 20, Marked: told(20)})
	w, _, err := db.Snapshots().KeepSnapshot(ctx, topics(t, "carol")[0], 30)
	if err != nil {
		t.Fatal(err)
	}
	w.Marked(told(30).Mark)
	wantNewest(t, "of a state that is begun", db, Newest{Held: 20, Marked: told(20)})
	if err := w.Finish(ctx); err != nil {
		t.Fatal(err)
	}
	wantNewest(t, "of a state", db, Newest{Held: 30, Marked: told(30)})
	if _, err := db.Forget(ctx, topics(t, "alice")[0], event.MaxID); err != nil {
		t.Fatal(err)
	}
	wantNewest(t, "after it was forgotten", db, Newest{Held: 30, Marked: told(30)})
}

// A file of an earlier version knows only the marks of the events that it holds; a damaged
// mark counts as none.
func TestNewestOfOldFile(t *testing.T) {
	db := openClient(t)
	evs := []event.Event{madeEvent("alice", "x", 3), madeEvent("alice", "x", 5)}
	mustApply(t, mustClaim(t, db, "alice", 0, 10), 10, evs...)
	if err := changeLog(db, `seen = 0, seen_mark = ''`); err != nil {
		t.Fatal(err)
	}
	wantNewest(t, "of an old file", db, Newest{Held: 10, Marked: event.Point{ID: 5, Mark: evs[1].Mark()}})
	if err := edit(db, func(tx pagetest.DB) error {
		return pagetest.SetLine(tx, 5, bytes.Replace(evs[1].Line(), []byte("alice"), []byte("malice"), 1))
	}); err != nil {
		t.Fatal(err)
	}
	wantNewest(t, "of a damaged file", db, Newest{Held: 10})
}

// A log's head has its mark from the start, also if its last event was dropped.
func TestHeadMark(t *testing.T) {
	path := filepath.Join(t.TempDir(), "log.db")
	db := mustOpen(t, path, Config{Role: Server})
	if p := db.HeadPoint(); p != (event.Point{}) {
		t.Errorf("the head of a new log is %v", p)
	}
	want := event.Point{}
	for range 3 {
		rs := mustAppend(t, db, drafts("alice", "x", db.Head().String(), 3)...)
		want = event.Point{ID: rs[2].ID, Mark: rs[2].Mark()}
		if p := db.HeadPoint(); p != want {
			t.Errorf("the head is %v, want %v", p, want)
		}
	}
	db.Close()
	db = mustOpen(t, path, Config{Role: Server})
	defer db.Close()
	if p := db.HeadPoint(); p != want {
		t.Errorf("opened again the head is %v, want %v", p, want)
	}
	mustAppend(t, db, drafts("alice", "x", "fill", event.BlockSize-int(want.ID))...)
	want = db.HeadPoint()
	mustAppend(t, db, event.Draft{User: "alice", Path: "x", Type: event.Del, Key: "k"})
	if err := db.RetainOnce(context.Background(), Retention{MaxBytes: 1}); err != nil {
		t.Fatal(err)
	}
	if _, mark, ok, err := db.LastAt(context.Background(), want.ID); mark != want.Mark || !ok || err != nil {
		t.Errorf("the mark of the horizon is %s, %v, %v, want %s", mark, ok, err, want.Mark)
	}
}

// A file that continues as a new log has the old log as its parent and no known position of
// the fork. A backup becomes a new log once, and its parent is known.
func TestGoOnAsNewLog(t *testing.T) {
	path, ctx := filepath.Join(t.TempDir(), "log.db"), context.Background()
	db := mustOpen(t, path, Config{Role: Server})
	mustAppend(t, db, drafts("alice", "x", "k", 3)...)
	old, head := db.Log(), db.HeadPoint()
	backup := filepath.Join(t.TempDir(), "backup.db")
	if err := db.BackupTo(ctx, backup); err != nil {
		t.Fatal(err)
	}
	db.Close()
	db = mustOpen(t, path, Config{Role: Server, AsNewLog: true})
	if parent, parted, err := db.Parent(ctx); db.Log() == old || !event.ValidLogID(db.Log()) || parent != old || parted != event.MaxID || err != nil {
		t.Errorf("%s has the parent %s up to %s, %v", db.Log(), parent, parted, err)
	}
	if db.HeadPoint() != head {
		t.Errorf("the head is %v, want %v", db.HeadPoint(), head)
	}
	mustAppend(t, db, drafts("alice", "x", "more", 3)...)
	wantWAL(t, path)
	now := db.Log()
	db.Close()
	db = mustOpen(t, path, Config{Role: Server})
	defer db.Close()
	if db.Log() != now || db.Head() != 6 {
		t.Errorf("the file is of %s up to %s, want %s", db.Log(), db.Head(), now)
	}
	restored := mustOpen(t, backup, Config{Role: Server, AsNewLog: true})
	defer restored.Close()
	if parent, parted, err := restored.Parent(ctx); parent != old || parted != 3 || err != nil {
		t.Errorf("the parent of a backup is %s up to %s, %v", parent, parted, err)
	}
	wantWAL(t, backup)
	_, err := Open(ctx, filepath.Join(t.TempDir(), "copy.db"), Config{Role: Client, Log: testLog, AsNewLog: true})
	wantError(t, "of a copy", err, ErrRole)
}

// wantWAL checks that a file has a write-ahead log: others read it while it is written to.
func wantWAL(t *testing.T, path string) {
	t.Helper()
	b, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	if versions := b[18:20]; !bytes.Equal(versions, []byte{2, 2}) { // SQLite's "file format write version" and "read version"
		t.Errorf("%s has the format versions %d, want those of a write-ahead log", filepath.Base(path), versions)
	}
}
