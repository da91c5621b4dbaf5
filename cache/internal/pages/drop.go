package pages

import (
	"cmp"
	"context"
	"database/sql"
	"errors"
	"fmt"
	"slices"

	"github.com/rstream-dev/rstream/event"
)

// A Place is an event and its storage.
type Place struct {
	Storage int64
	ID      event.ID
}

func (p *Place) key() octetKey { return octetKey{octetOf(p.Storage), p.ID.Block()} }

// Drop drops events and returns how many of them were held. Their lines are overwritten,
// and a page that is mostly dead is rewritten with all its postings. Drop goes past damaged
// pages and postings, and returns the damage: lines in damaged pages stay, but no posting has
// them any more. It finds events by their postings: on
// a server, PostBlock must be called before, even for a block that is not full.
func (t *Tables) Drop(ctx context.Context, tx *sql.Tx, places []Place) (dropped int, damaged []*DamageError, err error) {
	d := dropper{batch: t.newBatch(tx), ctx: ctx, gone: map[int64][]Place{}}
	if err := d.findPages(places); err != nil {
		return 0, nil, err
	}
	for _, key := range sortedKeys(d.gone) {
		if err := d.noteDamage(d.dropFrom(key)); err != nil {
			return 0, nil, err
		}
	}
	return d.dropped, d.damaged, d.writePostings()
}

// A dropper drops events.
type dropper struct {
	*batch
	ctx     context.Context
	gone    map[int64][]Place // by page
	dropped int
	damaged []*DamageError
}

// noteDamage remembers damage, and returns any other error.
func (d *dropper) noteDamage(err error) error {
	var damage *DamageError
	if errors.As(err, &damage) {
		d.damaged = append(d.damaged, damage)
		return nil
	}
	return err
}

func sortedKeys[M ~map[int64]V, V any](m M) []int64 {
	keys := make([]int64, 0, len(m))
	for key := range m {
		keys = append(keys, key)
	}
	slices.Sort(keys)
	return keys
}

// findPages finds the pages of places by their postings.
func (d *dropper) findPages(places []Place) error {
	sorted := slices.Clone(places)
	slices.SortFunc(sorted, func(a, b Place) int {
		return cmp.Or(cmp.Compare(octetOf(a.Storage), octetOf(b.Storage)), cmp.Compare(a.ID, b.ID), cmp.Compare(a.Storage, b.Storage))
	})
	sorted = slices.Compact(sorted)
	keys := make([]octetKey, len(sorted))
	for i := range sorted {
		keys[i] = sorted[i].key()
	}
	if err := d.loadPostings(keys); err != nil {
		return err
	}
	for len(sorted) > 0 {
		key, n := sorted[0].key(), 1
		for n < len(sorted) && sorted[n].key() == key {
			n++
		}
		if err := d.noteDamage(d.findPagesIn(key, sorted[:n])); err != nil {
			return err
		}
		sorted = sorted[n:]
	}
	return nil
}

// findPagesIn finds the pages of places that are all in one posting.
func (d *dropper) findPagesIn(key octetKey, places []Place) error {
	p, err := d.posting(key)
	if err != nil {
		return err
	}
	for _, place := range places {
		if e := p.find(place.Storage, place.ID); e != nil {
			d.gone[e.Page] = append(d.gone[e.Page], place)
		}
	}
	return nil
}

// dropFrom drops events of a page. Their postings forget them even if the page is damaged:
// nothing else would ever read those events.
func (d *dropper) dropFrom(key int64) error {
	gone := d.gone[key]
	for _, place := range gone {
		posting := d.postings[place.key()]
		posting.find(place.Storage, place.ID).Page = 0
		posting.changed = true
	}
	p, err := loadPage(d.ctx, d.tx, key)
	if err == nil && p == nil {
		err = pageDamage(key, gone[0].ID, gone[0].ID, "a posting names it, but it is not there")
	}
	if err != nil {
		return err
	}
	n := 0
	for _, place := range gone {
		e := p.find(place.ID)
		if e == nil || e.storage != place.Storage {
			d.damaged = append(d.damaged, &DamageError{Page: key, ID: p.first(), Last: p.last(), Block: p.first().Block(),
				Reason: fmt.Sprintf("it does not have event %s, as a posting says", place.ID)})
			continue
		}
		e.dead = true
		n++
	}
	if n == 0 {
		return nil
	}
	d.dropped += n
	return d.writeDead(p)
}

// writeDead writes a page in which some entries have died.
func (d *dropper) writeDead(p *page) error {
	live, dead := p.countLive()
	if live == 0 {
		return d.deletePage(d.tx, p.key)
	}
	if dead > len(p.lines)/2 {
		moved, err := d.rewrite(p)
		if moved || err != nil {
			return err
		}
	}
	p.overwrite()
	done, err := d.updatePage(d.tx, p, len(p.entries))
	if err == nil && !done {
		err = pageDamage(p.key, p.first(), p.last(), "it changed while it was being written")
	}
	return err
}

// countLive returns how many entries of p are live, and the length of the dead lines.
func (p *page) countLive() (live, dead int) {
	for i := range p.entries {
		if e := &p.entries[i]; e.dead {
			dead += e.length + 1
		} else {
			live++
		}
	}
	return live, dead
}

// overwrite overwrites the dead lines with spaces. A line feed stays only between two
// live lines, so that the lines of a page, with commas in place of line feeds, are JSON.
func (p *page) overwrite() {
	lines, some := slices.Clone(p.lines), false
	for i := range p.entries {
		e := &p.entries[i]
		if e.offset > 0 {
			lines[e.offset-1] = ' '
			if some && !e.dead {
				lines[e.offset-1] = '\n'
			}
		}
		if e.dead {
			for j := e.offset; j < e.end(); j++ {
				lines[j] = ' '
			}
		}
		some = some || !e.dead
	}
	p.lines, p.linesSum = lines, checksum(lines)
}

// rewrite moves the live events of p to a page under a new key: making a row shorter where
// it is would free nothing. It does nothing if one of their postings is damaged.
func (d *dropper) rewrite(p *page) (moved bool, err error) {
	evs, err := d.liveOf(p)
	if err != nil {
		return false, d.noteDamage(err)
	}
	return true, d.move(evs, []int64{p.key})
}
