package retention

import (
	"context"
	"time"

	"github.com/rstream-dev/rstream/event"
)

// trimToSize advances the horizon, block by block, until the used part of the file fits.
// The state and the hashes stay below the horizon: if these alone are too large, all
// sealed history goes.
func (r *Retainer) trimToSize(ctx context.Context) error {
	for {
		size, err := r.history.file.Size(ctx)
		if err != nil || size.Used() <= r.cfg.MaxBytes {
			return err
		}
		at, err := r.history.loadRetained(ctx)
		if err != nil {
			return err
		}
		next := at.horizon + event.BlockSize
		if next > at.indexed {
			return nil
		}
		if err := r.history.MoveHorizon(ctx, next); err != nil {
			return err
		}
		if err := r.DropBelow(ctx); err != nil {
			return err
		}
	}
}

// Free pages are kept for new appends if they are no more than shrinkLeast bytes, or than one
// in shrinkShare of all pages.
const (
	shrinkLeast = 1 << 20
	shrinkShare = 8
)

// giveBackSpace returns free pages to the file system.
func (r *Retainer) giveBackSpace(ctx context.Context) error {
	for shrunk := false; ; shrunk = true {
		size, err := r.history.file.Size(ctx)
		if err != nil {
			return err
		}
		many := size.Bytes()-size.Used() > shrinkLeast && size.Free > size.Pages/shrinkShare
		large := r.cfg.MaxBytes > 0 && size.Bytes() > r.cfg.MaxBytes && size.Free > 0
		if !many && !large {
			return r.truncate(ctx, shrunk)
		}
		began := time.Now()
		if err := r.history.file.VacuumSome(ctx); err != nil {
			return err
		}
		if after, err := r.history.file.Size(ctx); err != nil || after.Free >= size.Free {
			return err // a file created by another program
		}
		if err := r.Throttle(ctx, time.Since(began)); err != nil {
			return err
		}
	}
}

// truncate shortens the file, by copying the write-ahead log into it. It does not block
// writers.
func (r *Retainer) truncate(ctx context.Context, shrunk bool) error {
	if !shrunk {
		return nil
	}
	return r.history.file.Checkpoint(ctx)
}
