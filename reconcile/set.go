package reconcile

import (
	"slices"
	"sort"

	"github.com/rstream-dev/rstream/event"
	"github.com/rstream-dev/rstream/window"
)

// A Set is what one side holds of a stretch of the peer's log. It does not change
// while it is used: what is appended meanwhile lies behind the stretch. A server
// makes one of its file, [IDSet] and [HashSet] are ones in memory.
type Set interface {
	// Span is the stretch, in positions of the answering side's log. To may be
	// event.MaxID on the asking side: then it is the head when first asked.
	Span() window.Span

	// Shared reports whether the items carry ids that both sides have from the
	// same log.
	Shared() bool

	// Sum returns the Sum of the items with ids up to and with upTo, or of all
	// if upTo is event.MaxID or ids are not shared. A log that keeps its leaves
	// answers without reading its events; others return SumOf their items.
	Sum(upTo event.ID) (Sum, error)

	// Items yields the items in ascending order, of ids if they are shared, of
	// hashes if not, each once.
	Items() Items
}

// A Holder is a Set that knows in which stretches it is whole, as windows do.
// Then a list of gaps is short however sparse the ids are. It is only a hint:
// what is wrong with it shows in the sums.
type Holder interface{ Held() window.Spans }

// An IDSet is a Set of events of one log, in memory.
type IDSet struct {
	span  window.Span
	items []Item
}

// FromItems returns the set of items, which lie in span. It takes over and sorts
// the slice.
func FromItems(span window.Span, items []Item) *IDSet {
	slices.SortFunc(items, Item.Compare)
	return &IDSet{span, slices.Compact(items)}
}

// Span returns the stretch of s.
func (s *IDSet) Span() window.Span { return s.span }

// Shared is true.
func (s *IDSet) Shared() bool { return true }

// Sum returns the Sum of the items up to upTo.
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

// FromHashes returns the set of hashes: what one log has in span, or what anyone
// holds, to be compared with what another log has in span. It takes over and
// sorts the slice.
func FromHashes(span window.Span, hashes []event.Hash) *HashSet {
	slices.SortFunc(hashes, event.Hash.Compare)
	return &HashSet{span, slices.Compact(hashes)}
}

// Span returns the stretch of s.
func (s *HashSet) Span() window.Span { return s.span }

// Shared is false.
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
