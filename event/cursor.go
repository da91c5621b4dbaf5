package event

import (
	"crypto/sha256"
	"encoding/binary"
	"fmt"
	"strings"
)

// A Mark tells one history of a log from another: it is made of the last event at or
// before a position. A log that was put back to an older state gives its ids again, to
// other events or at other times, so its marks differ from then on. The zero Mark is
// that of a position whose mark is not known, or that has no event before it.
type Mark uint32

// MarkLen is the length of a Mark's text in bytes.
const MarkLen = 6

// known is set in every Mark but the zero one; the 30 bits below are its text.
const known Mark = 1 << (5 * MarkLen)

// MarkOf returns the mark of positions whose last event has this id, time and hash: the
// first 30 bits of SHA-256 over the id and the time in microseconds, 8 bytes each,
// big-endian, and the hash. The hash alone would not do: after a log was put back, the
// same events may come again in another order.
func MarkOf(id ID, t Time, h Hash) Mark {
	var b [16 + len(h)]byte
	binary.BigEndian.PutUint64(b[:], uint64(id))
	binary.BigEndian.PutUint64(b[8:], uint64(t))
	copy(b[16:], h[:])
	sum := sha256.Sum256(b[:])
	return known | Mark(binary.BigEndian.Uint32(sum[:])>>2)
}

// Agrees reports whether m and n can be the marks of one position: they are equal, or
// one of them is not known.
func (m Mark) Agrees(n Mark) bool { return m == 0 || n == 0 || m == n }

// AppendTo appends the 6 characters of m to b, nothing if m is zero.
func (m Mark) AppendTo(b []byte) []byte {
	if m == 0 {
		return b
	}
	for shift := 5 * (MarkLen - 1); shift >= 0; shift -= 5 {
		b = append(b, crockford[m>>shift&31])
	}
	return b
}

// String returns the 6 characters of m, nothing if m is zero.
func (m Mark) String() string { return string(m.AppendTo(nil)) }

// ParseMark reads the 6 characters of a Mark.
func ParseMark(s string) (Mark, error) {
	if len(s) != MarkLen || !isCrockford(s) {
		return 0, fmt.Errorf("parse mark %.40q: want %d characters of 0-9 and A-Z without I, L, O, U", s, MarkLen)
	}
	m := Mark(1)
	for i := range len(s) {
		m = m<<5 | Mark(crockfordValue[s[i]])
	}
	return m, nil
}

// A Point is a position and its mark, if that is known.
type Point struct {
	ID   ID
	Mark Mark
}

// Cursor returns the cursor at p of the log named log.
func (p Point) Cursor(log string) Cursor {
	c := CursorOf(p.ID, log)
	c.Mark = p.Mark
	return c
}

// A Cursor is a position as a reader carries it between connections: an ID and,
// if known, the first five characters of the name of its log and its mark.
type Cursor struct {
	ID   ID
	Log  string // five characters, or empty if the log is not told
	Mark Mark   // zero if it is not told; needs Log
}

// CursorOf returns the cursor at position id of the log named log, without a mark.
func CursorOf(id ID, log string) Cursor {
	return Cursor{ID: id, Log: log[:min(len(log), LogSuffixLen)]}
}

// Point returns the position of c and its mark.
func (c Cursor) Point() Point { return Point{c.ID, c.Mark} }

// AppendTo appends the text of c to b: the ID, then, each after a dot, the log's
// characters and the mark, if known.
func (c Cursor) AppendTo(b []byte) []byte {
	b = c.ID.AppendTo(b)
	if c.Log == "" {
		return b
	}
	b = append(append(b, '.'), c.Log...)
	if c.Mark == 0 {
		return b
	}
	return c.Mark.AppendTo(append(b, '.'))
}

// String returns the text of c.
func (c Cursor) String() string { return string(c.AppendTo(nil)) }

// MarshalText returns the text of c.
func (c Cursor) MarshalText() ([]byte, error) { return c.AppendTo(nil), nil }

// UnmarshalText is [ParseCursor].
func (c *Cursor) UnmarshalText(b []byte) (err error) {
	*c, err = ParseCursor(string(b))
	return err
}

// Of reports whether the cursor can belong to the log named log: a cursor that
// names no log can belong to any.
func (c Cursor) Of(log string) bool { return c.Log == "" || strings.HasPrefix(log, c.Log) }

// ParseCursor reads a cursor with or without the characters of its log, and with those
// with or without its mark.
func ParseCursor(s string) (Cursor, error) {
	text, rest, dot := strings.Cut(s, ".")
	log, mark, marked := strings.Cut(rest, ".")
	if dot && (len(log) != LogSuffixLen || !isCrockford(log)) {
		return Cursor{}, fmt.Errorf("parse cursor %.40q: want five characters of a log's name after the dot", s)
	}
	id, err := ParseID(text)
	if err != nil {
		return Cursor{}, fmt.Errorf("parse cursor: %w", err)
	}
	c := Cursor{ID: id, Log: log}
	if !marked {
		return c, nil
	}
	if c.Mark, err = ParseMark(mark); err != nil {
		return Cursor{}, fmt.Errorf("parse cursor %.40q: %w", s, err)
	}
	return c, nil
}
