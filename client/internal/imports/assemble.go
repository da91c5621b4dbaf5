package imports

import (
	"cmp"
	"context"
	"errors"
	"slices"
	"sort"

	"github.com/rstream-dev/rstream/cache"
	"github.com/rstream-dev/rstream/event"
	"github.com/rstream-dev/rstream/internal/wire"
	"github.com/rstream-dev/rstream/reconcile"
	"github.com/rstream-dev/rstream/window"
)

// placeChunk is how many events one transaction stores at most. It stores fewer if they
// reach Importer.PageBytes.
const placeChunk = 1000

// errFull ends a search when it has found enough.
var errFull = errors.New("found enough")

// Assemble stores the next page of a window, up to end: local events merged with events
// that fetch fetches by hash. It calls progress once there is something to store, and
// fresh with the stored events that were not held before.
func (m *Importer) Assemble(ctx context.Context, p *Plan, lease *cache.Lease, end event.ID, fetch FetchFunc, progress func(), fresh func([]event.Event) error) error {
	at := lease.Reached()
	next := itemsAfter(p.want, at)
	next = next[:sort.Search(len(next), func(i int) bool { return next[i].ID > end })]
	reached := end
	if len(next) > placeChunk {
		next = next[:placeChunk]
		reached = next[placeChunk-1].ID
	}
	here, reached, err := m.wantedHere(ctx, p, window.Span{From: at, To: reached})
	if err != nil {
		return NewStoreError(err)
	}
	evs, size := make([]event.Event, 0, len(next)), 0
	var fetched []event.Event
	for _, it := range next {
		if it.ID > reached {
			break
		}
		if size >= m.PageBytes {
			reached = evs[len(evs)-1].ID
			break
		}
		ev, ok := here[it]
		if !ok {
			if ev, ok, err = m.fetchMissing(ctx, fetch, p, it); err != nil {
				return err
			}
			if !ok {
				p.dropPlan() // one side has dropped it: pull the rest
				reached = at
				if len(evs) > 0 { // received events need not be fetched again
					reached = evs[len(evs)-1].ID
				}
				break
			}
			fetched = append(fetched, ev)
		}
		evs, size = append(evs, ev), size+len(ev.Line())
	}
	if reached == at {
		return nil
	}
	progress()
	// Even if ctx has ended: received events need not be fetched again.
	added, err := lease.ApplyPlaced(context.WithoutCancel(ctx), evs, fetched, reached, p.removals)
	if errors.Is(err, cache.ErrLost) {
		// If only the plan is out of date, the lease is still valid for the pull.
		if removals, failed := m.Store.Removals(ctx); failed != nil || removals != p.removals {
			p.dropPlan()
			return NewStoreError(failed)
		}
	}
	p.releasePlaced(lease.Reached())
	if err == nil && len(added) > 0 {
		p.compared.Saved += len(added) - len(fetched)
		err = fresh(added)
	}
	return NewStoreError(err)
}

// itemsAfter returns the items after position at.
func itemsAfter(items []reconcile.Item, at event.ID) []reconcile.Item {
	return items[sort.Search(len(items), func(i int) bool { return items[i].ID > at }):]
}

// wantedHere returns the wanted events in span that are here. They are complete up to
// until, which is before the end of span if they reach m.PageBytes.
func (m *Importer) wantedHere(ctx context.Context, p *Plan, span window.Span) (found map[reconcile.Item]event.Event, until event.ID, err error) {
	found = map[reconcile.Item]event.Event{}
	size := 0
	add := func(it reconcile.Item, ev event.Event) error {
		found[it] = ev
		if size += len(ev.Line()); size < m.PageBytes {
			return nil
		}
		span.To, size = it.ID, 0
		return errFull
	}
	err = m.Store.Candidates(ctx, p.topic, span, func(ev *event.Event) error {
		return add(reconcile.Item{ID: ev.ID, Time: ev.Time, Hash: ev.Hash}, *ev)
	})
	if err != nil && !errors.Is(err, errFull) || len(p.foreign.ids) == 0 {
		return found, span.To, exceptFull(err)
	}
	wanted := map[event.Hash]reconcile.Item{}
	var hashes []event.Hash
	for _, it := range itemsAfter(p.want, span.From) {
		if it.ID > span.To {
			break
		}
		if p.foreign.isAvailable(it) {
			wanted[it.Hash], hashes = it, append(hashes, it.Hash)
		}
	}
	err = m.Store.Foreign(ctx, hashes, func(ev *event.Event) error {
		it := wanted[ev.Hash]
		d := event.Draft{User: ev.User, Path: ev.Path, Type: ev.Type, Key: ev.Key, Value: ev.Value}
		if d.Hash() == it.Hash && p.topic.Matches(d.User, d.Path) {
			return add(it, event.New(it.ID, it.Time, d, it.Hash))
		}
		return nil
	})
	return found, span.To, exceptFull(err)
}

func exceptFull(err error) error {
	if errors.Is(err, errFull) {
		return nil
	}
	return err
}

// fetchMissing returns a missing event. If necessary it fetches it, together with those
// that follow. ok is false if the log no longer has it.
func (m *Importer) fetchMissing(ctx context.Context, fetch FetchFunc, p *Plan, it reconcile.Item) (ev event.Event, ok bool, err error) {
	if ev, ok = p.findEvent(it); ok {
		return ev, true, nil
	}
	batch := itemsAfter(p.missing, it.ID-1)
	if len(batch) == 0 || batch[0] != it {
		batch = []reconcile.Item{it} // it was here, and no longer is
	}
	batch = batch[:min(len(batch), m.PageLimit, wire.MaxHashes)]
	p.compared.Asked += len(batch)
	evs, err := fetch(ctx, p.topic, batch)
	if err != nil {
		return ev, false, err
	}
	p.got = append(p.got, evs...)
	slices.SortFunc(p.got, func(a, b event.Event) int { return cmp.Compare(a.ID, b.ID) })
	ev, ok = p.findEvent(it)
	return ev, ok, nil
}

func (p *Plan) findEvent(it reconcile.Item) (ev event.Event, ok bool) {
	i, ok := slices.BinarySearchFunc(p.got, it.ID, func(ev event.Event, id event.ID) int { return cmp.Compare(ev.ID, id) })
	if !ok || p.got[i].Hash != it.Hash {
		return ev, false
	}
	return p.got[i], true
}

// releasePlaced releases the fetched events that are stored, up to position at.
func (p *Plan) releasePlaced(at event.ID) {
	p.got = slices.DeleteFunc(p.got, func(ev event.Event) bool { return ev.ID <= at })
}
