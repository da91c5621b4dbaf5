package pages

import (
	"context"
	"database/sql"
	"errors"
	"slices"

	"github.com/rstream-dev/rstream/event"
	"github.com/rstream-dev/rstream/window"
)

// PostBlock writes the postings of a block whose events were stored by Append. It can be
// called again when the block has more events, and replaces the postings of before.
//
// PostBlock goes past damaged pages. If the index of one is sound, its events get postings
// without the checksums of their lines, and are damage to those who read them. If not, nobody
// knows whose events these are: their ids get the posting of unknownStorage, which is damage
// to those who read any posting next to them.
func (t *Tables) PostBlock(ctx context.Context, tx *sql.Tx, block uint64) error {
	if evs := t.unposted.take(window.BlockSpan(block)); evs != nil {
		return t.postPlaces(tx, block, evs)
	}
	p := blockPoster{batch: t.newBatch(tx), ctx: ctx, span: window.BlockSpan(block), seen: map[event.ID]bool{}}
	err := Scan(ctx, tx, Query{Span: p.span, NotIndexed: t.notIndexed, Skip: p.noteDamage}, func(l Line) error {
		p.post(l.Storage, l.Posted())
		return nil
	})
	if err == nil && len(p.damaged) > 0 {
		err = p.postDamaged()
	}
	if err != nil {
		return err
	}
	return p.writePostings()
}

// unknownStorage has the posting of events in damaged pages. No storage has this number, or
// shares its octet.
const unknownStorage = 0

// A blockPoster runs PostBlock.
type blockPoster struct {
	*batch
	ctx     context.Context
	span    window.Span
	seen    map[event.ID]bool // the events that have postings, if some pages are damaged
	damaged []*DamageError
}

func (p *blockPoster) noteDamage(e *DamageError) error {
	p.damaged = append(p.damaged, e)
	return nil
}

func (p *blockPoster) post(storage int64, at Posted) {
	key := octetKey{octetOf(storage), p.span.To.Block()}
	posting := p.postings[key]
	if posting == nil {
		posting = newPosting(key)
		p.postings[key] = posting
	}
	posting.added = append(posting.added, placedEvent{storage, at})
}

// postDamaged posts the events of damaged pages.
func (p *blockPoster) postDamaged() error {
	for _, posting := range p.postings {
		for _, e := range posting.added {
			p.seen[e.ID] = true
		}
	}
	for _, e := range p.damaged {
		page, err := scanSome(p.tx.QueryRowContext(p.ctx, `SELECT `+someColumns+` FROM page WHERE key = ?`, -1, e.Page))
		switch {
		case err == nil:
			p.postEntries(page)
		case isDamage(err), errors.Is(err, sql.ErrNoRows):
			p.postUnknown(e)
		default:
			return err
		}
	}
	for _, posting := range p.postings {
		slices.SortFunc(posting.added, comparePlaced)
	}
	return nil
}

// postEntries posts the events of a page whose lines are damaged.
func (p *blockPoster) postEntries(page *page) {
	for i := range page.entries {
		e := &page.entries[i]
		if e.dead || p.seen[e.id] || e.id <= p.span.From || e.id > p.span.To {
			continue
		}
		at := Posted{e.id, Locator{Page: page.key}}
		if e.end() <= maxRecord {
			at.Offset, at.Length = uint16(e.offset), uint16(e.length)
		}
		p.seen[e.id] = true
		p.post(e.storage, at)
	}
}

// postUnknown posts the ids of a page of which nothing is known.
func (p *blockPoster) postUnknown(e *DamageError) {
	for id := max(e.ID, p.span.From+1); id <= min(e.Last, p.span.To); id++ {
		if !p.seen[id] {
			p.seen[id] = true
			p.post(unknownStorage, Posted{id, Locator{Page: e.Page}})
		}
	}
}

// unknownDamage returns the damage that a posting of unknownStorage stands for, nil if it
// has no events after a position.
func unknownDamage(evs []Posted, after event.ID) error {
	for i := range evs {
		if e := &evs[i]; e.ID > after {
			return pageDamage(e.Page, e.ID, evs[len(evs)-1].ID, "it was damaged when its events were to be posted")
		}
	}
	return nil
}
