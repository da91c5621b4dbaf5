package cache

import (
	"cmp"
	"encoding/binary"
	"slices"

	"github.com/rstream-dev/rstream/event"
)

// postings gathers the places of the events that one transaction adds.
type postings []place

// A place is an event's storage and its id.
type place struct {
	storage int64
	id      event.ID
}

type postingKey struct {
	storage int64
	block   uint64
}

func (p *postings) add(storage int64, id event.ID) { *p = append(*p, place{storage, id}) }

// sorted returns the offsets of each storage and block, in the order of the table.
func (p postings) sorted() (keys []postingKey, offsets [][]byte) {
	slices.SortFunc(p, func(a, b place) int {
		return cmp.Or(cmp.Compare(a.storage, b.storage), cmp.Compare(a.id, b.id))
	})
	all := make([]byte, 0, 2*len(p))
	for i := 0; i < len(p); {
		key, from := postingKey{p[i].storage, p[i].id.Block()}, len(all)
		for ; i < len(p) && p[i].storage == key.storage && p[i].id.Block() == key.block; i++ {
			all = binary.BigEndian.AppendUint16(all, uint16(uint64(p[i].id-1)%event.BlockSize))
		}
		keys, offsets = append(keys, key), append(offsets, all[from:])
	}
	return keys, offsets
}

// positions turns the offsets of a block back into ids.
func positions(block int64, offsets []byte, visit func(event.ID)) {
	base := event.ID(block) * event.BlockSize
	for ; len(offsets) >= 2; offsets = offsets[2:] {
		visit(base + event.ID(binary.BigEndian.Uint16(offsets)) + 1)
	}
}
