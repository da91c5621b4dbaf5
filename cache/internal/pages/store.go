package pages

import (
	"context"
	"database/sql"
	"fmt"
	"hash/crc32"
	"slices"

	"github.com/rstream-dev/rstream/event"
)

// Store stores events, whose ids ascend, with the numbers of their storages, but for those
// that are held already, which it returns as indexes. places are where all of them are. It
// returns a *HeldError if a held event has another hash or another time. An id that is held for another storage is not
// noticed here: every read that meets both returns a *DamageError.
func (t *Tables) Store(tx *sql.Tx, evs []event.Event, storages []int64) (places []Posted, held []int, err error) {
	if err := checkAscending(evs); err != nil {
		return nil, nil, err
	}
	b := t.newBatch(tx)
	fresh, there, held, err := b.splitHeld(evs, storages)
	if err != nil {
		return nil, nil, err
	}
	if b.open == nil && len(fresh) > 0 {
		b.open = b.pageFor(&fresh[0])
	}
	if places, err = b.fillPages(fresh); err != nil {
		return nil, nil, err
	}
	for i := range fresh {
		p := b.postings[fresh[i].key()]
		p.added = append(p.added, placedEvent{fresh[i].storage, places[i]})
	}
	if len(there) > 0 {
		places = append(places, there...)
		slices.SortFunc(places, comparePosted)
	}
	return places, held, b.writePostings()
}

// Append stores new events, whose ids ascend from the last one that was stored, and returns
// where they are. If that one was stored by Store, ForgetPage must be called before, so that no
// page of Append overlaps others. Append reads and writes no postings: PostBlock does, once for
// a whole block.
func (t *Tables) Append(tx *sql.Tx, evs []event.Event, storages []int64) (places []Posted, err error) {
	if err := checkAscending(evs); err != nil {
		return nil, err
	}
	fresh := make([]incoming, len(evs))
	for i := range evs {
		fresh[i] = incoming{evs[i].ID, storages[i], evs[i].Line()}
	}
	b := t.newBatch(tx)
	if b.open == nil && len(fresh) > 0 {
		// The newest page may be one that retention has moved, or one of the state with which a
		// mirror begins: then others may begin within it, and scans would not find what follows.
		if p := b.newestPage(); p != nil && p.last()+1 == fresh[0].id && p.isUnbroken() {
			b.open = p
		}
	}
	if places, err = b.fillPages(fresh); err != nil {
		return nil, err
	}
	t.unposted.add(storages, places)
	return places, nil
}

func checkAscending(evs []event.Event) error {
	for i := 1; i < len(evs); i++ {
		if evs[i].ID <= evs[i-1].ID {
			return fmt.Errorf("event %s does not follow %s", evs[i].ID, evs[i-1].ID)
		}
	}
	return nil
}

// An incoming is an event that is to be stored.
type incoming struct {
	id      event.ID
	storage int64
	line    []byte
}

func (in *incoming) key() octetKey { return octetKey{octetOf(in.storage), in.id.Block()} }

// keysOf returns the keys of the postings of events, each once.
func keysOf(evs []event.Event, storages []int64) (keys []octetKey) {
	seen := make(map[octetKey]struct{}, len(evs)/octetLen)
	for i := range evs {
		key := octetKey{octetOf(storages[i]), evs[i].ID.Block()}
		if i > 0 && key == keys[len(keys)-1] {
			continue
		}
		if _, known := seen[key]; !known {
			seen[key] = struct{}{}
			keys = append(keys, key)
		}
	}
	return keys
}

// splitHeld returns the events that are not held, and the places and the indexes of the
// others.
func (b *batch) splitHeld(evs []event.Event, storages []int64) (fresh []incoming, there []Posted, held []int, err error) {
	fresh = make([]incoming, 0, len(evs))
	if err := b.loadPostings(keysOf(evs, storages)); err != nil {
		return nil, nil, nil, err
	}
	var p *posting
	for i := range evs {
		in := incoming{evs[i].ID, storages[i], evs[i].Line()}
		if p == nil || p.key != in.key() {
			if p, err = b.posting(in.key()); err != nil {
				return nil, nil, nil, err
			}
		}
		if e := p.find(in.storage, in.id); e != nil {
			held, there = append(held, i), append(there, *e)
			continue
		}
		fresh = append(fresh, in)
	}
	err = ReadLines(context.Background(), b.tx, there, func(i int, line []byte) error { return checkSame(line, &evs[held[i]]) })
	return fresh, there, held, err
}

// checkSame checks that ev is the event whose line is held.
func checkSame(line []byte, ev *event.Event) error {
	stored, err := event.Stored(line)
	if err != nil {
		return err
	}
	if stored.Hash != ev.Hash || stored.Time != ev.Time {
		return &HeldError{ID: ev.ID}
	}
	return nil
}

// An openPage is a page that is being filled.
type openPage struct {
	page
	stored int // how many of its entries its row has
	size   int // of its index
}

