package pages

import (
	"cmp"
	"context"
	"database/sql"

	"github.com/rstream-dev/rstream/cache/internal/dbfile"
	"github.com/rstream-dev/rstream/event"
	"github.com/rstream-dev/rstream/window"
)

// A Checking checks pages and postings in steps, each in a transaction of its own, of a file
// that may be written meanwhile. A step begins where the last one has ended; done says that
// there is nothing after it.
type Checking struct {
	// Named reports whether a storage has the names that are in a line. If nil, it is not
	// asked.
	Named func(tx *sql.Tx, storage int64, user, path string) (bool, error)
	// SumsOnly leaves out all but the checksums: those of a page, of its lines together and of
	// a posting. That takes a tenth of the time.
	SumsOnly bool
	// Found is called with the damage.
	Found func(*DamageError) error

	Pages, Postings, Events int                      // checked so far
	Storages                map[int64]map[int64]bool // of the damaged pages, as far as they are known

	key          int64
	octet, block int64 // of the last posting, if there was one
}

// pagesPerStep and postingsPerStep bound a step.
const (
	pagesPerStep    = 256
	postingsPerStep = 256
)

func (c *Checking) note(page, storage int64) {
	if c.Storages[page] == nil {
		c.Storages[page] = map[int64]bool{}
	}
	c.Storages[page][storage] = true
}

// CheckPages checks the next pages, their lines and hashes, and that the index of pages and
// the postings of events up to posted have them.
func (c *Checking) CheckPages(ctx context.Context, tx *sql.Tx, posted event.ID) (done bool, err error) {
	check := checker{ctx: ctx, tx: tx, scope: Scope{Posted: posted}, fn: c.Found, postings: map[octetKey]*posting{}}
	rows, err := tx.QueryContext(ctx, `SELECT `+pageColumns+` FROM page NOT INDEXED WHERE key > ? ORDER BY key LIMIT ?`, c.key, pagesPerStep)
	if err != nil {
		return false, err
	}
	defer rows.Close()
	n, size := 0, 0
	for ; rows.Next(); n++ {
		if size > lineBytes {
			return false, nil
		}
		var p page
		var first, last event.ID
		var count int64
		if err := rows.Scan(&p.key, &first, &last, &count, &p.index, &p.lines); err != nil {
			return false, err
		}
		if p.key <= c.key {
			return false, dbfile.OutOfOrder("page")
		}
		c.key = p.key
		c.Pages++
		size += len(p.lines)
		err := p.decode(first, last, count)
		if err == nil {
			c.Events += len(p.entries)
			if !c.SumsOnly {
				err = check.checkPage(&p)
			}
			if err == nil {
				err = c.checkNames(tx, &p)
			}
		} else {
			err = pageDamage(p.key, first, last, "%v", err)
		}
		if isDamage(err) {
			c.noteStorages(&p)
		}
		if err := check.noteDamage(err); err != nil {
			return false, err
		}
	}
	return n < pagesPerStep, rows.Err()
}

// noteStorages notes the storages of a damaged page, if its index is sound.
func (c *Checking) noteStorages(p *page) {
	c.Storages[p.key] = map[int64]bool{}
	for i := range p.entries {
		if e := &p.entries[i]; !e.dead {
			c.note(p.key, e.storage)
		}
	}
}

func (c *Checking) checkNames(tx *sql.Tx, p *page) error {
	for i := range p.entries {
		e := &p.entries[i]
		if e.dead || c.Named == nil {
			continue
		}
		s, err := event.Skim(p.line(e))
		if err != nil {
			return pageDamage(p.key, p.first(), p.last(), "%v", err)
		}
		ok, err := c.Named(tx, e.storage, string(s.User), string(s.Path))
		if err != nil {
			return err
		}
		if !ok {
			return pageDamage(p.key, p.first(), p.last(), "event %s is not of storage %d, as the list of storages has it", e.id, e.storage)
		}
	}
	return nil
}

// SkipPage goes past a page that SQLite cannot read, and returns the ids of its first and
// last event as a span, as the index of pages has them; ok is false if there is none.
func (c *Checking) SkipPage(ctx context.Context, tx *sql.Tx) (span window.Span, ok bool, err error) {
	rows, err := tx.QueryContext(ctx, `SELECT key, first, last FROM page INDEXED BY page_stretch WHERE key > ? ORDER BY key LIMIT 1`, c.key)
	if err != nil {
		return span, false, err
	}
	defer rows.Close()
	for rows.Next() {
		if err := rows.Scan(&c.key, &span.From, &span.To); err != nil {
			return span, false, err
		}
		c.Storages[c.key], ok = map[int64]bool{}, true
		span.From--
	}
	return span, ok, rows.Err()
}

// CheckPostings checks the next postings, and that each line is where they say. A line in a
// damaged page is not reported again.
func (c *Checking) CheckPostings(ctx context.Context, tx *sql.Tx) (done bool, err error) {
	if c.Postings == 0 {
		c.octet = octetOf(unknownStorage) - 1
	}
	rows, err := tx.QueryContext(ctx, `SELECT `+postingColumns+` FROM page_posting p
		WHERE (p.octet, p.block) > (?, ?) ORDER BY p.octet, p.block LIMIT ?`, c.octet, c.block, postingsPerStep)
	if err != nil {
		return false, err
	}
	defer rows.Close()
	n, events := 0, 0
	for ; rows.Next(); n++ {
		if events > linesChunk {
			return false, nil
		}
		var octet, block, members, count int64
		var chunks []byte
		if err := rows.Scan(&octet, &block, &members, &count, &chunks); err != nil {
			return false, err
		}
		if cmp.Or(cmp.Compare(octet, c.octet), cmp.Compare(block, c.block)) <= 0 {
			return false, dbfile.OutOfOrder("page_posting")
		}
		c.octet, c.block = octet, block
		c.Postings++
		p, err := decodePosting(octetKey{c.octet, uint64(c.block)}, members, count, chunks)
		if err == nil && !c.SumsOnly {
			events += len(p.entries)
			err = c.checkPlaces(ctx, tx, p)
		}
		if err := Skip(c.Found).Pass(err); err != nil {
			return false, err
		}
	}
	return n < postingsPerStep, rows.Err()
}

// checkPlaces checks that the lines of a posting are where it says.
func (c *Checking) checkPlaces(ctx context.Context, tx *sql.Tx, p *posting) error {
	for i := range p.entries {
		if c.Storages[p.entries[i].Page] != nil {
			c.note(p.entries[i].Page, p.entries[i].storage)
		}
	}
	return CutLines(ctx, tx, p.places(), func(i int, line []byte) error {
		e := &p.entries[i]
		if line != nil || c.Storages[e.Page] != nil {
			return nil
		}
		page, err := loadPage(ctx, tx, e.Page)
		switch {
		case err != nil && !isDamage(err):
			return err
		case err != nil || page == nil:
		default:
			if at := page.find(e.ID); at != nil && at.storage == e.storage && page.isPlace(at, e.Locator) {
				return nil
			}
		}
		return postingDamage(p.key, "event %s is not where it says, in page %d", e.ID, e.Page)
	})
}
