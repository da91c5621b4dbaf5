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
