package cache

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"runtime"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/rstream-dev/rstream/event"
	"github.com/rstream-dev/rstream/internal/longtest"
	"github.com/rstream-dev/rstream/window"
)

func fileSize(t *testing.T, path string) int64 {
	t.Helper()
	info, err := os.Stat(path)
	if err != nil {
		t.Fatal(err)
	}
	return info.Size()
}

// onlyFiles checks the names of the files in a folder.
func onlyFiles(t *testing.T, dir string, want ...string) {
	t.Helper()
	entries, err := os.ReadDir(dir)
	if err != nil {
		t.Fatal(err)
	}
	var got []string
	for _, e := range entries {
		got = append(got, e.Name())
	}
	if strings.Join(got, " ") != strings.Join(want, " ") {
		t.Errorf("the folder has %q, want %q", got, want)
	}
}

// A backup that is served becomes a new log that begins with the old one's events.
func TestBackup(t *testing.T) {
	ctx := context.Background()
	db, evs := bigLog(t)
	dir := t.TempDir()
	path := filepath.Join(dir, "a?b%20c.db") // not a URL
	mustLeaves(t, db, event.All, window.Span{From: 0, To: db.Head()})
	if err := db.BackupTo(ctx, path); err != nil {
		t.Fatal(err)
	}
	onlyFiles(t, dir, "a?b%20c.db")
	if info, err := os.Stat(path); err != nil || info.Mode().Perm() != 0o600 {
		t.Errorf("the backup is %v, %v", info.Mode(), err)
	}
	wantError(t, "Open as a copy", openError(path, Config{Role: Client}), ErrRole)
	if log, head, err := db.Parent(ctx); log != "" || head != 0 || err != nil {
		t.Errorf("the parent of a new log is %q, %s, %v", log, head, err)
	}

	parted := db.Head()
	old := mustAppend(t, db, draft("alice", "after", "k"))[0].Event
	restored := mustOpen(t, path, Config{Role: Server})
	defer restored.Close()
	if restored.Log() == db.Log() || !event.ValidLogID(restored.Log()) {
		t.Errorf("the restored log is %q, the old one %q", restored.Log(), db.Log())
	}
	if log, head, err := restored.Parent(ctx); log != db.Log() || head != parted || err != nil {
		t.Errorf("its parent is %q, %s, %v, want %q, %s", log, head, err, db.Log(), parted)
	}
	if c := event.CursorOf(old.ID, db.Log()); c.Of(restored.Log()) {
		t.Errorf("cursor %s passes for one of the restored log", c)
	}
	span := window.Span{From: 0, To: parted}
	checkIDs(t, "restored", readAll(t, restored, []event.Topic{event.All}, span, 1000), ids(evs))
	rs := mustAppend(t, restored, evs[0].Draft, draft("alice", "other", "k"))
	if !rs[0].Duplicate || rs[0].ID != 1 || rs[1].ID != parted+1 || rs[1].Time < evs[len(evs)-1].Time {
		t.Errorf("the restored log gives %v", rs)
	}
	name := restored.Log()
	restored.Close()
	again := mustOpen(t, path, Config{Role: Server})
	defer again.Close()
	if again.Log() != name {
		t.Errorf("opened again, the log is %q, not %q", again.Log(), name)
	}
	integrity(t, again)
}

