package cache

import (
	"context"
	"database/sql"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"testing"

	"github.com/rstream-dev/rstream/cache/internal/dbfile"
	"github.com/rstream-dev/rstream/event"
	"github.com/rstream-dev/rstream/internal/longtest"
	"github.com/rstream-dev/rstream/window"
)

// Whatever column of the row of a log is damaged, the log is served as before: its name, its
// window, its counter, and the hashes that it knows.
func TestRestoreLogRow(t *testing.T) {
	whole := filepath.Join(t.TempDir(), "log.db")
	db := mustOpen(t, whole, Config{Role: Server})
	ds := drafts("alice", "x", "k", event.BlockSize+50)
	mustAppend(t, db, ds...)
	log, head := db.Log(), db.HeadPoint()
	mustDo(t, func(context.Context) error { return db.Close() })
	file, err := os.ReadFile(whole)
	if err != nil {
		t.Fatal(err)
	}
	var again []event.Draft // of some events
	for i := 0; i < len(ds); i += longtest.Size(53, 1) {
		again = append(again, ds[i])
	}
	for _, damage := range []string{
		`id = '0000000000000000'`, `role = 'client'`, `next = next - 100`, `next = next + (1 << 40)`, `time = 0`, `indexed = indexed + 4096`,
		`hashed = next - 1`, `salt = salt + 1`, `horizon = 4000`, `dropped = 4096`, `sum = sum + 1`,
	} {
		t.Run(damage, func(t *testing.T) {
			path := filepath.Join(t.TempDir(), "log.db")
			if err := os.WriteFile(path, file, 0o600); err != nil {
				t.Fatal(err)
			}
			if err := execAside(path, `UPDATE log SET `+damage); err != nil {
				t.Fatal(err)
			}
			_, err := Open(t.Context(), path, Config{})
			wantError(t, "Open by another process", err, ErrCorrupt)
			db := mustOpen(t, path, Config{Role: Server, Log: log})
			if !db.Restored() || db.Damaged() == 0 || db.HeadPoint() != head {
				t.Errorf("restored %v, %d parts are damaged, the head is %v, want %v", db.Restored(), db.Damaged(), db.HeadPoint(), head)
			}
			if held := mustHeld(t, db, event.All); len(held) != 1 || held[0] != (window.Span{To: head.ID}) {
				t.Errorf("held is %v", held)
			}
			rs := mustAppend(t, db, append(slices.Clone(again), draft("alice", "x", "new"))...)
			for i := range rs {
				id := event.ID(1 + i*longtest.Size(53, 1))
				last := i == len(rs)-1
				if last {
					id = head.ID + 1
				}
				if rs[i].Duplicate == last || rs[i].ID != id {
					t.Fatalf("append %d is %s, known %v", i, rs[i].ID, rs[i].Duplicate)
				}
			}
			checkIDs(t, "the log", readAll(t, db, topics(t, "*"), window.Span{To: event.MaxID}, 5000), allIDs(head.ID+1))
			db.Close()
			db = mustOpen(t, path, Config{Role: Server})
			if db.Restored() {
				t.Error("it is restored again")
			}
			integrity(t, db)
			db.Close()
		})
	}
}

