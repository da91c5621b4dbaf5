package retention

import (
	"cmp"
	"context"
	"database/sql"
	"errors"
	"slices"
	"time"

	"github.com/rstream-dev/rstream/cache/internal/dbfile"
	"github.com/rstream-dev/rstream/cache/internal/pages"
	"github.com/rstream-dev/rstream/cache/internal/rows"
	"github.com/rstream-dev/rstream/event"
	"github.com/rstream-dev/rstream/window"
)

// DropBelow drops the events below the horizon, block by block: of each storage all but
// the last event, and that too if it is a DEL. Each block is dropped in several
// transactions, in the order of ids, so that after any of them a storage has the end of its
// history left or, if that is a DEL, nothing. So the state at the horizon and above never
// changes, and an unfinished block can be started again. DropBelow goes past damage.
func (r *Retainer) DropBelow(ctx context.Context) error {
	for first := event.MaxID; ; {
		at, err := r.history.loadRetained(ctx)
		if err != nil {
			return err
		}
		first = min(first, at.dropped)
		if at.dropped < at.horizon {
			r.history.file.Report(dbfile.Progress{Step: dbfile.StepDrop, Done: int64(at.dropped - first), Total: int64(at.horizon - first)})
		}
		block := uint64(at.dropped) / event.BlockSize
		switch {
		case at.dropped >= at.horizon:
			return r.clearBelow(ctx, at.horizon)
		case at.hashed < window.BlockSpan(block).To:
			err = r.history.seen.SealBlock(ctx, at.hashed)
		default:
			var next event.ID
			if next, err = r.history.skipEmpty(ctx, at.dropped, at.horizon); err != nil {
				return err
			}
			if next > at.dropped {
				err = r.applySteps(ctx, []step{r.history.moveDropped(next)})
			} else {
				err = r.dropBlock(ctx, block)
			}
		}
		if err != nil {
			return err
		}
	}
}

// skipEmpty returns where the first block after a position begins that has events, until if there
// is none before. A mirror of some topics may lack the events of most blocks.
func (h *History) skipEmpty(ctx context.Context, after, until event.ID) (next event.ID, err error) {
	if !h.file.IsPart() || until-after <= event.BlockSize {
		return after, nil
	}
	err = h.file.View(ctx, func(tx *sql.Tx) (err error) {
		next, err = pages.NextStored(ctx, tx, window.Span{From: after, To: until})
		return err
	})
	return next, err
}

// moveDropped returns the step that notes up to where events are dropped.
func (h *History) moveDropped(to event.ID) step {
	return func(tx *sql.Tx) error {
		if err := h.file.UpdateLog(tx, setDropped, to); err != nil {
			return err
		}
		return dbfile.CopyLog(tx)
	}
}

// A step is what one transaction has to do together.
type step func(tx *sql.Tx) error

// execStep returns the step that executes a statement.
func (h *History) execStep(query string, args ...any) step {
	return func(tx *sql.Tx) error {
		_, err := h.file.Exec(tx, query, args...)
		return err
	}
}

// dropBlock drops the events of a block that the horizon has passed.
func (r *Retainer) dropBlock(ctx context.Context, block uint64) error {
	var b blockDropper
	err := r.history.file.View(ctx, func(tx *sql.Tx) error {
		b = blockDropper{tx: tx, span: window.BlockSpan(block), skip: r.skipDamage, last: map[int64]*lastEvent{}}
		if err := b.readBlock(ctx); err != nil {
			return err
		}
		return b.findGone(ctx)
	})
	if err != nil {
		return err
	}
	var steps []step
	for _, places := range b.divide() {
		steps = append(steps, r.dropEvents(ctx, places))
	}
	return r.applySteps(ctx, append(steps, r.history.moveDropped(b.span.To)))
}

// dropEvents returns the step that drops events.
func (r *Retainer) dropEvents(ctx context.Context, places []pages.Place) step {
	return func(tx *sql.Tx) error {
		_, damaged, err := r.history.tables.Pages.Drop(ctx, tx, places)
		for _, damage := range damaged {
			err = errors.Join(err, r.skipDamage(damage))
		}
		return err
	}
}

// StepTime is how long a transaction may take on further changes: an append waits for one
// transaction at most. It is a variable for the tests.
var StepTime = time.Millisecond

// checkpointSteps is how many transactions to run between checkpoints, which run
// alongside the appends: left to an append, a checkpoint would make it wait.
const checkpointSteps = 8

