package cache

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"testing"
)

// createChild creates files for ever and says which log each has, once it is open.
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

// loseWAL removes what SQLite keeps beside a file.
func loseWAL(t *testing.T, path string) {
	t.Helper()
	for _, suffix := range []string{"-wal", "-shm"} {
		if err := os.Remove(path + suffix); err != nil && !errors.Is(err, os.ErrNotExist) {
			t.Fatal(err)
		}
	}
}

// Wherever the creation of a file is killed, and even if its write-ahead log is lost,
// it is empty or has the identity that was told.
func TestKillWhileCreating(t *testing.T) {
	for range size(4, 30) {
		dir := t.TempDir()
		told := map[string]string{}
		startChild(t, "create", dir, "").killAfter(t, 6, func(line string) {
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

// What was appended may be lost with a write-ahead log, never which log it was.
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

// copyFiles copies a file that is open with what lies beside it, as a crash would
// leave them.
func copyFiles(t *testing.T, path string) string {
	t.Helper()
	dir := t.TempDir()
	for name, bytes := range snapshot(t, filepath.Dir(path)) {
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
