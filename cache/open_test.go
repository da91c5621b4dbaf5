package cache

import (
	"context"
	"database/sql"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"runtime"
	"sync"
	"testing"

	"github.com/rstream-dev/rstream/cache/internal/dbfile"
	"github.com/rstream-dev/rstream/event"
	"github.com/rstream-dev/rstream/internal/longtest"
	"github.com/rstream-dev/rstream/internal/pagetest"
	"github.com/rstream-dev/rstream/window"
)

func TestOpenOddPaths(t *testing.T) {
	longtest.Require(t)
	dir := t.TempDir()
	for _, name := range []string{"a b", "a?mode=ro", "a#b", "a%20b", "a%", "é\U0001F642", "a&_pragma=x;y", "'\"", ":memory:", "file:x", "a+b", "-n"} {
		path := filepath.Join(dir, name)
		db := mustOpen(t, path, Config{Role: Server})
		mustAppend(t, db, draft("alice", "x", name))
		if err := db.Close(); err != nil {
			t.Fatal(err)
		}
		if info, err := os.Stat(path); err != nil || info.Size() == 0 {
			t.Errorf("%q is not where it should be: %v", name, err)
		}
		db = mustOpen(t, path, Config{})
		if n := len(readAll(t, db, topics(t, "*"), window.Span{To: 1}, 10)); n != 1 || db.Path() != path {
			t.Errorf("%q has %d events, path %q", name, n, db.Path())
		}
		db.Close()
	}
	if files, _ := filepath.Glob(filepath.Join(dir, "*")); len(files) != 2*12 { // and the locks
		t.Errorf("left behind are %q", files)
	}
}

func TestOpenMakesPrivateFiles(t *testing.T) {
	if runtime.GOOS == "windows" {
		t.Skip("no modes")
	}
	db := openServer(t)
	mustAppend(t, db, draft("alice", "x", "1"))
	for _, suffix := range []string{"", "-wal", "-shm", ".lock"} {
		info, err := os.Stat(db.Path() + suffix)
		if err != nil {
			t.Fatal(err)
		}
		if info.Mode().Perm() != 0o600 {
			t.Errorf("%s has the mode %v", info.Name(), info.Mode())
		}
	}
}

