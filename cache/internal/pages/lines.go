package pages

import (
	"bytes"
	"context"
	"database/sql"
	"strconv"

	"github.com/rstream-dev/rstream/event"
)

// linesChunk is how many lines one query cuts out.
const linesChunk = 1000

var newline = []byte("\n")

// lineBytes is how long the lines are that one query cuts out, and one more.
const lineBytes = 1 << 20

// someLines returns the events whose lines one query cuts out.
func someLines(evs []Posted) []Posted {
	n, size := 0, 0
	for n < len(evs) && n < linesChunk && size < lineBytes {
		size += int(evs[n].Length) + 1
		n++
	}
	return evs[:n]
}

// wholePage is how many lines of a page are wanted if it is read as a whole. To cut them out
// would cost more.
const wholePage = 4

// CutLines calls fn with the lines of events, in their order. If events of one page follow
// each other, the page is read; the lines of the others are cut out by SQLite, so that no page
// is copied for one of its lines. Each line is checked by its checksum, or by that of its page,
// and its id: a line is nil if it is not there. So is one that is alone in its page.
func CutLines(ctx context.Context, tx *sql.Tx, evs []Posted, fn func(i int, line []byte) error) error {
	for from := 0; from < len(evs); {
		some := someLines(evs[from:])
		lines := make([][]byte, len(some))
		left, err := readShared(ctx, tx, some, lines)
		if err == nil {
			err = cutLeft(ctx, tx, some, left, lines)
		}
		if err != nil {
			return err
		}
		for i, line := range lines {
			if err := fn(from+i, line); err != nil {
				return err
			}
		}
		from += len(some)
	}
	return nil
}

// A sharedPage is a page of which several lines are wanted: those of the events [from, to).
type sharedPage struct {
	key      int64
	from, to int
}

// readShared reads the lines of events that share a page. It returns the indexes of the
// others, and of those whose page is damaged.
func readShared(ctx context.Context, tx *sql.Tx, evs []Posted, lines [][]byte) (left []int, err error) {
	var shared []sharedPage
	var keys []int64
	leave := func(from, to int) {
		for ; from < to; from++ {
			left = append(left, from)
		}
	}
	for from, to := 0, 0; from < len(evs); from = to {
		for to = from + 1; to < len(evs) && evs[to].Page == evs[from].Page; to++ {
		}
		if to-from < wholePage {
			leave(from, to)
			continue
		}
		shared = append(shared, sharedPage{evs[from].Page, from, to})
		keys = append(keys, evs[from].Page)
	}
	if len(shared) == 0 {
		return left, nil
	}
	rows, err := tx.QueryContext(ctx, `SELECT `+pageColumns+` FROM (SELECT value AS wanted FROM json_each(?)) CROSS JOIN page ON key = wanted`, joinNumbers(keys))
	if err != nil {
		return nil, err
	}
	defer rows.Close()
	r := newPageReader(rows, true)
	for rows.Next() {
		p, err := r.read()
		key, _ := startOf(p, err)
		for len(shared) > 0 && shared[0].key != key {
			shared = shared[1:] // is not there
		}
		if err != nil && !isDamage(err) || len(shared) == 0 {
			return nil, err
		}
		s := shared[0]
		if shared = shared[1:]; err != nil {
			leave(s.from, s.to)
			continue
		}
		for i := s.from; i < s.to; i++ {
			lines[i] = p.lineOf(&evs[i])
		}
	}
	return left, rows.Err()
}

// lineOf returns the line of an event, nil if it is not where it should be.
func (p *page) lineOf(at *Posted) []byte {
	e := p.find(at.ID)
	if e == nil || p.locator(e) != at.Locator {
		return nil
	}
	line := p.line(e)
	if s, err := event.Skim(line); err != nil || s.ID != at.ID {
		return nil
	}
	return line
}

// cutLeft cuts out the lines of the events with some indexes.
func cutLeft(ctx context.Context, tx *sql.Tx, evs []Posted, left []int, lines [][]byte) error {
	if len(left) == 0 {
		return nil
	}
	places := make([]Posted, len(left))
	for i, j := range left {
		places[i] = evs[j]
	}
	cut, err := cutLines(ctx, tx, places)
	if err != nil {
		return err
	}
	for i, line := range cut {
		if places[i].matches(line) {
			lines[left[i]] = line
		}
	}
	return nil
}

// ReadLines is CutLines for lines of any length. A line that is not there is looked for by
// its id, since the locator may be an old one. ReadLines returns a *DamageError if it is
// not found.
func ReadLines(ctx context.Context, tx *sql.Tx, evs []Posted, fn func(i int, line []byte) error) error {
	return CutLines(ctx, tx, evs, func(i int, line []byte) (err error) {
		if line == nil {
			line, err = ReadLine(ctx, tx, &evs[i])
		}
		if err != nil {
			return err
		}
		return fn(i, line)
	})
}

// matches reports whether a line is that of p.
func (p *Posted) matches(line []byte) bool {
	if len(line) == 0 || checksum(line) != p.Sum {
		return false
	}
	s, err := event.Skim(line)
	return err == nil && s.ID == p.ID
}

// cutLines returns the texts that locators point to; none where there is no page, or all
// of a page is meant.
func cutLines(ctx context.Context, tx *sql.Tx, evs []Posted) ([][]byte, error) {
	var joined []byte
	// One row has all texts, since each row costs more to carry to Go than its text.
	err := tx.QueryRowContext(ctx, `SELECT CAST(group_concat(CASE WHEN p.key IS NULL THEN ''
			ELSE CAST(substr(p.lines, (j.value >> 12) & 4095, j.value & 4095) AS TEXT) END, char(10)) AS BLOB)
		FROM json_each(?) j LEFT JOIN page p ON p.key = j.value >> 24`, packLocators(evs)).Scan(&joined)
	if err != nil {
		return nil, err
	}
	cut := make([][]byte, len(evs))
	if bytes.Count(joined, newline)+1 != len(evs) {
		return cut, nil // a damaged line has a line feed in it
	}
	for i := range cut {
		cut[i], joined, _ = bytes.Cut(joined, newline)
		cut[i] = cut[i][:len(cut[i]):len(cut[i])]
	}
	return cut, nil
}

// packLocators writes locators as json_each reads them.
func packLocators(evs []Posted) string {
	b := make([]byte, 0, 20*len(evs)+2)
	b = append(b, '[')
	for i := range evs {
		if i > 0 {
			b = append(b, ',')
		}
		b = strconv.AppendInt(b, evs[i].packed(), 10)
	}
	return string(append(b, ']'))
}

// ReadLine returns the line of an event by its page, or by its id if that has another.
func ReadLine(ctx context.Context, tx *sql.Tx, p *Posted) ([]byte, error) {
	if p.Length == 0 {
		whole, err := loadPage(ctx, tx, p.Page)
		if err == nil && whole != nil && p.matches(whole.lines) {
			return whole.lines, nil
		}
	}
	line, _, err := Find(ctx, tx, p.ID)
	if err != nil {
		return nil, err
	}
	if line == nil {
		return nil, pageDamage(p.Page, p.ID, p.ID, "event %s is not there", p.ID)
	}
	return line, nil
}
