package retention

import (
	"context"
	"database/sql"
	"encoding/binary"
	"time"

	"github.com/rstream-dev/rstream/cache/internal/rows"
	"github.com/rstream-dev/rstream/event"
	"github.com/rstream-dev/rstream/window"
)

// DropBelow drops the events below the horizon, block by block: of each storage all but
// the last event, and that too if it is a DEL. Each block is dropped in several
// transactions, in an order such that after any of them a storage has the end of its
// history left or, if that is a DEL, nothing. So the state at the horizon and above never
// changes, and an unfinished block can be started again.
func (r *Retainer) DropBelow(ctx context.Context) error {
	for {
		at, err := r.history.loadRetained(ctx)
		if err != nil {
			return err
		}
		block := uint64(at.dropped) / event.BlockSize
		switch {
		case at.dropped >= at.horizon:
			return r.clearBelow(ctx, at.horizon)
		case at.hashed < window.BlockSpan(block).To:
			err = r.history.seen.SealBlock(ctx, at.hashed)
		default:
			err = r.dropBlock(ctx, block)
		}
		if err != nil {
			return err
		}
	}
}

// A change is a statement; changes are some that must be made together.
type (
	change struct {
		query string
		args  []any
	}
	changes []change
)

// dropBlock drops the events of a block that the horizon has passed.
func (r *Retainer) dropBlock(ctx context.Context, block uint64) error {
	var steps []changes
	err := r.history.file.View(ctx, func(tx *sql.Tx) error {
		b := blockDropper{tx: tx, block: block, last: map[int64]*lastEvent{}}
		if err := b.read(ctx); err != nil {
			return err
		}
		if err := b.dropEarlier(ctx); err != nil {
			return err
		}
		b.dropWithin()
		b.end()
		steps = b.steps
		return nil
	})
	if err != nil {
		return err
	}
	steps = append(steps, changes{{`UPDATE log SET dropped = ?`, []any{window.BlockSpan(block).To}}})
	return r.applySteps(ctx, steps)
}

// StepTime is how long a transaction may take on further changes: an append waits for one
// transaction at most. It is a variable for the tests.
var StepTime = time.Millisecond

// checkpointSteps is how many transactions to run between checkpoints, which run
// alongside the appends: left to an append, a checkpoint would make it wait.
const checkpointSteps = 8

// applySteps applies changes in short transactions.
func (r *Retainer) applySteps(ctx context.Context, steps []changes) error {
	for len(steps) > 0 {
		var n int
		began := time.Now()
		err := r.history.file.Update(ctx, func(tx *sql.Tx) error {
			n = 0
			for began := time.Now(); n < len(steps) && (n == 0 || time.Since(began) < StepTime); n++ {
				for _, c := range steps[n] {
					if _, err := r.history.file.Exec(tx, c.query, c.args...); err != nil {
						return err
					}
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
	tx    *sql.Tx
	block uint64

	events   []blockEvent
	storages []int64 // sorted by first event in the block
	last     map[int64]*lastEvent
	steps    []changes
}

type blockEvent struct {
	id      event.ID
	storage int64
	bytes   int
}

// A lastEvent is the last event of a storage in the block.
type lastEvent struct {
	id     event.ID
	del    bool
	posted int // how many of the storage's events the block's posting names
}

// maxDelLine exceeds the line of any DEL, so that long values need not be read.
const maxDelLine = 16 << 10

func (b *blockDropper) read(ctx context.Context) error {
	span := window.BlockSpan(b.block)
	result, err := b.tx.QueryContext(ctx, `SELECT id, storage, octet_length(line),
		CASE WHEN octet_length(line) < ? THEN line END
		FROM event WHERE id > ? AND id <= ? ORDER BY id`, maxDelLine, span.From, span.To)
	if err != nil {
		return err
	}
	defer result.Close()
	for result.Next() {
		var ev blockEvent
		var line []byte
		if err := result.Scan(&ev.id, &ev.storage, &ev.bytes, &line); err != nil {
			return err
		}
		last := b.last[ev.storage]
		if last == nil {
			last = &lastEvent{}
			b.storages, b.last[ev.storage] = append(b.storages, ev.storage), last
		}
		last.id, last.del = ev.id, false
		if line != nil {
			whole, err := rows.ParseStored(ev.id, line)
			if err != nil {
				return err
			}
			last.del = whole.Type == event.Del
		}
		b.events = append(b.events, ev)
	}
	return result.Err()
}

// dropEarlier drops the remaining events of the block's storages in earlier blocks, and
// records which storages have postings in the block.
func (b *blockDropper) dropEarlier(ctx context.Context) error {
	stmt, err := b.tx.PrepareContext(ctx, `SELECT block, offsets FROM posting WHERE storage = ? AND block <= ? ORDER BY block`)
	if err != nil {
		return err
	}
	defer stmt.Close()
	for _, storage := range b.storages {
		rows, err := stmt.QueryContext(ctx, storage, b.block)
		if err != nil {
			return err
		}
		if err := b.dropPosted(storage, rows); err != nil {
			return err
		}
	}
	return nil
}

func (b *blockDropper) dropPosted(storage int64, result *sql.Rows) error {
	defer result.Close()
	for result.Next() {
		var block uint64
		var offsets sql.RawBytes
		if err := result.Scan(&block, &offsets); err != nil {
			return err
		}
		if block == b.block {
			b.last[storage].posted = len(offsets) / 2
			continue
		}
		var all changes
		rows.EachPosition(int64(block), offsets, func(id event.ID) {
			all = append(all, change{`DELETE FROM event WHERE id = ?`, []any{id}})
		})
		b.steps = append(b.steps, append(all, change{`DELETE FROM posting WHERE storage = ? AND block = ?`, []any{storage, block}}))
	}
	return result.Err()
}

// maxDropIDs and maxDropBytes bound the neighboring events that one statement drops; the
// bytes may exceed the bound by one event.
const (
	maxDropIDs   = 64
	maxDropBytes = 256 << 10
)

// dropWithin drops the block's events that later ones of the block supersede, in order
// and many at a time.
func (b *blockDropper) dropWithin() {
	var from, to event.ID
	ids, bytes := 0, 0
	flush := func() {
		if ids > 0 {
			b.steps = append(b.steps, changes{{`DELETE FROM event WHERE id BETWEEN ? AND ?`, []any{from, to}}})
		}
		ids, bytes = 0, 0
	}
	for _, ev := range b.events {
		if b.last[ev.storage].id == ev.id {
			flush()
			continue
		}
		if ids >= maxDropIDs || bytes >= maxDropBytes {
			flush()
		}
		if ids == 0 {
			from = ev.id
		}
		to, ids, bytes = ev.id, ids+1, bytes+ev.bytes
	}
	flush()
}

// end drops DELs that were the last event, and leaves the rest in the postings.
func (b *blockDropper) end() {
	for _, storage := range b.storages {
		switch last := b.last[storage]; {
		case last.del:
			b.steps = append(b.steps, changes{
				{`DELETE FROM event WHERE id = ?`, []any{last.id}},
				{`DELETE FROM posting WHERE storage = ? AND block = ?`, []any{storage, b.block}},
			})
		case last.posted > 1:
			offset := binary.BigEndian.AppendUint16(nil, uint16(uint64(last.id-1)%event.BlockSize))
			b.steps = append(b.steps, changes{{`UPDATE posting SET offsets = ? WHERE storage = ? AND block = ?`, []any{offset, storage, b.block}}})
		}
	}
}