// A log becomes a new one as before, though its row is damaged.
func TestRestoreNewLog(t *testing.T) {
	ctx := context.Background()
	dir := t.TempDir()
	db := mustOpen(t, filepath.Join(dir, "log.db"), Config{Role: Server})
	rs := mustAppend(t, db, drafts("alice", "x", "k", event.BlockSize+50)...)
	head := db.Head()
	mustDo(t, func(context.Context) error { return db.BackupTo(ctx, filepath.Join(dir, "backup.db")) })
	mirrored, err := Open(ctx, filepath.Join(dir, "mirror.db"), Config{Role: Server, Log: db.Log(), Mirror: &Mirrored{}})
	if err != nil {
		t.Fatal(err)
	}
	var evs []event.Event
	for _, r := range rs {
		evs = append(evs, r.Event)
	}
	mustDo(t, func(context.Context) error { return mirrored.Receive(ctx, evs) })
	for _, db := range []*DB{db, mirrored} {
		mustDo(t, func(context.Context) error { return db.Close() })
	}
	for _, test := range []struct {
		file     string
		asNew    bool
		parted   event.ID
		damaging string
	}{
		{"backup.db", false, head, `next = next - 100`},
		{"backup.db", true, head, `role = 'server', next = 7`},
		{"mirror.db", true, head, `next = next + 100`},
		{"log.db", true, event.MaxID, `next = next - 100`},
	} {
		what := fmt.Sprintf("%s with %s", test.file, test.damaging)
		file, err := os.ReadFile(filepath.Join(dir, test.file))
		if err != nil {
			t.Fatal(err)
		}
		path := filepath.Join(t.TempDir(), test.file)
		if err := os.WriteFile(path, file, 0o600); err != nil {
			t.Fatal(err)
		}
		if err := execAside(path, `UPDATE log SET `+test.damaging); err != nil {
			t.Fatal(err)
		}
		next, err := Open(ctx, path, Config{Role: Server, AsNewLog: test.asNew})
		if err != nil {
			t.Errorf("%s: %v", what, err)
			continue
		}
		if parent, parted, err := next.Parent(ctx); parent != db.Log() || parted != test.parted || next.Log() == db.Log() || err != nil {
			t.Errorf("%s: the parent of %s is %s up to %s, %v, want %s up to %s", what, next.Log(), parent, parted, err, db.Log(), test.parted)
		}
		if !next.Restored() || next.Damaged() == 0 || next.Head() != head {
			t.Errorf("%s: restored %v, %d parts are damaged, the head is %s, want %s", what, next.Restored(), next.Damaged(), next.Head(), head)
		}
		if again := mustAppend(t, next, drafts("alice", "x", "k", 1)[0], draft("bob", "x", "k")); !again[0].Duplicate || again[0].ID != 1 || again[1].ID != head+1 {
			t.Errorf("%s: appends are %+v", what, again)
		}
		integrity(t, next)
		next.Close()
	}
}

// execAside changes a file that is not open.
func execAside(path, statement string) error {
	db, err := sql.Open("sqlite", path)
	if err != nil {
		return err
	}
	_, err = db.Exec(statement)
	return errors.Join(err, db.Close())
}

// A log whose row and whose copy of it are damaged is refused: an id could be given twice.
func TestRestoreNothing(t *testing.T) {
	path := filepath.Join(t.TempDir(), "log.db")
	db := mustOpen(t, path, Config{Role: Server})
	mustAppend(t, db, drafts("alice", "x", "k", 10)...)
	if err := rawExec(db, `UPDATE log SET next = 3; UPDATE log_copy SET next = 3`); err != nil {
		t.Fatal(err)
	}
	db.Close()
	for _, role := range []Role{Server, ""} {
		_, err := Open(t.Context(), path, Config{Role: role})
		wantError(t, "Open as "+string(role), err, ErrCorrupt)
	}
}

// The row of a copy is restored, too.
func TestRestoreCopy(t *testing.T) {
	db := openClient(t)
	store(t, db, "alice", madeEvent("alice", "x", 3), madeEvent("alice", "x", 5))
	if err := rawExec(db, `UPDATE log SET id = '0000000000000000', removals = 17`); err != nil {
		t.Fatal(err)
	}
	path := db.Path()
	db.Close()
	db = mustOpen(t, path, Config{Role: Client, Log: testLog})
	defer db.Close()
	if !db.Restored() {
		t.Error("it was not restored")
	}
	checkIDs(t, "alice", readAll(t, db, topics(t, "alice"), window.Span{To: 5}, 10), []event.ID{3, 5})
	store(t, db, "bob", madeEvent("bob", "x", 4))
}

// A damaged window holds nothing, and the next change of windows drops it. Nobody becomes
// sound by being changed.
func TestDamagedWindow(t *testing.T) {
	for _, damage := range []string{`start = start + 1`, `reached = reached + 1000, stop = stop + 1000`, `topic = 'bob'`, `proven = 1 - proven`, `state = 'live'`} {
		db := openClient(t)
		store(t, db, "alice", madeEvent("alice", "x", 3), madeEvent("alice", "x", 5))
		store(t, db, "carol", madeEvent("carol", "x", 4))
		if err := rawExec(db, `UPDATE window SET `+damage+` WHERE topic = 'alice'`); err != nil {
			t.Fatal(err)
		}
		for _, name := range []string{"alice", "bob"} {
			if held := mustHeld(t, db, topics(t, name)...); len(held) > 0 {
				t.Errorf("%s: held of %s is %v", damage, name, held)
			}
		}
		err := db.file.Update(t.Context(), func(tx *sql.Tx) error {
			res, err := tx.Exec(moveStart, 1, 1)
			if n, _ := res.RowsAffected(); n != 0 {
				err = errors.New("a damaged row was changed")
			}
			return err
		})
		if err != nil {
			t.Errorf("%s: %v", damage, err)
		}
		mustDo(t, mustClaim(t, db, "alice", 0, 5).Commit)
		_, faults := faultsOf(t, db)
		if len(faults) > 0 {
			t.Errorf("%s: it is still there: %v", damage, faults)
		}
		checkIDs(t, "carol", readAll(t, db, topics(t, "carol"), window.Span{To: 4}, 10), []event.ID{4})
	}
}

