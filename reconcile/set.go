package reconcile

import (
	"slices"
	"sort"

	"github.com/rstream-dev/rstream/event"
	"github.com/rstream-dev/rstream/window"
)

// A Set is what one side holds of a range of the responder's log. It must not change while
// it is in use: events that are appended meanwhile are after the range. A server implements
// it over its file; [IDSet] and [HashSet] are in memory.
type Set interface {
	// Span returns the range, in positions of the responder's log. On the requester's
	// side, To may be event.MaxID for the head at the first request.
	Span() window.Span

	// Shared reports whether the items have ids that both sides got from the same log.
	Shared() bool

	// Sum returns the Sum of the items with ids up to and including upTo, or of all
	// items if upTo is event.MaxID or ids are not shared. A log that keeps its leaves
	// can return it without reading events; others return SumOf their items.
	Sum(upTo event.ID) (Sum, error)

	// Items yields each item once, in ascending order of the ids if they are shared,
	// else of the hashes.
	Items() Items
}

// A Holder is a Set that knows the ranges in which it is complete, for example from
// windows. A list of gaps is then short even if the ids are sparse. It is only a hint: if
// it is wrong, the sums differ.
type Holder interface{ Held() window.Spans }

// An IDSet is a Set of events of one log, in memory.
type IDSet struct {
	span  window.Span
	items []Item
}

// FromItems returns the set of items, which must lie in span. It keeps and sorts the
// slice.
func FromItems(span window.Span, items []Item) *IDSet {
	slices.SortFunc(items, Item.Compare)
	return &IDSet{span, slices.Compact(items)}
}

// Span returns the range of s.
func (s *IDSet) Span() window.Span { return s.span }

// Shared returns true.
func (s *IDSet) Shared() bool { return true }

// Sum returns the Sum of the items with ids up to and including upTo.
func (s *IDSet) Sum(upTo event.ID) (Sum, error) {
	n := sort.Search(len(s.items), func(i int) bool { return s.items[i].ID > upTo })
	return SumOf(yieldItems(s.items[:n]), true)
}

// Items yields the items in the order of their ids.
func (s *IDSet) Items() Items { return yieldItems(s.items) }

func yieldItems(items []Item) Items {
	return func(yield func(Item, error) bool) {
		for _, it := range items {
			if !yield(it, nil) {
				return
			}
		}
	}
}

// A HashSet is a Set of events without ids, in memory.
type HashSet struct {
	span   window.Span
	hashes []event.Hash
}

// FromHashes returns the set of hashes: the events that a log has in span, or any events
// to compare with those that another log has in span. It keeps and sorts the slice.
func FromHashes(span window.Span, hashes []event.Hash) *HashSet {
	slices.SortFunc(hashes, event.Hash.Compare)
	return &HashSet{span, slices.Compact(hashes)}
}

// Span returns the range of s.
func (s *HashSet) Span() window.Span { return s.span }

// Shared returns false.
func (s *HashSet) Shared() bool { return false }

// Sum returns the Sum of all hashes.
func (s *HashSet) Sum(event.ID) (Sum, error) { return SumOf(s.Items(), false) }

// Items yields the hashes in ascending order.
func (s *HashSet) Items() Items {
	return func(yield func(Item, error) bool) {
		for _, h := range s.hashes {
			if !yield(Item{Hash: h}, nil) {
				return
			}
		}
	}
}
