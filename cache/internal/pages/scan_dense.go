package pages

import (
	"context"
	"database/sql"
	"database/sql/driver"
	"encoding/binary"

	"github.com/rstream-dev/rstream/cache/internal/dbfile"
	"github.com/rstream-dev/rstream/event"
)

// scanDense is Scan for spans of which every id is stored, and for functions that do not keep
// the lines and do not use tx. It copies no page, and reads half of the columns. It checks no
// less: the checksum of an index covers the first id and the number of events.
//
// It stops before the first event that is missing, dead, stored twice or damaged, and returns
// the position up to which it called fn.
func (q *Query) scanDense(ctx context.Context, tx *sql.Tx, from int64, fn func(Line) error) (at event.ID, err error) {
	at = q.Span.From
	var p page
	var failed error
	err = dbfile.VisitRows(ctx, tx, `SELECT 1 FROM page
		WHERE first >= ?2 AND first <= ?3 AND visit_row(?1, first, entries, lines) ORDER BY first, last, key LIMIT 1`,
		[]any{from, int64(q.Span.To)}, func(columns []driver.Value) (more bool) {
			first, ok := columns[0].(int64)
			index, okIndex := columns[1].([]byte)
			lines, okLines := columns[2].([]byte)
			if !ok || !okIndex || !okLines { // a column has another type
				return false
			}
			if q.Passed != nil {
				*q.Passed++
			}
			p.index, p.lines = index, lines
			if p.decodeAlone(event.ID(first)) != nil {
				return false
			}
			at, more, failed = q.visitDense(&p, at, fn)
			return more
		})
	if failed != nil {
		err = failed
	}
	return at, err
}

// visitDense calls fn with the wanted lines of p after position at, and returns the position of
// its last event and whether the scan goes on. The lines of a page are not checked if none of them
// is wanted.
func (q *Query) visitDense(p *page, at event.ID, fn func(Line) error) (_ event.ID, more bool, err error) {
	checked := false
	for i := range p.entries {
		e := &p.entries[i]
		if e.id <= q.Span.From {
			continue
		}
		if e.id != at+1 || e.dead || e.id > q.Span.To {
			return at, false, nil
		}
		if q.Want != nil && !q.Want(e.storage) {
			at = e.id
			continue
		}
		if !checked && p.checkLines() != nil {
			return at, false, nil
		}
		checked = true
		if err := fn(Line{e.id, e.storage, p.line(e), p, e}); err != nil {
			return at, false, err
		}
		at = e.id
	}
	return at, true, nil
}

// decodeAlone is decode for a row without its count and its last id. It does not check the lines.
func (p *page) decodeAlone(first event.ID) (err error) {
	if p.entries, err = appendEntries(p.entries[:0], first, countEntries(p.index), p.index, len(p.lines)); err != nil {
		return err
	}
	p.linesSum = binary.BigEndian.Uint32(p.index[4:])
	return nil
}

// countEntries returns how many entries an index has: each is three numbers.
func countEntries(index []byte) int64 {
	n := int64(0)
	for _, b := range index[min(sumsLen, len(index)):] {
		if b < 0x80 { // the last byte of a number
			n++
		}
	}
	return n / 3
}
