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

// An Item names one event of a Set. ID and Time are zero where ids are not
// shared.
type Item struct {
	ID   event.ID
	Time event.Time
	Hash event.Hash
}

// Compare is the order of a Set. Where ids are not shared it is that of the
// hashes.
func (it Item) Compare(other Item) int {
	return cmp.Or(cmp.Compare(it.ID, other.ID), it.Hash.Compare(other.Hash), cmp.Compare(it.Time, other.Time))
}

// Items is a Set's items in order, each once. An error is the last thing yielded.
type Items = iter.Seq2[Item, error]

// A Sum says how many events a set has and which they are. Where ids are shared,
// Digest is that of package window and Last is the newest id. Between different
// logs Digest is SHA-256 over the hashes in ascending order, and Last is zero.
type Sum struct {
	Count  uint64
	Digest window.Digest
	Last   event.ID
}

// Equal reports whether s and t are sums of the same events.
func (s Sum) Equal(t Sum) bool { return s.Count == t.Count && s.Digest == t.Digest }

// ErrOrder is returned for a Set whose items are not in order, or stand twice.
var ErrOrder = errors.New("the items of a set are out of order")

// SumOf reads items, which must be in order, and returns their Sum. It holds
// nothing of them in memory.
func SumOf(items Items, shared bool) (Sum, error) {
	if shared {
		return sumOfIDs(items)
	}
	return sumOfHashes(items)
}

// sumOfIDs is window.DigestOf without holding the leaves.
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

// inOrder calls f with each item until f returns false, and fails if one does not
// come after the one before it.
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

// key is the place of an item among 2^64, from which the number of its block is
// made: its id, or the leading bits of its hash.
func (it Item) key(shared bool) uint64 {
	if shared {
		return uint64(it.ID) - 1
	}
	return binary.BigEndian.Uint64(it.Hash[:])
}
