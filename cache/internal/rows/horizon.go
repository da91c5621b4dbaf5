package rows

import (
	"sync/atomic"

	"github.com/rstream-dev/rstream/event"
)

// A KnownHorizon is the horizon of a log in the memory of its server, which alone moves it.
// Reading it from the file for each stream would leave each stream's goroutine with a stack as
// deep as SQLite needs. It is set only by those who move the horizon or keep others from doing
// so: a reader could set one that has moved since it was read. The zero KnownHorizon is not
// known.
type KnownHorizon struct{ next atomic.Uint64 } // 0: not known

// Set sets the horizon, once it is in the file. It stays if it is higher: retention and the
// new beginning of a mirror may move it one after the other, and come here in another order.
func (k *KnownHorizon) Set(at event.ID) {
	for next := uint64(at) + 1; ; {
		known := k.next.Load()
		if known >= next || k.next.CompareAndSwap(known, next) {
			return
		}
	}
}

// Forget forgets the horizon, after a transaction that may or may not have moved it.
func (k *KnownHorizon) Forget() { k.next.Store(0) }

// Get returns the horizon; ok is false if it must be read from the file.
func (k *KnownHorizon) Get() (at event.ID, ok bool) {
	next := k.next.Load()
	return event.ID(next - 1), next > 0
}
