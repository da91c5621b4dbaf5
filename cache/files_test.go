//go:build unix

package cache

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"syscall"
	"testing"

	"github.com/rstream-dev/rstream/cache/internal/dbfile"
)

// systemChild returns the children that exist on some systems only.
func systemChild(name, path string) error {
	if name == "files" {
		return filesChild(path)
	}
	return errors.New("no such child: " + name)
}

// filesChild uses up its file descriptors and prints the results of reads: a copy needs
// another descriptor, a log already has all of them.
func filesChild(path string) error {
	ctx := context.Background()
	if err := syscall.Setrlimit(syscall.RLIMIT_NOFILE, &syscall.Rlimit{Cur: 100, Max: 100}); err != nil {
		return err
	}
	log, err := Open(ctx, path, Config{Role: Server})
	if err != nil {
		return err
	}
	copied, err := Open(ctx, path+".copy", Config{Role: Client, Log: testLog})
	if err != nil {
		return err
	}
	for err == nil {
		_, err = os.Open(os.DevNull)
	}
	if !errors.Is(err, syscall.EMFILE) {
		return err
	}
	var errs []error
	for range 2 { // concurrent, so that each needs its own connection
		tx, err := copied.file.Read.BeginTx(ctx, nil)
		if err == nil {
			err = tx.QueryRow(`SELECT count(*) FROM log`).Scan(new(int))
		}
		errs = append(errs, err)
	}
	_, err = copied.Count(ctx)
	fmt.Println(errors.Is(dbfile.Classify(errors.Join(append(errs, err)...)), ErrFiles))
	var held []error
	for range log.file.Read.Stats().MaxOpenConnections {
		tx, err := log.file.Read.BeginTx(ctx, nil)
		if err == nil {
			err = tx.QueryRow(`SELECT count(*) FROM log`).Scan(new(int))
		}
		held = append(held, err)
	}
	fmt.Println(errors.Join(held...))
	return nil
}

func TestTooManyFiles(t *testing.T) {
	c := startChild(t, "files", filepath.Join(t.TempDir(), "x.db"), "")
	for _, want := range []string{"true", "<nil>"} {
		if !c.lines.Scan() || c.lines.Text() != want {
			t.Errorf("the child says %q, want %q: %s", c.lines.Text(), want, c.errs.String())
		}
	}
	if err := c.Wait(); err != nil {
		t.Errorf("%v: %s", err, c.errs.String())
	}
}
