package reconcile

import (
	"cmp"
	"crypto/sha256"
	"encoding/binary"
	"errors"
	"iter"

	"github.com/rstream-dev/rstream/event"
	"github.com/rstream-dev/rstream/window"
)

// An Item identifies an event of a Set. ID and Time are zero if ids are not shared.
type Item struct {
	ID   event.ID
	Time event.Time
	Hash event.Hash
}

// Compare compares two items in the order of a Set: by id if ids are shared, else by hash.
// It returns -1, 0 or +1.
func (it Item) Compare(other Item) int {
	return cmp.Or(cmp.Compare(it.ID, other.ID), it.Hash.Compare(other.Hash), cmp.Compare(it.Time, other.Time))
}

// Items yields each item of a Set once, in order. An error is the last thing yielded.
type Items = iter.Seq2[Item, error]

// A Sum is the number of events in a set and a digest of them. If ids are shared, Digest is
// that of package window and Last is the newest id. Between different logs, Digest is
// SHA-256 over the hashes in ascending order, and Last is zero.
type Sum struct {
	Count  uint64
	Digest window.Digest
	Last   event.ID
}

// Equal reports whether s and t are sums of the same events.
func (s Sum) Equal(t Sum) bool { return s.Count == t.Count && s.Digest == t.Digest }

// ErrOrder is returned for a Set whose items are not in order, or not unique.
var ErrOrder = errors.New("the items of a set are out of order")

// SumOf returns the Sum of items, which must be in order. It does not keep them in memory.
func SumOf(items Items, shared bool) (Sum, error) {
	if shared {
		return sumOfIDs(items)
	}
	return sumOfHashes(items)
}

// sumOfIDs computes window.DigestOf without keeping the leaves in memory.
func sumOfIDs(items Items) (sum Sum, err error) {
	h := sha256.New()
	noteLast := func(yield func(Item, error) bool) {
		for it, err := range items {
			sum.Last = it.ID
			if !yield(it, err) {
				return
			}
		}
	}
	err = eachLeaf(noteLast, true, blockShift, func(l leaf, count uint64) bool {
		var b [8 + 4]byte
		binary.BigEndian.PutUint64(b[:], l.block)
		binary.BigEndian.PutUint32(b[8:], uint32(count))
		h.Write(b[:])
		h.Write(l.sum[:])
		sum.Count += count
		return true
	})
	h.Sum(sum.Digest[:0])
	return sum, err
}

func sumOfHashes(items Items) (sum Sum, err error) {
	h := sha256.New()
	err = inOrder(items, func(it Item) bool {
		h.Write(it.Hash[:])
		sum.Count++
		return true
	})
	h.Sum(sum.Digest[:0])
	return sum, err
}

// inOrder calls f with each item until f returns false. It returns ErrOrder if an item does
// not come after the one before it.
func inOrder(items Items, f func(Item) bool) error {
	var last Item
	first := true
	for it, err := range items {
		switch {
		case err != nil:
			return err
		case !first && last.Compare(it) >= 0:
			return ErrOrder
		}
		if !f(it) {
			return nil
		}
		last, first = it, false
	}
	return nil
}

// key returns the place of an item among 2^64, which determines its block: its id − 1, or
// the leading bits of its hash.
func (it Item) key(shared bool) uint64 {
	if shared {
		return uint64(it.ID) - 1
	}
	return binary.BigEndian.Uint64(it.Hash[:])
}
