package cache

import (
	"context"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"sync"
	"testing"

	"github.com/rstream-dev/rstream/event"
	"github.com/rstream-dev/rstream/internal/longtest"
	"github.com/rstream-dev/rstream/internal/testfile"
	"github.com/rstream-dev/rstream/window"
)

// The files of testdata/cache were written by the version that brought a schema.
// Every later version must read them. Those of the last schema are written again, with
// -update, only until it has landed.
const (
	goldenDir  = "../testdata/cache"
	goldenLast = "0010"
)

// goldenFiles returns the files of one kind, oldest schema first.
func goldenFiles(t *testing.T, kind string) []string {
	t.Helper()
	paths, err := filepath.Glob(filepath.Join(goldenDir, "*-"+kind+".db"))
	if err != nil {
		t.Fatal(err)
	}
	var names []string
	for _, path := range paths {
		names = append(names, filepath.Base(path))
	}
	migrations, err := os.ReadDir("internal/dbfile/migrations")
	if err != nil || len(names) != len(migrations) {
		t.Fatalf("there are %s files of %d schemas, %v, and %d migrations", kind, len(names), err, len(migrations))
	}
	return names
}

// goldenCopy copies a file to where it may be changed.
func goldenCopy(t *testing.T, name string) string {
	t.Helper()
	b, err := os.ReadFile(filepath.Join(goldenDir, name))
	if err != nil {
		t.Fatal(err)
	}
	path := filepath.Join(t.TempDir(), name)
	if err := os.WriteFile(path, b, 0o600); err != nil {
		t.Fatal(err)
	}
	return path
}

// upgradedGolden copies a file that has been upgraded.
func upgradedGolden(t *testing.T, name string) string {
	t.Helper()
	b, ok := upgraded[name]
	if !ok {
		path := goldenCopy(t, name)
		err := mustOpen(t, path, Config{}).Close()
		if err == nil {
			b, err = os.ReadFile(path)
		}
		if err != nil {
			t.Fatal(err)
		}
		upgraded[name] = b
	}
	path := filepath.Join(t.TempDir(), name)
	if err := os.WriteFile(path, b, 0o600); err != nil {
		t.Fatal(err)
	}
	return path
}

// upgraded are files as upgradedGolden has made them.
var upgraded = map[string][]byte{}

func TestGoldenUpdate(t *testing.T) {
	if !*update {
		t.Skip("without -update")
	}
	write := func(name string, cfg Config, fill func(*DB)) {
		path := filepath.Join(t.TempDir(), name)
		cfg.Log, cfg.Now = testLog, newClock().now
		db := mustOpen(t, path, cfg)
		fill(db)
		if err := db.Close(); err != nil { // into a single file
			t.Fatal(err)
		}
		b, err := os.ReadFile(path)
		if err == nil {
			err = os.WriteFile(filepath.Join(goldenDir, name), b, 0o644)
		}
		if err != nil {
			t.Fatal(err)
		}
	}
	if err := os.MkdirAll(goldenDir, 0o755); err != nil {
		t.Fatal(err)
	}
	write(goldenLast+"-server.db", Config{Role: Server}, fillGoldenServer(t))
	write(goldenLast+"-client.db", Config{Role: Client}, fillGoldenClient(t))
	write(goldenLast+"-server-grown.db", Config{Role: Server}, growGoldenServer(t))
	write(goldenLast+"-client-grown.db", Config{Role: Client}, growGoldenClient(t))
}

// growGoldenServer fills a log beyond its first block and drops its history.
func growGoldenServer(t *testing.T) func(*DB) {
	return func(db *DB) {
		for i := range 16 {
			mustAppend(t, db, drafts("alice", fmt.Sprint("posts/", i%5), fmt.Sprint(i), 250)...)
			mustAppend(t, db, drafts("bob", fmt.Sprint("x/", i), "k", 3)...)
		}
		mustAppend(t, db, drafts("carol", "y", "k", 60)...)
		if err := db.RetainOnce(context.Background(), Retention{MaxBytes: 1}); err != nil {
			t.Fatal(err)
		}
		mustAppend(t, db, event.Draft{User: "bob", Path: "x/3", Type: event.Del, Key: "gone"}, draft("carol", "é", "last"))
		mustSeal(t, db, event.All)
	}
}

