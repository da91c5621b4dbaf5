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

// A RawPosting is the row of a posting that was read without SQLite.
type RawPosting struct {
	Octet   int64 // of a file of an earlier version, the storage
	Block   uint64
	Members int64
	Count   int64
	Chunks  []byte
}

// Read returns the events of p and the numbers of their storages, and checks all of it.
func (p *RawPosting) Read() (posted []Posted, storages []int64, err error) {
	return p.take(decodePosting(octetKey{p.Octet, p.Block}, p.Members, p.Count, p.Chunks))
}

// ReadOld is Read for a file of an earlier version.
func (p *RawPosting) ReadOld() (posted []Posted, storages []int64, err error) {
	return p.take(decodeOldPosting(p.Octet, p.Block, p.Count, p.Chunks))
}

func (p *RawPosting) take(decoded *posting, err error) (posted []Posted, storages []int64, _ error) {
	if err != nil {
		return nil, nil, err
	}
	for i := range decoded.entries {
		storages = append(storages, decoded.entries[i].storage)
	}
	return decoded.places(), storages, nil
}
