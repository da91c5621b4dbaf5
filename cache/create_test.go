package cache

import (
	"context"
	"database/sql"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"testing"

	"github.com/rstream-dev/rstream/internal/longtest"
)

// createChild creates files until it is killed, and prints the log of each once it is open.
func createChild(dir string) error {
	for i := 0; ; i++ {
		db, err := Open(context.Background(), filepath.Join(dir, fmt.Sprintf("%d.db", i)), Config{Role: Server})
		if err != nil {
			return err
		}
		fmt.Printf("%d.db %s\n", i, db.Log())
		if i%2 == 0 { // the others stay open, and are killed with their write-ahead logs
			db.Close()
		}
	}
}

// loseWAL removes the write-ahead log of a file and its index.
func loseWAL(t *testing.T, path string) {
	t.Helper()
	for _, suffix := range []string{"-wal", "-shm"} {
		if err := os.Remove(path + suffix); err != nil && !errors.Is(err, os.ErrNotExist) {
			t.Fatal(err)
		}
	}
}

// A file whose creation is killed at any point is empty or has the identity that was
// printed, even if its write-ahead log is lost.
func TestKillWhileCreating(t *testing.T) {
	for range longtest.Scale(2, 10, 30) {
		dir := t.TempDir()
		told := map[string]string{}
		startChild(t, "create", dir, "").killAfter(t, longtest.Size(4, 6), func(line string) {
			var name, log string
			if _, err := fmt.Sscan(line, &name, &log); err != nil {
				t.Fatalf("%q: %v", line, err)
			}
			told[name] = log
		})
		files, err := filepath.Glob(filepath.Join(dir, "*.db"))
		if err != nil || len(files) < len(told) {
			t.Fatalf("%d files for %d logs, %v", len(files), len(told), err)
		}
		for _, path := range files {
			loseWAL(t, path)
			checkCreated(t, path, told[filepath.Base(path)])
		}
	}
}

func checkCreated(t *testing.T, path, told string) {
	t.Helper()
	ctx := context.Background()
	before := ""
	db, err := Open(ctx, path, Config{})
	switch {
	case err == nil:
		before = db.Log()
		db.Close()
	case !errors.Is(err, ErrNoLog):
		t.Errorf("%s, killed while it was created: %v", path, err)
	}
	if told != "" && before != told {
		t.Errorf("%s has become %q, it was told as %s: %v", path, before, told, err)
	}
	db = mustOpen(t, path, Config{Role: Server})
	defer db.Close()
	if before != "" && db.Log() != before {
		t.Errorf("%s had the log %s and has become %s", path, before, db.Log())
	}
	mustAppend(t, db, draft("alice", "x", "1"))
	integrity(t, db)
}

// A file that loses its write-ahead log may lose appends, but never its identity.
func TestLostWALKeepsIdentity(t *testing.T) {
	for _, n := range []int{1, 500} {
		path := filepath.Join(t.TempDir(), "x.db")
		startChild(t, "append", path, "k").killAfter(t, n, func(string) {})
		whole := copyFiles(t, path)
		db := mustOpen(t, whole, Config{})
		defer db.Close()
		loseWAL(t, path)
		checkCreated(t, path, db.Log())
	}
}

