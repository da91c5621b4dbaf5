package reconcile

import (
	"errors"
	"fmt"
	"slices"

	"github.com/rstream-dev/rstream/event"
)

// ErrAhead is returned by Answer if the requester has ids that the log has not assigned
// yet: its events are from another log, or this log was rolled back.
var ErrAhead = errors.New("reconcile: the request is ahead of the log")

// Answer returns the response to req, which ParseRequest returned. It keeps nothing between
// requests, and of local only the parts in the response. local holds the responder's
// events in the range of req with a fixed end, and with ids if req shares them.
//
// Answer returns a FrameError if the request would exceed limits, or ErrAhead.
func Answer(local Set, req *Request, limits Limits) (*Response, error) {
	a := answerer{local: local, req: req, limits: limits.orDefaults()}
	if local.Shared() != req.Shared || local.Span().From != req.Span.From || local.Span().To > req.Span.To {
		return nil, fmt.Errorf("reconcile: a set of %s cannot answer a request for %s", local.Span(), req.Span)
	}
	end := local.Span().To
	if pinned := req.Span.To != event.MaxID; req.Shared && req.Sum.Last > end || pinned && req.Span.To > end {
		return nil, ErrAhead
	}
	a.resp.To = local.Span().To
	if err := a.sums(); err != nil {
		return nil, err
	}
	_, hasGaps := req.body.(gaps)
	if a.resp.Sum.Equal(req.Sum) || hasGaps && a.resp.Prefix || req.body == nil && req.Back == 0 {
		return &a.resp, nil
	}
	if a.resp.Sum.Count > a.limits.Items {
		return nil, frameTooLarge("set: %d events are more than %d; request a smaller range", a.resp.Sum.Count, a.limits.Items)
	}
	if err := a.answerBody(); err != nil {
		return nil, err
	}
	return &a.resp, a.addFilter()
}

type answerer struct {
	local  Set
	req    *Request
	limits Limits
	resp   Response
}

// sums sets the Sum of the response. If ids are shared, it also compares the part up to the
// requester's last event, and sets Prefix if it is equal, else its Sum.
func (a *answerer) sums() (err error) {
	if a.resp.Sum, err = a.local.Sum(event.MaxID); err != nil {
		return fmt.Errorf("sum: %w", err)
	}
	if !a.req.Shared || a.req.Sum.Count == 0 || a.resp.Sum.Equal(a.req.Sum) {
		return nil
	}
	upTo, err := a.local.Sum(a.req.Sum.Last)
	if err != nil {
		return fmt.Errorf("sum up to %s: %w", a.req.Sum.Last, err)
	}
	if a.resp.Prefix = upTo.Equal(a.req.Sum); !a.resp.Prefix && upTo.Count < a.resp.Sum.Count {
		a.resp.UpTo = &upTo
	}
	return nil
}

func (a *answerer) answerBody() error {
	switch b := a.req.body.(type) {
	case gaps:
		return a.answerGaps(b)
	case list:
		return a.answerList(b)
	case *Filter:
		return a.answerFilter(b)
	case sketched:
		return a.answerSketch(b)
	case leaves:
		return a.answerLeaves(b)
	case blocks:
		return a.answerBlocks(b)
	}
	return nil
}

// addMissing adds the items for which f returns true to the response, as many as fit.
func (a *answerer) addMissing(f func(Item) bool) error {
	for it, err := range a.local.Items() {
		if err != nil {
			return err
		}
		if !f(it) {
			continue
		}
		if len(a.resp.Missing) == a.limits.Missing {
			a.resp.Partial = true
			return nil
		}
		if n := len(a.resp.Missing); n == cap(a.resp.Missing) { // in large steps, which leave little garbage
			a.resp.Missing = slices.Grow(a.resp.Missing, min(7*n+64, a.limits.Missing-n))
		}
		a.resp.Missing = append(a.resp.Missing, it)
	}
	return nil
}

// answerGaps lists the items outside the requester's ranges, up to its last event. It pulls later
// ones anyway.
func (a *answerer) answerGaps(g gaps) error {
	last := a.req.Sum.Last
	held := g.held
	return a.addMissing(func(it Item) bool {
		for len(held) > 0 && held[0].To < it.ID {
			held = held[1:]
		}
		inside := len(held) > 0 && held[0].From < it.ID
		return !inside && it.ID <= last
	})
}

