package oldrows

import (
	"errors"
	"fmt"
	"io"
	"os"
	"os/signal"
	"path/filepath"
	"strings"
	"syscall"
	"testing"

	"github.com/rstream-dev/rstream/cache/internal/dbfile"
	"github.com/rstream-dev/rstream/internal/longtest"
)

// fillDisk upgrades a file on a disk that becomes full after a few steps, as often as it
// takes, and says how often. Where nothing may be mounted, the size of files is limited
// instead.
func fillDisk(f oldFile) error {
	original := f.path
	dir := filepath.Join(filepath.Dir(f.path), "disk")
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return err
	}
	mounted := syscall.Mount("tmpfs", dir, "tmpfs", 0, "size=16m") == nil
	f.path = filepath.Join(dir, "x.db")
	if err := copyFile(f.path, original); err != nil {
		return err
	}
	disk := fullDisk{dir: dir, mounted: mounted}
	fulls := 0
	for steps := 2; ; steps++ {
		left := steps
		file, err := f.open(func(dbfile.Progress) {
			if left--; left == 0 {
				disk.fill()
			}
		})
		if err == nil {
			fmt.Println("mounted", mounted, "full", fulls)
			return errors.Join(disk.free(), file.Close(), copyFile(original, f.path))
		}
		if !errors.Is(err, dbfile.ErrFull) && !errors.Is(err, dbfile.ErrIO) {
			return err
		}
		fulls++
		if err := disk.free(); err != nil {
			return err
		}
	}
}

func copyFile(to, from string) error {
	b, err := os.ReadFile(from)
	if err != nil {
		return err
	}
	return os.WriteFile(to, b, 0o600)
}

// A fullDisk can be filled and freed.
type fullDisk struct {
	dir     string
	mounted bool
	limit   syscall.Rlimit
}

func (d *fullDisk) filler() string { return filepath.Join(d.dir, "filler") }

func (d *fullDisk) fill() {
	if !d.mounted {
		signal.Ignore(syscall.SIGXFSZ)
		syscall.Getrlimit(syscall.RLIMIT_FSIZE, &d.limit)
		syscall.Setrlimit(syscall.RLIMIT_FSIZE, &syscall.Rlimit{Cur: 4096, Max: d.limit.Max})
		return
	}
	f, err := os.Create(d.filler())
	if err != nil {
		panic(err)
	}
	defer f.Close()
	if _, err := io.Copy(f, zeros{}); !errors.Is(err, syscall.ENOSPC) {
		panic(err)
	}
}

func (d *fullDisk) free() error {
	if !d.mounted && d.limit.Max > 0 {
		return syscall.Setrlimit(syscall.RLIMIT_FSIZE, &d.limit)
	}
	err := os.Remove(d.filler())
	if errors.Is(err, os.ErrNotExist) {
		return nil
	}
	return err
}

type zeros struct{}

func (zeros) Read(b []byte) (int, error) { return len(b), nil }

// On a disk that becomes full an upgrade ends, and goes on when there is room again.
func TestFullDiskUpgrade(t *testing.T) {
	for _, role := range roles {
		f := writeOld(t, schemas, role, spreadRows(t, longtest.Size(1200, 2000), 12))
		fillDuringUpgrade(t, &f)
		posted := f.split(t)
		fillDuringUpgrade(t, &f)
		f.mustPost(t, posted)
	}
}

// fillDuringUpgrade has a child upgrade a file on such a disk.
func fillDuringUpgrade(t *testing.T, f *oldFile) {
	t.Helper()
	for _, attr := range ownMounts() {
		c := childOf(f, "fill")
		c.SysProcAttr = attr
		said, err := c.CombinedOutput()
		var started *os.PathError
		if errors.As(err, &started) {
			continue // this machine does not allow it
		}
		t.Logf("%s", said)
		if err != nil || strings.HasSuffix(string(said), " 0\n") {
			t.Errorf("child: %v", err)
		}
		break
	}
	f.check(t)
}

// ownMounts are the ways to give a child mounts of its own. The last one gives none and
// always works.
func ownMounts() []*syscall.SysProcAttr {
	ids := func(id int) []syscall.SysProcIDMap { return []syscall.SysProcIDMap{{HostID: id, Size: 1}} }
	return []*syscall.SysProcAttr{
		{Unshareflags: syscall.CLONE_NEWNS},
		{Cloneflags: syscall.CLONE_NEWUSER, Unshareflags: syscall.CLONE_NEWNS, UidMappings: ids(os.Getuid()), GidMappings: ids(os.Getgid())},
		nil,
	}
}
