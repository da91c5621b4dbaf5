package pages

import (
	"context"
	"database/sql"
	"errors"
	"slices"
	"strconv"

	"github.com/rstream-dev/rstream/event"
	"github.com/rstream-dev/rstream/window"
)

// Find returns the line of an event, nil if it is not held, and the number of its
// storage. If a damaged page may have it, Find returns a *DamageError.
func Find(ctx context.Context, tx *sql.Tx, id event.ID) (line []byte, storage int64, err error) {
	p, e, err := find(ctx, tx, id)
	if err != nil || e == nil {
		return nil, 0, err
	}
	return p.line(e), e.storage, nil
}

// find returns the page and the entry of an event, nil if it is not held.
func find(ctx context.Context, tx *sql.Tx, id event.ID) (*page, *entry, error) {
	p, err := nearestPage(ctx, tx, id)
	if err == nil && p == nil {
		return nil, nil, nil
	}
	if isDamage(err) || err == nil && p.find(id) == nil {
		p, err = searchPages(ctx, tx, id)
	}
	if err != nil || p == nil {
		return nil, nil, err
	}
	e := p.find(id)
	if e == nil {
		return nil, nil, pageDamage(p.key, p.first(), p.last(), "event %s is not there", id)
	}
	return p, e, nil
}

const nearestQuery = `SELECT ` + pageColumns + ` FROM page WHERE ` + mayHave + ` LIMIT 1`

