package pages

import (
	"cmp"
	"context"
	"database/sql"
	"slices"

	"github.com/rstream-dev/rstream/window"
)

// A moving is an event that is moved to another page, and its posting.
type moving struct {
	incoming
	posting *posting
}

// liveOf returns the live events of p. It returns a *DamageError if one of their postings
// is damaged, since that would go on to name p.
func (b *batch) liveOf(p *page) (evs []moving, err error) {
	for i := range p.entries {
		e := &p.entries[i]
		if e.dead {
			continue
		}
		ev := moving{incoming: incoming{e.id, e.storage, p.line(e)}}
		if ev.posting, err = b.posting(ev.key()); err != nil {
			return nil, err
		}
		evs = append(evs, ev)
	}
	return evs, nil
}

func sortMoving(evs []moving) {
	slices.SortStableFunc(evs, func(a, b moving) int { return cmp.Compare(a.id, b.id) })
}

// countPages returns how many pages sorted events fill.
func (t *Tables) countPages(evs []moving) (n int) {
	var p *openPage
	for i := range evs {
		if p == nil || !t.hasRoom(p, &evs[i].incoming) {
			p = &openPage{}
			n++
		}
		p.addEvent(&evs[i].incoming)
	}
	return n
}

// move deletes pages and stores their live events, which are sorted, under new keys. Their
// postings name the new pages from then on.
func (b *batch) move(evs []moving, pages []int64) error {
	gone := map[int64]bool{}
	for _, key := range pages {
		gone[key] = true
		if err := b.deletePage(b.tx, key); err != nil {
			return err
		}
	}
	fresh := make([]incoming, len(evs))
	for i := range evs {
		fresh[i] = evs[i].incoming
	}
	b.open = nil
	places, err := b.fillPages(fresh)
	b.open = nil // what comes next does not belong to these events
	if err != nil {
		return err
	}
	for i := range evs {
		if at := evs[i].posting.find(evs[i].storage, evs[i].id); at != nil && gone[at.Page] {
			at.Locator = places[i].Locator
			evs[i].posting.changed = true
		}
	}
	return nil
}

// maxCrumbs is how many pages are packed at a time.
const maxCrumbs = 1024

// minCrumbs is how many pages are left as they are. It is a variable for the tests.
var minCrumbs = 64

// Pack packs pages of a copy that are less than half full and lie in span, and returns how
// many there were. Many short pulls leave such pages. Pack does nothing if there are 64 or
// fewer, or if they would not become half as many, since their ids lie too far apart. It
// skips damaged pages. It packs up to 1,024 pages: call it again until it returns 0.
func (t *Tables) Pack(ctx context.Context, tx *sql.Tx, span window.Span) (packed int, err error) {
	pages, err := findCrumbs(ctx, tx, span, t.maxRecord()/2)
	if err != nil || len(pages) <= minCrumbs {
		return 0, err
	}
	b := t.newBatch(tx)
	var evs []moving
	var keys []int64
	for _, p := range pages {
		live, err := b.liveOf(p)
		if isDamage(err) {
			continue
		}
		if err != nil {
			return 0, err
		}
		evs, keys = append(evs, live...), append(keys, p.key)
	}
	sortMoving(evs)
	if len(keys) <= minCrumbs || 2*t.countPages(evs) > len(keys) {
		return 0, nil
	}
	if err := b.move(evs, keys); err != nil {
		return 0, err
	}
	return len(keys), b.writePostings()
}

// findCrumbs returns pages that are shorter than size, in bytes.
func findCrumbs(ctx context.Context, tx *sql.Tx, span window.Span, size int) (pages []*page, err error) {
	rows, err := tx.QueryContext(ctx, `SELECT `+pageColumns+` FROM page
		WHERE first > ? AND last <= ? AND length(entries) + length(lines) < ? ORDER BY first LIMIT ?`,
		int64(span.From), int64(span.To), size, maxCrumbs)
	if err != nil {
		return nil, err
	}
	defer rows.Close()
	for rows.Next() {
		p, err := scanPage(rows)
		if isDamage(err) {
			continue
		}
		if err != nil {
			return nil, err
		}
		pages = append(pages, p)
	}
	return pages, rows.Err()
}
