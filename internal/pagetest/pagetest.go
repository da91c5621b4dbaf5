// Package pagetest changes the stored events of a file without the program's knowledge, for
// tests: it edits, removes and lists events in pages and postings.
//
// Edited pages and postings have right checksums again, as if they had been written that
// way; [Flip] leaves them wrong. The package knows the layout on its own, so that a mistake
// in the program's reading of it is noticed.
package pagetest

import (
	"cmp"
	"database/sql"
	"encoding/binary"
	"errors"
	"fmt"
	"hash/crc32"
	"slices"

	"github.com/rstream-dev/rstream/event"
)

// A DB is a database or a transaction.
type DB interface {
	Exec(query string, args ...any) (sql.Result, error)
	Query(query string, args ...any) (*sql.Rows, error)
}

// An Event is a stored event. Its line may be anything.
type Event struct {
	ID      event.ID
	Storage int64
	Line    []byte
	dead    bool
	before  event.ID // its id when it was read
}

// A Posted is an event that a posting names.
type Posted struct {
	Storage int64
	ID      event.ID
}

// ErrNone means that no page has the event.
var ErrNone = errors.New("no page has the event")

// List returns the stored events in the order of their ids.
func List(db DB) (evs []Event, err error) {
	pages, err := readPages(db)
	for _, p := range pages {
		for _, ev := range p.events {
			if !ev.dead {
				evs = append(evs, ev)
			}
		}
	}
	slices.SortStableFunc(evs, func(a, b Event) int { return cmp.Compare(a.ID, b.ID) })
	return evs, err
}

// ListPosted returns the events that postings name, in the order of storages and ids.
func ListPosted(db DB) (posted []Posted, err error) {
	postings, err := readPostings(db)
	for _, p := range postings {
		for _, e := range p.entries {
			posted = append(posted, Posted{8*p.octet + 1 + int64(e.place), e.id})
		}
	}
	slices.SortStableFunc(posted, func(a, b Posted) int { return cmp.Or(cmp.Compare(a.Storage, b.Storage), cmp.Compare(a.ID, b.ID)) })
	return posted, err
}

// Edit changes an event in its page. Its posting stays under the old storage and id, and
// names the place where the line is now. The ids of the page must stay less than 65,536
// apart.
func Edit(db DB, id event.ID, change func(ev *Event)) error {
	n, err := EditEach(db, func(ev *Event) bool {
		if ev.ID != id {
			return false
		}
		change(ev)
		return true
	})
	if err == nil && n == 0 {
		err = fmt.Errorf("event %s: %w", id, ErrNone)
	}
	return err
}

// SetLine replaces the line of an event.
func SetLine(db DB, id event.ID, line []byte) error {
	return Edit(db, id, func(ev *Event) { ev.Line = line })
}

// Swap gives two events each the storage and the line of the other.
func Swap(db DB, a, b event.ID) error {
	evs, err := List(db)
	if err != nil {
		return err
	}
	of := func(id event.ID) int { return slices.IndexFunc(evs, func(ev Event) bool { return ev.ID == id }) }
	i, j := of(a), of(b)
	if i < 0 || j < 0 {
		return fmt.Errorf("events %s and %s: %w", a, b, ErrNone)
	}
	set := func(from Event) func(*Event) {
		return func(ev *Event) { ev.Storage, ev.Line = from.Storage, from.Line }
	}
	return errors.Join(Edit(db, a, set(evs[j])), Edit(db, b, set(evs[i])))
}

// EditEach is Edit for all events; change reports whether it has changed one. EditEach
// returns how many were changed.
func EditEach(db DB, change func(ev *Event) bool) (n int, err error) {
	pages, err := readPages(db)
	if err != nil {
		return 0, err
	}
	postings, err := readPostings(db)
	if err != nil {
		return 0, err
	}
	for _, p := range pages {
		some := 0
		for i := range p.events {
			if ev := &p.events[i]; !ev.dead && change(ev) {
				some++
			}
		}
		if some > 0 {
			if err := p.write(db, postings); err != nil {
				return n, err
			}
		}
		n += some
	}
	return n, writeChanged(db, postings)
}

