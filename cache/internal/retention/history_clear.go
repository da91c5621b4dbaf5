package retention

import (
	"cmp"
	"context"
	"database/sql"
	"strings"

	"github.com/rstream-dev/rstream/cache/internal/dbfile"
	"github.com/rstream-dev/rstream/cache/internal/snapshot"
	"github.com/rstream-dev/rstream/event"
)

// clearBelow drops the leaves below the horizon, and all snapshots but the last, from
// which the state at the horizon is folded.
func (r *Retainer) clearBelow(ctx context.Context, horizon event.ID) error {
	if r.cleared == horizon {
		return nil
	}
	if err := r.dropOldLeaves(ctx, uint64(horizon)/event.BlockSize); err != nil {
		return err
	}
	if err := r.dropSnapshots(ctx, horizon); err != nil {
		return err
	}
	r.cleared = horizon
	return nil
}

// clearChunk is how many leaves to find at a time.
const clearChunk = 10_000

// dropOldLeaves drops the leaves of all earlier blocks.
func (r *Retainer) dropOldLeaves(ctx context.Context, before uint64) error {
	last := leafKey{block: -1}
	for {
		steps, err := r.oldLeaves(ctx, &last, before)
		if err != nil || len(steps) == 0 {
			return err
		}
		if err := r.applySteps(ctx, steps); err != nil {
			return err
		}
	}
}

// A leafKey is the key of a leaf.
type leafKey struct {
	topic string
	block int64
}

// oldLeaves returns the steps that drop some leaves of earlier blocks after last, which
// becomes the last of them: a leaf that the file does not find by its key is met once.
func (r *Retainer) oldLeaves(ctx context.Context, last *leafKey, before uint64) (steps []step, err error) {
	err = r.history.file.View(ctx, func(tx *sql.Tx) error {
		rows, err := tx.QueryContext(ctx, `SELECT topic, block FROM leaf WHERE (topic, block) > (?, ?) AND block < ?
			ORDER BY topic, block LIMIT ?`, last.topic, last.block, before, clearChunk)
		if err != nil {
			return err
		}
		defer rows.Close()
		for rows.Next() {
			var k leafKey
			if err := rows.Scan(&k.topic, &k.block); err != nil {
				return err
			}
			if cmp.Or(strings.Compare(k.topic, last.topic), cmp.Compare(k.block, last.block)) <= 0 {
				return dbfile.OutOfOrder("leaf")
			}
			*last = k
			steps = append(steps, r.history.execStep(`DELETE FROM leaf WHERE topic = ? AND block = ?`, k.topic, k.block))
		}
		return rows.Err()
	})
	return steps, err
}

// dropSnapshots drops the snapshots below a position, except the last one of each topic.
func (r *Retainer) dropSnapshots(ctx context.Context, before event.ID) error {
	for {
		var id int64
		err := r.history.file.Update(ctx, func(tx *sql.Tx) (err error) {
			id, err = r.history.snapshots.Retire(tx, before)
			return err
		})
		if err != nil || id == 0 {
			return err
		}
		for more := true; more; {
			err := r.applySteps(ctx, []step{func(tx *sql.Tx) (err error) {
				more, err = snapshot.DropParts(tx, id)
				return err
			}})
			if err != nil {
				return err
			}
		}
	}
}
