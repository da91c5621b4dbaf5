package cache

import (
	"context"
	"database/sql"
	"testing"

	"github.com/rstream-dev/rstream/event"
	"github.com/rstream-dev/rstream/window"
)

// An acknowledged append must survive a loss of power: with synchronous(normal), a commit to
// a write-ahead log is not synced.
func TestCommitsAreSynced(t *testing.T) {
	const full = 2
	for name, db := range map[string]*DB{"a log": openServer(t), "a copy": openClient(t)} {
		var got int
		err := db.file.Update(context.Background(), func(tx *sql.Tx) error { return tx.QueryRow(`PRAGMA synchronous`).Scan(&got) })
		if err != nil || got < full {
			t.Errorf("%s is written with synchronous=%d, %v, want at least %d", name, got, err, full)
		}
	}
}

// The number that a storage had in a transaction that was rolled back may become that of
// another storage.
func TestRolledBackStorage(t *testing.T) {
	db := openServer(t)
	mustAppend(t, db, draft("alice", "x", "1"))
	if err := rawExec(db, `CREATE TRIGGER refuse BEFORE UPDATE ON page WHEN instr(NEW.lines, 'poison') BEGIN SELECT RAISE(ABORT, 'poison'); END`); err != nil {
		t.Fatal(err)
	}
	if rs, err := db.Append(context.Background(), []event.Draft{draft("bob", "new", "poison")}); err == nil {
		t.Fatalf("Append = %v", rs)
	}
	mustAppend(t, db, draft("carol", "new", "2"))
	mustAppend(t, db, draft("bob", "new", "3"))
	for name, want := range map[string]event.ID{"carol": 2, "bob": 3} {
		checkIDs(t, name, readAll(t, db, topics(t, name), window.Span{To: db.Head()}, 10), []event.ID{want})
	}
	if n, err := db.Count(context.Background()); err != nil || n.Storages != 3 {
		t.Errorf("there are %d storages, %v, want 3", n.Storages, err)
	}
	integrity(t, db)
}

// An append that repeats an event of its own transaction gets that event, whether it is the
// first of the transaction or a later one.
func TestRepeatedInOneAppend(t *testing.T) {
	db := openServer(t)
	mustAppend(t, db, draft("alice", "x", "before"))
	a, b := draft("alice", "x", "a"), draft("alice", "x", "b")
	rs := mustAppend(t, db, a, a, b, b, a)
	for i, want := range []struct {
		id    event.ID
		known bool
	}{{2, false}, {2, true}, {3, false}, {3, true}, {2, true}} {
		if rs[i].ID != want.id || rs[i].Duplicate != want.known || rs[i].Key != []string{"a", "a", "b", "b", "a"}[i] {
			t.Errorf("receipt %d is %s of %q, known %v, want %s, %v", i, rs[i].ID, rs[i].Key, rs[i].Duplicate, want.id, want.known)
		}
	}
	checkIDs(t, "the log", readAll(t, db, topics(t, "*"), window.Span{To: db.Head()}, 10), allIDs(3))
}