// Remove removes an event from its page. Its posting still names it.
func Remove(db DB, id event.ID) error {
	n, err := RemoveEach(db, func(ev *Event) bool { return ev.ID == id })
	if err == nil && n == 0 {
		err = fmt.Errorf("event %s: %w", id, ErrNone)
	}
	return err
}

// RemoveEach removes the events that gone reports from their pages, and returns how many
// there were.
func RemoveEach(db DB, gone func(ev *Event) bool) (n int, err error) {
	pages, err := readPages(db)
	if err != nil {
		return 0, err
	}
	postings, err := readPostings(db)
	if err != nil {
		return 0, err
	}
	for _, p := range pages {
		before := len(p.events)
		p.events = slices.DeleteFunc(p.events, func(ev Event) bool { return !ev.dead && gone(&ev) })
		switch len(p.events) {
		case before:
			continue
		case 0:
			_, err = db.Exec(`DELETE FROM page WHERE key = ?`, p.key)
		default:
			err = p.write(db, postings)
		}
		if err != nil {
			return n, err
		}
		n += before - len(p.events)
	}
	return n, writeChanged(db, postings)
}

// Delete removes an event from its page and from its posting, as if it had never come.
func Delete(db DB, id event.ID) error {
	if err := Remove(db, id); err != nil {
		return err
	}
	postings, err := readPostings(db)
	if err != nil {
		return err
	}
	for _, p := range postings {
		n := len(p.entries)
		p.entries = slices.DeleteFunc(p.entries, func(e entry) bool { return e.id == id })
		switch len(p.entries) {
		case n:
			continue
		case 0:
			_, err = db.Exec(`DELETE FROM page_posting WHERE octet = ? AND block = ?`, p.octet, p.block)
		default:
			err = p.write(db)
		}
		if err != nil {
			return err
		}
	}
	return nil
}

// RemoveAll removes all pages and postings.
func RemoveAll(db DB) error {
	_, err := db.Exec(`DELETE FROM page; DELETE FROM page_posting`)
	return err
}

// Unpost deletes the posting that names an event, with all others that it names.
func Unpost(db DB, id event.ID) error {
	postings, err := readPostings(db)
	if err != nil {
		return err
	}
	for _, p := range postings {
		if slices.ContainsFunc(p.entries, func(e entry) bool { return e.id == id }) {
			_, err := db.Exec(`DELETE FROM page_posting WHERE octet = ? AND block = ?`, p.octet, p.block)
			return err
		}
	}
	return fmt.Errorf("event %s: no posting has it", id)
}

// Flip flips a bit of the line of an event, as a disk could. Bits are counted from the
// line's first byte, and begin again after its last. An event whose line is empty has none.
func Flip(db DB, id event.ID, bit int) error {
	pages, err := readPages(db)
	if err != nil {
		return err
	}
	for _, p := range pages {
		lines, offset := p.lines(), 0
		for _, ev := range p.events {
			if ev.ID == id && !ev.dead && len(ev.Line) > 0 {
				bit %= 8 * len(ev.Line)
				lines[offset+bit/8] ^= 1 << (bit % 8)
				_, err := db.Exec(`UPDATE page SET lines = ? WHERE key = ?`, lines, p.key)
				return err
			}
			offset += len(ev.Line) + 1
		}
	}
	return fmt.Errorf("event %s: %w", id, ErrNone)
}

var castagnoli = crc32.MakeTable(crc32.Castagnoli)

// A page is the row of a page.
type page struct {
	key    int64
	events []Event
}

func readPages(db DB) (pages []*page, err error) {
	rows, err := db.Query(`SELECT key, first, count, entries, lines FROM page ORDER BY key`)
	if err != nil {
		return nil, err
	}
	defer rows.Close()
	for rows.Next() {
		p := &page{}
		var first, count int64
		var index, lines []byte
		if err := rows.Scan(&p.key, &first, &count, &index, &lines); err != nil {
			return nil, err
		}
		if len(index) < 8 {
			return nil, fmt.Errorf("page %d has an index of %d bytes", p.key, len(index))
		}
		b, id := index[8:], event.ID(first)
		for range count {
			var v [3]uint64
			for i := range v {
				n := 0
				if v[i], n = binary.Uvarint(b); n <= 0 {
					return nil, fmt.Errorf("the index of page %d is cut", p.key)
				}
				b = b[n:]
			}
			id += event.ID(v[0])
			length := min(int(v[2]>>1), len(lines))
			ev := Event{ID: id, before: id, Storage: int64(v[1]), Line: slices.Clone(lines[:length]), dead: v[2]&1 != 0}
			lines = lines[min(length+1, len(lines)):]
			p.events = append(p.events, ev)
		}
		pages = append(pages, p)
	}
	return pages, rows.Err()
}

