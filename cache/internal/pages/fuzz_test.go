package pages

import (
	"bytes"
	"encoding/binary"
	"hash/crc32"
	"testing"

	"github.com/rstream-dev/rstream/event"
)

// Whatever a page's row says, decoding it returns an error or a page that can be written
// as it was read.
func FuzzPage(f *testing.F) {
	for _, p := range []*page{madePage(1, 1), madePage(4000, 12), madePage(event.MaxID-200, 9)} {
		f.Add(uint64(p.first()), uint64(p.last()), int64(len(p.entries)), p.index, p.lines, false)
	}
	f.Add(uint64(1), uint64(2), int64(1)<<62, []byte{}, []byte{}, true)
	f.Add(uint64(1), uint64(2), int64(3), bytes.Repeat([]byte{0xff}, 40), []byte{1}, true)
	f.Fuzz(func(t *testing.T, first, last uint64, count int64, index, lines []byte, seal bool) {
		if seal && len(index) >= sumsLen { // or hardly any input would come past the checksums
			sealPage(event.ID(first), count, index, lines)
		}
		p := page{index: index, lines: lines}
		if p.decode(event.ID(first), event.ID(last), count) != nil {
			return
		}
		if len(p.entries) > len(index)/3 {
			t.Errorf("%d entries of %d bytes", len(p.entries), len(index))
		}
		for i := range p.entries {
			p.line(&p.entries[i])
			p.locator(&p.entries[i])
		}
		q := page{index: encodeIndex(p.entries, p.linesSum), lines: lines}
		if err := q.decode(p.first(), p.last(), int64(len(p.entries))); err != nil {
			t.Errorf("what was encoded again: %v", err)
		}
		p.overwrite()
	})
}

// sealPage gives a page the checksums that it should have.
func sealPage(first event.ID, count int64, index, lines []byte) {
	binary.BigEndian.PutUint32(index[4:], checksum(lines))
	binary.BigEndian.PutUint32(index, indexSum(first, count, index))
}

// Whatever a posting's row says, decoding it returns an error or what can be written as it
// was read.
func FuzzPosting(f *testing.F) {
	for chunks := range 3 {
		b, members, count := madePosting(octetKey{3, 2}, chunks)
		f.Add(int64(3), uint64(2), members, count, b, false)
	}
	f.Add(int64(1), uint64(1)<<60, int64(255), int64(1), bytes.Repeat([]byte{0xff}, 30), false)
	f.Add(int64(1), uint64(1), int64(1), int64(1)<<40, []byte{8, 0xff, 0xff, 0xff, 0x7f, 1, 1, 1, 1}, true)
	f.Fuzz(func(t *testing.T, octet int64, block uint64, members, count int64, chunks []byte, seal bool) {
		key := octetKey{octet, block}
		if seal {
			chunks = sealChunk(key, chunks)
		}
		p, err := decodePosting(key, members, count, chunks)
		if err != nil {
			return
		}
		if len(p.entries) > len(chunks)/8 {
			t.Errorf("%d entries of %d bytes", len(p.entries), len(chunks))
		}
		p.changed = true
		again, members, n := p.encode()
		if q, err := decodePosting(key, members, int64(n), again); err != nil || len(q.entries) != len(p.entries) {
			t.Errorf("what was encoded again: %v", err)
		}
		p.lastPage(octet<<octetBits + 1)
		p.appendOf(nil, octet<<octetBits+1, event.Beginning, event.MaxID)
	})
}

// sealChunk makes a chunk of a body.
func sealChunk(key octetKey, body []byte) []byte {
	b := append(binary.AppendUvarint(nil, uint64(len(body))), body...)
	return binary.BigEndian.AppendUint32(b, crc32.Update(key.sum(), castagnoli, body))
}
