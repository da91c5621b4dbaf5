//go:build unix

package cache

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"

	"github.com/rstream-dev/rstream/event"
	"github.com/rstream-dev/rstream/window"
)

// asNobody runs fn as a user other than root, to whom permissions apply. It makes dir
// reachable.
func asNobody(t *testing.T, dir string, fn func()) {
	t.Helper()
	if os.Geteuid() != 0 {
		fn()
		return
	}
	for up := filepath.Dir(dir); len(up) > len(os.TempDir()); up = filepath.Dir(up) {
		if err := os.Chmod(up, 0o755); err != nil {
			t.Fatal(err)
		}
	}
	if err := syscall.Seteuid(65534); err != nil {
		t.Fatal(err)
	}
	defer func() {
		if err := syscall.Seteuid(0); err != nil {
			t.Fatal(err)
		}
	}()
	fn()
}

// freeze copies the files of dir so that other users may only read them.
func freeze(t *testing.T, files map[string]string, leaveOut ...string) (dir string) {
	t.Helper()
	dir = filepath.Join(t.TempDir(), "frozen")
	if err := os.Mkdir(dir, 0o755); err != nil {
		t.Fatal(err)
	}
next:
	for name, bytes := range files {
		for _, suffix := range append(leaveOut, ".lock") {
			if strings.HasSuffix(name, suffix) {
				continue next
			}
		}
		if err := os.WriteFile(filepath.Join(dir, name), []byte(bytes), 0o444); err != nil {
			t.Fatal(err)
		}
	}
	if err := os.Chmod(dir, 0o555); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { os.Chmod(dir, 0o700) })
	return dir
}

// filled returns the files of a copy with one event in the file itself and one only in its
// write-ahead log.
func filled(t *testing.T) map[string]string {
	t.Helper()
	db := mustOpen(t, filepath.Join(t.TempDir(), "x.db"), Config{Role: Client, Log: testLog})
	defer db.Close()
	store(t, db, "alice", madeEvent("alice", "posts/1", 3))
	if _, err := sqlExec(db.Path(), `PRAGMA wal_checkpoint(TRUNCATE)`); err != nil {
		t.Fatal(err)
	}
	store(t, db, "bob", madeEvent("bob", "x", 5))
	return folderFiles(t, filepath.Dir(db.Path()))
}

// A read-only file is read completely, including its write-ahead log, and nothing is written
// to its folder.
func TestOpenFrozen(t *testing.T) {
	files := filled(t)
	closed := map[string]string{"x.db": files["x.db"], "x.db-wal": ""}
	for name, c := range map[string]struct {
		files    map[string]string
		leaveOut []string
		ids      int
	}{
		"file alone":               {closed, []string{"-wal"}, 1},
		"empty log":                {closed, nil, 1},
		"log and index":            {files, nil, 2},
		"log without its index":    {files, []string{"-shm"}, 2},
		"index without its log":    {files, []string{"-wal"}, 1},
		"read-only file, own home": {closed, []string{"-wal"}, 1},
	} {
		t.Run(name, func(t *testing.T) {
			dir := freeze(t, c.files, c.leaveOut...)
			if name == "read-only file, own home" {
				if err := os.Chmod(dir, 0o777); err != nil {
					t.Fatal(err)
				}
			}
			before := folderFiles(t, dir)
			asNobody(t, dir, func() { checkFrozen(t, filepath.Join(dir, "x.db"), c.ids) })
			if fmt.Sprint(folderFiles(t, dir)) != fmt.Sprint(before) {
				t.Error("the files have changed")
			}
		})
	}
}

func checkFrozen(t *testing.T, path string, n int) {
	t.Helper()
	ctx := context.Background()
	_, err := Open(ctx, path, Config{Role: Server})
	wantError(t, "serving it", err, ErrReadOnly)
	for _, cfg := range []Config{{}, {Role: Client, Log: testLog}} {
		db := mustOpen(t, path, cfg)
		defer db.Close()
		checkCount(t, db, n)
		if _, err := db.Leaves(ctx, topics(t, "alice")[0], window.Span{To: 5}); err != nil {
			t.Error(err)
		}
		integrity(t, db)
		_, err := db.HoldCursor(ctx, "mine", topics(t, "alice"))
		wantError(t, "moving a cursor", err, ErrReadOnly)
		_, err = db.Forget(ctx, topics(t, "alice")[0], 9)
		wantError(t, "forgetting", err, ErrReadOnly)
		if err := db.Close(); err != nil {
			t.Error(err)
		}
	}
}