// copyFiles copies an open file and its companions as a crash would leave them.
func copyFiles(t *testing.T, path string) string {
	t.Helper()
	dir := t.TempDir()
	for name, bytes := range folderFiles(t, filepath.Dir(path)) {
		if err := os.WriteFile(filepath.Join(dir, name), []byte(bytes), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	return filepath.Join(dir, filepath.Base(path))
}

// A backup that is served becomes a new log once, also if its write-ahead log is lost.
func TestLostWALKeepsRestoredLog(t *testing.T) {
	ctx := context.Background()
	old := openServer(t)
	mustAppend(t, old, drafts("alice", "x", "k", 10)...)
	path := filepath.Join(t.TempDir(), "backup.db")
	if err := old.BackupTo(ctx, path); err != nil {
		t.Fatal(err)
	}
	db := mustOpen(t, path, Config{Role: Server})
	defer db.Close()
	mustAppend(t, db, draft("alice", "x", "new"))
	killed := copyFiles(t, path)
	loseWAL(t, killed)
	again := mustOpen(t, killed, Config{Role: Server})
	defer again.Close()
	parent, head, err := again.Parent(ctx)
	if again.Log() != db.Log() || again.Log() == old.Log() || parent != old.Log() || head != 10 || err != nil {
		t.Errorf("log %s of %s at %s, %v; it was %s", again.Log(), parent, head, err, db.Log())
	}
}

// A process that is killed while it creates a file leaves one that the next process can
// complete.
func TestOpenAfterKillWhileCreating(t *testing.T) {
	steps := map[string]string{
		"no byte":    ``,
		"first page": `PRAGMA auto_vacuum=2; CREATE TABLE t (a); DROP TABLE t; PRAGMA schema_version=0`,
	}
	for name, statements := range steps {
		path := filepath.Join(t.TempDir(), "x.db")
		if err := os.WriteFile(path, nil, 0o600); err != nil {
			t.Fatal(err)
		}
		execSQL(t, path, statements)
		_, err := Open(context.Background(), path, Config{})
		wantError(t, name+": without a role", err, ErrNoLog)
		db := mustOpen(t, path, Config{Role: Server})
		mustAppend(t, db, draft("alice", "x", "1"))
		db.Close()
	}
}

// A file that has lost the identity of its log never becomes a new log.
func TestOpenRefusesLostIdentity(t *testing.T) {
	for name, statements := range map[string]string{
		"of an earlier version, without its write-ahead log": `PRAGMA auto_vacuum=2; PRAGMA journal_mode=wal`,
		"no log's name": `DELETE FROM log; DELETE FROM log_copy`,
	} {
		t.Run(name, func(t *testing.T) {
			dir := t.TempDir()
			path := filepath.Join(dir, "x.db")
			if name == "no log's name" {
				mustOpen(t, path, Config{Role: Server}).Close()
			}
			execSQL(t, path, statements)
			before := folderFiles(t, dir)
			for _, cfg := range []Config{{}, {Role: Server}, {Role: Client, Log: testLog}} {
				_, err := Open(context.Background(), path, cfg)
				wantError(t, fmt.Sprintf("Open as %q", cfg.Role), err, ErrNoIdentity)
			}
			after := folderFiles(t, dir)
			delete(before, "x.db.lock")
			delete(after, "x.db.lock")
			if fmt.Sprint(before) != fmt.Sprint(after) {
				t.Errorf("the files have changed")
			}
		})
	}
}

func execSQL(t *testing.T, path, statements string) {
	t.Helper()
	pool, err := sql.Open("sqlite", path)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := pool.Exec(statements); err != nil {
		t.Fatal(err)
	}
	if err := pool.Close(); err != nil {
		t.Fatal(err)
	}
}

// A file of an earlier version whose header is only in its write-ahead log, as a killed
// process leaves it, is opened.
func TestOpenYoungKilledFile(t *testing.T) {
	dir := t.TempDir()
	path := filepath.Join(dir, "log.db")
	pool, err := sql.Open("sqlite", path)
	if err != nil {
		t.Fatal(err)
	}
	defer pool.Close()
	if _, err := pool.Exec(`PRAGMA auto_vacuum=2; PRAGMA journal_mode=wal`); err != nil {
		t.Fatal(err)
	}
	tx, err := pool.Begin()
	if err != nil {
		t.Fatal(err)
	}
	first, err := os.ReadFile(filepath.Join("internal", "dbfile", "migrations", "0001_log.sql"))
	if err != nil {
		t.Fatal(err)
	}
	_, err = tx.Exec(string(first)+`; PRAGMA application_id=1920169074; PRAGMA user_version=1;
		INSERT INTO log (one, id, role, next, time, indexed) VALUES (1, ?, 'server', 1, 0, 0);
		INSERT INTO window (topic, state, start, reached, stop) VALUES ('*', 'committed', 0, 0, 0)`, testLog)
	if err := errors.Join(err, tx.Commit()); err != nil {
		t.Fatal(err)
	}
	killed := t.TempDir()
	for name, bytes := range folderFiles(t, dir) {
		if err := os.WriteFile(filepath.Join(killed, name), []byte(bytes), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	if app := folderFiles(t, killed)["log.db"][68:72]; app != "\x00\x00\x00\x00" {
		t.Fatalf("the header has the program %x: this test tests nothing", app)
	}
	again := mustOpen(t, filepath.Join(killed, "log.db"), Config{Role: Server, Log: testLog})
	defer again.Close()
	mustAppend(t, again, draft("alice", "x", "1"))
}
