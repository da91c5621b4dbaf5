package seen

import (
	"cmp"
	"slices"

	"github.com/rstream-dev/rstream/cache/internal/rows"
	"github.com/rstream-dev/rstream/event"
)

// An openTable finds open events by hash. It is a hash table with linear probing, at most
// half full, of indexes into events.
type openTable struct {
	salt   uint64
	events []rows.OpenEvent
	from   int      // the first event in the table
	places []uint32 // an index plus one; 0 is empty
}

// insertOpen adds an event, and enters it in the table only if it is to be found.
func (t *openTable) insertOpen(ev rows.OpenEvent, found bool) {
	t.events = append(t.events, ev)
	if !found {
		t.from = len(t.events)
		return
	}
	if n := 2 * (len(t.events) - t.from); n > len(t.places) {
		t.grow(n)
	}
	t.put(len(t.events) - 1)
}

// grow makes a table with at least n places.
func (t *openTable) grow(n int) {
	size := 1 << 10
	for size < 2*n {
		size *= 2
	}
	t.places = make([]uint32, size)
	for i := t.from; i < len(t.events)-1; i++ {
		t.put(i)
	}
}

func (t *openTable) put(i int) {
	p := t.firstSlot(&t.events[i].Hash)
	for t.places[p] != 0 {
		p = (p + 1) & uint64(len(t.places)-1)
	}
	t.places[p] = uint32(i + 1)
}

func (t *openTable) firstSlot(h *event.Hash) uint64 { return mix(h, t.salt) & uint64(len(t.places)-1) }

// findOpen returns the id of the event with hash h.
func (t *openTable) findOpen(h *event.Hash) (event.ID, bool) {
	if len(t.places) == 0 {
		return 0, false
	}
	for p := t.firstSlot(h); t.places[p] != 0; p = (p + 1) & uint64(len(t.places)-1) {
		if ev := &t.events[t.places[p]-1]; ev.Hash == *h {
			return ev.ID, true
		}
	}
	return 0, false
}

// lastOpenID returns the last event, Beginning if there is none.
func (t *openTable) lastOpenID() event.ID {
	if len(t.events) == 0 {
		return event.Beginning
	}
	return t.events[len(t.events)-1].ID
}

// after returns the index of the first event after a position.
func (t *openTable) after(p event.ID) int {
	i, _ := slices.BinarySearchFunc(t.events, p+1, func(ev rows.OpenEvent, id event.ID) int { return cmp.Compare(ev.ID, id) })
	return i
}