// A backup is not mixed with what a killed process has left of another file. Its events are
// in the -wal file alone, which stays as it is.
func TestBackupBesideOtherWAL(t *testing.T) {
	ctx := context.Background()
	db := openServer(t)
	mustAppend(t, db, drafts("alice", "x", "k", 3)...)
	kept := filepath.Join(t.TempDir(), "kept.db")
	if err := db.BackupTo(ctx, kept); err != nil {
		t.Fatal(err)
	}
	mustAppend(t, db, draft("alice", "x", "after"))
	path := db.Path()
	left, err := os.ReadFile(path + "-wal")
	if err != nil || len(left) == 0 {
		t.Fatal(len(left), err)
	}
	db.Close()
	b, err := os.ReadFile(kept)
	if err := errors.Join(err, os.Remove(path), os.WriteFile(path+"-wal", left, 0o600)); err != nil {
		t.Fatal(err)
	}
	wantError(t, "a new file", openError(path, Config{Role: Server}), ErrOnlyWAL)
	if _, err := os.Lstat(path); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("a file was made: %v", err)
	}
	if err := os.WriteFile(path, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	wantError(t, "an empty file", openError(path, Config{Role: Server}), ErrOnlyWAL)
	for _, wal := range [][]byte{left, nil} {
		if err := errors.Join(os.WriteFile(path, b, 0o600), os.WriteFile(path+"-wal", wal, 0o600)); err != nil {
			t.Fatal(err)
		}
		for _, cfg := range []Config{{}, {Role: Server}, {Role: Server, Mirror: &Mirrored{}}} {
			wantError(t, "beside another's log", openError(path, cfg), ErrOtherWAL)
		}
		if now, err := os.ReadFile(path + "-wal"); err != nil || string(now) != string(wal) {
			t.Errorf("the log has %d bytes, %v, want %d", len(now), err, len(wal))
		}
	}
	if err := os.Remove(path); err != nil {
		t.Fatal(err)
	}
	source := mustOpen(t, kept, Config{})
	defer source.Close()
	for _, suffix := range []string{"-wal", "-journal"} {
		if err := os.WriteFile(path+suffix, left, 0o600); err != nil {
			t.Fatal(err)
		}
		wantError(t, "backup beside "+suffix, source.BackupTo(ctx, path), fs.ErrExist)
		if err := os.Remove(path + suffix); err != nil {
			t.Fatal(err)
		}
	}
	mustDo(t, func(ctx context.Context) error { return source.BackupTo(ctx, path) })
	restored := mustOpen(t, path, Config{Role: Server})
	defer restored.Close()
	if restored.Head() != 3 {
		t.Errorf("the backup ends at %s", restored.Head())
	}
}

func openError(path string, cfg Config) error {
	db, err := Open(context.Background(), path, cfg)
	if err == nil {
		db.Close()
	}
	return err
}

func TestBackupRefuses(t *testing.T) {
	ctx, dir := context.Background(), t.TempDir()
	db := openServer(t)
	mustAppend(t, db, drafts("alice", "x", "k", 3)...)
	path := filepath.Join(dir, "there.db")
	if err := os.WriteFile(path, []byte("mine"), 0o600); err != nil {
		t.Fatal(err)
	}
	wantError(t, "onto a file", db.BackupTo(ctx, path), fs.ErrExist)
	wantError(t, "onto itself", db.BackupTo(ctx, db.Path()), fs.ErrExist)
	wantError(t, "into no folder", db.BackupTo(ctx, filepath.Join(dir, "no", "b.db")), fs.ErrNotExist)
	wantError(t, "of a copy", openClient(t).BackupTo(ctx, filepath.Join(dir, "copy.db")), ErrRole)
	if runtime.GOOS != "windows" {
		link := filepath.Join(dir, "zlink.db")
		if err := os.Symlink(filepath.Join(dir, "nowhere"), link); err != nil {
			t.Fatal(err)
		}
		wantError(t, "onto a link to nowhere", db.BackupTo(ctx, link), fs.ErrExist)
		os.Remove(link)
	}
	gone, cancel := context.WithCancel(ctx)
	cancel()
	wantError(t, "cancelled", db.BackupTo(gone, filepath.Join(dir, "never.db")), context.Canceled)
	onlyFiles(t, dir, "there.db")
	if b, err := os.ReadFile(path); string(b) != "mine" {
		t.Errorf("the file has become %q, %v", b, err)
	}
	// A backup of a backup is a backup.
	first, second := filepath.Join(dir, "first.db"), filepath.Join(dir, "second.db")
	if err := db.BackupTo(ctx, first); err != nil {
		t.Fatal(err)
	}
	b := mustOpen(t, first, Config{})
	defer b.Close()
	if err := b.BackupTo(ctx, second); err != nil {
		t.Fatal(err)
	}
	again := mustOpen(t, second, Config{Role: Server})
	defer again.Close()
	if log, head, err := again.Parent(ctx); log != db.Log() || head != 3 || err != nil {
		t.Errorf("its parent is %q, %s, %v", log, head, err)
	}
}

// A backup that is made during appends shows one moment of the log, and the appends do not
// wait for it.
func TestBackupWhileAppending(t *testing.T) {
	longtest.Require(t)
	db, evs := bigLog(t)
	dir := t.TempDir()
	var work sync.WaitGroup
	done := make(chan struct{})
	work.Go(func() {
		for i := 0; ; i++ {
			select {
			case <-done:
				return
			default:
			}
			if _, err := db.Append(context.Background(), drafts("bob", "x", fmt.Sprint(i), 10)); err != nil {
				t.Error(err)
				return
			}
		}
	})
	paths := []string{filepath.Join(dir, "0"), filepath.Join(dir, "1")}
	for i := range paths {
		work.Go(func() {
			if err := db.BackupTo(context.Background(), paths[i]); err != nil {
				t.Error(err)
			}
			if i == 0 {
				close(done)
			}
		})
	}
	work.Wait()
	for _, path := range paths {
		b := mustOpen(t, path, Config{Role: Server})
		defer b.Close()
		if b.Head() < event.ID(len(evs)) || (b.Head()-event.ID(len(evs)))%10 != 0 {
			t.Errorf("%s has come to %s", path, b.Head())
		}
		n, err := b.Count(context.Background())
		if err != nil || event.ID(n.Events) != b.Head() {
			t.Errorf("%s has %d events, %v, and the head %s", path, n.Events, err, b.Head())
		}
	}
}