// A damaged cursor is an error until it is set with its topics.
func TestDamagedCursor(t *testing.T) {
	ctx := context.Background()
	db := openClient(t)
	ts := topics(t, "alice")
	if _, err := db.SetCursor(ctx, "mine", ts, 7); err != nil {
		t.Fatal(err)
	}
	if err := rawExec(db, `UPDATE cursor SET position = 9`); err != nil {
		t.Fatal(err)
	}
	_, err := db.HoldCursor(ctx, "mine", ts)
	wantError(t, "HoldCursor", err, ErrDamagedCursor)
	_, err = db.SetCursor(ctx, "mine", nil, 5)
	wantError(t, "SetCursor without topics", err, ErrDamagedCursor)
	if cs, err := db.Cursors(ctx); err != nil || len(cs) != 1 || !cs[0].Damaged {
		t.Errorf("Cursors = %+v, %v", cs, err)
	}
	if _, err := db.SetCursor(ctx, "mine", ts, 5); err != nil {
		t.Fatal(err)
	}
	c, err := db.HoldCursor(ctx, "mine", ts)
	if err != nil || c.Position() != 5 {
		t.Errorf("the cursor is %+v, %v", c, err)
	}
}

// A damaged doubt is one about everything that is not proven, and ends when all is.
func TestDamagedDoubt(t *testing.T) {
	ctx := context.Background()
	db := openClient(t)
	store(t, db, "alice", madeEvent("alice", "x", 3))
	if _, err := db.Doubt(ctx, topics(t, "alice")[0], window.Span{From: 0, To: 3}, window.Digest{1}); err != nil {
		t.Fatal(err)
	}
	if err := rawExec(db, `UPDATE doubt SET topic = 'bob', stop = 1`); err != nil {
		t.Fatal(err)
	}
	if spans, err := db.Doubted(ctx, topics(t, "alice")...); err != nil || len(spans) != 1 || spans[0].To != 3 {
		t.Errorf("doubted are %v, %v", spans, err)
	}
	n, err := db.Removals(ctx)
	if err == nil {
		err = db.Prove(ctx, event.All, window.Span{To: event.MaxID}, n, 0)
	}
	if err != nil {
		t.Fatal(err)
	}
	if doubts, err := db.Doubts(ctx); err != nil || len(doubts) > 0 {
		t.Errorf("doubts are %v, %v", doubts, err)
	}
}

// FindDamage names each damaged page and posting once, and Damaged counts them.
func TestFindDamage(t *testing.T) {
	db := openServer(t)
	mustAppend(t, db, drafts("alice", "x", "k", event.BlockSize+500)...)
	find := func() (found []error) {
		t.Helper()
		if err := db.FindDamage(t.Context(), func(err error) { found = append(found, err) }); err != nil {
			t.Fatal(err)
		}
		return found
	}
	if found := find(); len(found) > 0 {
		t.Errorf("a sound file: %v", found)
	}
	damagePage(t, db, 100, "lines")
	damagePage(t, db, event.BlockSize+100, "entries")
	if err := rawExec(db, `UPDATE page_posting SET count = count + 1`); err != nil {
		t.Fatal(err)
	}
	found := find()
	for _, err := range found {
		wantError(t, "found", err, ErrCorrupt)
	}
	if len(found) != 3 || db.Damaged() != 3 {
		t.Errorf("found are %v, counted %d, want 3", found, db.Damaged())
	}
}

// Bits that flip in a row's sum, or in a value, are noticed, whatever the types are.
func TestRowSum(t *testing.T) {
	same := dbfile.RowSum(int64(5), "text", nil, []byte("b"))
	if same != dbfile.RowSum(int64(5), "text", nil, []byte("b")) {
		t.Error("the same row has another checksum")
	}
	for i, other := range []int64{
		dbfile.RowSum(int64(4), "text", nil, []byte("b")), dbfile.RowSum(int64(5), "texu", nil, []byte("b")),
		dbfile.RowSum(int64(5), "text", "", []byte("b")), dbfile.RowSum(int64(5), "text", nil, "b"), dbfile.RowSum(int64(5), "tex", "t", nil, []byte("b")),
	} {
		if other == same {
			t.Errorf("row %d has the same checksum", i)
		}
	}
}
