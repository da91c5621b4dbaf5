package reconcile

import (
	"encoding/binary"
	"math/bits"

	"github.com/rstream-dev/rstream/event"
)

// slots are the slots of an inverse bloom filter (Hodges, "The opposite of a bloom
// filter", 2012). Each holds one of the hashes that map to it. The filter may forget
// hashes, but never claims one that was not added, since the slots hold whole hashes. It is
// large, and exists for clients that support no other filter.
type slots struct {
	used   []byte // one bit for each slot, starting with the lowest bit of the first byte
	hashes []event.Hash
}

const maxSlots = 1 << 17 // 4 MiB of hashes

// MaxFullSlots is the most slots of an inverse filter that fits into a frame of the default
// Limits even if all slots are used.
const MaxFullSlots = 130_000

// NewInverse returns an inverse bloom filter of n items with m slots, at least 1. Readers
// refuse a filter with more than 131,072 slots.
func NewInverse(items Items, n uint64, m int, salt Salt) (*Filter, error) {
	f := &Filter{Count: n, salt: salt, key: salt.keyer(), slots: newSlots(max(1, m))}
	for it, err := range items {
		if err != nil {
			return nil, err
		}
		f.slots.putHash(f.key, it.Hash)
	}
	return f, nil
}

func newSlots(m int) *slots { return &slots{make([]byte, (m+7)/8), make([]event.Hash, m)} }

// putHash adds h to its slot. If hashes share a slot, the salt and not their order decides which
// one stays, so that a hash that this filter forgets is likely to be in the next.
func (s *slots) putHash(key keyer, h event.Hash) {
	short := key.shortHash(&h)
	i := s.slotOf(short)
	if s.isUsed(i) && key.shortHash(&s.hashes[i]) > short {
		return
	}
	s.used[i/8] |= 1 << (i % 8)
	s.hashes[i] = h
}

func (s *slots) slotOf(short uint64) uint64 { return short % uint64(len(s.hashes)) }

func (s *slots) isUsed(i uint64) bool { return s.used[i/8]>>(i%8)&1 == 1 }

func (s *slots) seen(short uint64, h *event.Hash) bool {
	i := s.slotOf(short)
	return s.isUsed(i) && s.hashes[i] == *h
}

func (s *slots) appendTo(b []byte) []byte {
	b = append(binary.AppendUvarint(b, uint64(len(s.hashes))), s.used...)
	for i := range s.hashes {
		if s.isUsed(uint64(i)) {
			b = append(b, s.hashes[i][:]...)
		}
	}
	return b
}

func parseSlots(r *reader) *slots {
	m := r.uvarint("slots", maxSlots)
	if r.err == nil && (m == 0 || (m+7)/8 > uint64(len(r.b))) {
		r.setError(malformed("inverse: %d slots in %d bytes", m, len(r.b)))
	}
	used := r.readBytes("used slots", int(m+7)/8)
	n := 0
	for _, c := range used {
		n += bits.OnesCount8(c)
	}
	if r.err == nil && m%8 != 0 && used[m/8]>>(m%8) != 0 {
		r.setError(malformed("inverse: slots after the last are used"))
	}
	if r.err == nil && len(r.b) != n*len(event.Hash{}) {
		r.setError(malformed("inverse: %d bytes for %d used slots", len(r.b), n))
	}
	if r.err != nil {
		return nil
	}
	// Empty slots cost a bit on the wire and a hash in memory: at most maxSlots.
	s := newSlots(int(m))
	copy(s.used, used)
	for i := range s.hashes {
		if s.isUsed(uint64(i)) {
			r.fixed("slot", s.hashes[i][:])
		}
	}
	return s
}

// Inverse reports whether f is an inverse filter.
func (f *Filter) Inverse() bool { return f.slots != nil }

// Hashes returns the hashes in an inverse filter, which may be fewer than were added. For
// a bloom filter, it returns none.
func (f *Filter) Hashes() (hashes []event.Hash) {
	if f.slots == nil {
		return nil
	}
	for i := range f.slots.hashes {
		if f.slots.isUsed(uint64(i)) {
			hashes = append(hashes, f.slots.hashes[i])
		}
	}
	return hashes
}
