package pages

import (
	"context"
	"database/sql"
	"encoding/binary"

	"github.com/rstream-dev/rstream/event"
)

// scanDense is Scan for spans of which every id is stored, and for functions that do not keep
// the lines. It reads half of the columns, since the driver takes about as long for a number as
// for a blob, and copies no blob. It checks no less: the checksum of an index covers the first
// id and the number of events.
//
// It stops before the first event that is missing, dead, stored twice or damaged, and returns
// the position up to which it called fn.
func (q *Query) scanDense(ctx context.Context, tx *sql.Tx, from int64, fn func(Line) error) (at event.ID, err error) {
	at = q.Span.From
	rows, err := tx.QueryContext(ctx, `SELECT first, entries, lines FROM page
		WHERE first >= ? AND first <= ? ORDER BY first, last, key`, from, int64(q.Span.To))
	if err != nil {
		return at, err
	}
	defer rows.Close()
	var p page
	var first int64
	var index, lines sql.RawBytes
	for rows.Next() {
		if rows.Scan(&first, &index, &lines) != nil {
			return at, nil // a column has another type
		}
		p.index, p.lines = index, lines
		if p.decodeAlone(event.ID(first)) != nil {
			return at, nil
		}
		for i := range p.entries {
			e := &p.entries[i]
			if e.id <= q.Span.From {
				continue
			}
			if e.id != at+1 || e.dead || e.id > q.Span.To {
				return at, nil
			}
			if err := fn(Line{e.id, e.storage, p.line(e), &p, e}); err != nil {
				return at, err
			}
			at = e.id
		}
	}
	return at, rows.Err()
}

// decodeAlone is decode for a row without its count and its last id.
func (p *page) decodeAlone(first event.ID) (err error) {
	if p.entries, err = appendEntries(p.entries[:0], first, countEntries(p.index), p.index, len(p.lines)); err != nil {
		return err
	}
	p.linesSum = binary.BigEndian.Uint32(p.index[4:])
	return p.checkLines()
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
