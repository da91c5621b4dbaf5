package reconcile

import (
	"encoding/binary"
	"slices"

	"github.com/rstream-dev/rstream/event"
	"github.com/rstream-dev/rstream/window"
)

// A Response is the responder's answer to a Request.
type Response struct {
	// To is the end of the compared range: the head, if the request was up to the
	// head.
	To event.ID

	// Sum is the Sum of all events of the responder in the range, without Last.
	Sum Sum

	// Prefix reports that both sides have the same events up to the Last of the
	// request.
	Prefix bool

	// UpTo is the Sum up to the Last of the request, if ids are shared, later events
	// exist, and Prefix is false.
	UpTo *Sum

	// Missing are events that the requester certainly lacks, in order. For a list of
	// gaps they end at the Last of the request. For blocks they are all events in
	// them. For an inverse filter they include those that the filter forgot.
	Missing []Item

	// Partial reports that Missing or Blocks is not complete, because more did not
	// fit.
	Partial bool

	// Unknown are the short hashes, under the salt of the request, of events that
	// only the requester has.
	Unknown []uint64

	// Estimate is about how many events differ, if a sketch was too small, else zero.
	Estimate uint64

	// Blocks are the blocks that differ, for a request with leaves.
	Blocks []Block

	// Covered is the number of requested blocks whose events are all in Missing.
	Covered int

	// Filter is the responder's filter, if it was requested.
	Filter *Filter
}

// The flags of a response: the optional parts that it has.
const (
	hasFilter byte = 1 << iota
	hasUpTo
	hasMissing
	hasUnknown
	hasEstimate
	hasBlocks
	isPartial
	isPrefix
)

// AppendTo appends the response's frames to b. shared is Shared of the request.
func (p *Response) AppendTo(b []byte, shared bool) []byte {
	b = appendFrame(b, kindAnswer, func(b []byte) []byte { return p.appendBody(b, shared) })
	if p.Filter != nil {
		b = p.Filter.AppendTo(b)
	}
	return b
}

func (p *Response) appendBody(b []byte, shared bool) []byte {
	b = binary.AppendUvarint(append(b, p.flags()), uint64(p.To))
	b = appendSum(b, p.Sum)
	if p.UpTo != nil {
		b = appendSum(b, *p.UpTo)
	}
	if len(p.Missing) > 0 {
		b = appendItems(b, p.Missing, shared)
	}
	if len(p.Unknown) > 0 {
		b = appendShorts(b, p.Unknown)
	}
	if p.Estimate > 0 {
		b = binary.AppendUvarint(b, p.Estimate)
	}
	if len(p.Blocks) > 0 || p.Covered > 0 {
		b = p.appendDiffering(b)
	}
	return b
}

func (p *Response) flags() (f byte) {
	set := func(flag byte, is bool) {
		if is {
			f |= flag
		}
	}
	set(hasFilter, p.Filter != nil)
	set(hasUpTo, p.UpTo != nil)
	set(hasMissing, len(p.Missing) > 0)
	set(hasUnknown, len(p.Unknown) > 0)
	set(hasEstimate, p.Estimate > 0)
	set(hasBlocks, len(p.Blocks) > 0 || p.Covered > 0)
	set(isPartial, p.Partial)
	set(isPrefix, p.Prefix)
	return f
}

// appendItems appends items, each id as the difference to the previous one.
func appendItems(b []byte, items []Item, shared bool) []byte {
	b = slices.Grow(b, len(items)*(itemSize(shared)+2)+binary.MaxVarintLen64)
	b = binary.AppendUvarint(b, uint64(len(items)))
	at := event.Beginning
	for i := range items {
		if shared {
			b = binary.AppendUvarint(b, uint64(items[i].ID-at))
			b = binary.BigEndian.AppendUint64(b, uint64(items[i].Time))
			at = items[i].ID
		}
		b = append(b, items[i].Hash[:]...)
	}
	return b
}

func (p *Response) appendDiffering(b []byte) []byte {
	b = binary.AppendUvarint(b, uint64(p.Covered))
	b = binary.AppendUvarint(b, uint64(len(p.Blocks)))
	at := uint64(0)
	for _, block := range p.Blocks {
		b = binary.AppendUvarint(b, block.Number-at)
		b = binary.AppendUvarint(b, block.Count)
		at = block.Number
	}
	return b
}