func checkCount(t *testing.T, db *DB, want int) {
	t.Helper()
	if n, err := db.Count(context.Background()); err != nil || n.Events != int64(want) {
		t.Errorf("there are %d events, %v, want %d", n.Events, err, want)
	}
}

// An unreadable write-ahead log is an error, never ignored.
func TestOpenFrozenWithoutItsLog(t *testing.T) {
	dir := freeze(t, filled(t))
	if err := os.Chmod(filepath.Join(dir, "x.db-wal"), 0); err != nil {
		t.Fatal(err)
	}
	asNobody(t, dir, func() {
		_, err := Open(context.Background(), filepath.Join(dir, "x.db"), Config{})
		wantError(t, "without its write-ahead log", err, os.ErrPermission)
	})
}

// Files of earlier versions would have to be written.
func TestOpenFrozenOlder(t *testing.T) {
	for _, kind := range []string{"client", "server"} {
		for _, name := range goldenFiles(t, kind) {
			b, err := os.ReadFile(filepath.Join(goldenDir, name))
			if err != nil {
				t.Fatal(err)
			}
			dir := freeze(t, map[string]string{"x.db": string(b)})
			asNobody(t, dir, func() {
				db, err := Open(context.Background(), filepath.Join(dir, "x.db"), Config{})
				if name[:4] == goldenLast {
					if err == nil {
						err = db.Close()
					}
					if err != nil {
						t.Errorf("%s: %v", name, err)
					}
					return
				}
				wantError(t, name, err, ErrOlder)
				wantError(t, name, err, ErrReadOnly)
			})
			if len(folderFiles(t, dir)) != 1 {
				t.Errorf("%s: left are %v", name, folderFiles(t, dir))
			}
		}
	}
}

// If another process writes a file while it is read without locks, no answer mixes two
// moments.
func TestOpenFrozenChanges(t *testing.T) {
	for name, leaveOut := range map[string][]string{"file alone": {"-wal", "-shm"}, "log without its index": {"-shm"}} {
		t.Run(name, func(t *testing.T) {
			dir := freeze(t, filled(t), leaveOut...)
			path := filepath.Join(dir, "x.db")
			var db *DB
			asNobody(t, dir, func() { db = mustOpen(t, path, Config{}) })
			defer db.Close()
			if err := errors.Join(os.Chmod(dir, 0o755), os.Chmod(path, 0o644)); err != nil {
				t.Fatal(err)
			}
			if len(leaveOut) == 1 {
				if err := os.Chmod(path+"-wal", 0o644); err != nil {
					t.Fatal(err)
				}
			}
			writer := mustOpen(t, path, Config{Role: Client, Log: testLog})
			store(t, writer, "carol", madeEvent("carol", "x", 7))
			if err := writer.Close(); err != nil {
				t.Fatal(err)
			}
			asNobody(t, dir, func() {
				_, err := db.Windows(context.Background())
				wantError(t, "reading on", err, ErrChanged)
			})
		})
	}
}

// A process that may only read a file sees the concurrent writes of another one.
func TestOpenFrozenBesideWriter(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "shared")
	if err := os.Mkdir(dir, 0o755); err != nil {
		t.Fatal(err)
	}
	path := filepath.Join(dir, "x.db")
	writer := mustOpen(t, path, Config{Role: Client, Log: testLog})
	defer writer.Close()
	store(t, writer, "alice", madeEvent("alice", "posts/1", 3))
	for _, suffix := range []string{"", "-wal", "-shm"} {
		if err := os.Chmod(path+suffix, 0o444); err != nil {
			t.Fatal(err)
		}
	}
	if os.Geteuid() != 0 {
		if err := os.Chmod(dir, 0o555); err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { os.Chmod(dir, 0o700) })
	}
	asNobody(t, dir, func() {
		db := mustOpen(t, path, Config{})
		defer db.Close()
		for i := range 3 {
			checkCount(t, db, 1+i)
			store(t, writer, "bob", madeEvent("bob", "x", event.ID(7+2*i)))
		}
	})
}
