package pages

import (
	"cmp"
	"context"
	"database/sql"
	"encoding/binary"
	"errors"
	"fmt"
	"slices"

	"github.com/rstream-dev/rstream/cache/internal/dbfile"
	"github.com/rstream-dev/rstream/event"
)

var newline = []byte("\n")

// A page is some events in the order of their ids.
type page struct {
	key      int64 // 0 if it has no row
	entries  []entry
	lines    []byte
	linesSum uint32
	index    []byte // as the row has it
}

func (p *page) first() event.ID { return p.entries[0].id }
func (p *page) last() event.ID  { return p.entries[len(p.entries)-1].id }

// isUnbroken reports whether p has an entry for each id from its first to its last one, so that no
// other page begins between them.
func (p *page) isUnbroken() bool { return int(p.last()-p.first()) == len(p.entries)-1 }

// line returns the line of e, nil if the lines were not read.
func (p *page) line(e *entry) []byte {
	if p.lines == nil {
		return nil
	}
	return p.lines[e.offset:e.end():e.end()]
}

// locator returns where the line of e is.
func (p *page) locator(e *entry) Locator {
	l := Locator{Page: p.key, Sum: p.linesSum}
	if len(p.entries) > 1 {
		l.Sum = checksum(p.line(e))
	}
	if e.end() <= maxRecord {
		l.Offset, l.Length = uint16(e.offset), uint16(e.length)
	}
	return l
}

// isPlace reports whether a posting may say that the line of e is at l. Up to schema 9, the
// locator of a line of more than oldMaxRecord bytes had no length.
func (p *page) isPlace(e *entry, l Locator) bool {
	want := p.locator(e)
	if l.Length == 0 && e.end() > oldMaxRecord {
		want.Offset, want.Length = 0, 0
	}
	return l == want
}

// find returns the live entry of an id, or nil.
func (p *page) find(id event.ID) *entry {
	i, ok := slices.BinarySearchFunc(p.entries, id, func(e entry, id event.ID) int {
		return cmp.Compare(e.id, id)
	})
	if !ok || p.entries[i].dead {
		return nil
	}
	return &p.entries[i]
}

// pageColumns are those that scanPage scans.
const pageColumns = `key, first, last, count, entries, lines`

// scanPage reads a row and checks all of it.
func scanPage(row interface{ Scan(...any) error }) (*page, error) {
	var p page
	var first, last, count int64 // database/sql converts only these without text
	if err := row.Scan(&p.key, &first, &last, &count, &p.index, &p.lines); err != nil {
		return nil, err
	}
	err := p.decode(event.ID(first), event.ID(last), count)
	if err != nil {
		return nil, pageDamage(p.key, event.ID(first), event.ID(last), "%v", err)
	}
	return &p, nil
}

func (p *page) decode(first, last event.ID, count int64) error {
	if err := p.decodeEntries(first, last, count, p.index, len(p.lines)); err != nil {
		return err
	}
	return p.checkLines()
}

func (p *page) checkLines() error {
	if checksum(p.lines) != p.linesSum {
		return errLinesSum
	}
	return nil
}

// someColumns are those that scanSome scans. They take the length of the longest lines
// that are read.
const someColumns = `key, first, last, count, entries, length(lines), iif(length(lines) <= ?, lines, NULL)`

// scanSome is scanPage for a row that may be without its lines.
func scanSome(row interface{ Scan(...any) error }) (*page, error) {
	var p page
	var first, last event.ID
	var count int64
	var linesLen int
	if err := row.Scan(&p.key, &first, &last, &count, &p.index, &linesLen, &p.lines); err != nil {
		return nil, err
	}
	err := p.decodeEntries(first, last, count, p.index, linesLen)
	if err == nil && p.lines != nil {
		err = p.checkLines()
	}
	if err != nil {
		return nil, pageDamage(p.key, first, last, "%v", err)
	}
	return &p, nil
}

// decodeEntries decodes an index, and checks it.
func (p *page) decodeEntries(first, last event.ID, count int64, index []byte, linesLen int) (err error) {
	if p.entries, err = appendEntries(p.entries[:0], first, count, index, linesLen); err != nil {
		return err
	}
	if p.last() != last {
		return errIndexForm
	}
	p.linesSum = binary.BigEndian.Uint32(index[4:])
	return nil
}

// loadPage returns the page that has a key, or nil.
func loadPage(ctx context.Context, tx *sql.Tx, key int64) (*page, error) {
	p, err := scanPage(tx.QueryRowContext(ctx, `SELECT `+pageColumns+` FROM page WHERE key = ?`, key))
	if errors.Is(err, sql.ErrNoRows) {
		return nil, nil
	}
	return p, err
}

// insertPage gives p a row.
func (t *Tables) insertPage(tx *sql.Tx, p *page) error {
	p.index = encodeIndex(p.entries, p.linesSum)
	res, err := t.file.Exec(tx, `INSERT INTO page (first, last, count, entries, lines) VALUES (?, ?, ?, ?, ?)`,
		int64(p.first()), int64(p.last()), len(p.entries), p.index, p.lines)
	if err == nil {
		p.key, err = res.LastInsertId()
	}
	if err == nil && p.key > MaxKey {
		err = fmt.Errorf("page %d: its key is too large", p.key)
	}
	return err
}

// updatePage writes p, if its row still has count events and the index that p was read
// with. It reports whether it did. A page that the index of pages lacks cannot be written.
func (t *Tables) updatePage(tx *sql.Tx, p *page, count int) (done bool, err error) {
	index := encodeIndex(p.entries, p.linesSum)
	res, err := t.file.Exec(tx, `UPDATE page SET last = ?, count = ?, entries = ?, lines = ?
		WHERE key = ? AND count = ? AND substr(entries, 1, 4) = ?`,
		int64(p.last()), len(p.entries), index, p.lines, p.key, count, p.index[:4])
	if dbfile.IsUnindexed(err) {
		err = pageDamage(p.key, p.first(), p.entries[count-1].id, "the index of pages does not have it")
	}
	if err != nil {
		return false, err
	}
	n, err := res.RowsAffected()
	if n == 1 {
		p.index = index
	}
	return n == 1, err
}

func (t *Tables) deletePage(tx *sql.Tx, key int64) error {
	t.unposted.forgetPage(key)
	_, err := t.file.Exec(tx, `DELETE FROM page WHERE key = ?`, key)
	if dbfile.IsUnindexed(err) {
		err = pageDamage(key, 0, 0, "the index of pages does not have it")
	}
	return err
}
