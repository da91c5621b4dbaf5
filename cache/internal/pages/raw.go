package pages

import (
	"bytes"
	"encoding/binary"

	"github.com/rstream-dev/rstream/event"
)

// A RawPage is the row of a page that was read without SQLite.
type RawPage struct {
	Key         int64
	First, Last event.ID
	Count       int64
	Index       []byte
	Lines       []byte
}

// A RawLine is a live line of a RawPage. Its hash was not checked.
type RawLine struct {
	ID   event.ID // 0 if the index is damaged
	Text []byte
	// Proven says that a checksum covers the line. The hash in a line does not cover its id
	// and its time.
	Proven bool
}

// Read returns the lines of p. err is the damage of p, if there is any; then the lines are
// those that can still be found.
func (p *RawPage) Read() (lines []RawLine, err error) {
	whole := len(p.Index) >= sumsLen && checksum(p.Lines) == binary.BigEndian.Uint32(p.Index[4:])
	q := page{key: p.Key, index: p.Index, lines: p.Lines}
	if err = q.decode(p.First, p.Last, p.Count); err != nil {
		err = pageDamage(p.Key, p.First, p.Last, "%v", err)
	}
	if q.entries == nil {
		for text := range bytes.SplitSeq(p.Lines, newline) {
			if text = bytes.Trim(text, " "); len(text) > 0 {
				lines = append(lines, RawLine{Text: text, Proven: whole})
			}
		}
		return lines, err
	}
	for i := range q.entries {
		if e := &q.entries[i]; !e.dead {
			lines = append(lines, RawLine{e.id, q.line(e), whole})
		}
	}
	return lines, err
}

// Matches reports whether a line has the checksum that a posting says.
func (p *Posted) Matches(line []byte) bool { return checksum(line) == p.Sum }

// IsIndex reports whether index is that of a page with some first event and count.
func IsIndex(first event.ID, count int64, index []byte) bool {
	return len(index) >= sumsLen && binary.BigEndian.Uint32(index) == indexSum(first, count, index)
}

// DecodePosting returns the events of a posting's row, and checks all of it.
func DecodePosting(key PostingKey, count int64, chunks []byte) ([]Posted, error) {
	p, err := decodePosting(key, count, chunks)
	if err != nil {
		return nil, err
	}
	return p.entries, nil
}
