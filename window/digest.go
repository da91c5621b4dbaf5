package window

import (
	"crypto/sha256"
	"encoding/binary"
	"encoding/hex"
	"fmt"
	"hash"

	"github.com/rstream-dev/rstream/event"
)

// A Digest identifies the events of a topic in a range of one log. It is SHA-256 over
// the leaves in order: for each, its block number (8 bytes), its count (4 bytes) and
// its sum, integers big-endian. Blocks without an event of the topic have no leaf, so
// the digest does not depend on how the range is divided into windows. Equal digests
// mean equal events, including ids and times. The text of a Digest is 64 lower-case
// hex digits.
type Digest [sha256.Size]byte

// String returns the 64 hex digits of d.
func (d Digest) String() string { return hex.EncodeToString(d[:]) }

// MarshalText returns the 64 hex digits of d.
func (d Digest) MarshalText() ([]byte, error) { return hex.AppendEncode(nil, d[:]), nil }

// UnmarshalText parses 64 lower-case hex digits.
func (d *Digest) UnmarshalText(b []byte) error {
	h, err := event.ParseHash(b)
	if err != nil {
		return fmt.Errorf("parse digest: %w", err)
	}
	*d = Digest(h)
	return nil
}

// A Leaf summarizes one block of a digest: the number of the topic's events in that
// part of the range, and SHA-256 over the id (8 bytes), the time in µs (8 bytes) and
// the hash of each, in the order of ids, integers big-endian.
type Leaf struct {
	Block uint64
	Count uint32
	Sum   [sha256.Size]byte
}

// DigestOf returns the digest of leaves, which must be in the order of their blocks,
// and the number of events in them.
func DigestOf(leaves []Leaf) (d Digest, count uint64) {
	h := sha256.New()
	var b [8 + 4]byte
	for i := range leaves {
		l := &leaves[i]
		binary.BigEndian.PutUint64(b[:], l.Block)
		binary.BigEndian.PutUint32(b[8:], l.Count)
		h.Write(b[:])
		h.Write(l.Sum[:])
		count += uint64(l.Count)
	}
	h.Sum(d[:0])
	return d, count
}

// A Leafer computes the leaves of events. The zero Leafer is ready to use.
type Leafer struct {
	leaves []Leaf
	open   hash.Hash
	event  [8 + 8 + sha256.Size]byte // the hashed bytes of one event, here to save an allocation
}

// Add adds one event. Events must be added in the order of their ids.
func (l *Leafer) Add(id event.ID, t event.Time, h event.Hash) {
	if n := len(l.leaves); n == 0 || l.leaves[n-1].Block != id.Block() {
		l.seal()
		l.leaves = append(l.leaves, Leaf{Block: id.Block()})
	}
	if l.open == nil {
		l.open = sha256.New()
	}
	b := l.event[:]
	binary.BigEndian.PutUint64(b, uint64(id))
	binary.BigEndian.PutUint64(b[8:], uint64(t))
	copy(b[16:], h[:])
	l.open.Write(b)
	l.leaves[len(l.leaves)-1].Count++
}

// seal ends the last leaf.
func (l *Leafer) seal() {
	if n := len(l.leaves); n > 0 {
		l.open.Sum(l.leaves[n-1].Sum[:0])
		l.open.Reset()
	}
}

// Leaves returns the leaves of the added events and resets the Leafer.
func (l *Leafer) Leaves() []Leaf {
	l.seal()
	leaves := l.leaves
	l.leaves, l.open = nil, nil
	return leaves
}

// Split returns the leaves of the added events of blocks that begin before a position, and a
// Leafer to which the events of the block that begins there can be added further. It resets
// l. No event after that block may have been added.
func (l *Leafer) Split(at event.ID) (ended []Leaf, open *Leafer) {
	n := len(l.leaves)
	if n == 0 || BlockSpan(l.leaves[n-1].Block).From < at {
		return l.Leaves(), &Leafer{}
	}
	open = &Leafer{leaves: []Leaf{l.leaves[n-1]}, open: l.open}
	ended = l.leaves[:n-1]
	l.leaves, l.open = nil, nil
	return ended, open
}

// Last returns the leaf of the events added so far of the last block, zero if there are none.
// More of them can be added.
func (l *Leafer) Last() (leaf Leaf) {
	if n := len(l.leaves); n > 0 {
		leaf = l.leaves[n-1]
		l.open.Sum(leaf.Sum[:0])
	}
	return leaf
}

// BlockSpan returns the span of block b.
func BlockSpan(b uint64) Span {
	const last = uint64(event.MaxID) / event.BlockSize
	if b >= last {
		return Span{event.ID(last) * event.BlockSize, event.MaxID}
	}
	return Span{event.ID(b) * event.BlockSize, event.ID(b+1) * event.BlockSize}
}
