package reconcile

import (
	"encoding/binary"
	"fmt"
	"math/bits"

	"github.com/rstream-dev/rstream/event"
	"github.com/rstream-dev/rstream/window"
)

// A StubRequest asks for the places of events in the responder's log. It is for a requester
// that has many of them, with their values, from another log, where their ids and times
// are different.
type StubRequest struct {
	// Span is the requested range, in positions of the responder.
	Span window.Span

	// Width is the number of bytes of each short hash in the response, 1 to 8, and
	// Salt is its salt.
	Width int
	Salt  Salt

	// Filter, if not nil, limits the response to events that may be in it.
	Filter *Filter
}

// A Stub is the place of an event that the requester may know by its hash.
type Stub struct {
	ID    event.ID
	Time  event.Time
	Short uint64 // as returned by StubRequest.Short
}

// A StubResponse is the response to a StubRequest.
type StubResponse struct {
	// To is the position up to which the response goes. If it is before the end of
	// the range, the requester asks for the rest.
	To event.ID

	// Stubs are in the order of ids.
	Stubs []Stub
}

// WidthFor returns how many bytes of a short hash are enough to compare known events with
// there events of the other side: fewer than one in 64 responses confuse two events.
func WidthFor(known, there uint64) int {
	const rarely = 6
	pairs := bits.Len64(known) + bits.Len64(there)
	return min(max((pairs+rarely+7)/8, 1), 8)
}

// Short returns the short hash of h in the response, of Width bytes.
func (r *StubRequest) Short(h event.Hash) uint64 { return r.cutShort(r.Salt.keyer().shortHash(&h)) }

// cutShort returns the first Width bytes of a short hash.
func (r *StubRequest) cutShort(short uint64) uint64 { return short >> (64 - 8*r.Width) }

// AppendTo appends the request's frames to b.
func (r *StubRequest) AppendTo(b []byte) []byte {
	b = appendFrame(b, kindWhere, func(b []byte) []byte {
		b = binary.AppendUvarint(append(b, byte(r.Width)), uint64(r.Span.From))
		b = binary.AppendUvarint(b, uint64(r.Span.To))
		return append(b, r.Salt[:]...)
	})
	if r.Filter != nil {
		b = r.Filter.AppendTo(b)
	}
	return b
}

// IsStubRequest reports whether b begins with the frame of a StubRequest.
func IsStubRequest(b []byte) bool {
	return len(b) >= headerSize && b[0] == magic0 && b[1] == magic1 && kind(b[3]) == kindWhere
}

// ParseStubRequest parses a request. Apart from b, it allocates memory only for the filter.
// It returns a FrameError if the request is invalid or exceeds limits.
func ParseStubRequest(b []byte, limits Limits) (*StubRequest, error) {
	limits = limits.orDefaults()
	if len(b) > limits.Body {
		return nil, frameTooLarge("request: %d bytes are more than %d", len(b), limits.Body)
	}
	k, body, rest, err := cutFrame(b)
	if err != nil {
		return nil, err
	}
	if k != kindWhere {
		return nil, malformed("kind %d: want a stub request", k)
	}
	req := &StubRequest{}
	r := reader{b: body}
	req.Width = int(r.byte("width"))
	req.Span.From = event.ID(r.uvarint("from", uint64(event.MaxID)))
	req.Span.To = event.ID(r.uvarint("to", uint64(event.MaxID)))
	r.fixed("salt", req.Salt[:])
	if err := r.endError(); err != nil {
		return nil, err
	}
	switch {
	case req.Width < 1 || req.Width > 8:
		return nil, malformed("width: want 1 to 8 bytes of a short hash, not %d", req.Width)
	case req.Span.To < req.Span.From:
		return nil, malformed("the range %s ends before it begins", req.Span)
	case len(rest) > 0:
		req.Filter, err = ParseFilter(rest, limits)
	}
	return req, err
}

