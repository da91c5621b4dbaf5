package pages

import (
	"context"
	"database/sql"
	"fmt"

	"github.com/rstream-dev/rstream/event"
)

// A pageReader reads the pages of a scan. It fills again the pages that were given back to
// it, so that a long scan allocates few.
type pageReader struct {
	rows  *sql.Rows
	all   bool  // the lines of every page are read
	dest  []any // the fields below, in the order of the columns
	key   int64
	first int64
	last  int64
	count int64
	index blob
	size  int64 // of the lines, if not all are read
	lines blob
	free  []*page
}

// newPageReader returns a reader of rows that have pageColumns or, if not all lines are read,
// someColumns.
func newPageReader(rows *sql.Rows, all bool) *pageReader {
	r := &pageReader{rows: rows, all: all}
	r.dest = []any{&r.key, &r.first, &r.last, &r.count, &r.index, &r.lines}
	if !all {
		r.dest = []any{&r.key, &r.first, &r.last, &r.count, &r.index, &r.size, &r.lines}
	}
	return r
}

// readPages returns a reader of the pages whose first ids are in [from, until] and whose last
// ones come after the start of the query's span.
func readPages(ctx context.Context, tx *sql.Tx, q *Query, from, until int64) (*pageReader, error) {
	columns, args := pageColumns, []any{from, until, int64(q.Span.From)}
	if q.MaxText != 0 {
		columns, args = someColumns, append([]any{q.MaxText}, args...)
	}
	table := `page`
	if q.NotIndexed {
		table = `page NOT INDEXED`
	}
	rows, err := tx.QueryContext(ctx, `SELECT `+columns+` FROM `+table+`
		WHERE first >= ? AND first <= ? AND last > ? ORDER BY first, last, key`, args...)
	if err != nil {
		return nil, err
	}
	return newPageReader(rows, q.MaxText == 0), nil
}

// read reads the page of the current row, and checks all of it that was read.
func (r *pageReader) read() (*page, error) {
	p := r.emptyPage()
	r.lines = p.lines
	if err := r.rows.Scan(r.dest...); err != nil {
		return nil, err
	}
	p.key, p.lines = r.key, r.lines
	if r.all {
		r.size = int64(len(r.lines))
	}
	first, last := event.ID(r.first), event.ID(r.last)
	err := p.decodeEntries(first, last, r.count, r.index, int(r.size))
	if err == nil && p.lines != nil {
		err = p.checkLines()
	}
	if err != nil {
		return nil, pageDamage(p.key, first, last, "%v", err)
	}
	return p, nil
}

// emptyPage returns a page to fill.
func (r *pageReader) emptyPage() *page {
	n := len(r.free)
	if n == 0 {
		return &page{}
	}
	p := r.free[n-1]
	r.free = r.free[:n-1]
	return p
}

// giveBack takes a page that nobody uses any longer.
func (r *pageReader) giveBack(p *page) { r.free = append(r.free, p) }

// A blob is the bytes of a column. It is copied into the memory of the blob before, since
// that of the row belongs to the driver.
type blob []byte

// Scan implements sql.Scanner.
func (b *blob) Scan(src any) error {
	switch src := src.(type) {
	case nil:
		*b = nil
	case []byte:
		*b = append((*b)[:0], src...)
	case string:
		*b = append((*b)[:0], src...)
	default: // in a damaged file
		*b = fmt.Append((*b)[:0], src)
	}
	return nil
}
