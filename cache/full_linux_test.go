package cache

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"os/signal"
	"path/filepath"
	"strings"
	"syscall"
	"testing"

	"github.com/rstream-dev/rstream/event"
	"github.com/rstream-dev/rstream/window"
)

func init() { childWork["full"] = fullChild }

// The size of a child's disk, and the number of its appends.
const (
	fullDisk    = 1 << 20
	fullAppends = 80
)

// fullChild appends to a log on its own disk until long after the disk is full. It prints the
// result of each append and copies the files as a crash would leave them; then it makes room
// and sends the refused appends again. If nothing may be mounted, it limits the size of files
// instead, which SQLite does not call a full disk.
func fullChild(dir string) error {
	small := limitDisk(dir, fullDisk)
	db, err := Open(context.Background(), filepath.Join(dir, "log.db"), Config{Role: Server})
	if err != nil {
		return err
	}
	defer db.Close()
	out := bufio.NewWriter(os.Stdout)
	defer out.Flush()
	fmt.Fprintln(out, "disk", small)
	var refused []event.Draft
	for i := range fullAppends {
		d := draft("alice", fmt.Sprint("x/", i%7), fmt.Sprint(i))
		d.Value = []byte(`"` + strings.Repeat("x", 100+i*997%20_000) + `"`)
		_, err := db.Append(context.Background(), []event.Draft{d})
		if err != nil {
			refused = append(refused, d)
		}
		fmt.Fprintln(out, fullOutcome(err), d.Hash())
	}
	for _, name := range []string{"log.db", "log.db-wal"} {
		b, err := os.ReadFile(filepath.Join(dir, name))
		if err != nil {
			return err
		}
		if err := os.WriteFile(filepath.Join(os.Getenv(childKeys), name), b, 0o600); err != nil {
			return err
		}
	}
	if !small {
		return nil
	}
	if err := syscall.Mount("tmpfs", dir, "tmpfs", syscall.MS_REMOUNT, "size=32m"); err != nil {
		return err
	}
	for _, d := range refused {
		receipts, err := db.Append(context.Background(), []event.Draft{d})
		if err != nil {
			return fmt.Errorf("with room: %w", err)
		}
		fmt.Fprintln(out, "again", receipts[0].Duplicate)
	}
	return nil
}

func fullOutcome(err error) string {
	switch {
	case err == nil:
		return "done"
	case errors.Is(err, ErrUnknown):
		return "unknown"
	case errors.Is(err, ErrFull):
		return "full"
	}
	return "failed: " + err.Error()
}

// limitDisk mounts a small disk, or limits how large files can be.
func limitDisk(dir string, size uint64) (mounted bool) {
	if syscall.Mount("tmpfs", dir, "tmpfs", 0, fmt.Sprint("size=", size)) == nil {
		return true
	}
	signal.Ignore(syscall.SIGXFSZ)
	if err := syscall.Setrlimit(syscall.RLIMIT_FSIZE, &syscall.Rlimit{Cur: size, Max: size}); err != nil {
		panic(err)
	}
	return false
}

// ownMounts are the ways to give a child its own mounts. The last one gives none and always
// works.
func ownMounts() []*syscall.SysProcAttr {
	ids := func(id int) []syscall.SysProcIDMap { return []syscall.SysProcIDMap{{HostID: id, Size: 1}} }
	return []*syscall.SysProcAttr{
		{Unshareflags: syscall.CLONE_NEWNS},
		{Cloneflags: syscall.CLONE_NEWUSER, Unshareflags: syscall.CLONE_NEWNS, UidMappings: ids(os.Getuid()), GidMappings: ids(os.Getgid())},
		nil,
	}
}

// On a full disk, a refused append is not in the log, neither at once nor after a crash, and
// an acknowledged one is.
func TestFullDisk(t *testing.T) {
	dir, crashed := t.TempDir(), t.TempDir()
	var said []byte
	for _, attr := range ownMounts() {
		var started *os.PathError
		cmd := exec.Command(os.Args[0])
		cmd.Env = append(os.Environ(), childEnv+"=full", childFile+"="+dir, childKeys+"="+crashed)
		cmd.SysProcAttr = attr
		var err error
		said, err = cmd.Output()
		if errors.As(err, &started) {
			continue // this machine does not allow it
		}
		if err != nil {
			t.Fatalf("child: %v: %s", err, exitText(err))
		}
		break
	}
	want, counts := map[event.Hash]string{}, map[string]int{}
	for line := range strings.Lines(string(said)) {
		what, of, _ := strings.Cut(strings.TrimSuffix(line, "\n"), " ")
		counts[what]++
		if h, err := event.ParseHash(of); err == nil {
			want[h] = what
		} else if line == "again true\n" {
			t.Error("what was refused for want of room was in the log")
		}
	}
	small := strings.HasPrefix(string(said), "disk true\n")
	t.Logf("a disk of its own: %v; %v", small, counts)
	if len(want) != fullAppends || counts["done"] == 0 || small && (counts["full"] == 0 || counts["unknown"] > 0) {
		t.Errorf("outcomes: %v", counts)
	}
	checkCrashed(t, filepath.Join(crashed, "log.db"), want)
}

func exitText(err error) string {
	var exit *exec.ExitError
	if errors.As(err, &exit) {
		return string(exit.Stderr)
	}
	return ""
}

func checkCrashed(t *testing.T, path string, want map[event.Hash]string) {
	t.Helper()
	db := mustOpen(t, path, Config{Role: Server})
	defer db.Close()
	integrity(t, db)
	there := map[event.Hash]bool{}
	for _, ev := range readAll(t, db, topics(t, "*"), window.Span{To: event.MaxID}, 1000) {
		there[ev.Hash] = true
	}
	for h, what := range want {
		if there[h] != (what == "done") && what != "unknown" {
			t.Errorf("an append that was %s is in the log after a crash: %v", what, there[h])
		}
	}
}
