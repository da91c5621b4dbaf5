package imports

import (
	"context"
	"errors"
	"slices"

	"github.com/rstream-dev/rstream/event"
	"github.com/rstream-dev/rstream/reconcile"
	"github.com/rstream-dev/rstream/window"
)

// maxItems bounds the events that are compared with a log at a time. Each takes 48 bytes.
const maxItems = 1 << 21

var errTooMany = errors.New("too many events to compare")

// A localSet is the set of local events of a topic in a range, in order of their ids.
type localSet struct {
	span       window.Span      // the part worth comparing: empty if there are no candidates
	stored     []reconcile.Item // held in windows of this topic or of narrower ones
	candidates []reconcile.Item // not held: imported from this log or from others
	foreign    foreign
	rounds     []reconcile.Round // the requests that looked up foreign events
}

// allItems returns the items of both kinds.
func (l *localSet) allItems() []reconcile.Item { return slices.Concat(l.stored, l.candidates) }

// findLocal collects the local events of a range whose gaps have candidates, and which
// lacks the given number of events. It asks the server only for the ids of events of
// other logs.
func (m *Importer) findLocal(ctx context.Context, topic event.Topic, span window.Span, lacking uint64) (*localSet, error) {
	l := &localSet{}
	held, err := m.Store.Held(ctx, topic)
	if err != nil {
		return l, NewStoreError(err)
	}
	gaps := held.Gaps(span)
	if len(gaps) == 0 {
		return l, nil
	}
	if err := m.resolveForeign(ctx, topic, gaps, lacking, l); err != nil {
		return l, err
	}
	for _, gap := range gaps {
		before := len(l.candidates)
		err := m.Store.Candidates(ctx, topic, gap, l.addTo(&l.candidates))
		if err != nil {
			return l, NewStoreError(err)
		}
		l.startAtGap(gap, l.candidates[before:])
	}
	slices.SortFunc(l.candidates, reconcile.Item.Compare)
	l.candidates = slices.Compact(l.candidates)
	if l.span.Empty() {
		return l, nil
	}
	l.span.To = gaps[len(gaps)-1].To
	if err := m.addHeldEvents(ctx, topic, held, l); err != nil {
		return l, err
	}
	l.candidates = slices.DeleteFunc(l.candidates, func(it reconcile.Item) bool {
		_, ok := slices.BinarySearchFunc(l.stored, it, reconcile.Item.Compare)
		return ok
	})
	return l, nil
}

// startAtGap begins the part worth comparing at the first gap that has candidates.
func (l *localSet) startAtGap(gap window.Span, found []reconcile.Item) {
	has := len(found) > 0 || slices.ContainsFunc(l.candidates, func(it reconcile.Item) bool { return it.ID > gap.From && it.ID <= gap.To })
	if has && l.span.Empty() {
		l.span = gap
	}
}

// addTo returns a function that adds events to items.
func (l *localSet) addTo(items *[]reconcile.Item) func(*event.Event) error {
	return func(ev *event.Event) error {
		if len(l.stored)+len(l.candidates) >= maxItems {
			return errTooMany
		}
		*items = append(*items, reconcile.Item{ID: ev.ID, Time: ev.Time, Hash: ev.Hash})
		return nil
	}
}

// addHeldEvents adds the stored events: all held events of the topic and, in its gaps, those
// that narrower topics hold.
func (m *Importer) addHeldEvents(ctx context.Context, topic event.Topic, held window.Spans, l *localSet) error {
	for at := l.span.From; at < l.span.To; {
		parts, end := []event.Topic{topic}, min(held.EndAfter(at), l.span.To)
		if end <= at {
			gap := held.Gaps(window.Span{From: at, To: l.span.To})[0]
			var err error
			if parts, end, err = m.Store.Narrower(ctx, parts, at, gap.To); err != nil {
				return NewStoreError(err)
			}
		}
		if len(parts) > 0 {
			// A part may match events that the topic does not.
			add := l.addTo(&l.stored)
			err := m.Store.Each(ctx, parts, window.Span{From: at, To: end}, func(ev *event.Event) error {
				if !topic.Matches(ev.User, ev.Path) {
					return nil
				}
				return add(ev)
			})
			if err != nil {
				return NewStoreError(err)
			}
		}
		at = end
	}
	return nil
}