// growGoldenClient fills a copy in several windows, not in the order of their ids, and
// forgets some.
func growGoldenClient(t *testing.T) func(*DB) {
	return func(db *DB) {
		pull := func(topic, path string, from, to, step event.ID) {
			l := mustClaim(t, db, topic, from, to)
			var evs []event.Event
			for id := from + step; id <= to; id += step {
				evs = append(evs, madeEvent(topic, fmt.Sprint(path, uint64(id%7)), id))
			}
			mustApply(t, l, to, evs...)
			mustDo(t, l.Commit)
		}
		pull("alice", "posts/", 7000, 11_000, 30)
		pull("bob", "x/", 3001, 9001, 50)
		pull("alice", "posts/", 0, 5000, 34)
		if _, err := db.Forget(context.Background(), topics(t, "bob")[0], 4000); err != nil {
			t.Fatal(err)
		}
		mustSeal(t, db, topics(t, "alice")[0])
		if _, err := db.Doubt(context.Background(), topics(t, "alice/posts/3$")[0], window.Span{From: 30, To: 60}, window.Digest{}); err != nil {
			t.Fatal(err)
		}
	}
}

func fillGoldenServer(t *testing.T) func(*DB) {
	return func(db *DB) {
		for i := range 3 {
			mustAppend(t, db, drafts("alice", fmt.Sprint("posts/", i), "k", 4)...)
		}
		mustAppend(t, db, event.Draft{User: "bob", Path: "é", Type: event.Del, Key: "k"})
	}
}

func fillGoldenClient(t *testing.T) func(*DB) {
	return func(db *DB) {
		ctx := context.Background()
		store(t, db, "alice", madeEvent("alice", "posts/1", 3), madeEvent("alice", "posts/2", 5))
		l := mustClaim(t, db, "alice", 10, 20)
		mustApply(t, l, 14, madeEvent("alice", "posts/1", 12))
		if err := l.Fail(ctx, errInjected); err != nil {
			t.Fatal(err)
		}
		l = mustFollow(t, db, 30, "bob")
		mustApply(t, l, 33, madeEvent("bob", "x", 33)) // as if killed
		cur, err := db.HoldCursor(ctx, "mine", topics(t, "alice", "bob"))
		if err != nil {
			t.Fatal(err)
		}
		if err := cur.Move(ctx, 5, []byte("state")); err != nil {
			t.Fatal(err)
		}
		if err := db.Remember(ctx, topics(t, "alice"), "http://127.0.0.1:8420"); err != nil {
			t.Fatal(err)
		}
		state := []event.Event{madeEvent("carol", "y", 38), madeEvent("carol", "z", 35)}
		keep(t, db, state, topics(t, "carol")[0], 40)
		if _, err := db.Imports().AddCandidates(ctx, []event.Event{madeEvent("dave", "x", 7), madeEvent("dave", "y", 9)}); err != nil {
			t.Fatal(err)
		}
		if _, err := db.Imports().AddForeign(ctx, []event.Event{madeEvent("erin", "x", 8)}); err != nil {
			t.Fatal(err)
		}
		if _, err := db.Outbox().Queue(ctx, []event.Draft{draft("alice", "x", "k1"), draft("alice", "x", "k2"), draft("alice", "y", "k3")}); err != nil {
			t.Fatal(err)
		}
		if err := db.Outbox().Refuse(ctx, []int64{2}, "too large"); err != nil {
			t.Fatal(err)
		}
		if _, err := db.Doubt(ctx, topics(t, "alice")[0], window.Span{From: 2, To: 4}, window.Digest{}); err != nil {
			t.Fatal(err)
		}
	}
}

func TestGoldenServer(t *testing.T) {
	alone(t)
	for _, name := range goldenFiles(t, "server") {
		t.Run(name, func(t *testing.T) { checkGoldenServer(t, name) })
	}
}

func checkGoldenServer(t *testing.T, name string) {
	db := mustOpen(t, goldenCopy(t, name), Config{Role: Server, Log: testLog})
	defer db.Close()
	checkSchema(t, db)
	checkIDs(t, "*", readAll(t, db, topics(t, "*"), window.Span{To: event.MaxID}, 10), allIDs(13))
	checkIDs(t, "alice/posts/1", readAll(t, db, topics(t, "alice/posts/1$"), window.Span{To: 13}, 10), allIDs(8)[4:])
	rs := mustAppend(t, db, append(drafts("alice", "posts/2", "k", 1), draft("alice", "x", "new"))...)
	if !rs[0].Duplicate || rs[0].ID != 9 || rs[1].ID != 14 {
		t.Errorf("appended are %v", rs)
	}
	integrity(t, db)
}