// ParseResponse parses the response to req. It returns a FrameError if the response is
// invalid or exceeds limits.
func ParseResponse(b []byte, req *Request, limits Limits) (*Response, error) {
	limits = limits.orDefaults()
	if len(b) > limits.Body {
		return nil, frameTooLarge("response: %d bytes are more than %d", len(b), limits.Body)
	}
	k, body, rest, err := cutFrame(b)
	if err != nil {
		return nil, err
	}
	if k != kindAnswer {
		return nil, malformed("kind %d: want a response", k)
	}
	r := reader{b: body}
	p := &Response{}
	flags := p.parseParts(&r, req, limits)
	if err := r.endError(); err != nil {
		return nil, err
	}
	if err := p.checkAgainst(req); err != nil {
		return nil, err
	}
	return p, p.parseOwnFilter(rest, flags&hasFilter != 0, limits)
}

func (p *Response) parseParts(r *reader, req *Request, limits Limits) (flags byte) {
	flags = r.byte("flags")
	p.Prefix, p.Partial = flags&isPrefix != 0, flags&isPartial != 0
	p.To = event.ID(r.uvarint("to", uint64(event.MaxID)))
	p.Sum = r.readSum()
	if flags&hasUpTo != 0 {
		s := r.readSum()
		p.UpTo = &s
	}
	if flags&hasMissing != 0 {
		p.Missing = parseMissing(r, req.Shared, window.Span{From: req.Span.From, To: p.To}, limits.Missing)
	}
	if flags&hasUnknown != 0 {
		p.Unknown = parseShorts(r, max(limits.Cells, maxSlots))
	}
	if flags&hasEstimate != 0 {
		p.Estimate = r.uvarint("estimate", maxCount)
	}
	if flags&hasBlocks != 0 {
		p.parseBlocks(r, limits.Leaves)
	}
	return flags
}

// itemSize returns the minimum size of an item in bytes.
func itemSize(shared bool) int {
	if shared {
		return 1 + 8 + len(event.Hash{})
	}
	return len(event.Hash{})
}

// parseMissing parses items, which must be in order and in span.
func parseMissing(r *reader, shared bool, span window.Span, limit int) []Item {
	n := r.limited("items", limit)
	if r.err == nil && n > len(r.b)/itemSize(shared) {
		r.setError(malformed("items: %d in %d bytes", n, len(r.b)))
	}
	if r.err != nil {
		return nil
	}
	items := make([]Item, n)
	for i := range items {
		it := &items[i]
		if shared {
			at := event.Beginning
			if i > 0 {
				at = items[i-1].ID
			}
			it.ID = at + event.ID(r.uvarint("id", uint64(event.MaxID-at)))
			it.Time = event.Time(r.uint64("time"))
		}
		r.fixed("hash", it.Hash[:])
		if r.err == nil && (i > 0 && items[i-1].Compare(*it) >= 0 || shared && (it.ID <= span.From || it.ID > span.To)) {
			r.setError(malformed("items: %s is out of order, or not in %s", it.ID, span))
		}
	}
	return items
}

func (p *Response) parseBlocks(r *reader, limit int) {
	p.Covered = int(r.uvarint("covered", uint64(limit)))
	n := r.limited("blocks", limit)
	if r.err != nil {
		return
	}
	p.Blocks = make([]Block, n)
	at := uint64(0)
	for i := range p.Blocks {
		at = r.readAscending("block", i, at)
		p.Blocks[i] = Block{at, r.uvarint("block's count", maxCount)}
	}
}

// checkAgainst returns an error if p cannot be a response to req.
func (p *Response) checkAgainst(req *Request) error {
	switch {
	case p.To < req.Span.From || p.To > req.Span.To || req.Span.To != event.MaxID && p.To != req.Span.To:
		return malformed("to: %s for the range %s", p.To, req.Span)
	case uint64(len(p.Missing)) > p.Sum.Count:
		return malformed("items: %d of a set of %d", len(p.Missing), p.Sum.Count)
	case p.UpTo != nil && p.UpTo.Count > p.Sum.Count:
		return malformed("count: %d before the end, %d at it", p.UpTo.Count, p.Sum.Count)
	}
	return nil
}

func (p *Response) parseOwnFilter(rest []byte, has bool, limits Limits) (err error) {
	switch {
	case has && len(rest) > 0:
		p.Filter, err = ParseFilter(rest, limits)
	case has:
		err = malformed("the filter is missing")
	case len(rest) > 0:
		err = malformed("%d bytes are left after the response", len(rest))
	}
	return err
}