// foreign creates files that are not rstream's and returns their folder.
func foreign(t *testing.T, name string) (dir string) {
	t.Helper()
	dir = t.TempDir()
	path := filepath.Join(dir, "x.db")
	run := func(statements string, closing bool) {
		db, err := sql.Open("sqlite", path)
		if err != nil {
			t.Fatal(err)
		}
		if _, err := db.Exec(statements); err != nil {
			t.Fatal(err)
		}
		if closing {
			db.Close()
			return
		}
		copyDir := t.TempDir() // as a killed program leaves it
		for file, bytes := range folderFiles(t, dir) {
			if err := os.WriteFile(filepath.Join(copyDir, file), []byte(bytes), 0o600); err != nil {
				t.Fatal(err)
			}
		}
		dir = copyDir
		db.Close()
	}
	write := func(bytes string) {
		if err := os.WriteFile(path, []byte(bytes), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	switch name {
	case "rollback":
		run(`CREATE TABLE t (a); INSERT INTO t VALUES (1)`, true)
	case "wal":
		run(`PRAGMA journal_mode=wal; CREATE TABLE t (a); INSERT INTO t VALUES (1)`, true)
	case "full auto_vacuum":
		run(`PRAGMA auto_vacuum=1; PRAGMA journal_mode=wal; CREATE TABLE t (a)`, true)
	case "hot wal":
		run(`PRAGMA journal_mode=wal; CREATE TABLE t (a); INSERT INTO t VALUES (1)`, false)
	case "hot wal of a known program":
		run(`PRAGMA journal_mode=wal; PRAGMA application_id=77; PRAGMA user_version=3`, false)
	case "known program":
		run(`PRAGMA application_id=77; CREATE TABLE t (a)`, true)
	case "text":
		write("hello\n")
	case "short":
		write("SQLite format 3\x00")
	case "zeros":
		write(string(make([]byte, 8192)))
	case "newer":
		db := mustOpen(t, path, Config{Role: Client, Log: testLog})
		db.Close()
		run(`PRAGMA user_version=99`, true)
	case "folder":
		if err := os.Mkdir(path, 0o700); err != nil {
			t.Fatal(err)
		}
	}
	return dir
}

func TestOpenRefusesAndLeavesAlone(t *testing.T) {
	for name, want := range map[string]error{
		"rollback": ErrNotCache, "wal": ErrNotCache, "full auto_vacuum": ErrNotCache, "hot wal": ErrNotCache,
		"hot wal of a known program": ErrNotCache, "known program": ErrNotCache, "text": ErrNotCache,
		"short": ErrNotCache, "zeros": ErrNotCache, "newer": ErrNewer, "folder": ErrNotCache,
	} {
		t.Run(name, func(t *testing.T) {
			dir := foreign(t, name)
			before := folderFiles(t, dir)
			for _, cfg := range []Config{{}, {Role: Server}, {Role: Client, Log: testLog}} {
				_, err := Open(context.Background(), filepath.Join(dir, "x.db"), cfg)
				wantError(t, fmt.Sprintf("Open as %q", cfg.Role), err, want)
			}
			after := folderFiles(t, dir)
			delete(after, "x.db.lock")
			if fmt.Sprint(before) != fmt.Sprint(after) {
				t.Errorf("the files have changed")
			}
		})
	}
}

func TestOpenChecksRoleAndLog(t *testing.T) {
	dir := t.TempDir()
	server, client := filepath.Join(dir, "server"), filepath.Join(dir, "client")
	ctx := context.Background()
	_, err := Open(ctx, client, Config{})
	wantError(t, "no file", err, fs.ErrNotExist)
	_, err = Open(ctx, client, Config{Role: Client})
	wantError(t, "a copy of no log", err, fs.ErrNotExist)
	for _, cfg := range []Config{{Role: "boss"}, {Role: Client, Log: "x"}, {Role: Server, Log: "0123456789ABCDEU"}, {Log: "x"}} {
		if _, err := Open(ctx, client, cfg); err == nil {
			t.Errorf("%v is accepted", cfg)
		}
	}
	if files := folderFiles(t, dir); len(files) > 0 {
		t.Fatalf("made were %d files", len(files))
	}
	mustOpen(t, server, Config{Role: Server}).Close()
	mustOpen(t, client, Config{Role: Client, Log: testLog}).Close()
	before := folderFiles(t, dir)
	_, err = Open(ctx, server, Config{Role: Client, Log: testLog})
	wantError(t, "server as client", err, ErrRole)
	_, err = Open(ctx, client, Config{Role: Server})
	wantError(t, "client as server", err, ErrRole)
	_, err = Open(ctx, client, Config{Role: Client, Log: "FEDCBA9876543210"})
	wantError(t, "other log", err, ErrOtherLog)
	_, err = Open(ctx, client, Config{Log: "FEDCBA9876543210"})
	wantError(t, "other log, any role", err, ErrOtherLog)
	for file, bytes := range before {
		if after := folderFiles(t, dir)[file]; after != bytes {
			t.Errorf("%s has changed", file)
		}
	}
	db := mustOpen(t, client, Config{Role: Client})
	if defer_ := db.Close(); defer_ != nil || db.Log() != testLog || db.Role() != Client {
		t.Errorf("opened as %s of %s, closed with %v", db.Role(), db.Log(), defer_)
	}
}

func TestOpenOneServer(t *testing.T) {
	db := openServer(t)
	link := filepath.Join(t.TempDir(), "link")
	if err := os.Symlink(db.Path(), link); err != nil {
		t.Skip(err)
	}
	for _, path := range []string{db.Path(), link} {
		_, err := Open(context.Background(), path, Config{Role: Server})
		wantError(t, "a second server", err, ErrLocked)
	}
	mustAppend(t, db, drafts("alice", "x", "k", 3)...)
	reader := mustOpen(t, link, Config{}) // reading is allowed
	defer reader.Close()
	if got := readAll(t, reader, topics(t, "*"), window.Span{To: 3}, 10); len(got) != 3 || reader.Head() != 3 {
		t.Errorf("read beside the server: %d events, head %s", len(got), reader.Head())
	}
	if _, err := reader.Append(context.Background(), drafts("alice", "x", "l", 1)); !errors.Is(err, ErrRole) {
		t.Errorf("Append beside the server: %v", err)
	}
	if err := db.Close(); err != nil {
		t.Fatal(err)
	}
	mustOpen(t, link, Config{Role: Server}).Close()
}

// A log's own window must not be merged, split or dropped as those of a copy are.
func TestServerFileTakesNoLeases(t *testing.T) {
	db := openServer(t)
	ctx := context.Background()
	_, _, err := db.Leases().Claim(ctx, []event.Topic{event.All}, window.Span{To: 10})
	wantError(t, "Claim", err, ErrRole)
	_, err = db.Leases().Follow(ctx, topics(t, "*"), 0)
	wantError(t, "Follow", err, ErrRole)
	mustAppend(t, db, draft("alice", "x", "1"))
	checkIDs(t, "after it", readAll(t, db, topics(t, "alice"), window.Span{To: 1}, 10), []event.ID{1})
	copied := openClient(t)
	_, err = copied.Append(ctx, drafts("alice", "x", "1", 1))
	wantError(t, "Append to a copy", err, ErrRole)
	_, err = copied.Horizon(ctx)
	wantError(t, "Horizon of a copy", err, ErrRole)
}

func TestOpenAtOnce(t *testing.T) {
	path := filepath.Join(t.TempDir(), "copy.db")
	var wg sync.WaitGroup
	for range 8 {
		wg.Go(func() {
			db, err := Open(context.Background(), path, Config{Role: Client, Log: testLog})
			if err != nil {
				t.Error(err)
				return
			}
			defer db.Close()
			if _, _, err := db.Leases().Claim(context.Background(), []event.Topic{event.All}, window.Span{To: 10}); err != nil {
				t.Error(err)
			}
		})
	}
	wg.Wait()
}

// A copy of a file that SQLite made has the old file format.
func TestOpenBackup(t *testing.T) {
	db := openServer(t)
	mustAppend(t, db, drafts("alice", "x", "k", 10)...)
	path := filepath.Join(t.TempDir(), "backup.db")
	if _, err := sqlExec(db.Path(), "VACUUM INTO '"+path+"'"); err != nil {
		t.Fatal(err)
	}
	again := mustOpen(t, path, Config{Role: Server})
	defer again.Close()
	if rs := mustAppend(t, again, draft("alice", "x", "new")); rs[0].ID != 11 {
		t.Errorf("the next id is %s", rs[0].ID)
	}
}

func TestOpenReadOnly(t *testing.T) {
	if os.Getuid() == 0 || runtime.GOOS == "windows" {
		t.Skip("nothing is read-only for root")
	}
	dir := t.TempDir()
	path := filepath.Join(dir, "x.db")
	if err := os.Chmod(dir, 0o500); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { os.Chmod(dir, 0o700) })
	_, err := Open(context.Background(), path, Config{Role: Server})
	wantError(t, "a folder that is read-only", err, fs.ErrPermission)
	os.Chmod(dir, 0o700)
	mustOpen(t, path, Config{Role: Client, Log: testLog}).Close()
	os.Chmod(path, 0)
	_, err = Open(context.Background(), path, Config{})
	wantError(t, "a file that cannot be read", err, fs.ErrPermission)
}

func TestDamagedFile(t *testing.T) {
	db := openServer(t)
	mustAppend(t, db, drafts("alice", "x", "k", 2000)...)
	path := db.Path()
	db.Close()
	bytes, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	for at := 2 * dbfile.PageSize; at < len(bytes); at += dbfile.PageSize {
		copy(bytes[at:], make([]byte, 512)) // no page has its header any more
	}
	if err := os.WriteFile(path, bytes, 0o600); err != nil {
		t.Fatal(err)
	}
	again, err := Open(context.Background(), path, Config{Role: Server})
	if err == nil {
		defer again.Close()
		_, _, err = again.Read(context.Background(), topics(t, "*"), 0, event.MaxID, 5000)
	}
	wantError(t, "a damaged file", err, ErrCorrupt)
}

func TestDamagedLines(t *testing.T) {
	alone(t)
	good := madeEvent("alice", "x", 1)
	other := madeEvent("alice", "x", 2)
	for _, line := range []string{"", "{}", "\x00", string(good.Line()[:40]), string(good.Line()[:len(good.Line())-2]), string(other.Line()), `{"id":"`} {
		db := openClient(t)
		store(t, db, "alice", good)
		if err := edit(db, func(tx pagetest.DB) error { return pagetest.SetLine(tx, 1, []byte(line)) }); err != nil {
			t.Fatal(err)
		}
		for _, topic := range []string{"alice", "alice/x$"} {
			_, _, err := db.Read(context.Background(), topics(t, topic), 0, 1, 10)
			wantError(t, fmt.Sprintf("Read of %q", line), err, ErrCorrupt)
			_, _, err = db.AppendLines(context.Background(), nil, topics(t, topic), 0, 1, 10)
			wantError(t, fmt.Sprintf("AppendLines of %q", line), err, ErrCorrupt)
		}
		_, err := db.PositionAt(context.Background(), good.Time)
		wantError(t, fmt.Sprintf("PositionAt of %q", line), err, ErrCorrupt)
	}
}

// An event outside the windows is not returned, whichever table it is stored in.
func TestWindowsSayWhatIsReadable(t *testing.T) {
	log, copied := openServer(t), openClient(t)
	mustAppend(t, log, drafts("alice", "x", "k", 5000)...)
	store(t, copied, "alice", madeEvent("alice", "x", 1), madeEvent("alice", "x", 9))
	if err := rawExec(copied, `DELETE FROM window`); err != nil {
		t.Fatal(err)
	}
	for _, name := range []string{"*", "alice", "alice/x$", "bob"} {
		checkNothing(t, copied, topics(t, name))
	}
	if err := rawExec(log, `DELETE FROM log; UPDATE log_copy SET sum = 0`); err != nil {
		t.Fatal(err)
	}
	_, err := log.Append(context.Background(), drafts("alice", "x", "more", 1))
	wantError(t, "Append that nobody could read", err, ErrCorrupt)
	_, err = log.logWindow(context.Background())
	wantError(t, "the log's window", err, ErrCorrupt)
	log.Close()
	_, err = Open(context.Background(), log.Path(), Config{Role: Server})
	wantError(t, "Open", err, ErrCorrupt)
}

func checkNothing(t *testing.T, db *DB, ts []event.Topic) {
	t.Helper()
	ctx := context.Background()
	if held := mustHeld(t, db, ts...); len(held) > 0 {
		t.Errorf("Held(%v) = %v", ts, held)
	}
	for _, after := range []event.ID{0, 1, 4096, event.MaxID} {
		evs, next, err := db.Read(ctx, ts, after, event.MaxID, 100)
		var notHeld *window.NotHeldError
		if !errors.As(err, &notHeld) || notHeld.Some || len(evs) > 0 || next != after {
			t.Errorf("Read(%v) after %s = %d events up to %s, %v", ts, after, len(evs), next, err)
		}
	}
	if err := db.Each(ctx, ts, window.Span{To: 10}, func(*event.Event) error { return errInjected }); err == nil || errors.Is(err, errInjected) {
		t.Errorf("Each(%v): %v", ts, err)
	}
	if at, err := db.BeforeLast(ctx, ts, 1, 0, event.MaxID); at != 0 || err != nil {
		t.Errorf("BeforeLast(%v) = %s, %v", ts, at, err)
	}
}

// store fills and commits the span of topic up to the last of evs.
func store(t fataler, db *DB, topic string, evs ...event.Event) {
	t.Helper()
	ctx := context.Background()
	to := evs[len(evs)-1].ID
	l, busy, err := db.Leases().Claim(ctx, topics(t, topic), window.Span{To: to})
	if err != nil || busy || l == nil {
		t.Fatalf("Claim: %v, busy %v, %v", l, busy, err)
	}
	if _, err := l.Apply(ctx, evs, to); err != nil {
		t.Fatalf("%v", err)
	}
	if err := l.Commit(ctx); err != nil {
		t.Fatalf("%v", err)
	}
}
