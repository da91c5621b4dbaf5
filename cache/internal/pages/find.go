package pages

import (
	"context"
	"database/sql"
	"errors"

	"github.com/rstream-dev/rstream/event"
	"github.com/rstream-dev/rstream/window"
)

// Find returns the line of an event, nil if it is not held, and the number of its
// storage. If a damaged page may have it, Find returns a *DamageError.
func Find(ctx context.Context, tx *sql.Tx, id event.ID) (line []byte, storage int64, err error) {
	p, err := nearestPage(ctx, tx, id)
	if err == nil && p == nil {
		return nil, 0, nil
	}
	if isDamage(err) || err == nil && p.find(id) == nil {
		p, err = searchPages(ctx, tx, id)
	}
	if err != nil || p == nil {
		return nil, 0, err
	}
	e := p.find(id)
	if e == nil {
		return nil, 0, pageDamage(p.key, p.first(), p.last(), "event %s is not there", id)
	}
	return p.line(e), e.storage, nil
}

// nearestPage returns the last page that begins at or before an event and does not end
// before it, or nil. Unless pages overlap there, no other can have the event.
func nearestPage(ctx context.Context, tx *sql.Tx, id event.ID) (*page, error) {
	p, err := scanPage(tx.QueryRowContext(ctx, `SELECT `+pageColumns+` FROM page WHERE `+mayHave+` LIMIT 1`, id, id, id))
	if errors.Is(err, sql.ErrNoRows) {
		return nil, nil
	}
	return p, err
}

// searchPages returns the page that has an event, or nil.
func searchPages(ctx context.Context, tx *sql.Tx, id event.ID) (*page, error) {
	key, err := findPage(ctx, tx, id)
	if err != nil || key == 0 {
		return nil, err
	}
	return loadPage(ctx, tx, key)
}

// mayHave selects the pages among whose ids an id may be, which it takes three times.
const mayHave = `first > ? - 65536 AND first <= ? AND last >= ? ORDER BY first DESC`

// findPage returns the key of the page that has an event, or 0. It looks at the indexes
// alone, since on a copy many pages can have ids from before and after the event.
func findPage(ctx context.Context, tx *sql.Tx, id event.ID) (key int64, err error) {
	rows, err := tx.QueryContext(ctx, `SELECT key, first, last, count, entries, length(lines) FROM page WHERE `+mayHave, id, id, id)
	if err != nil {
		return 0, err
	}
	defer rows.Close()
	var damage error
	for rows.Next() {
		var p page
		var first, last event.ID
		var count int64
		var linesLen int
		if err := rows.Scan(&p.key, &first, &last, &count, &p.index, &linesLen); err != nil {
			return 0, err
		}
		if p.entries, err = decodeIndex(first, count, p.index, linesLen); err != nil {
			damage = errors.Join(damage, pageDamage(p.key, first, last, "%v", err))
		} else if p.find(id) != nil {
			return p.key, nil
		}
	}
	return 0, errors.Join(damage, rows.Err())
}

// ReadPostings returns the events in a span that the postings of a storage have, in their
// order.
func ReadPostings(ctx context.Context, tx *sql.Tx, storage int64, span window.Span) (posted []Posted, err error) {
	if span.Empty() {
		return nil, nil
	}
	rows, err := tx.QueryContext(ctx, `SELECT storage, block, count, chunks FROM page_posting
		WHERE storage = ? AND block BETWEEN ? AND ? ORDER BY block`,
		storage, int64((span.From + 1).Block()), int64(span.To.Block()))
	if err != nil {
		return nil, err
	}
	defer rows.Close()
	for rows.Next() {
		p, err := scanPosting(rows)
		if err != nil {
			return nil, err
		}
		posted = append(posted, clipPosted(p.entries, span.From, span.To)...)
	}
	return posted, rows.Err()
}