// lines returns the lines as the row has them.
func (p *page) lines() (b []byte) {
	some := false
	for i, ev := range p.events {
		if i > 0 && some && !ev.dead {
			b = append(b, '\n')
		} else if i > 0 {
			b = append(b, ' ')
		}
		b = append(b, ev.Line...)
		some = some || !ev.dead
	}
	return b
}

// write writes p, and sets the places of its events in postings.
func (p *page) write(db DB, postings []*posting) error {
	slices.SortStableFunc(p.events, func(a, b Event) int { return cmp.Compare(a.ID, b.ID) })
	first, last, lines := p.events[0].ID, p.events[len(p.events)-1].ID, p.lines()
	index := binary.BigEndian.AppendUint32(make([]byte, 4), crc32.Checksum(lines, castagnoli))
	at := first
	for _, ev := range p.events {
		length := uint64(len(ev.Line)) << 1
		if ev.dead {
			length |= 1
		}
		index = binary.AppendUvarint(index, uint64(ev.ID-at))
		index = binary.AppendUvarint(index, uint64(ev.Storage))
		index = binary.AppendUvarint(index, length)
		at = ev.ID
	}
	head := binary.BigEndian.AppendUint64(nil, uint64(first))
	head = binary.BigEndian.AppendUint64(head, uint64(len(p.events)))
	binary.BigEndian.PutUint32(index, crc32.Checksum(append(head, index[4:]...), castagnoli))
	_, err := db.Exec(`UPDATE page SET first = ?, last = ?, count = ?, entries = ?, lines = ? WHERE key = ?`,
		int64(first), int64(last), len(p.events), index, append([]byte{}, lines...), p.key) // no nil, which is NULL
	p.setPlaces(postings)
	return err
}

// maxLocated is where the last line that has a locator ends, in bytes from the beginning of its page.
const maxLocated = 8192 - 35

func (p *page) setPlaces(postings []*posting) {
	places, offset := map[event.ID]entry{}, 0
	for _, ev := range p.events {
		e := entry{page: p.key, sum: crc32.Checksum(ev.Line, castagnoli)}
		if offset+len(ev.Line) <= maxLocated {
			e.offset, e.length = uint64(offset), uint64(len(ev.Line))
		}
		places[ev.before] = e
		offset += len(ev.Line) + 1
	}
	for _, posting := range postings {
		for i := range posting.entries {
			e := &posting.entries[i]
			if e.page != p.key {
				continue
			}
			if place, ok := places[e.id]; ok {
				place.id, place.place, posting.changed = e.id, e.place, true
				*e = place
			}
		}
	}
}

// A posting is the row of a posting, and an entry an event in it.
type posting struct {
	octet, block int64 // it is of the eight storages from 8·octet+1 on
	entries      []entry
	changed      bool
}

type entry struct {
	id             event.ID
	place          uint64 // which of the eight storages
	page           int64
	offset, length uint64
	sum            uint32
}

// readPostings skips postings that it cannot read: other tests have damaged them.
func readPostings(db DB) (postings []*posting, err error) {
	rows, err := db.Query(`SELECT octet, block, chunks FROM page_posting ORDER BY octet, block`)
	if err != nil {
		return nil, err
	}
	defer rows.Close()
	for rows.Next() {
		p := &posting{}
		var chunks []byte
		if err := rows.Scan(&p.octet, &p.block, &chunks); err != nil {
			return nil, err
		}
		if p.decode(chunks) {
			postings = append(postings, p)
		}
	}
	return postings, rows.Err()
}

// writeChanged writes the postings that have changed.
func writeChanged(db DB, postings []*posting) error {
	for _, p := range postings {
		if p.changed {
			if err := p.write(db); err != nil {
				return err
			}
		}
	}
	return nil
}

