package event

import (
	"crypto/sha256"
	"encoding/binary"
	"fmt"
	"strings"
)

// A Mark distinguishes two histories of one log. The mark of a position is computed from the
// last event at or before it. A log that was rolled back to an older state assigns its ids
// again, to other events or at other times, so its marks differ from there on. The zero Mark
// means that the mark is not known, or that the position has no event before it.
type Mark uint32

// MarkLen is the length of a Mark's text in bytes.
const MarkLen = 6

// markSet is a bit that is set in every Mark except zero. The 30 bits below it are the text.
const markSet Mark = 1 << (5 * MarkLen)

// MarkOf returns the mark of positions whose last event has this id, time and hash: the
// first 30 bits of SHA-256 over the id and the time in microseconds, 8 bytes each,
// big-endian, and the hash. The hash alone is not enough: after a rollback, the same events
// may come again in another order.
func MarkOf(id ID, t Time, h Hash) Mark {
	var b [16 + len(h)]byte
	binary.BigEndian.PutUint64(b[:], uint64(id))
	binary.BigEndian.PutUint64(b[8:], uint64(t))
	copy(b[16:], h[:])
	sum := sha256.Sum256(b[:])
	return markSet | Mark(binary.BigEndian.Uint32(sum[:])>>2)
}

// Agrees reports whether m and n may be the mark of the same position: they are equal, or one
// of them is not known.
func (m Mark) Agrees(n Mark) bool { return m == 0 || n == 0 || m == n }

// AppendTo appends the 6 characters of m to b, or nothing if m is zero.
func (m Mark) AppendTo(b []byte) []byte {
	if m == 0 {
		return b
	}
	var text [MarkLen]byte
	for i := MarkLen - 1; i >= 0; i-- {
		text[i] = crockford[m&31]
		m >>= 5
	}
	return append(b, text[:]...)
}

// String returns the 6 characters of m, or "" if m is zero.
func (m Mark) String() string { return string(m.AppendTo(nil)) }

// ParseMark parses the 6 characters of a Mark.
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

// A Point is a position and its mark, which is zero if it is not known.
type Point struct {
	ID   ID
	Mark Mark
}

// Cursor returns the cursor at p of a log. log is a whole log id, or "".
func (p Point) Cursor(log string) Cursor {
	c := CursorOf(p.ID, log)
	c.Mark = p.Mark
	return c
}

// A Cursor is a position as a reader keeps it between connections: an ID and, if known, the
// first five characters of its log id and its mark.
type Cursor struct {
	ID   ID
	Log  string // five characters, or empty if not known
	Mark Mark   // zero if not known, or if Log is empty
}

// CursorOf returns the cursor at position id of a log, without a mark. log is a whole log id,
// or "".
func CursorOf(id ID, log string) Cursor {
	return Cursor{ID: id, Log: log[:min(len(log), LogSuffixLen)]}
}

// Point returns the position and the mark of c.
func (c Cursor) Point() Point { return Point{c.ID, c.Mark} }

// AppendTo appends the text of c to b: the ID, then Log and Mark if known, each after a dot.
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

// UnmarshalText parses a cursor as [ParseCursor] does.
func (c *Cursor) UnmarshalText(b []byte) (err error) {
	*c, err = ParseCursor(string(b))
	return err
}

// Of reports whether the cursor may belong to the log with the given id. A cursor without Log
// may belong to any.
func (c Cursor) Of(log string) bool { return c.Log == "" || strings.HasPrefix(log, c.Log) }

// ParseCursor parses a cursor: an ID, optionally followed by the characters of its log, and
// these optionally by its mark.
func ParseCursor(s string) (Cursor, error) {
	text, rest, dot := strings.Cut(s, ".")
	log, mark, marked := strings.Cut(rest, ".")
	if dot && (len(log) != LogSuffixLen || !isCrockford(log)) {
		return Cursor{}, fmt.Errorf("parse cursor %.40q: want five characters of a log id after the dot", s)
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
