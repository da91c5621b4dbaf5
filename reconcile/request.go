package reconcile

import (
	"encoding/binary"

	"github.com/rstream-dev/rstream/event"
	"github.com/rstream-dev/rstream/window"
)

// A Request describes the requester's set: its Sum, and at most one further frame.
type Request struct {
	// Shared reports whether ids are shared. It must be the same for the responder's
	// set.
	Shared bool

	// Span is the range to compare, in positions of the responder. To is event.MaxID
	// for the head; the response then has the fixed end.
	Span window.Span

	// Sum is the Sum of all events of the requester in the range. A Last above the
	// head is from another log.
	Sum Sum

	// Back, if not zero, requests a bloom filter of the responder's set with that many
	// hash functions, and with the salt BackSalt.
	Back     int
	BackSalt Salt

	body body
}

// Strategy returns the strategy of the request's second frame, or Summary.
func (r *Request) Strategy() Strategy {
	if r.body == nil {
		return Summary
	}
	return r.body.strategy()
}

// A body is the second frame of a request: one of the types below, or a *Filter.
type body interface {
	strategy() Strategy
	appendTo(b []byte) []byte
}

// gaps are the ranges in which the requester is complete.
type gaps struct{ held window.Spans }

// A list has the short hashes of all events of the requester, in ascending order.
type list struct {
	salt   Salt
	shorts []uint64
}

// sketched is a sketch of n items, where n is the Count of the Sum.
type sketched struct {
	salt  Salt
	n     uint64
	cells sketch
}

// leaves are the digests of the requester's blocks. Block b has the items with
// key >> shift == b.
type leaves struct {
	shift int
	of    []leaf
}

// blocks are the numbers of blocks whose items are requested, in ascending order.
type blocks struct {
	shift   int
	numbers []uint64
}

func (gaps) strategy() Strategy     { return Gaps }
func (list) strategy() Strategy     { return List }
func (sketched) strategy() Strategy { return Sketch }
func (leaves) strategy() Strategy   { return Exact }
func (blocks) strategy() Strategy   { return Exact }

func (f *Filter) strategy() Strategy {
	if f.slots != nil {
		return Inverse
	}
	return Bloom
}

func (f *Filter) appendTo(b []byte) []byte { return f.AppendTo(b) }

const flagShared byte = 1

// AppendTo appends the request's frames to b.
func (r *Request) AppendTo(b []byte) []byte {
	b = appendFrame(b, kindSummary, r.appendSummary)
	if r.body != nil {
		b = r.body.appendTo(b)
	}
	return b
}

func (r *Request) appendSummary(b []byte) []byte {
	var flags byte
	if r.Shared {
		flags |= flagShared
	}
	to := r.Span.To
	if to == event.MaxID {
		to = 0
	}
	b = append(b, flags, byte(r.Back))
	b = binary.AppendUvarint(b, uint64(r.Span.From))
	b = binary.AppendUvarint(b, uint64(to))
	b = appendSum(b, r.Sum)
	if r.Shared {
		b = binary.AppendUvarint(b, uint64(r.Sum.Last))
	}
	if r.Back > 0 {
		b = append(b, r.BackSalt[:]...)
	}
	return b
}

func appendSum(b []byte, s Sum) []byte {
	return append(binary.AppendUvarint(b, s.Count), s.Digest[:]...)
}

func (r *reader) readSum() (s Sum) {
	s.Count = r.uvarint("count", maxCount)
	r.fixed("digest", s.Digest[:])
	return s
}

// ParseRequest parses a request. Apart from b, it allocates at most 4 MiB with the default
// limits, and nothing for parts that it refuses. It returns a FrameError if the request is
// invalid or exceeds limits.
func ParseRequest(b []byte, limits Limits) (*Request, error) {
	limits = limits.orDefaults()
	if len(b) > limits.Body {
		return nil, frameTooLarge("request: %d bytes are more than %d", len(b), limits.Body)
	}
	k, summary, rest, err := cutFrame(b)
	if err != nil {
		return nil, err
	}
	if k != kindSummary {
		return nil, malformed("kind %d: a request begins with a summary", k)
	}
	req, err := parseSummary(summary)
	if err != nil || len(rest) == 0 {
		return req, err
	}
	k, second, rest, err := cutFrame(rest)
	switch {
	case err != nil:
		return nil, err
	case len(rest) > 0:
		return nil, malformed("%d bytes are left after the request", len(rest))
	}
	if req.body, err = parseBody(k, second, req, limits); err != nil {
		return nil, err
	}
	return req, nil
}

func parseSummary(b []byte) (*Request, error) {
	r := reader{b: b}
	flags, back := r.byte("flags"), r.byte("back")
	req := &Request{Shared: flags&flagShared != 0, Back: int(back)}
	req.Span.From = event.ID(r.uvarint("from", uint64(event.MaxID)))
	req.Span.To = event.ID(r.uvarint("to", uint64(event.MaxID)))
	req.Sum = r.readSum()
	if req.Shared {
		req.Sum.Last = event.ID(r.uvarint("last", uint64(event.MaxID)))
	}
	if req.Back > 0 {
		r.fixed("salt", req.BackSalt[:])
	}
	if err := r.endError(); err != nil {
		return nil, err
	}
	if req.Span.To == 0 {
		req.Span.To = event.MaxID
	}
	switch {
	case flags&^flagShared != 0:
		return nil, malformed("flags %#x: only %#x is supported", flags, flagShared)
	case req.Back > maxHashes:
		return nil, malformed("back: %d hash functions are more than %d", req.Back, maxHashes)
	case req.Span.To < req.Span.From:
		return nil, malformed("the range %s ends before it begins", req.Span)
	case req.Shared && (req.Sum.Last > req.Span.To || (req.Sum.Count > 0) != (req.Sum.Last > req.Span.From)):
		return nil, malformed("last: %s of %d events in %s", req.Sum.Last, req.Sum.Count, req.Span)
	}
	return req, nil
}

