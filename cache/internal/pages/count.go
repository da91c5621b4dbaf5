package pages

import (
	"context"
	"database/sql"

	"github.com/rstream-dev/rstream/window"
)

// CountEvents returns how many events each storage has in a span. It reads the indexes of
// pages and no lines.
func CountEvents(ctx context.Context, tx *sql.Tx, span window.Span) (map[int64]int, error) {
	counts := map[int64]int{}
	if span.Empty() {
		return counts, nil
	}
	err := eachIndex(ctx, tx, span, func(p *page) bool {
		for i := range p.entries {
			if e := &p.entries[i]; !e.dead && span.From < e.id && e.id <= span.To {
				counts[e.storage]++
			}
		}
		return true
	})
	return counts, err
}

// touching selects the pages that have ids in a span, by touchingArgs.
const touching = `first > ? AND first <= ? AND last > ?`

func touchingArgs(span window.Span) []any {
	return []any{int64(span.From) - maxSpan, int64(span.To), int64(span.From)}
}

// CountPages returns how many pages have ids in a span, which must not be empty.
func CountPages(ctx context.Context, tx *sql.Tx, span window.Span) (n int, err error) {
	err = tx.QueryRowContext(ctx, `SELECT count(*) FROM page WHERE `+touching, touchingArgs(span)...).Scan(&n)
	return n, err
}

// CountPosted returns how many events the postings of some storages have in a block.
func CountPosted(ctx context.Context, tx *sql.Tx, storages []int64, block uint64) (n int, err error) {
	err = tx.QueryRowContext(ctx, `SELECT coalesce(sum(p.count), 0) FROM json_each(?) j CROSS JOIN page_posting p
		ON p.storage = j.value AND p.block = ?`, joinNumbers(storages), int64(block)).Scan(&n)
	return n, err
}
