package reconcile

import (
	"cmp"
	"encoding/binary"
	"fmt"
	"math/bits"
)

// Every frame is the two bytes of magic, the version, its kind, the length of its
// body as a uvarint, and the body. The first byte cannot stand in UTF-8, so no
// text is taken for a frame.
const (
	magic0  = 0xf5
	magic1  = 0x72
	version = 1
)

// A kind says what a frame's body is.
type kind byte

const (
	kindSummary kind = 1  // who asks, about what, and the Sum
	kindGaps    kind = 2  // the stretches in which the asker is whole
	kindList    kind = 3  // short hashes of all that the asker holds
	kindBloom   kind = 4  // a bloom filter
	kindSketch  kind = 5  // cells of a rateless IBLT
	kindInverse kind = 6  // an inverse bloom filter
	kindLeaves  kind = 7  // a digest for each block
	kindBlocks  kind = 8  // blocks of which all items are wanted
	kindWhere   kind = 9  // in place of a summary: where events stand
	kindAnswer  kind = 16 // what is said to a summary, and to what follows it
	kindStubs   kind = 17 // where events stand
)

// Limits bound what a frame may cost. A field that is zero has the default.
type Limits struct {
	Body    int    // bytes of a request or an answer; 8 MiB
	Filter  int    // bytes of a filter; 4 MiB
	Cells   int    // cells of a sketch; 65,536
	Leaves  int    // digests of blocks in a message; 16,384
	Missing int    // items that one answer lists; 65,536
	Stubs   int    // stubs of one answer; 262,144
	Items   uint64 // events that one answer may look at; 4,194,304
}

func (l Limits) orDefaults() Limits {
	return Limits{
		Body:    cmp.Or(l.Body, 8<<20),
		Filter:  cmp.Or(l.Filter, 4<<20),
		Cells:   cmp.Or(l.Cells, 1<<16),
		Leaves:  cmp.Or(l.Leaves, 1<<14),
		Missing: cmp.Or(l.Missing, 1<<16),
		Stubs:   cmp.Or(l.Stubs, 1<<18),
		Items:   cmp.Or(l.Items, 4<<20),
	}
}

// Bounds that are the same for all.
const (
	maxCount   = 1 << 40 // events of a set; keeps sums of counts far from overflow
	maxList    = 64      // short hashes of a list
	maxSpans   = 1 << 18 // spans of a gap list: 4 MiB of them
	maxHashes  = 32      // hash functions of a bloom filter
	minBits    = 64      // bits of a bloom filter
	headerSize = 4
)

// A FrameError says what is wrong with a frame. Over HTTP it is 413 if TooLarge,
// else 400.
type FrameError struct {
	TooLarge bool // a frame that asks for less may be taken
	Detail   string
}

func (e *FrameError) Error() string { return "reconcile frame: " + e.Detail }

func malformed(format string, args ...any) error {
	return &FrameError{Detail: fmt.Sprintf(format, args...)}
}

func frameTooLarge(format string, args ...any) error {
	return &FrameError{TooLarge: true, Detail: fmt.Sprintf(format, args...)}
}

// appendFrame appends the frame around what body appends to b. The body is written
// in place and then moved up to its header, since it may be large.
func appendFrame(b []byte, k kind, body func([]byte) []byte) []byte {
	var header [headerSize + binary.MaxVarintLen64]byte
	start := len(b)
	b = body(append(b, header[:]...))
	written := b[start+len(header):]
	h := binary.AppendUvarint(append(header[:0], magic0, magic1, version, byte(k)), uint64(len(written)))
	copy(b[start:], h)
	copy(b[start+len(h):], written)
	return b[:start+len(h)+len(written)]
}

// cutFrame cuts the first frame off b, which is not empty.
func cutFrame(b []byte) (k kind, body, rest []byte, err error) {
	if len(b) < headerSize || b[0] != magic0 || b[1] != magic1 {
		return 0, nil, nil, malformed("does not begin with %#x %#x", magic0, magic1)
	}
	if b[2] != version {
		return 0, nil, nil, malformed("version %d: this side knows %d", b[2], version)
	}
	k = kind(b[3])
	r := reader{b: b[headerSize:]}
	n := r.readCount("length", uint64(len(b)))
	body = r.readBytes("body", n)
	return k, body, r.b, r.err
}

// A reader takes a body apart. The first thing that is wrong sticks; everything
// read after it is zero.
type reader struct {
	b   []byte
	err error
}

func (r *reader) setError(err error) {
	if r.err == nil {
		r.err, r.b = err, nil
	}
}

// uvarint reads an integer up to most in its shortest form, so that there are
// never two frames that say the same.
func (r *reader) uvarint(what string, most uint64) uint64 {
	if r.err != nil {
		return 0
	}
	v, n := binary.Uvarint(r.b)
	switch {
	case n <= 0:
		r.setError(malformed("%s: want an integer", what))
		return 0
	case n != max(1, (bits.Len64(v)+6)/7):
		r.setError(malformed("%s: the integer is not in its shortest form", what))
		return 0
	case v > most:
		r.setError(malformed("%s: %d is more than %d", what, v, most))
		return 0
	}
	r.b = r.b[n:]
	return v
}

// readCount is uvarint for a number of things of which each needs a byte at least:
// one that cannot be is refused before anything is made for it.
func (r *reader) readCount(what string, most uint64) int {
	n := r.uvarint(what, most)
	if r.err == nil && n > uint64(len(r.b)) {
		r.setError(malformed("%s: %d, but %d bytes are left", what, n, len(r.b)))
		return 0
	}
	return int(n)
}

// limited is count with a limit of this side.
func (r *reader) limited(what string, limit int) int {
	n := r.readCount(what, maxCount)
	if r.err == nil && n > limit {
		r.setError(frameTooLarge("%s: %d is more than %d", what, n, limit))
		return 0
	}
	return n
}

// readBytes returns the next n bytes. They are not copied.
func (r *reader) readBytes(what string, n int) []byte {
	if r.err == nil && (n < 0 || n > len(r.b)) {
		r.setError(malformed("%s: want %d bytes, %d are left", what, n, len(r.b)))
	}
	if r.err != nil {
		return nil
	}
	b := r.b[:n:n]
	r.b = r.b[n:]
	return b
}

// fixed fills p.
func (r *reader) fixed(what string, p []byte) { copy(p, r.readBytes(what, len(p))) }

func (r *reader) byte(what string) byte {
	var b [1]byte
	r.fixed(what, b[:])
	return b[0]
}

func (r *reader) uint64(what string) uint64 {
	var b [8]byte
	r.fixed(what, b[:])
	return binary.BigEndian.Uint64(b[:])
}

func (r *reader) uint32(what string) uint32 {
	var b [4]byte
	r.fixed(what, b[:])
	return binary.BigEndian.Uint32(b[:])
}

// checkEnd returns what was wrong, or that something is left.
func (r *reader) checkEnd() error {
	if r.err == nil && len(r.b) > 0 {
		r.setError(malformed("%d bytes are left behind the body", len(r.b)))
	}
	return r.err
}
