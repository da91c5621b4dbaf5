package reconcile

import (
	"cmp"
	"encoding/binary"
	"fmt"
	"math/bits"
)

// Every frame has two magic bytes, the version, its kind, the length of its body as a
// uvarint, and the body. The first byte is not valid in UTF-8, so a text is never taken for
// a frame.
const (
	magic0  = 0xf5
	magic1  = 0x72
	version = 1
)

// A kind is the kind of a frame.
type kind byte

const (
	kindSummary kind = 1  // first frame of a request: the range and the Sum
	kindGaps    kind = 2  // the ranges in which the requester is complete
	kindList    kind = 3  // short hashes of all events of the requester
	kindBloom   kind = 4  // a bloom filter
	kindSketch  kind = 5  // cells of a rateless IBLT
	kindInverse kind = 6  // an inverse bloom filter
	kindLeaves  kind = 7  // a digest for each block
	kindBlocks  kind = 8  // blocks whose items are requested
	kindWhere   kind = 9  // a stub request, instead of a summary
	kindAnswer  kind = 16 // the response to a summary and its second frame
	kindStubs   kind = 17 // the response to a stub request
)

// Limits bound the cost of a frame. A field that is zero has the default.
type Limits struct {
	Body    int    // bytes of a request or a response; 8 MiB
	Filter  int    // bytes of a filter; 4 MiB
	Cells   int    // cells of a sketch; 65,536
	Leaves  int    // digests of blocks in a message; 16,384
	Missing int    // items in one response; 65,536
	Stubs   int    // stubs in one response; 262,144
	Items   uint64 // events read for one response; 4,194,304
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

// Bounds that Limits do not change.
const (
	maxCount   = 1 << 40 // events of a set; keeps sums of counts far from overflow
	maxList    = 64      // short hashes of a list
	maxSpans   = 1 << 18 // spans of a list of gaps, 4 MiB
	maxHashes  = 32      // hash functions of a bloom filter
	minBits    = 64      // bits of a bloom filter
	headerSize = 4
)

// A FrameError reports an invalid frame, or one that exceeds Limits. Over HTTP its status
// is 413 if TooLarge, else 400.
type FrameError struct {
	TooLarge bool // a smaller request may be accepted
	Detail   string
}

func (e *FrameError) Error() string { return "reconcile frame: " + e.Detail }

func malformed(format string, args ...any) error {
	return &FrameError{Detail: fmt.Sprintf(format, args...)}
}

func frameTooLarge(format string, args ...any) error {
	return &FrameError{TooLarge: true, Detail: fmt.Sprintf(format, args...)}
}

// appendFrame appends a frame to b. body appends the frame's body, which may be large, so it
// is written in place and then moved up to its header.
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

// cutFrame splits the first frame off b, which must not be empty.
func cutFrame(b []byte) (k kind, body, rest []byte, err error) {
	if len(b) < headerSize || b[0] != magic0 || b[1] != magic1 {
		return 0, nil, nil, malformed("does not begin with %#x %#x", magic0, magic1)
	}
	if b[2] != version {
		return 0, nil, nil, malformed("version %d is not supported, only %d", b[2], version)
	}
	k = kind(b[3])
	r := reader{b: b[headerSize:]}
	n := r.readCount("length", uint64(len(b)))
	body = r.readBytes("body", n)
	return k, body, r.b, r.err
}

// A reader parses a body. It keeps its first error; after an error, all values are zero.
type reader struct {
	b   []byte
	err error
}

func (r *reader) setError(err error) {
	if r.err == nil {
		r.err, r.b = err, nil
	}
}

// uvarint reads an integer up to most. It accepts only the shortest form, so that no two
// frames mean the same.
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

// readCount reads a number of things that take at least a byte each. It refuses a number that
// is larger than the rest of the body before anything is allocated for it.
func (r *reader) readCount(what string, most uint64) int {
	n := r.uvarint(what, most)
	if r.err == nil && n > uint64(len(r.b)) {
		r.setError(malformed("%s: %d, but %d bytes are left", what, n, len(r.b)))
		return 0
	}
	return int(n)
}

// limited is like count, with a limit of the reading side.
func (r *reader) limited(what string, limit int) int {
	n := r.readCount(what, maxCount)
	if r.err == nil && n > limit {
		r.setError(frameTooLarge("%s: %d is more than %d", what, n, limit))
		return 0
	}
	return n
}

// readBytes returns the next n bytes, without copying them.
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

// endError returns the first error, or an error if bytes are left.
func (r *reader) endError() error {
	if r.err == nil && len(r.b) > 0 {
		r.setError(malformed("%d bytes are left after the body", len(r.b)))
	}
	return r.err
}
