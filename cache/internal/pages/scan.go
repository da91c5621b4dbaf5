package pages

import (
	"context"
	"database/sql"
	"errors"
	"math"

	"github.com/rstream-dev/rstream/event"
	"github.com/rstream-dev/rstream/window"
)

// A Line is a stored event.
type Line struct {
	ID      event.ID
	Storage int64
	Text    []byte // nil if it was not to be read
	page    *page
	entry   *entry
}

// Posted returns where the line is. If its text was not read, it must be alone in its
// page, as lines of more than a page are.
func (l *Line) Posted() Posted { return Posted{l.ID, l.page.locator(l.entry)} }

// Len returns the length of the text, whether or not it was read.
func (l *Line) Len() int { return l.entry.length }

// A Query says what Scan reads.
type Query struct {
	Span window.Span
	// Want reports whether events of a storage are wanted. If nil, all are.
	Want func(storage int64) bool
	// Dense says that every id of Span was stored by Append, and none was dropped. Then a
	// missing one is damage, and pages do not overlap.
	Dense bool
	// Reuse says that fn does not keep the lines, whose memory is then used again, and does
	// not ask where they are.
	Reuse bool
	// MaxText is the length of the longest text that is read. If zero, all are; if
	// negative, none is, and lines are not checked. If positive, it must be at least
	// the length of a page, since the lines of one are read together.
	MaxText int
	// NotIndexed reads all pages in place of the index of pages, which is damaged.
	NotIndexed bool
	// Passed, if not nil, is increased for each page that a scan reads without copying it.
	Passed *int
	Skip   Skip
}

// Scan calls fn with the lines that q asks for, in the order of their ids. It returns a
// *DamageError at the first page that is damaged, at an event that is stored twice and, if
// q is dense, at one that is missing; what fn was called with until then is right. fn may
// keep the line, unless q says otherwise.
func Scan(ctx context.Context, tx *sql.Tx, q Query, fn func(Line) error) error {
	if q.Span.Empty() {
		return nil
	}
	from, err := q.firstPage(ctx, tx)
	if err != nil {
		return err
	}
	if q.isPlain() {
		at, err := q.scanDense(ctx, tx, from, fn)
		if err != nil || at == q.Span.To {
			return err
		}
		fn = after(at, fn) // the rest of this function reports the damage
	}
	until := int64(q.Span.To)
	if !q.Dense && !q.NotIndexed {
		if err := q.Skip.Pass(checkEntryBefore(ctx, tx, from)); err != nil {
			return err
		}
		until = math.MaxInt64 // so that the entry which ends the scan is seen
	}
	r, err := readPages(ctx, tx, &q, from, until)
	if err != nil {
		return err
	}
	defer r.rows.Close()
	m := merger{query: &q, at: q.Span.From, fn: fn, read: r}
	for r.rows.Next() {
		p, err := r.read()
		if key, first := startOf(p, err); first > q.Span.To && !q.Dense {
			if err = checkStart(ctx, tx, key, first); err == nil {
				break
			}
			p = nil
		}
		if err != nil {
			if err = m.mergeToDamage(err); !isDamage(err) {
				return ignoreDone(err)
			}
			if err = q.Skip.Pass(err); err != nil {
				return ignoreDone(err)
			}
			continue
		}
		if err := m.mergeBefore(p.first()); err != nil {
			return ignoreDone(err)
		}
		m.addPage(p)
	}
	if err := r.rows.Err(); err != nil {
		return err
	}
	return ignoreDone(m.finish())
}

// isPlain reports whether scanDense can scan for q.
func (q *Query) isPlain() bool {
	return q.Dense && q.Reuse && q.MaxText == 0 && q.Skip == nil
}

// after returns fn for the events after a position.
func after(at event.ID, fn func(Line) error) func(Line) error {
	return func(l Line) error {
		if l.ID <= at {
			return nil
		}
		return fn(l)
	}
}

// startOf returns the key and the first id of a page, as the index of pages has it.
func startOf(p *page, err error) (key int64, first event.ID) {
	var damage *DamageError
	switch {
	case errors.As(err, &damage):
		return damage.Page, damage.ID
	case err != nil:
		return 0, 0
	}
	return p.key, p.first()
}

// A wrong id in the index of pages can hide a page from a scan in two ways: the search for
// the first page goes past it, and then it is the one before; or the scan ends at it. So
// both are compared with their pages. Where every id is stored, a hole says the same.

// checkEntryBefore checks the last entry of the index before first.
func checkEntryBefore(ctx context.Context, tx *sql.Tx, first int64) error {
	var key int64
	var begin event.ID
	err := tx.QueryRowContext(ctx, `SELECT key, first FROM page INDEXED BY page_stretch WHERE first < ? ORDER BY first DESC LIMIT 1`, first).Scan(&key, &begin)
	if errors.Is(err, sql.ErrNoRows) {
		return nil
	}
	if err != nil {
		return err
	}
	return checkStart(ctx, tx, key, begin)
}

// checkStart checks that a page has the first id that the index of pages says.
func checkStart(ctx context.Context, tx *sql.Tx, key int64, first event.ID) error {
	var begin event.ID
	err := tx.QueryRowContext(ctx, `SELECT first FROM page NOT INDEXED WHERE key = ?`, key).Scan(&begin)
	if errors.Is(err, sql.ErrNoRows) {
		return pageDamage(key, first, first, "the index of pages has it, but it is not there")
	}
	if err == nil && begin != first {
		err = pageDamage(key, begin, begin, "the index of pages has it at event %s", first)
	}
	return err
}

// errDone ends a scan at the end of its span.
var errDone = errors.New("done")

func ignoreDone(err error) error {
	if err == errDone {
		return nil
	}
	return err
}

// firstPage returns the least id that a page which reaches into the span can begin with.
func (q *Query) firstPage(ctx context.Context, tx *sql.Tx) (first int64, err error) {
	earliest := int64(q.Span.From) + 1 - maxSpan
	if !q.Dense {
		return earliest, nil
	}
	var last int64
	err = tx.QueryRowContext(ctx, `SELECT first, last FROM page WHERE first <= ? ORDER BY first DESC, last DESC LIMIT 1`, int64(q.Span.From)+1).Scan(&first, &last)
	if errors.Is(err, sql.ErrNoRows) {
		return 0, nil
	}
	if err == nil && last <= int64(q.Span.From) {
		// The page is one of the state from which a mirror has begun. In a file of an earlier
		// version, one that begins before it may go on after the state.
		return earliest, nil
	}
	return first, err
}
