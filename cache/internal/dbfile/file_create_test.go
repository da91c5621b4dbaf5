package dbfile

import (
	"context"
	"database/sql"
	"errors"
	"path/filepath"
	"strings"
	"testing"
	"testing/synctest"
	"time"
)

// A new file has larger pages than one of an earlier version, which keeps them; a copy of it gets
// the larger ones.
func TestPageSizes(t *testing.T) {
	dir := t.TempDir()
	for path, want := range map[string]int{filepath.Join(dir, "new.db"): 8192, olderFile(t, 9, Server): 4096, olderFile(t, 1, Server): 4096} {
		f, err := Open(t.Context(), path, Options{Role: Server, Log: "0123456789ABCDEF", MoveEvents: dropOld})
		if err != nil {
			t.Fatal(err)
		}
		defer f.Close()
		path = filepath.Join(dir, "copy of "+filepath.Base(path))
		if err := f.CopyInto(t.Context(), path); err != nil {
			t.Fatal(err)
		}
		copied, err := Open(t.Context(), path, Options{})
		if err != nil {
			t.Fatal(err)
		}
		defer copied.Close()
		for f, want := range map[*File]int{f: want, copied: 8192} {
			var size, vacuum int
			if err := f.ViewRow(t.Context(), `SELECT page_size, auto_vacuum FROM pragma_page_size, pragma_auto_vacuum`, nil, &size, &vacuum); err != nil {
				t.Fatal(err)
			}
			if size != want || f.PageSize() != want || vacuum != 2 {
				t.Errorf("%s: pages of %d bytes, known as %d, want %d; auto_vacuum %d", f.Path, size, f.PageSize(), want, vacuum)
			}
		}
	}
}

// If other processes keep a file busy for too long, the error is ErrBusy. If the context ends
// first, the error is the context's.
func TestRunAsideIsBusy(t *testing.T) {
	path := filepath.Join(t.TempDir(), "f.db")
	synctest.Test(t, func(t *testing.T) {
		f := &File{absPath: path, location: location{params: "mode=rwc"}}
		busy := func(context.Context, *sql.DB) error { return ErrBusy }
		began := time.Now()
		err := f.runAside(t.Context(), busy)
		if took := time.Since(began); !errors.Is(err, ErrBusy) || !strings.HasPrefix(err.Error(), ErrBusy.Error()) || took < busyTime || took > 2*busyTime {
			t.Errorf("after %s: %v", took, err)
		}
		late := func(ctx context.Context, _ *sql.DB) error {
			<-ctx.Done()
			return ctx.Err()
		}
		if err := f.runAside(t.Context(), late); !errors.Is(err, ErrBusy) {
			t.Errorf("waiting for SQLite: %v", err)
		}
		ctx, cancel := context.WithTimeout(t.Context(), time.Second)
		defer cancel()
		for _, fn := range []func(context.Context, *sql.DB) error{busy, late} {
			if err := f.runAside(ctx, fn); errors.Is(err, ErrBusy) && !errors.Is(err, context.DeadlineExceeded) {
				t.Errorf("its context has ended: %v", err)
			}
		}
	})
}
