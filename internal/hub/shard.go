package hub

import (
	"sync"

	"github.com/rstream-dev/rstream/event"
)

// A shard holds the sets of some users, in a hash table with open addressing and linear
// probing: a set is in the slot of its hash, or after it with no free slot in between.
type shard struct {
	mu    sync.RWMutex
	slots []slot
	used  int
}

// A slot is free if its set has no user.
type slot struct {
	set
	hash uint32
}

func (d *shard) matchTopics(hits []ref, hash uint32, user, path string) []ref {
	d.mu.RLock()
	if i, ok := d.findSlot(hash, user); ok {
		hits = d.slots[i].matchPath(hits, path)
	}
	d.mu.RUnlock()
	return hits
}

func (d *shard) addTopic(hash uint32, user, path string, k event.Kind, r ref) {
	d.mu.Lock()
	defer d.mu.Unlock()
	i, ok := d.findSlot(hash, user)
	if !ok {
		i = d.claimSlot(hash, user)
	}
	d.slots[i].set.addPath(path, k, r)
}

// removeTopic removes an added topic, and its user along with the user's last topic.
func (d *shard) removeTopic(hash uint32, user, path string, k event.Kind, r ref) {
	d.mu.Lock()
	defer d.mu.Unlock()
	i, _ := d.findSlot(hash, user)
	u := &d.slots[i].set
	u.removePath(path, k, r)
	if !u.empty() {
		return
	}
	d.freeSlot(i)
	if len(d.slots) > leastSlots && d.used < len(d.slots)/4 {
		d.resize(len(d.slots) / 2)
	}
}

// findSlot returns the slot of user, or the free slot that user would get. ok is false if
// user has no slot.
func (d *shard) findSlot(hash uint32, user string) (at int, ok bool) {
	if len(d.slots) == 0 {
		return 0, false
	}
	for i := d.home(hash); ; i = d.slotAfter(i) {
		switch s := &d.slots[i]; {
		case s.user == 0:
			return i, false
		case s.hash == hash && s.names[:s.user] == user:
			return i, true
		}
	}
}

// home returns the slot where the search for a hash begins.
func (d *shard) home(hash uint32) int { return int(uint64(hash) * uint64(len(d.slots)) >> 32) }

func (d *shard) slotAfter(i int) int {
	if i++; i < len(d.slots) {
		return i
	}
	return 0
}

const leastSlots = 8

// claimSlot gives a new user a slot. An eighth of the slots stays free to keep searches
// short.
func (d *shard) claimSlot(hash uint32, user string) int {
	if d.used >= len(d.slots)*7/8 {
		d.resize(max(leastSlots, len(d.slots)*3/2))
	}
	i, _ := d.findSlot(hash, user)
	d.slots[i] = slot{set: set{names: user, user: uint8(len(user))}, hash: hash}
	d.used++
	return i
}

func (d *shard) resize(n int) {
	old := d.slots
	d.slots = make([]slot, n)
	for i := range old {
		if s := &old[i]; s.user > 0 {
			at, _ := d.findSlot(s.hash, s.names[:s.user])
			d.slots[at] = *s
		}
	}
}

// freeSlot frees slot i. It fills the hole with the next set that may be there, and
// continues with the hole that this leaves.
func (d *shard) freeSlot(i int) {
	d.used--
	n := len(d.slots)
	for j := d.slotAfter(i); d.slots[j].user > 0; j = d.slotAfter(j) {
		// Compare how far the hole and the set are from the set's home.
		home := d.home(d.slots[j].hash)
		if (i-home+n)%n < (j-home+n)%n {
			d.slots[i] = d.slots[j]
			i = j
		}
	}
	d.slots[i] = slot{}
}
