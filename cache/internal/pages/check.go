package pages

import (
	"context"
	"database/sql"
	"errors"

	"github.com/rstream-dev/rstream/event"
	"github.com/rstream-dev/rstream/window"
)

// A Scope says what Check can rely on.
type Scope struct {
	Posted event.ID    // events up to here have postings
	Dense  window.Span // every id in it was stored by Append, and none was dropped
	// Checked is called now and then with how many pages were checked. It may be nil.
	Checked func(pages int)
}

// Check checks every page, every line with its hash and every posting, and that pages and
// postings name each other. It calls fn with all damage that it finds.
func Check(ctx context.Context, tx *sql.Tx, s Scope, fn func(*DamageError) error) error {
	c := checker{ctx: ctx, tx: tx, scope: s, fn: fn, postings: map[octetKey]*posting{}}
	for _, step := range []func() error{c.checkPostings, c.checkPages, c.checkOrder} {
		if err := step(); err != nil {
			return err
		}
	}
	return nil
}

// A checker checks the tables.
type checker struct {
	ctx      context.Context
	tx       *sql.Tx
	scope    Scope
	fn       func(*DamageError) error
	found    bool
	named    int // events that postings name
	live     int // events of pages that postings have to name
	lines    int
	postings map[octetKey]*posting // those that were looked at last
}

// noteDamage reports damage, and returns any other error.
func (c *checker) noteDamage(err error) error {
	var damage *DamageError
	if !errors.As(err, &damage) {
		return err
	}
	c.found = true
	return c.fn(damage)
}

func (c *checker) checkPostings() error {
	rows, err := c.tx.QueryContext(c.ctx, `SELECT `+postingColumns+` FROM page_posting p ORDER BY p.octet, p.block`)
	if err != nil {
		return err
	}
	defer rows.Close()
	for rows.Next() {
		p, err := scanPosting(rows)
		if err == nil {
			c.named += len(p.entries)
		}
		if err := c.noteDamage(err); err != nil {
			return err
		}
	}
	return rows.Err()
}

func (c *checker) checkPages() error {
	rows, err := c.tx.QueryContext(c.ctx, `SELECT `+pageColumns+` FROM page NOT INDEXED ORDER BY key`)
	if err != nil {
		return err
	}
	defer rows.Close()
	for n := 0; rows.Next(); n++ {
		if c.scope.Checked != nil && n%pagesPerStep == 0 {
			c.scope.Checked(n)
		}
		p, err := scanPage(rows)
		if err == nil {
			err = c.checkPage(p)
		}
		if err := c.noteDamage(err); err != nil {
			return err
		}
	}
	return rows.Err()
}

// checkPage checks the lines of a sound page, and that its stretch and its postings find
// it.
func (c *checker) checkPage(p *page) error {
	var n int
	err := c.tx.QueryRowContext(c.ctx, `SELECT count(*) FROM page INDEXED BY page_stretch WHERE first = ? AND last = ? AND key = ?`,
		int64(p.first()), int64(p.last()), p.key).Scan(&n)
	if err != nil {
		return err
	}
	if n != 1 {
		return pageDamage(p.key, p.first(), p.last(), "no stretch has it")
	}
	for i := range p.entries {
		if e := &p.entries[i]; !e.dead {
			if err := c.checkEntry(p, e); err != nil {
				return err
			}
		}
	}
	return nil
}

func (c *checker) checkEntry(p *page, e *entry) error {
	c.lines++
	ev, err := event.ParseLine(p.line(e))
	if err != nil || ev.ID != e.id {
		return pageDamage(p.key, p.first(), p.last(), "event %s is another, or its hash differs", e.id)
	}
	if e.id > c.scope.Posted {
		return nil
	}
	c.live++
	posting, err := c.posting(octetKey{octetOf(e.storage), e.id.Block()})
	if err != nil {
		return err
	}
	if at := posting.find(e.storage, e.id); at == nil || !p.isPlace(e, at.Locator) {
		return pageDamage(p.key, p.first(), p.last(), "the posting of storage %d does not name event %s there", e.storage, e.id)
	}
	return nil
}

// maxPostings bounds how many postings are remembered.
const maxPostings = 256

func (c *checker) posting(key octetKey) (*posting, error) {
	if p := c.postings[key]; p != nil {
		return p, nil
	}
	p, err := scanPosting(c.tx.QueryRowContext(c.ctx, postingQuery, key.octet, int64(key.block)))
	if errors.Is(err, sql.ErrNoRows) {
		p, err = newPosting(key), nil
	}
	if err != nil {
		return nil, err
	}
	if len(c.postings) >= maxPostings {
		clear(c.postings)
	}
	c.postings[key] = p
	return p, nil
}

// checkOrder checks, if all else is sound, that each event is there once, and that a scan
// finds as many as there are.
func (c *checker) checkOrder() error {
	if c.found {
		return nil
	}
	if c.live != c.named {
		return c.noteDamage(&DamageError{Reason: "postings name events that no page has"})
	}
	scanned := 0
	err := Scan(c.ctx, c.tx, Query{Span: window.Span{To: event.MaxID}}, func(Line) error { scanned++; return nil })
	if err == nil && scanned != c.lines {
		err = &DamageError{Reason: "a scan does not find all pages"}
	}
	if err == nil {
		err = Scan(c.ctx, c.tx, Query{Span: c.scope.Dense, Dense: true}, func(Line) error { return nil })
	}
	return c.noteDamage(err)
}
