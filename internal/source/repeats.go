package source

import (
	"crypto/sha256"
	"encoding/binary"
	"hash/crc32"
)

// maxRepeats is how many events are remembered, to be known again when a server repeats
// them. Older ones are known by their hash alone, so one that has changed is stored again.
const maxRepeats = 1 << 16

// A repeatKey stands for generation, foreign id and ordinal of an event.
type repeatKey [12]byte

func repeatKeyOf(generation uint32, id string, ordinal int) (k repeatKey) {
	var room [128]byte
	b := binary.BigEndian.AppendUint32(room[:0], generation)
	b = binary.BigEndian.AppendUint64(b, uint64(ordinal))
	sum := sha256.Sum256(append(b, id...))
	copy(k[:], sum[:])
	return k
}

// repeats are the last events of a source, each with a checksum of its contents.
type repeats struct {
	limit int
	sums  map[repeatKey]uint32
	order []repeatKey // oldest first
	fresh []byte      // those that are not yet stored
}

const repeatSize = 12 + 4

func newRepeats(limit int, stored [][]byte) *repeats {
	r := &repeats{limit: limit, sums: map[repeatKey]uint32{}}
	for _, b := range stored {
		for ; len(b) >= repeatSize; b = b[repeatSize:] {
			r.put(repeatKey(b), binary.BigEndian.Uint32(b[12:]))
		}
	}
	return r
}

func (r *repeats) put(k repeatKey, sum uint32) {
	if _, known := r.sums[k]; !known {
		r.order = append(r.order, k)
	}
	r.sums[k] = sum
	if len(r.order) > r.limit+r.limit/4 {
		for _, old := range r.order[:len(r.order)-r.limit] {
			delete(r.sums, old)
		}
		r.order = append(r.order[:0], r.order[len(r.order)-r.limit:]...)
	}
}

// add remembers an event.
func (r *repeats) add(k repeatKey, sum uint32) {
	r.put(k, sum)
	r.fresh = binary.BigEndian.AppendUint32(append(r.fresh, k[:]...), sum)
}

// takeFresh returns the entries that are not yet stored, and how many they are.
func (r *repeats) takeFresh() (b []byte, n int64) {
	b, r.fresh = r.fresh, nil
	return b, int64(len(b) / repeatSize)
}

var contentTable = crc32.MakeTable(crc32.Castagnoli)

// sumOf returns the checksum of an event's contents.
func sumOf(f *Frame) uint32 {
	return crc32.Update(crc32.Checksum([]byte(f.Type), contentTable), contentTable, f.Data)
}
