package reconcile

import (
	"slices"

	"github.com/rstream-dev/rstream/event"
	"github.com/rstream-dev/rstream/window"
)

// A view is the local Set with the missing events that were found, and without those that
// only this side has. Once it has the peer's Sum, the whole difference is known.
type view struct {
	base  Set
	span  window.Span
	added []Item            // in order; none is in base
	gone  map[Item]struct{} // items of base that the peer lacks
	sum   Sum
}

func newView(base Set) (*view, error) {
	v := &view{base: base, span: base.Span(), gone: map[Item]struct{}{}}
	return v, v.countItems()
}

func (v *view) countItems() (err error) {
	if len(v.added) == 0 && len(v.gone) == 0 {
		v.sum, err = v.base.Sum(event.MaxID)
		return err
	}
	v.sum, err = SumOf(v.Items(), v.base.Shared())
	return err
}

// Items yields the items of base and added in order, without those in gone.
func (v *view) Items() Items {
	return func(yield func(Item, error) bool) {
		added := v.added
		for it, err := range v.base.Items() {
			if err != nil {
				yield(it, err)
				return
			}
			if _, gone := v.gone[it]; gone {
				continue
			}
			for ; len(added) > 0 && added[0].Compare(it) < 0; added = added[1:] {
				if !yield(added[0], nil) {
					return
				}
			}
			if !yield(it, nil) {
				return
			}
		}
		for _, it := range added {
			if !yield(it, nil) {
				return
			}
		}
	}
}

// learn adds the items that the peer reports as missing, and removes those that only this
// side has. It returns how many of each are new. It does not trust the peer: items that are
// held or after the range are not missing, and only items of base can be gone.
func (v *view) learn(missing []Item, extra map[Item]struct{}) (added, gone int, err error) {
	wanted := make(map[Item]struct{}, len(missing))
	for _, it := range missing {
		if it.ID <= v.span.To {
			wanted[it] = struct{}{}
		}
	}
	for it, err := range v.Items() {
		if err != nil {
			return 0, 0, err
		}
		delete(wanted, it)
	}
	v.added = slices.DeleteFunc(v.added, func(it Item) bool {
		_, ok := extra[it]
		return ok
	})
	for it := range wanted {
		if _, ok := v.gone[it]; ok {
			delete(v.gone, it) // the peer has it after all
			continue
		}
		v.added = append(v.added, it)
	}
	slices.SortFunc(v.added, Item.Compare)
	before := len(v.gone)
	if len(extra) > 0 {
		if err := v.removeItems(extra); err != nil {
			return 0, 0, err
		}
	}
	return len(wanted), len(v.gone) - before, v.countItems()
}

// removeItems marks the items of base that are in extra as gone.
func (v *view) removeItems(extra map[Item]struct{}) error {
	for it, err := range v.base.Items() {
		if err != nil {
			return err
		}
		if _, ok := extra[it]; ok {
			v.gone[it] = struct{}{}
		}
	}
	return nil
}

// matching returns the items whose short hash under salt is one of shorts.
func (v *view) matching(shorts []uint64, salt Salt) (map[Item]struct{}, error) {
	if len(shorts) == 0 {
		return nil, nil
	}
	key := salt.keyer()
	return v.findItems(func(it Item) bool {
		_, ok := slices.BinarySearch(shorts, key.shortHash(&it.Hash))
		return ok
	})
}

// findItems returns the items for which f returns true.
func (v *view) findItems(f func(Item) bool) (map[Item]struct{}, error) {
	found := map[Item]struct{}{}
	for it, err := range v.Items() {
		if err != nil {
			return nil, err
		}
		if f(it) {
			found[it] = struct{}{}
		}
	}
	return found, nil
}

// held returns the ranges in which base is complete: those of a Holder, or else the runs of
// its ids. more reports that there are more than most.
func (v *view) held(most int) (spans window.Spans, more bool, err error) {
	if h, ok := v.base.(Holder); ok {
		spans = h.Held().Intersect(window.Spans{{From: v.span.From, To: v.sum.Last}})
		return spans, len(spans) > most, nil
	}
	for it, err := range v.Items() {
		if err != nil {
			return nil, false, err
		}
		n := len(spans)
		if n > 0 && spans[n-1].To+1 >= it.ID {
			spans[n-1].To = it.ID
			continue
		}
		if n == most {
			return nil, true, nil
		}
		spans = append(spans, window.Span{From: it.ID - 1, To: it.ID})
	}
	return spans, false, nil
}

// sortedExtra returns the items in gone, in order.
func (v *view) sortedExtra() []Item {
	items := make([]Item, 0, len(v.gone))
	for it := range v.gone {
		items = append(items, it)
	}
	slices.SortFunc(items, Item.Compare)
	return items
}