// AnswerStubs returns the response to req, which ParseStubRequest returned. It keeps nothing
// between requests. local holds the responder's events in the range of req, with ids,
// without those that cannot be rebuilt from a stub. The response goes as far as limits
// allow.
func AnswerStubs(local Set, req *StubRequest, limits Limits) (*StubResponse, error) {
	limits = limits.orDefaults()
	if !local.Shared() || local.Span() != req.Span {
		return nil, fmt.Errorf("reconcile: a set of %s (shared ids: %v) cannot answer a request for %s", local.Span(), local.Shared(), req.Span)
	}
	s := &StubResponse{To: req.Span.To}
	looked, last := uint64(0), req.Span.From
	key := req.Salt.keyer()
	err := inOrder(local.Items(), func(it Item) bool {
		if len(s.Stubs) == limits.Stubs || looked == limits.Items {
			s.To = last
			return false
		}
		looked, last = looked+1, it.ID
		if req.Filter == nil || req.Filter.Seen(it.Hash) {
			s.Stubs = append(s.Stubs, Stub{it.ID, it.Time, req.cutShort(key.shortHash(&it.Hash))})
		}
		return true
	})
	return s, err
}

// AppendTo appends the response's frame to b. width is the Width of the request.
func (s *StubResponse) AppendTo(b []byte, width int) []byte {
	return appendFrame(b, kindStubs, func(b []byte) []byte {
		b = binary.AppendUvarint(b, uint64(s.To))
		b = binary.AppendUvarint(b, uint64(len(s.Stubs)))
		var at Stub
		for _, stub := range s.Stubs {
			b = binary.AppendUvarint(b, uint64(stub.ID-at.ID))
			b = binary.AppendUvarint(b, uint64(stub.Time-at.Time))
			for i := width - 1; i >= 0; i-- {
				b = append(b, byte(stub.Short>>(8*i)))
			}
			at = stub
		}
		return b
	})
}

// ParseStubs parses the response to req. It returns a FrameError if the response is invalid
// or exceeds limits.
func ParseStubs(b []byte, req *StubRequest, limits Limits) (*StubResponse, error) {
	limits = limits.orDefaults()
	if len(b) > limits.Body {
		return nil, frameTooLarge("response: %d bytes are more than %d", len(b), limits.Body)
	}
	k, body, rest, err := cutFrame(b)
	switch {
	case err != nil:
		return nil, err
	case k != kindStubs:
		return nil, malformed("kind %d: want stubs", k)
	case len(rest) > 0:
		return nil, malformed("%d bytes are left after the stubs", len(rest))
	}
	r := reader{b: body}
	s := &StubResponse{To: event.ID(r.uvarint("to", uint64(event.MaxID)))}
	n := r.limited("stubs", limits.Stubs)
	switch {
	case r.err != nil:
		return nil, r.err
	case s.To > req.Span.To || s.To <= req.Span.From && !req.Span.Empty():
		return nil, malformed("to: %s for the range %s", s.To, req.Span)
	case n > len(r.b)/(2+req.Width):
		return nil, malformed("stubs: %d in %d bytes", n, len(r.b))
	}
	s.Stubs = parseStubs(&r, n, req, s.To)
	return s, r.endError()
}

// parseStubs parses n stubs in order, in the range of req up to to.
func parseStubs(r *reader, n int, req *StubRequest, to event.ID) []Stub {
	stubs := make([]Stub, n)
	var at Stub
	for i := range stubs {
		id := at.ID + event.ID(r.uvarint("id", uint64(event.MaxID-at.ID)))
		time := at.Time + event.Time(r.uvarint("time", ^uint64(0)))
		short := uint64(0)
		for _, c := range r.readBytes("short hash", req.Width) {
			short = short<<8 | uint64(c)
		}
		if r.err == nil && (id <= max(at.ID, req.Span.From) || id > to || i > 0 && time < at.Time || !time.Valid()) {
			r.setError(malformed("stubs: %s at %s is out of order, or not in %s", id, time, req.Span))
		}
		if r.err != nil {
			return nil
		}
		at = Stub{id, time, short}
		stubs[i] = at
	}
	return stubs
}