// nearestPage returns the last page that begins at or before an event and does not end
// before it, or nil. Unless pages overlap there, no other can have the event.
func nearestPage(ctx context.Context, tx *sql.Tx, id event.ID) (*page, error) {
	p, err := scanPage(tx.QueryRowContext(ctx, nearestQuery, id, id, id))
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

// EachPosting calls fn with the events in a span that the postings of storages have: for
// each storage in the order of blocks. skip is called with damaged postings, which EachPosting
// then goes past; if nil, the first one ends it.
func EachPosting(ctx context.Context, tx *sql.Tx, storages []int64, span window.Span, skip Skip, fn func(PostingKey, []Posted) error) error {
	if span.Empty() {
		return nil
	}
	rows, err := tx.QueryContext(ctx, `SELECT p.storage, p.block, p.count, p.chunks
		FROM json_each(?) j CROSS JOIN page_posting p ON p.storage = j.value AND p.block BETWEEN ? AND ?`,
		joinNumbers(append(slices.Clip(storages), unknownStorage)), int64((span.From + 1).Block()), int64(span.To.Block()))
	if err != nil {
		return err
	}
	defer rows.Close()
	for rows.Next() {
		p, err := scanPosting(rows)
		if err == nil && p.key.Storage == unknownStorage {
			err = unknownDamage(clipPosted(p.entries, span.From, span.To), span.From)
		} else if err == nil {
			err = fn(p.key, clipPosted(p.entries, span.From, span.To))
			if err != nil {
				return err
			}
		}
		if err = skip.damage(err); err != nil {
			return err
		}
	}
	return rows.Err()
}

// ReadPostingsOf returns the events in a span that the postings of some storages have, in
// their order.
func ReadPostingsOf(ctx context.Context, tx *sql.Tx, storages []int64, span window.Span) (posted []Posted, err error) {
	err = EachPosting(ctx, tx, storages, span, nil, func(_ PostingKey, evs []Posted) error {
		posted = append(posted, evs...)
		return nil
	})
	slices.SortFunc(posted, comparePosted)
	return posted, err
}

// joinNumbers writes numbers as json_each reads them.
func joinNumbers(numbers []int64) string {
	b := []byte{'['}
	for i, n := range numbers {
		if i > 0 {
			b = append(b, ',')
		}
		b = strconv.AppendInt(b, n, 10)
	}
	return string(append(b, ']'))
}

// LastPosted returns the last event in a span that the postings of each storage have. The
// page is 0 if they have none, or if one is damaged and skip takes it, as in EachPosting.
func LastPosted(ctx context.Context, tx *sql.Tx, storages []int64, span window.Span, skip Skip) (last []Posted, err error) {
	last = make([]Posted, len(storages))
	if span.Empty() || len(storages) == 0 {
		return last, nil
	}
	rows, err := tx.QueryContext(ctx, `SELECT j.key, p.storage, p.block, p.count, p.chunks
		FROM json_each(?) j CROSS JOIN page_posting p ON p.storage = j.value AND p.block =
			(SELECT max(block) FROM page_posting WHERE storage = j.value AND block BETWEEN ? AND ?)`,
		joinNumbers(storages), int64((span.From + 1).Block()), int64(span.To.Block()))
	if err != nil {
		return nil, err
	}
	defer rows.Close()
	for rows.Next() {
		var i int
		p, err := scanPosting(keyed{rows, &i})
		if err != nil {
			if err = skip.damage(err); err != nil {
				return nil, err
			}
			continue
		}
		if evs := clipPosted(p.entries, span.From, span.To); len(evs) > 0 {
			last[i] = evs[len(evs)-1]
			continue
		}
		// Those of the last block come after the span.
		last[i], err = lastPostedBefore(ctx, tx, p.key, span)
		if err = skip.damage(err); err != nil {
			return nil, err
		}
	}
	if err := rows.Err(); err != nil {
		return nil, err
	}
	return last, checkUnknown(ctx, tx, last, span, skip)
}

// checkUnknown returns damage if an event whose storage is not known may follow one of last.
func checkUnknown(ctx context.Context, tx *sql.Tx, last []Posted, span window.Span, skip Skip) error {
	before := span.To
	for i := range last {
		before = min(before, last[i].ID)
	}
	unknown := func(_ PostingKey, _ []Posted) error { return nil }
	return EachPosting(ctx, tx, nil, window.Span{From: max(before, span.From), To: span.To}, skip, unknown)
}

// lastPostedBefore returns the last event in a span that a storage's postings of the blocks
// before that of key have.
func lastPostedBefore(ctx context.Context, tx *sql.Tx, key PostingKey, span window.Span) (last Posted, err error) {
	rows, err := tx.QueryContext(ctx, `SELECT storage, block, count, chunks FROM page_posting
		WHERE storage = ? AND block BETWEEN ? AND ? ORDER BY block DESC`,
		key.Storage, int64((span.From + 1).Block()), int64(key.Block)-1)
	if err != nil {
		return last, err
	}
	defer rows.Close()
	for rows.Next() {
		p, err := scanPosting(rows)
		if err != nil {
			return last, err
		}
		if evs := clipPosted(p.entries, span.From, span.To); len(evs) > 0 {
			return evs[len(evs)-1], nil
		}
	}
	return last, rows.Err()
}

// A keyed is a row with a number before the columns of another.
type keyed struct {
	row interface{ Scan(...any) error }
	key *int
}

func (k keyed) Scan(dest ...any) error { return k.row.Scan(append([]any{k.key}, dest...)...) }

// LastPostedOf returns the last event that the postings of a storage have, Beginning if
// they have none, in a transaction of File.Begin.
func (t *Tables) LastPostedOf(tx *sql.Tx, storage int64) (event.ID, error) {
	stmt, err := t.file.Stmt(tx, newestPosting)
	if err != nil {
		return event.Beginning, err
	}
	p, err := scanPosting(stmt.QueryRow(storage))
	if errors.Is(err, sql.ErrNoRows) {
		return event.Beginning, nil
	}
	if err != nil || len(p.entries) == 0 {
		return event.Beginning, err
	}
	return p.entries[len(p.entries)-1].ID, nil
}

// newestPosting selects the newest posting of a storage.
const newestPosting = `SELECT storage, block, count, chunks FROM page_posting WHERE storage = ? ORDER BY block DESC LIMIT 1`
