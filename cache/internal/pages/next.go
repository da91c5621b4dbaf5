package pages

import (
	"context"
	"database/sql"
	"errors"
	"slices"

	"github.com/rstream-dev/rstream/event"
	"github.com/rstream-dev/rstream/window"
)

// NextPosted returns where the first block of a span begins in which storages may have an event, by
// their postings: the start of the span if it lies within that block, and its end if there is none.
func NextPosted(ctx context.Context, tx *sql.Tx, storages []int64, span window.Span) (event.ID, error) {
	if span.Empty() {
		return span.From, nil
	}
	w := wantedOf(storages)
	w[octetOf(unknownStorage)] |= 1 << placeIn(unknownStorage)
	next := span.To
	for some := range slices.Chunk(sortedKeys(w), manyOctets) {
		var block sql.NullInt64
		err := tx.QueryRowContext(ctx, `SELECT min((SELECT p.block FROM page_posting p WHERE p.octet = j.value AND p.block >= ? ORDER BY p.block LIMIT 1))
			FROM json_each(?) j`, int64((span.From + 1).Block()), joinNumbers(some)).Scan(&block)
		if err != nil {
			return span.From, err
		}
		if block.Valid {
			next = min(next, blockIn(span, uint64(block.Int64)))
		}
	}
	return next, nil
}

// NextStored returns where the first block of a span begins that has an event, or a damaged page, in
// the same way.
func NextStored(ctx context.Context, tx *sql.Tx, span window.Span) (event.ID, error) {
	return nextStored(ctx, tx, span, false)
}

// NextStored is the function NextStored for the writer, which may avoid the index of pages.
func (t *Tables) NextStored(tx *sql.Tx, span window.Span) (event.ID, error) {
	return nextStored(context.Background(), tx, span, t.notIndexed)
}

func nextStored(ctx context.Context, tx *sql.Tx, span window.Span, notIndexed bool) (event.ID, error) {
	next := span.To
	err := Scan(ctx, tx, Query{Span: span, MaxText: -1, NotIndexed: notIndexed}, func(l Line) error {
		next = blockIn(span, l.ID.Block())
		return errDone
	})
	var damage *DamageError
	if errors.As(err, &damage) {
		return blockIn(span, damage.ID.Block()), nil
	}
	return next, err
}

// blockIn returns where a block begins within a span.
func blockIn(span window.Span, block uint64) event.ID {
	return min(max(span.From, window.BlockSpan(block).From), span.To)
}
