package pages

import (
	"context"
	"database/sql"
	"fmt"

	"github.com/rstream-dev/rstream/event"
	"github.com/rstream-dev/rstream/window"
)

// eachPage calls fn with pages, until it returns false.
func eachPage(ctx context.Context, tx *sql.Tx, fn func(*page, error) (more bool, err error), where string, args ...any) error {
	rows, err := tx.QueryContext(ctx, `SELECT `+pageColumns+` FROM page WHERE `+where, args...)
	if err != nil {
		return err
	}
	defer rows.Close()
	for rows.Next() {
		if more, err := fn(scanPage(rows)); err != nil || !more {
			return err
		}
	}
	return rows.Err()
}

// lastIn returns the last live entry of p in span, or nil.
func (p *page) lastIn(span window.Span) (last *entry) {
	for i := range p.entries {
		if e := &p.entries[i]; !e.dead && span.From < e.id && e.id <= span.To {
			last = e
		}
	}
	return last
}

// Last returns the last event of a span; ok is false if there is none. dense says that
// pages do not overlap there, as in a [Query]. Last returns a *DamageError if the page that
// may have the event is damaged.
func Last(ctx context.Context, tx *sql.Tx, span window.Span, dense bool) (last Line, ok bool, err error) {
	if span.Empty() {
		return last, false, nil
	}
	note := func(p *page) bool {
		e := p.lastIn(span)
		if e == nil {
			return false
		}
		last = Line{e.id, e.storage, p.line(e), p, e}
		span.From = e.id
		return true
	}
	err = eachPage(ctx, tx, func(p *page, err error) (bool, error) {
		if err != nil {
			return false, err
		}
		ok = note(p)
		return !ok, nil
	}, `first > ? AND first <= ? AND last > ? ORDER BY first DESC, last DESC, key DESC`,
		int64(span.From)-maxSpan, int64(span.To), int64(span.From))
	if err != nil || !ok || dense {
		return last, ok, err
	}
	// Pages that begin earlier may reach further.
	err = eachPage(ctx, tx, func(p *page, err error) (bool, error) {
		if err == nil {
			note(p)
		}
		return true, err
	}, `first > ? AND first <= ? AND last > ? AND key <> ?`,
		int64(last.ID)-maxSpan, int64(last.page.first()), int64(last.ID), last.page.key)
	return last, err == nil, err
}

// Next returns the first event after a position; ok is false if there is none.
func Next(ctx context.Context, tx *sql.Tx, after event.ID) (id event.ID, ok bool, err error) {
	err = Scan(ctx, tx, Query{Span: window.Span{From: after, To: event.MaxID}, MaxText: -1}, func(l Line) error {
		id, ok = l.ID, true
		return errDone
	})
	return id, ok, err
}

// PositionAt returns the position of the last event whose time is at or before t, Beginning
// if there is none. If a damaged page may have that event, PositionAt returns a *DamageError
// and the position of the last one that it could read.
func PositionAt(ctx context.Context, tx *sql.Tx, t event.Time) (at event.ID, err error) {
	s := timeSearch{ctx: ctx, tx: tx, time: t, late: event.MaxID}
	var last event.ID
	if err := tx.QueryRowContext(ctx, `SELECT coalesce(max(first), 0) FROM page`).Scan(&last); err != nil {
		return 0, err
	}
	for first := event.Beginning; first < last; {
		middle := first + (last-first+1)/2
		begin, err := s.probe(first, middle)
		switch {
		case err != nil:
			return 0, err
		case begin > event.Beginning:
			last = begin - 1
		default:
			first = middle
		}
	}
	return s.finish()
}

// A timeSearch looks for the last event whose time is early enough.
type timeSearch struct {
	ctx   context.Context
	tx    *sql.Tx
	time  event.Time
	early event.ID // the last event known to be early enough
	late  event.ID // all events after it are too late
}

