package pages

import (
	"context"
	"database/sql"
	"database/sql/driver"

	"github.com/rstream-dev/rstream/cache/internal/dbfile"
	"github.com/rstream-dev/rstream/event"
)

// linesChunk is how many lines one query cuts out.
const linesChunk = 1000

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

// CutLines calls fn with the lines of events, in their order. They are copied out of SQLite's
// memory, so that no page is copied for its lines. Each line is checked by its checksum and its id:
// a line is nil if it is not there. So is one that is alone in its page.
func CutLines(ctx context.Context, tx *sql.Tx, evs []Posted, fn func(i int, line []byte) error) error {
	for from := 0; from < len(evs); {
		some := someLines(evs[from:])
		lines, err := cutLines(ctx, tx, some)
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

// cutLines returns the lines of events, nil for those that are not where their locators say, and
// those that are alone in their pages.
func cutLines(ctx context.Context, tx *sql.Tx, evs []Posted) (lines [][]byte, err error) {
	lines = make([][]byte, len(evs))
	var keys []int64 // of pages, each once for events that follow each other
	for i := range evs {
		if n := len(keys); evs[i].Length > 0 && (n == 0 || keys[n-1] != evs[i].Page) {
			keys = append(keys, evs[i].Page)
		}
	}
	if len(keys) == 0 {
		return lines, nil
	}
	next := 0
	buf := make([]byte, 0, linesSize(evs))
	err = dbfile.VisitRows(ctx, tx, `SELECT 1 FROM json_each(?2) j CROSS JOIN page p ON p.key = j.value
		WHERE visit_row(?1, p.key, p.lines) LIMIT 1`, []any{joinNumbers(keys)}, func(columns []driver.Value) (more bool) {
		key, page := columns[0], columns[1]
		for next < len(evs) && evs[next].Page != key {
			next++ // has no page, or none to be read
		}
		text, _ := page.([]byte)
		for ; next < len(evs) && (evs[next].Page == key || evs[next].Length == 0); next++ {
			at := &evs[next]
			if from, to := int(at.Offset), int(at.Offset)+int(at.Length); from < to && to <= len(text) && at.matches(text[from:to]) {
				n := len(buf)
				buf = append(buf, text[from:to]...)
				lines[next] = buf[n:len(buf):len(buf)]
			}
		}
		return true
	})
	return lines, err
}

func linesSize(evs []Posted) (size int) {
	for i := range evs {
		size += int(evs[i].Length)
	}
	return size
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
