package cache

import (
	"context"
	"fmt"
	"os"

	"github.com/rstream-dev/rstream/cache/internal/dbfile"
)

// Compacted has the size of a file before and after Compact, in bytes.
type Compacted struct{ Before, After int64 }

// Compact makes a server's file as small as possible: it enforces retention at once, by
// the wall clock, then rewrites the file. The log must not be served at the same time.
// Compact does not create a file.
func Compact(ctx context.Context, path string, cfg Config, retention Retention) (c Compacted, err error) {
	if cfg.Role, cfg.Mirror, err = roleOf(ctx, path); err != nil {
		return c, err
	}
	if cfg.Role != Server {
		return c, fmt.Errorf("compact %s: %w", path, cfg.Role.Wrong())
	}
	db, err := Open(ctx, path, cfg)
	if err != nil {
		return c, err
	}
	defer func() {
		if closed := db.Close(); err == nil {
			err = closed
		}
		if err == nil {
			c.After, err = sizeOf(path)
		}
	}()
	if c.Before, err = sizeOf(path); err != nil {
		return c, err
	}
	if err := db.compact(ctx, retention); err != nil {
		return c, fmt.Errorf("compact %s: %w", path, err)
	}
	return c, nil
}

// roleOf returns the role of an existing file, and mirror for Config if it is that of a mirror.
func roleOf(ctx context.Context, path string) (role Role, mirror *Mirrored, err error) {
	db, err := Open(ctx, path, Config{})
	if err != nil {
		return "", nil, err
	}
	if db.file.Mirror {
		mirror = &Mirrored{Topics: db.file.Topics}
	}
	return db.file.Role, mirror, db.Close()
}

func sizeOf(path string) (int64, error) {
	info, err := os.Stat(path)
	if err != nil {
		return 0, err
	}
	return info.Size(), nil
}

func (db *DB) compact(ctx context.Context, retention Retention) error {
	r, err := db.newRetainer(ctx, retention)
	if err != nil {
		return err
	}
	if err := r.RunOnceByWall(ctx); err != nil {
		return err
	}
	db.file.Report(Progress{Step: StepRewrite})
	return db.watchWritten(ctx, StepRewrite, dbfile.Rewritten, func() error { return db.file.Vacuum(ctx) })
}