func (a *answerer) answerList(l list) error {
	key := l.salt.keyer()
	found := make([]bool, len(l.shorts))
	err := a.addMissing(func(it Item) bool {
		i, ok := slices.BinarySearch(l.shorts, key.shortHash(&it.Hash))
		if ok {
			found[i] = true
		}
		return !ok
	})
	if err != nil || a.resp.Partial {
		return err
	}
	for i, short := range l.shorts {
		if !found[i] {
			a.resp.Unknown = append(a.resp.Unknown, short)
		}
	}
	return nil
}

// answerFilter lists the items that are not in f. An inverse filter has whole hashes, so
// those that the responder lacks are listed as well.
func (a *answerer) answerFilter(f *Filter) error {
	if f.slots == nil {
		return a.addMissing(func(it Item) bool { return !f.Seen(it.Hash) })
	}
	found := make([]bool, len(f.slots.hashes))
	err := a.addMissing(func(it Item) bool {
		short := f.key.shortHash(&it.Hash)
		seen := f.slots.seen(short, &it.Hash)
		if seen {
			found[f.slots.slotOf(short)] = true
		}
		return !seen
	})
	if err != nil || a.resp.Partial {
		return err
	}
	for i := range found {
		if f.slots.isUsed(uint64(i)) && !found[i] {
			a.resp.Unknown = append(a.resp.Unknown, f.key.shortHash(&f.slots.hashes[i]))
		}
	}
	slices.Sort(a.resp.Unknown)
	a.resp.Unknown = slices.Compact(a.resp.Unknown)
	return nil
}

// answerSketch subtracts the requester's cells from those of the local set and peels the result.
// If that cannot be the difference, it reports that the cells were too few.
func (a *answerer) answerSketch(s sketched) error {
	key := s.salt.keyer()
	diff, err := newSketch(a.local.Items(), len(s.cells), key)
	if err != nil {
		return err
	}
	diff.minus(s.cells)
	a.resp.Estimate = max(1, diff.estimate())
	plus, minus, ok := diff.peel()
	if !ok || a.resp.Sum.Count-uint64(len(plus))+uint64(len(minus)) != a.req.Sum.Count {
		return nil
	}
	slices.Sort(plus)
	slices.Sort(minus)
	err = a.addMissing(func(it Item) bool {
		_, ok := slices.BinarySearch(plus, key.shortHash(&it.Hash))
		return ok
	})
	if err != nil {
		return err
	}
	if !a.resp.Partial && len(a.resp.Missing) != len(plus) || len(slices.Compact(minus)) != len(minus) {
		a.resp.Missing = nil
		return nil
	}
	a.resp.Estimate, a.resp.Unknown = 0, minus
	return nil
}

func (a *answerer) answerLeaves(l leaves) (err error) {
	a.resp.Blocks, a.resp.Partial, err = differing(a.local.Items(), a.req.Shared, l, a.limits.Leaves)
	return err
}

// answerBlocks lists all items of the requested blocks, as many whole blocks as fit. If the first
// does not fit, none is covered, and the requester asks for smaller ones.
func (a *answerer) answerBlocks(bs blocks) error {
	left, whole, covered := bs.numbers, 0, 0
	pass := func(until uint64) {
		for ; len(left) > 0 && left[0] < until; left = left[1:] {
			whole, covered = len(a.resp.Missing), covered+1
		}
	}
	err := a.addMissing(func(it Item) bool {
		number := it.key(a.req.Shared) >> bs.shift
		pass(number)
		return len(left) > 0 && left[0] == number
	})
	if err != nil {
		return err
	}
	if !a.resp.Partial {
		whole, covered = len(a.resp.Missing), len(bs.numbers)
	}
	a.resp.Missing, a.resp.Covered = a.resp.Missing[:whole], covered
	return nil
}

// addFilter adds the responder's filter, with the salt of the requester.
func (a *answerer) addFilter() (err error) {
	if a.req.Back == 0 {
		return nil
	}
	n, k := a.resp.Sum.Count, a.req.Back
	if bloomBytes(n, k) > float64(a.limits.Filter) {
		return frameTooLarge("filter: %d events with %d hash functions take more than %d bytes", n, k, a.limits.Filter)
	}
	a.resp.Filter, err = NewBloom(a.local.Items(), n, k, a.req.BackSalt)
	return err
}
