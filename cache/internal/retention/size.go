package retention

import (
	"context"
	"database/sql"
	"time"

	"github.com/rstream-dev/rstream/cache/internal/pages"
	"github.com/rstream-dev/rstream/event"
	"github.com/rstream-dev/rstream/window"
)

// historyShare is the part of the maximum size that stays for history: a log whose hashes alone are
// larger than the file may be would otherwise lose each block as soon as it is sealed.
const historyShare = 4

// trimToSize advances the horizon, block by block, until the used part of the file fits, or
// little history is left. The state, the hashes and the origins of events stay below the horizon.
func (r *Retainer) trimToSize(ctx context.Context) error {
	least := r.cfg.MaxBytes / historyShare
	for {
		size, err := r.history.file.Size(ctx)
		if err != nil || size.Used() <= r.cfg.MaxBytes {
			return err
		}
		at, err := r.history.loadRetained(ctx)
		if err != nil || at == r.outgrown {
			return err
		}
		next, err := r.history.skipEmpty(ctx, at.horizon, at.indexed)
		if err != nil {
			return err
		}
		if next < at.indexed || next == at.horizon {
			next += event.BlockSize
		}
		sealed, open, err := r.history.eventSizes(ctx, at)
		if err != nil {
			return err
		}
		rest := size.Used() - sealed - open       // that no horizon removes
		isLittle := 0 < sealed && sealed <= least // blocks without events cost nothing
		if next > at.indexed || rest > r.cfg.MaxBytes-least && isLittle {
			if rest > r.cfg.MaxBytes-least {
				r.tellOutgrown()
			}
			r.outgrown = at
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

// tellOutgrown says once that the file stays larger than it may be.
func (r *Retainer) tellOutgrown() {
	if !r.told && r.cfg.Outgrown != nil {
		r.cfg.Outgrown()
	}
	r.told = true
}

// eventSizes returns about how many bytes the events of sealed blocks take, and how many those after
// them do.
func (h *History) eventSizes(ctx context.Context, at retained) (sealed, open int64, err error) {
	err = h.file.View(ctx, func(tx *sql.Tx) (err error) {
		if sealed, err = pages.Size(ctx, tx, window.Span{From: at.horizon, To: at.indexed}); err == nil {
			open, err = pages.Size(ctx, tx, window.Span{From: at.indexed, To: event.MaxID})
		}
		return err
	})
	return sealed, open, err
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