// applySteps applies steps in short transactions.
func (r *Retainer) applySteps(ctx context.Context, steps []step) error {
	for len(steps) > 0 {
		var n int
		began := time.Now()
		err := r.history.file.Update(ctx, func(tx *sql.Tx) error {
			n = 0
			for began := time.Now(); n < len(steps) && (n == 0 || time.Since(began) < StepTime); n++ {
				if err := steps[n](tx); err != nil {
					return err
				}
			}
			return nil
		})
		if err != nil {
			return err
		}
		steps = steps[n:]
		if r.steps++; r.steps%checkpointSteps == 0 {
			if err := r.history.file.Checkpoint(ctx); err != nil {
				return err
			}
		}
		if err := r.Throttle(ctx, time.Since(began)); err != nil {
			return err
		}
	}
	return nil
}

// A blockDropper determines what to drop with a block.
type blockDropper struct {
	tx   *sql.Tx
	span window.Span // the block
	skip pages.Skip

	storages []int64 // those with events in the block
	last     map[int64]*lastEvent
	gone     []goneEvent
}

// A lastEvent is the last event of a storage in the block.
type lastEvent struct {
	id  event.ID
	del bool
}

// A goneEvent is an event that is to be dropped, and the page that has it.
type goneEvent struct {
	pages.Place
	page  int64
	bytes int
}

// maxDelLine exceeds the line of any DEL, so that long values need not be read.
const maxDelLine = 16 << 10

// readBlock finds the last event in the block of each storage.
func (b *blockDropper) readBlock(ctx context.Context) error {
	q := pages.Query{Span: b.span, MaxText: maxDelLine, Skip: b.skip}
	return pages.Scan(ctx, b.tx, q, func(l pages.Line) error {
		last := b.last[l.Storage]
		if last == nil {
			last = &lastEvent{}
			b.storages, b.last[l.Storage] = append(b.storages, l.Storage), last
		}
		last.id, last.del = l.ID, false
		if l.Text != nil {
			ev, err := rows.ParsePosted(l.Posted(), l.Text)
			if err != nil {
				return b.skip.Pass(err) // it may be a value, and stays
			}
			last.del = ev.Type == event.Del
		}
		return nil
	})
}

// postingChunk is how many storages to read the postings of at a time.
const postingChunk = 512

// findGone finds what the last events supersede, and the DELs among them, by the postings:
// those of the block and what earlier blocks have left.
func (b *blockDropper) findGone(ctx context.Context) error {
	for some := range slices.Chunk(b.storages, postingChunk) {
		skip := func(e *pages.DamageError) error {
			if last := b.last[e.Storage]; last != nil {
				last.del = false // it ends a history that cannot be read, and must stay
			}
			return b.skip(e)
		}
		posted := map[int64][]pages.Posted{}
		err := pages.EachPosting(ctx, b.tx, some, window.Span{To: b.span.To}, skip, func(key pages.PostingKey, evs []pages.Posted) error {
			posted[key.Storage] = append(posted[key.Storage], evs...)
			return nil
		})
		if err != nil {
			return err
		}
		for _, storage := range some {
			b.addGone(storage, posted[storage])
		}
	}
	slices.SortFunc(b.gone, func(a, b goneEvent) int { return cmp.Compare(a.ID, b.ID) })
	return nil
}

// addGone adds the events of a storage that are to be dropped.
func (b *blockDropper) addGone(storage int64, posted []pages.Posted) {
	last := b.last[storage]
	for _, p := range posted {
		// What follows the last event that could be read is in a damaged page, and may be a
		// value.
		if p.ID < last.id || p.ID == last.id && last.del {
			b.gone = append(b.gone, goneEvent{pages.Place{Storage: storage, ID: p.ID}, p.Page, int(p.Length)})
		}
	}
}

// maxDropPostings, MaxDropPages and maxDropBytes bound the postings and the pages that one
// step changes, and their bytes. It may exceed them by the rest of a page.
const (
	maxDropPostings = 64
	maxDropBytes    = 256 << 10
)

// MaxDropPages is a variable for the tests.
var MaxDropPages = 32

// divide divides the events to be dropped among steps, in the order of their ids: after any
// of them a storage has the end of its history left, and nothing if that is a DEL. Those of
// one page go together, if nothing of another page lies between them.
func (b *blockDropper) divide() (steps [][]pages.Place) {
	var some []pages.Place
	postings := map[pages.PostingKey]bool{}
	inPages, bytes, page := 0, 0, int64(0)
	for _, e := range b.gone {
		if e.page != page {
			if len(postings) >= maxDropPostings || inPages >= MaxDropPages || bytes >= maxDropBytes {
				steps = append(steps, some)
				some, inPages, bytes = nil, 0, 0
				clear(postings)
			}
			inPages, page = inPages+1, e.page
		}
		some, bytes = append(some, e.Place), bytes+e.bytes
		postings[pages.PostingKey{Storage: e.Storage, Block: e.ID.Block()}] = true
	}
	if len(some) > 0 {
		steps = append(steps, some)
	}
	return steps
}