// backupEnv makes the test binary back up a file until it is killed.
const backupEnv = "RSTREAM_CACHE_BACKUP"

func TestBackupChild(t *testing.T) {
	path := os.Getenv(backupEnv)
	if path == "" {
		t.Skip("is a part of TestBackupKilled")
	}
	db := mustOpen(t, path, Config{})
	defer db.Close()
	for i := 0; ; i++ {
		to := fmt.Sprintf("%s-%d", path, i)
		fmt.Println("begin")
		err := db.BackupTo(context.Background(), to)
		if err == nil {
			err = os.Rename(to, path+"-last")
		}
		if err != nil {
			t.Fatal(err)
		}
	}
}

// A backup that is killed at any moment is complete or absent.
func TestBackupKilled(t *testing.T) {
	longtest.Require(t)
	db, evs := bigLog(t)
	for round := range *killRounds {
		c := exec.Command(os.Args[0], "-test.run=^TestBackupChild$")
		c.Env = append(os.Environ(), backupEnv+"="+db.Path())
		out, err := c.StdoutPipe()
		if err != nil {
			t.Fatal(err)
		}
		if err := c.Start(); err != nil {
			t.Fatal(err)
		}
		lines := bufio.NewScanner(out)
		for n := 0; n <= round%3 && lines.Scan(); {
			if strings.HasSuffix(lines.Text(), "begin") {
				n++
			}
		}
		awaitPart(db.Path())
		if err := errors.Join(lines.Err(), c.Process.Kill()); err != nil {
			t.Fatal(err)
		}
		c.Wait()
		targets, err := filepath.Glob(db.Path() + "-*")
		if err != nil {
			t.Fatal(err)
		}
		for _, target := range targets {
			if !wholeBackup.MatchString(target) {
				continue
			}
			b := mustOpen(t, target, Config{Role: Server})
			if b.Head() != event.ID(len(evs)) || b.Log() == db.Log() {
				t.Errorf("%s is of log %s up to %s", target, b.Log(), b.Head())
			}
			integrity(t, b)
			b.Close()
			os.Remove(target)
		}
	}
}

// wholeBackup is printed by TestBackupChild for each backup that exists.
var wholeBackup = regexp.MustCompile(`-(\d+|last)$`)

// awaitPart waits for a short time until a part of a backup is written.
func awaitPart(path string) {
	for range 10_000 {
		parts, _ := filepath.Glob(path + "-*.part")
		for _, p := range parts {
			if info, err := os.Stat(p); err == nil && info.Size() > 1<<20 {
				return
			}
		}
		runtime.Gosched()
	}
}

// A backup removes what killed ones to the same name have left, and nothing else.
func TestBackupRemovesStaleParts(t *testing.T) {
	db := openServer(t)
	mustAppend(t, db, draft("alice", "x", "k"))
	dir := t.TempDir()
	path := filepath.Join(dir, "b.db")
	old := time.Now().Add(-2 * stalePart)
	for name, at := range map[string]time.Time{
		"b.db.123.part": old, "b.db.123.part-journal": old, // of one that was killed
		"b.db.456.part": time.Now(), // of one that is running
		"b.db.x.part":   old, "a.db.123.part": old, "b.db.part": old, "b.db.123": old,
	} {
		file := filepath.Join(dir, name)
		if err := errors.Join(os.WriteFile(file, []byte("x"), 0o600), os.Chtimes(file, at, at)); err != nil {
			t.Fatal(err)
		}
	}
	if err := db.BackupTo(t.Context(), path); err != nil {
		t.Fatal(err)
	}
	entries, err := os.ReadDir(dir)
	var names []string
	for _, e := range entries {
		names = append(names, e.Name())
	}
	if want := []string{"a.db.123.part", "b.db", "b.db.123", "b.db.456.part", "b.db.part", "b.db.x.part"}; err != nil || !slices.Equal(names, want) {
		t.Errorf("the folder has %q, %v, want %q", names, err, want)
	}
}