// hasRoom reports whether in fits into p, after its last event.
func (t *Tables) hasRoom(p *openPage, in *incoming) bool {
	first, last := p.first(), p.last()
	if in.id <= last || in.id-first >= maxSpan {
		return false
	}
	e := entry{id: in.id, storage: in.storage, length: len(in.line)}
	grown := p.size + entrySize(&e, last)
	return recordSize(first, in.id, len(p.entries)+1, grown, len(p.lines)+1+len(in.line)) <= t.maxRecord()
}

func entrySize(e *entry, before event.ID) int {
	var buf [30]byte
	return len(appendEntry(buf[:0], e, before))
}

// addEvent adds an event.
func (p *openPage) addEvent(in *incoming) {
	e, before := entry{id: in.id, storage: in.storage, length: len(in.line)}, in.id
	from := len(p.lines)
	if len(p.entries) == 0 {
		p.size = sumsLen
		p.lines = slices.Grow(p.lines[:0], max(maxRecord, len(in.line)))
	} else {
		before = p.last()
		p.lines = append(p.lines, '\n')
	}
	e.offset = len(p.lines)
	p.size += entrySize(&e, before)
	p.lines = append(p.lines, in.line...)
	p.entries = append(p.entries, e)
	p.linesSum = crc32.Update(p.linesSum, castagnoli, p.lines[from:])
}

// clear makes p a page without a row and without events.
func (p *openPage) clear() {
	*p = openPage{page: page{entries: p.entries[:0], lines: p.lines[:0]}}
}

// splitAdded returns the events that the row of p lacks, as a page without a row.
func (p *openPage) splitAdded() *openPage {
	rest := &openPage{}
	for i := p.stored; i < len(p.entries); i++ {
		e := &p.entries[i]
		rest.addEvent(&incoming{e.id, e.storage, p.line(e)})
	}
	return rest
}

// fillPages stores events in pages, the first of them in the one that is open if it has room,
// and returns where they are.
func (b *batch) fillPages(evs []incoming) (places []Posted, err error) {
	places = make([]Posted, 0, len(evs))
	p := b.open
	for i := range evs {
		if p != nil && !b.hasRoom(p, &evs[i]) {
			if places, err = b.writeOpen(p, places); err != nil {
				return nil, err
			}
			p.clear() // it is written, and its memory is for the next one
		}
		if p == nil {
			p = &openPage{}
		}
		p.addEvent(&evs[i])
	}
	if p == nil {
		return places, nil
	}
	return b.writeOpen(p, places)
}

// writeOpen writes the events that the row of p lacks, and appends their places to places.
// The page then stays open.
func (b *batch) writeOpen(p *openPage, places []Posted) ([]Posted, error) {
	b.open = nil // what fails is not remembered
	if p.stored < len(p.entries) {
		done, err := false, error(nil)
		if p.stored > 0 {
			if done, err = b.updatePage(b.tx, &p.page, p.stored); err == nil && !done {
				p = p.splitAdded() // another process has changed the row
			} else if isDamage(err) {
				p, err = p.splitAdded(), nil
			}
		}
		if err == nil && !done {
			err = b.insertPage(b.tx, &p.page)
		}
		if err != nil {
			return nil, fmt.Errorf("store events from %s: %w", p.first(), err)
		}
	}
	for i := p.stored; i < len(p.entries); i++ {
		e := &p.entries[i]
		at := p.locator(e)
		if e.end() > b.maxRecord() { // a process of an earlier version may have the file open
			at.Offset, at.Length = 0, 0
		}
		places = append(places, Posted{e.id, at})
	}
	p.stored = len(p.entries)
	b.open = p
	return places, nil
}

// pageFor returns a page for the first event of a process: the newest one of its storage or,
// if that has no room, the one that was made last, whatever it has. Otherwise each short
// transaction would leave a page that is nearly empty. It returns nil if neither has room.
func (b *batch) pageFor(in *incoming) *openPage {
	if p := b.newestPageOf(in.storage); p != nil && b.hasRoom(p, in) {
		return p
	}
	if p := b.newestPage(); p != nil && b.hasRoom(p, in) {
		return p
	}
	return nil
}

// newestPageOf returns the page that the newest posting of a storage names, so that many short
// transactions, each of a new process, fill one. It returns nil if there is none, or it is
// damaged.
func (b *batch) newestPageOf(storage int64) *openPage {
	posting, err := scanPosting(b.tx.QueryRow(newestPosting, joinNumbers([]int64{storage})))
	if err != nil {
		return nil
	}
	p, err := loadPage(context.Background(), b.tx, posting.lastPage(storage))
	return reopen(p, err)
}

// newestPage returns the page that was made last, nil if there is none or it is damaged. It
// asks no index: once SQLite has met a damaged one, it writes nothing in the transaction.
func (b *batch) newestPage() *openPage {
	return reopen(scanPage(b.tx.QueryRow(`SELECT ` + pageColumns + ` FROM page ORDER BY key DESC LIMIT 1`)))
}

// reopen returns a page to go on with, unless it could not be read: then a new one begins.
func reopen(p *page, err error) *openPage {
	if err != nil || p == nil {
		return nil
	}
	return &openPage{page: *p, stored: len(p.entries), size: len(p.index)}
}
