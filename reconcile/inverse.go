package reconcile

import (
	"encoding/binary"
	"math/bits"

	"github.com/rstream-dev/rstream/event"
)

// slots are the slots of an inverse bloom filter (Hodges, "The opposite of a
// bloom filter", 2012): each holds one hash of those that belong there. It may have
// forgotten what it saw, but since the slots hold whole hashes it never claims
// what it did not see. It is large; it is here for those who speak nothing else.
type slots struct {
	used   []byte // a bit for each slot, the first one the lowest of the first byte
	hashes []event.Hash
}

const maxSlots = 1 << 17 // 4 MiB of hashes

// MaxFullSlots is the most slots of an inverse filter of any number of items whose frame is
// no longer than the default Limits.
const MaxFullSlots = 130_000

// NewInverse returns an inverse bloom filter of n items with m slots, at least 1.
// One with more than 131,072 is refused by whoever reads it.
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

// putHash puts h in its place. Of those that share one, which stays depends on the salt
// and not on their order: what is forgotten this time is likely to stay the next.
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
		r.setError(malformed("inverse: slots behind the last are used"))
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

// Hashes returns the hashes that an inverse filter has kept, which may be fewer than
// were put in. A bloom filter has none.
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