// probe looks at an event of the last sound page that begins after a position and up to
// another one. If it is too late, probe returns the first id of the page.
func (s *timeSearch) probe(after, until event.ID) (begin event.ID, err error) {
	err = eachPage(s.ctx, s.tx, func(p *page, err error) (bool, error) {
		if isDamage(err) {
			return true, nil // finish looks at it
		}
		if err != nil {
			return false, err
		}
		e := p.firstFrom(0)
		if e == nil {
			return true, nil
		}
		early, err := s.isEarly(p, e)
		if isDamage(err) {
			return true, nil // so it does at a line that is not its event's
		}
		if err != nil {
			return false, err
		}
		if early {
			s.early = max(s.early, e.id)
		} else {
			s.late, begin = min(s.late, e.id-1), p.first()
		}
		return false, nil
	}, `first > ? AND first <= ? ORDER BY first DESC, last DESC, key DESC`, int64(after), int64(until))
	return begin, err
}

func (s *timeSearch) isEarly(p *page, e *entry) (bool, error) {
	ev, err := event.Stored(p.line(e))
	if err == nil && ev.ID != e.id {
		err = fmt.Errorf("event %s is stored as %s", ev.ID, e.id)
	}
	if err != nil {
		return false, pageDamage(p.key, p.first(), p.last(), "%v", err)
	}
	return ev.Time <= s.time, nil
}

// finish looks at all pages that may have the event.
func (s *timeSearch) finish() (event.ID, error) {
	var damaged []*DamageError
	err := eachPage(s.ctx, s.tx, func(p *page, err error) (bool, error) {
		if err == nil {
			err = s.searchPage(p)
		}
		return true, Skip(func(damage *DamageError) error {
			damaged = append(damaged, damage)
			return nil
		}).Pass(err)
	}, `first > ? AND first <= ? AND last > ?`, int64(s.early)-maxSpan, int64(s.late), int64(s.early))
	if err != nil {
		return s.early, err
	}
	for _, e := range damaged {
		if e.ID <= s.late && e.Last > s.early {
			return s.early, e
		}
	}
	return s.early, nil
}

// searchPage looks for the event in a page.
func (s *timeSearch) searchPage(p *page) error {
	for low, high := 0, len(p.entries); low < high; {
		middle := (low + high) / 2
		e := p.firstFrom(middle)
		if e == nil || e.id > s.late {
			high = middle
			continue
		}
		early, err := s.isEarly(p, e)
		switch {
		case err != nil:
			return err
		case early:
			s.early, low = max(s.early, e.id), middle+1
		default:
			s.late, high = min(s.late, e.id-1), middle
		}
	}
	return nil
}

// firstFrom returns the first live entry from an index on, or nil.
func (p *page) firstFrom(i int) *entry {
	for ; i < len(p.entries); i++ {
		if !p.entries[i].dead {
			return &p.entries[i]
		}
	}
	return nil
}

// eachIndex calls fn with the indexes of the pages that may have events in span, without
// their lines, in the order of their first ids.
func eachIndex(ctx context.Context, tx *sql.Tx, span window.Span, fn func(*page) (more bool)) error {
	if span.Empty() {
		return nil
	}
	rows, err := tx.QueryContext(ctx, `SELECT `+someColumns+` FROM page
		WHERE first > ? AND first <= ? AND last > ? ORDER BY first, last, key`, -1, int64(span.From)-maxSpan, int64(span.To), int64(span.From))
	if err != nil {
		return err
	}
	defer rows.Close()
	for rows.Next() {
		p, err := scanSome(rows)
		if err != nil {
			return err
		}
		if !fn(p) {
			return nil
		}
	}
	return rows.Err()
}

// Count returns how many events a span has.
func Count(ctx context.Context, tx *sql.Tx, span window.Span) (n int, err error) {
	err = eachIndex(ctx, tx, span, func(p *page) bool {
		for i := range p.entries {
			if e := &p.entries[i]; !e.dead && span.From < e.id && e.id <= span.To {
				n++
			}
		}
		return true
	})
	return n, err
}

// Advance returns a position that n events follow after another one, approximately if
// pages overlap; ok is false if there are fewer in span, which begins with that position.
func Advance(ctx context.Context, tx *sql.Tx, span window.Span, n int) (at event.ID, ok bool, err error) {
	at = span.From
	err = eachIndex(ctx, tx, span, func(p *page) bool {
		for i := range p.entries {
			if e := &p.entries[i]; !e.dead && span.From < e.id && e.id <= span.To && n > 0 {
				at = max(at, e.id)
				n--
			}
		}
		return n > 0
	})
	return at, n <= 0, err
}
