package reconcile

import (
	"crypto/sha256"
	"encoding/binary"
	"math/bits"
)

// blockShift is the shift with which blocks of shared ids are the blocks of the log.
const blockShift = 12

// A leaf is the digest of one block: SHA-256 over its items in order, each as in a leaf of
// package window if ids are shared, else only its hash.
type leaf struct {
	block uint64
	sum   [sha256.Size]byte
}

// eachLeaf calls f with each leaf of items in order and its number of items, until f
// returns false. It keeps one leaf at a time, so that even a shift that makes a block of
// every event costs no memory.
func eachLeaf(items Items, shared bool, shift int, f func(l leaf, count uint64) bool) error {
	h := sha256.New()
	buf := make([]byte, 0, 16+sha256.Size)
	var open leaf
	var count uint64
	stopped := false
	seal := func() {
		if count > 0 {
			h.Sum(open.sum[:0])
			h.Reset()
			stopped = !f(open, count)
		}
	}
	err := inOrder(items, func(it Item) bool {
		if b := it.key(shared) >> shift; count == 0 || b != open.block {
			seal()
			open, count = leaf{block: b}, 0
		}
		buf = it.appendDigested(buf[:0], shared)
		h.Write(buf)
		count++
		return !stopped
	})
	if err != nil {
		return err
	}
	if !stopped {
		seal()
	}
	return nil
}

// appendDigested appends the bytes of an item that are hashed for a digest.
func (it *Item) appendDigested(b []byte, shared bool) []byte {
	if shared {
		b = binary.BigEndian.AppendUint64(b, uint64(it.ID))
		b = binary.BigEndian.AppendUint64(b, uint64(it.Time))
	}
	return append(b, it.Hash[:]...)
}

// shiftFor returns a shift that divides n hashes into blocks of about perBlock items, but
// into at most most blocks.
func shiftFor(n uint64, most int) int {
	const perBlock = 256
	blocks := min(max(1, n/perBlock), uint64(most))
	return 64 - bits.Len64(blocks) + 1
}

func parseShift(r *reader) int {
	shift := int(r.byte("shift"))
	if r.err == nil && shift > 64 {
		r.setError(malformed("shift: %d is more than 64", shift))
	}
	return shift
}

func parseLeaves(r *reader, limit int) leaves {
	l := leaves{shift: parseShift(r)}
	n := r.limited("leaves", limit)
	if r.err == nil && n*(1+sha256.Size) > len(r.b) {
		r.setError(malformed("leaves: %d in %d bytes", n, len(r.b)))
	}
	if r.err != nil {
		return l
	}
	l.of = make([]leaf, n)
	at := uint64(0)
	for i := range l.of {
		at = r.readAscending("block", i, at)
		l.of[i].block = at
		r.fixed("leaf", l.of[i].sum[:])
	}
	return l
}

// A Block is the number of items that the responder has in a block.
type Block struct{ Number, Count uint64 }

// differing returns at most most blocks in which items and theirs differ, with their
// numbers of items. more reports that further blocks differ.
func differing(items Items, shared bool, theirs leaves, most int) (out []Block, more bool, err error) {
	left := theirs.of
	add := func(b Block) bool {
		if more = len(out) == most; !more {
			out = append(out, b)
		}
		return !more
	}
	onlyTheirs := func(until func(leaf) bool) bool {
		for ; len(left) > 0 && until(left[0]); left = left[1:] {
			if !add(Block{left[0].block, 0}) {
				return false
			}
		}
		return true
	}
	err = eachLeaf(items, shared, theirs.shift, func(l leaf, count uint64) bool {
		if !onlyTheirs(func(t leaf) bool { return t.block < l.block }) {
			return false
		}
		if len(left) > 0 && left[0].block == l.block {
			same := left[0] == l
			left = left[1:]
			if same {
				return true
			}
		}
		return add(Block{l.block, count})
	})
	if err == nil && !more {
		onlyTheirs(func(leaf) bool { return true })
	}
	return out, more, err
}
