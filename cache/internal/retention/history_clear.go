package retention

import (
	"context"
	"database/sql"
	"errors"

	"github.com/rstream-dev/rstream/cache/internal/rows"
	"github.com/rstream-dev/rstream/event"
)

// clearBelow drops the leaves below the horizon, and all snapshots but the last, from
// which the state at the horizon is folded.
func (r *Retainer) clearBelow(ctx context.Context, horizon event.ID) error {
	if r.cleared == horizon {
		return nil
	}
	if err := r.dropLeaves(ctx, uint64(horizon)/event.BlockSize); err != nil {
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

// dropLeaves drops the leaves of all earlier blocks.
func (r *Retainer) dropLeaves(ctx context.Context, before uint64) error {
	for {
		steps, err := r.oldLeaves(ctx, before)
		if err != nil || len(steps) == 0 {
			return err
		}
		if err := r.applySteps(ctx, steps); err != nil {
			return err
		}
	}
}

func (r *Retainer) oldLeaves(ctx context.Context, before uint64) (steps []step, err error) {
	err = r.history.file.View(ctx, func(tx *sql.Tx) error {
		rows, err := tx.QueryContext(ctx, `SELECT topic, block FROM leaf WHERE block < ? LIMIT ?`, before, clearChunk)
		if err != nil {
			return err
		}
		defer rows.Close()
		for rows.Next() {
			var topic string
			var block int64
			if err := rows.Scan(&topic, &block); err != nil {
				return err
			}
			steps = append(steps, r.history.exec(`DELETE FROM leaf WHERE topic = ? AND block = ?`, topic, block))
		}
		return rows.Err()
	})
	return steps, err
}

// dropSnapshots drops the snapshots below a position, except the last one of each topic.
func (r *Retainer) dropSnapshots(ctx context.Context, before event.ID) error {
	for {
		id, err := r.retireSnapshot(ctx, before)
		if err != nil || id == 0 {
			return err
		}
		if err := r.dropSnapshot(ctx, id); err != nil {
			return err
		}
	}
}

// retireSnapshot retires a snapshot, if there is one to drop: no fold starts with it any
// more, and only this process removes it. A fold that has started with it starts again
// with another.
func (r *Retainer) retireSnapshot(ctx context.Context, before event.ID) (id int64, err error) {
	err = r.history.file.Update(ctx, func(tx *sql.Tx) error {
		err := tx.QueryRow(`UPDATE snapshot SET whole = 0, owner = ?, lease = ? WHERE id = (SELECT s.id FROM snapshot s
			WHERE s.whole AND EXISTS (SELECT * FROM snapshot n WHERE n.whole AND n.topic = s.topic AND n.at > s.at AND n.at <= ?) LIMIT 1)
			RETURNING id`, r.history.file.OwnerName(), r.history.file.LeaseEnd(), before).Scan(&id)
		if errors.Is(err, sql.ErrNoRows) {
			return nil
		}
		return errors.Join(err, rows.NoteRemoval(tx))
	})
	return id, err
}

// partChunk is how many parts of a snapshot to remove at a time.
const partChunk = 16

// dropSnapshot removes a retired snapshot.
func (r *Retainer) dropSnapshot(ctx context.Context, id int64) error {
	var parts int
	if err := r.history.file.ViewRow(ctx, `SELECT count(*) FROM part WHERE snapshot = ?`, []any{id}, &parts); err != nil {
		return err
	}
	var steps []step
	for ; parts > 0; parts -= partChunk {
		steps = append(steps, r.history.exec(`DELETE FROM part WHERE rowid IN (SELECT rowid FROM part WHERE snapshot = ? LIMIT ?)`, id, partChunk))
	}
	return r.applySteps(ctx, append(steps, r.history.exec(`DELETE FROM snapshot WHERE id = ?`, id)))
}
