package pages

import (
	"context"
	"database/sql"
	"errors"
	"math"

	"github.com/rstream-dev/rstream/event"
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

// CountAllPages returns how many pages there are.
func CountAllPages(ctx context.Context, tx *sql.Tx) (n int64, err error) {
	err = tx.QueryRowContext(ctx, `SELECT count(*) FROM page`).Scan(&n)
	return n, err
}

// CountAllPostings returns how many postings there are.
func CountAllPostings(ctx context.Context, tx *sql.Tx) (n int64, err error) {
	err = tx.QueryRowContext(ctx, `SELECT count(*) FROM page_posting`).Scan(&n)
	return n, err
}

// CountAll returns how many events there are. Those of damaged pages count as far as their
// rows say.
func CountAll(ctx context.Context, tx *sql.Tx) (n int64, err error) {
	rows, err := tx.QueryContext(ctx, `SELECT first, count, entries, length(lines) FROM page`)
	if err != nil {
		return 0, err
	}
	defer rows.Close()
	for rows.Next() {
		var first event.ID
		var count int64
		var index sql.RawBytes
		var linesLen int
		if err := rows.Scan(&first, &count, &index, &linesLen); err != nil {
			return 0, err
		}
		entries, err := decodeIndex(first, count, index, linesLen)
		if err != nil {
			n += max(count, 0)
		}
		for i := range entries {
			if !entries[i].dead {
				n++
			}
		}
	}
	return n, rows.Err()
}

// HasPages reports whether at least n pages have ids in a span, which must not be empty. It
// looks at the pages that begin before the span only if that many do not begin in it.
func HasPages(ctx context.Context, tx *sql.Tx, span window.Span, n int) (bool, error) {
	var found int
	err := tx.QueryRowContext(ctx, `SELECT count(*) FROM (SELECT 1 FROM page WHERE first > ? AND first <= ? LIMIT ? + 0)`,
		int64(span.From), int64(span.To), n).Scan(&found)
	if err != nil || found >= n {
		return err == nil, err
	}
	n -= found
	err = tx.QueryRowContext(ctx, `SELECT count(*) FROM (SELECT 1 FROM page WHERE first > ? AND first <= ? AND last > ? LIMIT ? + 0)`,
		int64(span.From)-maxSpan, int64(span.From), int64(span.From), n).Scan(&found)
	return err == nil && found >= n, err
}

// HasDensePages is HasPages for a log, whose pages have keys in the order of their ids unless
// retention has moved them. It takes the number from the first and the last key, which may then
// be a wrong one, and visits none of the pages between them.
func HasDensePages(ctx context.Context, tx *sql.Tx, span window.Span, n int) (bool, error) {
	const keyAt = `(SELECT key FROM page WHERE first <= ? ORDER BY first DESC LIMIT 1)`
	var found int
	err := tx.QueryRowContext(ctx, `SELECT coalesce(`+keyAt+` - `+keyAt+`, -1) + 1`, int64(span.To), int64(span.From)+1).Scan(&found)
	if err != nil || found > 0 {
		return err == nil && found >= n, err
	}
	return HasPages(ctx, tx, span, n)
}

// CountRows returns how many events the rows of pages say that a span has, dead ones
// included: no fewer than there are. It reads the indexes of those pages alone that reach out
// of the span.
func CountRows(ctx context.Context, tx *sql.Tx, span window.Span) (n int, err error) {
	err = tx.QueryRowContext(ctx, `SELECT coalesce(sum(count), 0) FROM page WHERE first > ? AND first <= ? AND last <= ?`,
		int64(span.From), int64(span.To), int64(span.To)).Scan(&n)
	if err != nil {
		return 0, err
	}
	count := func(p *page, err error) (bool, error) {
		if err != nil {
			return false, err
		}
		for i := range p.entries {
			if e := &p.entries[i]; span.From < e.id && e.id <= span.To {
				n++
			}
		}
		return true, nil
	}
	err = eachPage(ctx, tx, count, `first > ? AND first <= ? AND last > ?`, int64(span.From)-maxSpan, int64(span.From), int64(span.From))
	if err == nil {
		err = eachPage(ctx, tx, count, `first > ? AND first <= ? AND last > ?`, int64(span.From), int64(span.To), int64(span.To))
	}
	return n, err
}

// CountPosted returns how many events the postings of some storages have in each of the
// blocks from first to last.
func CountPosted(ctx context.Context, tx *sql.Tx, storages []int64, first, last uint64) (map[uint64]int, error) {
	counts, wanted := map[uint64]int{}, wantedOf(storages)
	err := eachPosting(ctx, tx, wanted, first, last, func(p *posting, err error) error {
		if err != nil {
			return err
		}
		for i := range p.entries {
			if wanted.has(p.entries[i].storage) {
				counts[p.key.block]++
			}
		}
		return nil
	})
	return counts, err
}

// CountShared returns how many events the postings of some storages have in a span, those of the
// storages that share the postings included. It decodes none.
func CountShared(ctx context.Context, tx *sql.Tx, storages []int64, span window.Span) (n int64, err error) {
	err = tx.QueryRowContext(ctx, `SELECT coalesce(sum(p.count), 0) FROM json_each(?) j CROSS JOIN page_posting p
		ON p.octet = j.value AND p.block BETWEEN ? AND ?`,
		joinNumbers(sortedKeys(wantedOf(storages))), int64((span.From + 1).Block()), int64(span.To.Block())).Scan(&n)
	return n, err
}

// StretchEnd returns the position up to which the next n pages begin after another one,
// event.MaxID if there are no more.
func StretchEnd(ctx context.Context, tx *sql.Tx, after event.ID, n int) (event.ID, error) {
	var first event.ID
	err := tx.QueryRowContext(ctx, `SELECT first FROM page WHERE first > ? ORDER BY first LIMIT 1 OFFSET ?`, int64(after), n).Scan(&first)
	if errors.Is(err, sql.ErrNoRows) {
		return event.MaxID, nil
	}
	return max(first-1, after+1), err
}

// sizeSample is of how many pages Size looks at each.
const sizeSample = 4096

// Size returns how many bytes the rows of the pages take that begin in a span. Of many pages, it looks at
// some thousand, spread over all of them. It reads no line.
func Size(ctx context.Context, tx *sql.Tx, span window.Span) (int64, error) {
	var count int64
	from, to := int64(span.From), int64(span.To)
	err := tx.QueryRowContext(ctx, `SELECT count(*) FROM page WHERE first > ? AND first <= ?`, from, to).Scan(&count)
	if err != nil || count == 0 {
		return 0, err
	}
	var mean float64
	err = tx.QueryRowContext(ctx, `SELECT coalesce(avg(length(entries) + length(lines)), 0) FROM page WHERE first > ? AND first <= ? AND key % ? = 0`,
		from, to, count/sizeSample+1).Scan(&mean)
	return int64(math.Round(mean * float64(count))), err
}

// CountText returns how many bytes the lines of some pages have together. It reads no line.
func CountText(ctx context.Context, tx *sql.Tx, keys []int64) (n int64, err error) {
	err = tx.QueryRowContext(ctx, `SELECT coalesce(sum(length(p.lines)), 0)
		FROM json_each(?) j CROSS JOIN page p ON p.key = j.value`, joinNumbers(keys)).Scan(&n)
	return n, err
}