// A file of every version can drop its history.
func TestGoldenRetain(t *testing.T) {
	alone(t)
	files := goldenFiles(t, "server")
	for _, name := range files[:longtest.Size(1, len(files))] {
		t.Run(name, func(t *testing.T) {
			db := mustOpen(t, goldenCopy(t, name), Config{Role: Server, Log: testLog})
			defer db.Close()
			mustAppend(t, db, drafts("alice", "posts/1", "fill", event.BlockSize-20)...)
			mustAppend(t, db, draft("alice", "posts/0", "again"), event.Draft{User: "alice", Path: "posts/2", Type: event.Del, Key: "k"})
			mustAppend(t, db, drafts("bob", "x", "k", 10)...)
			all := readAll(t, db, topics(t, "*"), window.Span{To: event.MaxID}, 5000)
			if err := db.RetainOnce(context.Background(), Retention{MaxBytes: 1}); err != nil {
				t.Fatal(err)
			}
			c := retainCheck{t, db, all, event.BlockSize}
			c.horizonIs()
			c.left()
			c.state(event.All, c.horizon)
			c.state(event.All, db.Head())
			c.below()
			c.time(c.horizon)
			checkLookUp(t, db, all)
			if rs := mustAppend(t, db, drafts("alice", "posts/0", "k", 1)...); !rs[0].Duplicate || !rs[0].Dropped || rs[0].ID != 1 {
				t.Errorf("the first event again is %+v", rs[0])
			}
			integrity(t, db)
		})
	}
}

func TestGoldenClient(t *testing.T) {
	alone(t)
	for _, name := range goldenFiles(t, "client") {
		t.Run(name, func(t *testing.T) { checkGoldenClient(t, name) })
	}
}

func checkGoldenClient(t *testing.T, name string) {
	db := mustOpen(t, goldenCopy(t, name), Config{Role: Client, Log: testLog})
	defer db.Close()
	ctx := context.Background()
	if name >= "0002" {
		want := []event.Event{madeEvent("carol", "y", 38), madeEvent("carol", "z", 35)}
		checkState(t, db, want, topics(t, "carol")[0], 40)
	}
	if name >= "0003" {
		checkGoldenImports(t, db)
	}
	if name >= "0006" {
		doubts, err := db.Doubts(ctx)
		if want := (Doubt{topics(t, "alice")[0], window.Span{From: 2, To: 4}}); err != nil || len(doubts) != 1 || doubts[0] != want {
			t.Errorf("in doubt are %v, %v, want %v", doubts, err, want)
		}
	}
	checkSchema(t, db)
	checkList(t, "as it was left", db, "alice committed 0-5, alice failed 10-14…20, bob live 30-33…")
	checkIDs(t, "alice", readAll(t, db, topics(t, "alice"), window.Span{To: 5}, 10), []event.ID{3, 5})
	checkIDs(t, "bob", readAll(t, db, topics(t, "bob"), window.Span{From: 30, To: 40}, 10), []event.ID{33})
	cur, err := db.HoldCursor(ctx, "mine", topics(t, "alice", "bob"))
	if err != nil || cur.Position() != 5 {
		t.Errorf("the cursor is %v, %v", cur, err)
	}
	if name >= "0006" && string(cur.State()) != "state" {
		t.Errorf("the cursor's state is %q", cur.State())
	}
	followed, err := db.Followed(ctx)
	urls, err2 := db.Sources(ctx)
	if len(followed) != 1 || len(urls) != 1 || err != nil || err2 != nil {
		t.Errorf("followed are %v, %v from %v, %v", followed, err, urls, err2)
	}
	mustApply(t, mustClaim(t, db, "alice", 0, 20), 10)
	integrity(t, db)
}

func checkGoldenImports(t *testing.T, db *DB) {
	t.Helper()
	checkIDs(t, "candidates", candidates(t, db, event.All, window.Span{To: event.MaxID}), []event.ID{7, 9})
	if got, want := foreignHashes(t, db, event.All), madeEvent("erin", "x", 8).Hash; len(got) != 1 || got[0] != want {
		t.Errorf("foreign events %v, want %v", got, want)
	}
	checkOutbox(t, db, "1 alice/x k1, 2 alice/x k2: too large, 3 alice/y k3")
}

// checkSchema checks that an upgraded file has the schema of a new one: no migration was
// changed after its release.
func checkSchema(t *testing.T, db *DB) {
	t.Helper()
	if old, young := schema(t, db), newSchema(); !slices.Equal(old, young) {
		t.Errorf("the schema has become\n%q, a new file's is\n%q", old, young)
	}
}

// newSchema returns the schema of a new file.
var newSchema = sync.OnceValue(func() (statements []string) {
	fileOf(Config{Role: Server}, func(db *DB) error {
		statements = schema(panicker{}, db)
		return nil
	})
	return statements
})

func schema(t fataler, db *DB) (statements []string) {
	t.Helper()
	rows, err := db.file.Read.Query(`SELECT coalesce(sql, name) FROM sqlite_schema ORDER BY name`)
	if err != nil {
		t.Fatalf("%v", err)
	}
	defer rows.Close()
	for rows.Next() {
		var s string
		if err := rows.Scan(&s); err != nil {
			t.Fatalf("%v", err)
		}
		statements = append(statements, testfile.PlainSQL(s))
	}
	return statements
}
