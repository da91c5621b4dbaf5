package pages

import (
	"encoding/binary"
	"errors"
	"hash/crc32"
	"math"
	"slices"

	"github.com/rstream-dev/rstream/event"
)

var castagnoli = crc32.MakeTable(crc32.Castagnoli)

func checksum(b []byte) uint32 { return crc32.Checksum(b, castagnoli) }

// maxSpan is how far the ids of a page may lie apart, so that a stretch knows where the
// first page that reaches into it can begin.
const maxSpan = 1 << 16

// An entry is an event as the index of its page has it.
type entry struct {
	id      event.ID
	storage int64
	offset  int // of its line
	length  int
	dead    bool
}

func (e *entry) end() int { return e.offset + e.length }

// sumsLen is the length of what an index begins with: its own checksum, then that of the
// lines.
const sumsLen = 8

// appendEntry appends e, which stands after the id before.
func appendEntry(b []byte, e *entry, before event.ID) []byte {
	b = binary.AppendUvarint(b, uint64(e.id-before))
	b = binary.AppendUvarint(b, uint64(e.storage))
	length := uint64(e.length) << 1
	if e.dead {
		length |= 1
	}
	return binary.AppendUvarint(b, length)
}

// encodeIndex returns the index of entries, of which there is one or more.
func encodeIndex(entries []entry, linesSum uint32) []byte {
	b := make([]byte, sumsLen, sumsLen+6*len(entries))
	binary.BigEndian.PutUint32(b[4:], linesSum)
	before := entries[0].id
	for i := range entries {
		b = appendEntry(b, &entries[i], before)
		before = entries[i].id
	}
	binary.BigEndian.PutUint32(b, indexSum(entries[0].id, int64(len(entries)), b))
	return b
}

// indexSum returns the checksum of an index, which covers what stands beside it, too.
func indexSum(first event.ID, count int64, index []byte) uint32 {
	var b [16]byte
	binary.BigEndian.PutUint64(b[:], uint64(first))
	binary.BigEndian.PutUint64(b[8:], uint64(count))
	return crc32.Update(checksum(b[:]), castagnoli, index[4:])
}

var (
	errIndexSum  = errors.New("the checksum of the index differs")
	errIndexForm = errors.New("the index has another form")
	errLinesSum  = errors.New("the checksum of the lines differs")
)

// decodeIndex returns the entries of an index, whose lines are linesLen bytes long.
func decodeIndex(first event.ID, count int64, index []byte, linesLen int) ([]entry, error) {
	return appendEntries(nil, first, count, index, linesLen)
}

// appendEntries is decodeIndex into the memory of entries, which is empty.
func appendEntries(entries []entry, first event.ID, count int64, index []byte, linesLen int) ([]entry, error) {
	// An entry has three bytes or more: what is allocated is as long as what was read.
	if len(index) < sumsLen || count <= 0 || count > int64(len(index)-sumsLen)/3 || first == 0 || first > event.MaxID {
		return nil, errIndexForm
	}
	if binary.BigEndian.Uint32(index) != indexSum(first, count, index) {
		return nil, errIndexSum
	}
	entries = slices.Grow(entries, int(count))[:count]
	d := decoder{b: index[sumsLen:]}
	offset, at := 0, first
	for i := range entries {
		e := &entries[i]
		delta, storage, length := d.uvarint(maxSpan), d.uvarint(math.MaxInt64), d.uvarint(uint64(2*linesLen+1))
		if d.bad || (delta == 0) != (i == 0) {
			return nil, errIndexForm
		}
		at += event.ID(delta)
		*e = entry{id: at, storage: int64(storage), offset: offset, length: int(length >> 1), dead: length&1 != 0}
		if e.end() > linesLen {
			return nil, errIndexForm
		}
		offset = e.end() + 1
	}
	if len(d.b) > 0 || offset != linesLen+1 || at-first >= maxSpan || at > event.MaxID {
		return nil, errIndexForm
	}
	return entries, nil
}

// A decoder reads numbers; the first thing that is wrong sticks.
type decoder struct {
	b   []byte
	bad bool
}

// uvarint reads a number that is at most limit.
func (d *decoder) uvarint(limit uint64) uint64 {
	if len(d.b) >= 2 && d.b[1] < 0x80 { // most have one byte or two
		v, n := uint64(d.b[0]), 1
		if v >= 0x80 {
			v, n = v&0x7f|uint64(d.b[1])<<7, 2
		}
		if v <= limit {
			d.b = d.b[n:]
			return v
		}
	}
	v, n := binary.Uvarint(d.b)
	if n <= 0 || v > limit {
		d.b, d.bad = nil, true
		return 0
	}
	d.b = d.b[n:]
	return v
}

// varint reads a number of either sign.
func (d *decoder) varint() int64 {
	v, n := binary.Varint(d.b)
	if n <= 0 {
		d.b, d.bad = nil, true
		return 0
	}
	d.b = d.b[n:]
	return v
}

func (d *decoder) uint32() uint32 {
	if len(d.b) < 4 {
		d.b, d.bad = nil, true
		return 0
	}
	v := binary.BigEndian.Uint32(d.b)
	d.b = d.b[4:]
	return v
}
