package pages

import (
	"context"
	"database/sql"
	"errors"
	"slices"

	"github.com/rstream-dev/rstream/event"
	"github.com/rstream-dev/rstream/window"
)

// NextPosted returns where the first block begins in which storages may have an event after a
// position, by their postings, or the position itself if it lies in that block; ok is false if
// there is none.
func NextPosted(ctx context.Context, tx *sql.Tx, storages []int64, after event.ID) (at event.ID, ok bool, err error) {
	w := wantedOf(storages)
	w[octetOf(unknownStorage)] |= 1 << placeIn(unknownStorage)
	least := sql.NullInt64{}
	for some := range slices.Chunk(sortedKeys(w), manyOctets) {
		var block sql.NullInt64
		err := tx.QueryRowContext(ctx, `SELECT min((SELECT p.block FROM page_posting p WHERE p.octet = j.value AND p.block >= ? ORDER BY p.block LIMIT 1))
			FROM json_each(?) j`, int64((after + 1).Block()), joinNumbers(some)).Scan(&block)
		if err != nil {
			return 0, false, err
		}
		if block.Valid && (!least.Valid || block.Int64 < least.Int64) {
			least = block
		}
	}
	if !least.Valid {
		return 0, false, nil
	}
	return max(after, window.BlockSpan(uint64(least.Int64)).From), true, nil
}

// NextStored returns the position before the first event after a position, or before the page
// that is damaged before that one; ok is false if there is none.
func NextStored(ctx context.Context, tx *sql.Tx, after event.ID) (at event.ID, ok bool, err error) {
	return nextStored(ctx, tx, after, false)
}

// NextStored is the function NextStored for the writer, which may avoid the index of pages.
func (t *Tables) NextStored(tx *sql.Tx, after event.ID) (at event.ID, ok bool, err error) {
	return nextStored(context.Background(), tx, after, t.notIndexed)
}

func nextStored(ctx context.Context, tx *sql.Tx, after event.ID, notIndexed bool) (at event.ID, ok bool, err error) {
	q := Query{Span: window.Span{From: after, To: event.MaxID}, MaxText: -1, NotIndexed: notIndexed}
	err = Scan(ctx, tx, q, func(l Line) error {
		at, ok = l.ID-1, true
		return errDone
	})
	var damage *DamageError
	if errors.As(err, &damage) {
		return max(after, damage.ID-min(damage.ID, 1)), true, nil
	}
	return at, ok, err
}
