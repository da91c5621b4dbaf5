package cache

import (
	"context"
	"fmt"
	"os"
	"path/filepath"
	"runtime"
	"testing"
)

// serveChild serves a file until it is killed. It also opens and closes the file as a
// reader, which must not release the server's lock.
func serveChild(path string) error {
	ctx := context.Background()
	db, err := Open(ctx, path, Config{Role: Server})
	if err != nil {
		return err
	}
	for range 3 {
		reader, err := Open(ctx, path, Config{})
		if err != nil {
			return err
		}
		reader.Close()
		if _, err := Open(ctx, path, Config{Role: Server}); err == nil {
			return fmt.Errorf("%s is served twice", path)
		}
	}
	fmt.Println(db.Log())
	select {}
}

// readChild opens a file, reads and ends.
func readChild(path string) error {
	db, err := Open(context.Background(), path, Config{})
	if err != nil {
		fmt.Println(err)
		return nil
	}
	fmt.Println("read", db.Head())
	return db.Close()
}

// otherNames makes other names of a file, in other folders.
func otherNames(t *testing.T, path string) map[string]string {
	t.Helper()
	dir := t.TempDir()
	names := map[string]string{"hard link": filepath.Join(dir, "hard.db"), "link": filepath.Join(dir, "soft.db")}
	if err := os.Link(path, names["hard link"]); err != nil {
		t.Fatal(err)
	}
	if runtime.GOOS == "windows" { // links need a privilege there
		delete(names, "link")
	} else if err := os.Symlink(path, names["link"]); err != nil {
		t.Fatal(err)
	}
	return names
}

// Only one server writes a file, whatever names it has and whatever happens to the lock file,
// and after a kill the next one starts at once.
func TestServerLockIsOfTheFile(t *testing.T) {
	path := filepath.Join(t.TempDir(), "x.db")
	c := startChild(t, "serve", path, "")
	if !c.lines.Scan() {
		t.Fatalf("the child serves nothing: %s", c.errs.String())
	}
	log := c.lines.Text()
	names := otherNames(t, path)
	if runtime.GOOS != "windows" { // an open file cannot be removed there
		if err := os.Remove(path + ".lock"); err != nil {
			t.Fatal(err)
		}
	}
	names["file"] = path
	for what, name := range names {
		_, err := Open(context.Background(), name, Config{Role: Server})
		wantError(t, "a second server by the "+what, err, ErrLocked)
	}
	if err := c.Process.Kill(); err != nil {
		t.Fatal(err)
	}
	if err := c.Wait(); err == nil {
		t.Fatal("the child ended before it was killed")
	}
	db := mustOpen(t, names["hard link"], Config{Role: Server})
	defer db.Close()
	if db.Log() != log {
		t.Errorf("the log is %s, it was %s", db.Log(), log)
	}
}

// The same holds within one process, and a DB that is refused or closed releases no lock of
// another.
func TestServerLockWithinProcess(t *testing.T) {
	db := openServer(t)
	for what, name := range otherNames(t, db.Path()) {
		for range 2 {
			_, err := Open(context.Background(), name, Config{Role: Server})
			wantError(t, "a second server by the "+what, err, ErrLocked)
		}
	}
	if err := db.Close(); err != nil {
		t.Fatal(err)
	}
	mustOpen(t, db.Path(), Config{Role: Server}).Close()
}

// Under another name a file has no write-ahead log, so that a reader would miss its events.
func TestReadUnderAnotherName(t *testing.T) {
	db := openServer(t)
	mustAppend(t, db, draft("alice", "x", "1"))
	names := otherNames(t, db.Path())
	names["file"] = db.Path()
	for what, name := range names {
		want := "read " + db.Head().String()
		if what == "hard link" {
			want = fmt.Sprintf("open %s: %v", name, ErrLinked)
		}
		c := startChild(t, "read", name, "")
		if !c.lines.Scan() || c.lines.Text() != want {
			t.Errorf("by the %s: %q, want %q", what, c.lines.Text(), want)
		}
		if err := c.Wait(); err != nil {
			t.Error(err)
		}
	}
}

// Closing a second DB of a process must not release the locks of the first: another process
// would believe that it is the last one and remove the write-ahead log.
func TestCloseKeepsLocksOfOthers(t *testing.T) {
	db := openClient(t)
	store(t, db, "alice", madeEvent("alice", "posts/1", 1))
	for range 2 {
		mustOpen(t, db.Path(), Config{}).Close()
		c := startChild(t, "read", db.Path(), "")
		if err := c.Wait(); err != nil {
			t.Fatal(err)
		}
		if _, err := os.Stat(db.Path() + "-wal"); err != nil {
			t.Fatal("another process has removed the write-ahead log")
		}
	}
	store(t, db, "alice", madeEvent("alice", "posts/1", 3))
	integrity(t, db)
}
