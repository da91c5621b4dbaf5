package imports

import (
	"context"
	"errors"
	"fmt"
	"slices"

	"github.com/rstream-dev/rstream/event"
	"github.com/rstream-dev/rstream/reconcile"
	"github.com/rstream-dev/rstream/window"
)

// maxItems bounds how many events are compared with a log at a time: 48 bytes each.
const maxItems = 1 << 21

var errTooMany = errors.New("too many events to compare")

// A localSet is what is here of a topic in a stretch, in the order of ids.
type localSet struct {
	span       window.Span      // what is worth comparing: empty if there are no candidates
	stored     []reconcile.Item // in the file, of this topic's windows or of narrower ones
	candidates []reconcile.Item // not in them, of both kinds
	foreign    foreign
	rounds     []reconcile.Round // that told where they stand
}

// all returns the items of both kinds.
func (l *localSet) all() []reconcile.Item { return slices.Concat(l.stored, l.candidates) }

// findLocal finds out what is here of a stretch whose gaps have candidates, and in which
// lacking events are not stored. It asks the server for nothing but where events of
// other logs stand.
func (m *Importer) findLocal(ctx context.Context, topic event.Topic, span window.Span, lacking uint64) (*localSet, error) {
	l := &localSet{}
	held, err := m.Store.Held(ctx, topic)
	if err != nil {
		return l, storeError(err)
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
		err := m.Store.Candidates(ctx, topic, gap, l.adder(&l.candidates))
		if err != nil {
			return l, storeError(err)
		}
		l.reach(gap, l.candidates[before:])
	}
	slices.SortFunc(l.candidates, reconcile.Item.Compare)
	l.candidates = slices.Compact(l.candidates)
	if l.span.Empty() {
		return l, nil
	}
	l.span.To = gaps[len(gaps)-1].To
	if err := m.addStored(ctx, topic, held, l); err != nil {
		return l, err
	}
	l.candidates = slices.DeleteFunc(l.candidates, func(it reconcile.Item) bool {
		_, ok := slices.BinarySearchFunc(l.stored, it, reconcile.Item.Compare)
		return ok
	})
	return l, nil
}

// reach widens what is worth comparing to a gap that has candidates.
func (l *localSet) reach(gap window.Span, found []reconcile.Item) {
	has := len(found) > 0 || slices.ContainsFunc(l.candidates, func(it reconcile.Item) bool { return it.ID > gap.From && it.ID <= gap.To })
	if has && l.span.Empty() {
		l.span = gap
	}
}

// adder returns what adds events to items.
func (l *localSet) adder(items *[]reconcile.Item) func(*event.Event) error {
	return func(ev *event.Event) error {
		if len(l.stored)+len(l.candidates) >= maxItems {
			return errTooMany
		}
		*items = append(*items, reconcile.Item{ID: ev.ID, Time: ev.Time, Hash: ev.Hash})
		return nil
	}
}

// addStored adds what is in the file: all of what is held, and in the gaps what narrower
// topics hold.
func (m *Importer) addStored(ctx context.Context, topic event.Topic, held window.Spans, l *localSet) error {
	for at := l.span.From; at < l.span.To; {
		parts, end := []event.Topic{topic}, min(held.EndAfter(at), l.span.To)
		if end <= at {
			gap := held.Gaps(window.Span{From: at, To: l.span.To})[0]
			var err error
			if parts, end, err = m.Store.Narrower(ctx, parts, at, gap.To); err != nil {
				return storeError(err)
			}
		}
		if len(parts) > 0 {
			// The parts may have more in common with the topic than it has with them.
			add := l.adder(&l.stored)
			err := m.each(ctx, parts, window.Span{From: at, To: end}, func(ev *event.Event) error {
				if !topic.Matches(ev.User, ev.Path) {
					return nil
				}
				return add(ev)
			})
			if err != nil {
				return storeError(err)
			}
		}
		at = end
	}
	return nil
}

// each calls fn with the stored events of topics, all of which are held in span.
func (m *Importer) each(ctx context.Context, topics []event.Topic, span window.Span, fn func(*event.Event) error) error {
	for at := span.From; at < span.To; {
		evs, next, err := m.Store.Read(ctx, topics, at, span.To, m.PageLimit)
		if err == nil && next <= at {
			err = fmt.Errorf("read after %s: %w", at, &window.NotHeldError{After: at})
		}
		if err != nil {
			return err
		}
		for i := range evs {
			if err := fn(&evs[i]); err != nil {
				return err
			}
		}
		at = next
	}
	return nil
}