func parseBody(k kind, b []byte, req *Request, limits Limits) (body, error) {
	r := reader{b: b}
	switch k {
	case kindBloom, kindInverse:
		return parseFilter(k, b, limits)
	case kindGaps:
		if !req.Shared {
			return nil, malformed("a list of gaps needs shared ids")
		}
		spans := parseSpans(&r, req.Span)
		return gaps{spans}, r.endError()
	case kindList:
		var l list
		r.fixed("salt", l.salt[:])
		l.shorts = parseShorts(&r, maxList)
		return l, r.endError()
	case kindSketch:
		var s sketched
		s.n = req.Sum.Count
		s.cells, s.salt = parseSketch(&r, s.n, limits.Cells)
		return s, r.endError()
	case kindLeaves:
		l := parseLeaves(&r, limits.Leaves)
		return l, r.endError()
	case kindBlocks:
		bs := blocks{shift: parseShift(&r)}
		bs.numbers = parseAscending(&r, "blocks", limits.Leaves)
		return bs, r.endError()
	}
	return nil, malformed("kind %d is unknown after a summary", k)
}

func (g gaps) appendTo(b []byte) []byte {
	return appendFrame(b, kindGaps, func(b []byte) []byte { return appendSpans(b, g.held) })
}

// appendSpans appends the length of the gap before each span and of the span itself.
func appendSpans(b []byte, spans window.Spans) []byte {
	b = binary.AppendUvarint(b, uint64(len(spans)))
	at := event.Beginning
	for _, s := range spans {
		b = binary.AppendUvarint(b, uint64(s.From-at))
		b = binary.AppendUvarint(b, uint64(s.To-s.From))
		at = s.To
	}
	return b
}

// parseSpans parses spans, which must lie in within.
func parseSpans(r *reader, within window.Span) window.Spans {
	n := r.limited("spans", maxSpans)
	if r.err == nil && 2*n > len(r.b) {
		r.setError(malformed("spans: %d in %d bytes", n, len(r.b)))
	}
	if r.err != nil {
		return nil
	}
	spans := make(window.Spans, n)
	at := event.Beginning
	for i := range spans {
		from := at + event.ID(r.uvarint("gap", uint64(event.MaxID-at)))
		to := from + event.ID(r.uvarint("span", uint64(event.MaxID-from)))
		if r.err == nil && (to <= from || i > 0 && from == at || !within.Contains(window.Span{From: from, To: to})) {
			r.setError(malformed("spans: %s-%s after %s in %s", from, to, at, within))
		}
		spans[i], at = window.Span{From: from, To: to}, to
	}
	return spans
}

func (l list) appendTo(b []byte) []byte {
	return appendFrame(b, kindList, func(b []byte) []byte { return appendShorts(append(b, l.salt[:]...), l.shorts) })
}

func appendShorts(b []byte, shorts []uint64) []byte {
	b = binary.AppendUvarint(b, uint64(len(shorts)))
	for _, s := range shorts {
		b = binary.BigEndian.AppendUint64(b, s)
	}
	return b
}

// parseShorts parses up to limit short hashes, which must be in ascending order.
func parseShorts(r *reader, limit int) []uint64 {
	n := r.limited("short hashes", limit)
	if r.err == nil && 8*n > len(r.b) {
		r.setError(malformed("short hashes: %d in %d bytes", n, len(r.b)))
	}
	if r.err != nil {
		return nil
	}
	shorts := make([]uint64, n)
	for i := range shorts {
		shorts[i] = r.uint64("short hash")
		if i > 0 && shorts[i] <= shorts[i-1] {
			r.setError(malformed("short hashes: not in order"))
		}
	}
	return shorts
}

func (s sketched) appendTo(b []byte) []byte {
	return appendFrame(b, kindSketch, func(b []byte) []byte { return s.cells.appendTo(b, s.salt, s.n) })
}

func (l leaves) appendTo(b []byte) []byte {
	return appendFrame(b, kindLeaves, func(b []byte) []byte {
		b = binary.AppendUvarint(append(b, byte(l.shift)), uint64(len(l.of)))
		at := uint64(0)
		for i := range l.of {
			b = binary.AppendUvarint(b, l.of[i].block-at)
			b = append(b, l.of[i].sum[:]...)
			at = l.of[i].block
		}
		return b
	})
}

func (bs blocks) appendTo(b []byte) []byte {
	return appendFrame(b, kindBlocks, func(b []byte) []byte { return appendAscending(append(b, byte(bs.shift)), bs.numbers) })
}

func appendAscending(b []byte, numbers []uint64) []byte {
	b = binary.AppendUvarint(b, uint64(len(numbers)))
	at := uint64(0)
	for _, n := range numbers {
		b = binary.AppendUvarint(b, n-at)
		at = n
	}
	return b
}

func parseAscending(r *reader, what string, limit int) []uint64 {
	n := r.limited(what, limit)
	if r.err != nil {
		return nil
	}
	numbers := make([]uint64, n)
	at := uint64(0)
	for i := range numbers {
		numbers[i] = r.readAscending(what, i, at)
		at = numbers[i]
	}
	return numbers
}

// readAscending reads the number at index i of an ascending sequence; at is the previous one.
func (r *reader) readAscending(what string, i int, at uint64) uint64 {
	step := r.uvarint(what, ^uint64(0)-at)
	if r.err == nil && i > 0 && step == 0 {
		r.setError(malformed("%s: not in order", what))
	}
	return at + step
}