func (p *posting) decode(chunks []byte) bool {
	for len(chunks) > 0 {
		size, n := binary.Uvarint(chunks)
		if n <= 0 || size+uint64(n)+4 > uint64(len(chunks)) {
			return false
		}
		body := chunks[n:][:size]
		chunks = chunks[uint64(n)+size+4:]
		count, n := binary.Uvarint(body)
		body = body[max(n, 0):]
		at, page := event.ID(p.block*event.BlockSize), int64(0)
		for range count {
			delta, n1 := binary.Uvarint(body)
			pages, n2 := binary.Varint(body[max(n1, 0):])
			offset, n3 := binary.Uvarint(body[max(n1+n2, 0):])
			length, n4 := binary.Uvarint(body[max(n1+n2+n3, 0):])
			all := n1 + n2 + n3 + n4
			if min(n1, n2, n3, n4) <= 0 || len(body) < all+4 {
				return false
			}
			at, page = at+event.ID(delta>>3), page+pages
			p.entries = append(p.entries, entry{at, delta & 7, page, offset, length, binary.BigEndian.Uint32(body[all:])})
			body = body[all+4:]
		}
	}
	slices.SortFunc(p.entries, func(a, b entry) int { return cmp.Or(cmp.Compare(a.id, b.id), cmp.Compare(a.place, b.place)) })
	return true
}

// write writes p as one chunk.
func (p *posting) write(db DB) error {
	body := binary.AppendUvarint(nil, uint64(len(p.entries)))
	at, page := event.ID(p.block*event.BlockSize), int64(0)
	members := int64(0)
	for _, e := range p.entries {
		members |= 1 << e.place
		body = binary.AppendUvarint(body, uint64(e.id-at)<<3|e.place)
		body = binary.AppendVarint(body, e.page-page)
		body = binary.AppendUvarint(body, e.offset)
		body = binary.AppendUvarint(body, e.length)
		body = binary.BigEndian.AppendUint32(body, e.sum)
		at, page = e.id, e.page
	}
	_, err := db.Exec(`UPDATE page_posting SET members = ?, count = ?, chunks = ? WHERE octet = ? AND block = ?`,
		members|(255-members)<<8, len(p.entries), sealChunk(p.octet, p.block, body), p.octet, p.block)
	return err
}

// SplitPostings gives the postings the form that they had up to schema 8, each of one storage.
func SplitPostings(db DB) error {
	postings, err := readPostings(db)
	if err != nil {
		return err
	}
	_, err = db.Exec(`DROP TABLE page_posting;
		CREATE TABLE page_posting (
			storage INTEGER NOT NULL,
			block   INTEGER NOT NULL,
			count   INTEGER NOT NULL,
			chunks  BLOB    NOT NULL,
			PRIMARY KEY (storage, block)
		) STRICT, WITHOUT ROWID;
		ALTER TABLE followed DROP COLUMN since;
		PRAGMA user_version = 8`)
	if err != nil {
		return err
	}
	for _, p := range postings {
		for place := range uint64(8) {
			body, n := []byte{}, 0
			at, page := event.ID(p.block*event.BlockSize), int64(0)
			for _, e := range p.entries {
				if e.place != place {
					continue
				}
				body = binary.AppendUvarint(body, uint64(e.id-at))
				body = binary.AppendVarint(body, e.page-page)
				body = binary.AppendUvarint(body, e.offset)
				body = binary.AppendUvarint(body, e.length)
				body = binary.BigEndian.AppendUint32(body, e.sum)
				at, page, n = e.id, e.page, n+1
			}
			if n == 0 {
				continue
			}
			storage := 8*p.octet + 1 + int64(place)
			body = append(binary.AppendUvarint(nil, uint64(n)), body...)
			_, err := db.Exec(`INSERT INTO page_posting VALUES (?, ?, ?, ?)`, storage, p.block, n, sealChunk(storage, p.block, body))
			if err != nil {
				return err
			}
		}
	}
	return nil
}

// sealChunk returns the chunk of a posting that has no others.
func sealChunk(first, block int64, body []byte) []byte {
	key := binary.BigEndian.AppendUint64(nil, uint64(first))
	key = binary.BigEndian.AppendUint64(key, uint64(block))
	chunk := append(binary.AppendUvarint(nil, uint64(len(body))), body...)
	return binary.BigEndian.AppendUint32(chunk, crc32.Update(crc32.Checksum(key, castagnoli), castagnoli, body))
}
