package imports

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"net/http"
	"slices"
	"sort"

	"github.com/rstream-dev/rstream/cache"
	"github.com/rstream-dev/rstream/event"
	"github.com/rstream-dev/rstream/internal/wire"
	"github.com/rstream-dev/rstream/reconcile"
	"github.com/rstream-dev/rstream/window"
)

// A Plan is what is known to be missing of a topic's windows: which events, and
// where they come from. What is known holds for span but for pull.
type Plan struct {
	topic   event.Topic
	span    window.Span
	pull    window.Spans
	want    []reconcile.Item // all that is to be placed, in order
	missing []reconcile.Item // those of them that are not here
	foreign foreign          // what is here of other logs

	got      []event.Event // of missing, fetched and not yet placed
	compared *Comparison
}

// Knows returns how far what is known holds from position at on: at itself if it does
// not, and then until is where it does again, if anywhere.
func (p *Plan) Knows(at event.ID) (end, until event.ID) {
	if p == nil || at >= p.span.To {
		return at, event.MaxID
	}
	known := window.Spans(p.pull.Gaps(p.span))
	if end = known.EndAfter(at); end > at {
		return end, end
	}
	for _, s := range known {
		if s.From > at {
			return at, s.From
		}
	}
	return at, event.MaxID
}

// forget makes all be pulled that is not placed yet.
func (p *Plan) forget() { p.span, p.want, p.missing, p.got = window.Span{}, nil, nil, nil }

// Compare finds out what is missing of a stretch that has candidates, and of which held
// events are stored, and says in found how. Without any, or if the two sides do not come
// to agree, the Plan is nil: all gaps are to be pulled.
func (m *Importer) Compare(ctx context.Context, topic event.Topic, sum wire.Window, held uint64, found *Comparison) (*Plan, error) {
	*found = Comparison{Outcome: reconcile.Pull.String(), Why: "nothing is here of what is missing"}
	l, err := m.local(ctx, topic, sum.Span(), sum.Count-min(held, sum.Count))
	found.Rounds = l.rounds
	if errors.Is(err, errTooMany) || m.unsupported(err) {
		found.Why = err.Error()
		return nil, nil
	}
	if err != nil || l.span.Empty() {
		return nil, m.badAnswer(err)
	}
	res, err := reconcile.Negotiate(ctx, reconcile.FromItems(l.span, l.all()), m.Server.Peer(topic), m.Reconcile)
	if m.unsupported(err) || tooLarge(err) {
		found.Why = err.Error()
		return nil, nil
	}
	if err != nil {
		return nil, m.badAnswer(err)
	}
	*found = Comparison{Outcome: res.Outcome.String(), Why: res.Why, Rounds: slices.Concat(l.rounds, res.Rounds)}
	if !res.Proven || res.Span != l.span {
		return nil, nil
	}
	// What was taken for another one is here, too.
	missing := slices.DeleteFunc(slices.Clone(res.Missing), func(it reconcile.Item) bool { return l.foreign.has(it) })
	p := &Plan{topic: topic, span: l.span, pull: res.Pull, missing: missing, foreign: l.foreign, compared: found}
	return p, m.check(ctx, p, l, res, sum)
}

// unsupported reports whether a server is older than what it was asked for.
func (m *Importer) unsupported(err error) bool {
	status := m.Server.Status(err)
	return status == http.StatusNotFound || status == http.StatusMethodNotAllowed
}

// tooLarge reports whether one side would have to look at more than it may.
func tooLarge(err error) bool {
	var frame *reconcile.FrameError
	return errors.As(err, &frame) && frame.TooLarge
}

// badAnswer says whose answer is no answer.
func (m *Importer) badAnswer(err error) error {
	var frame *reconcile.FrameError
	if errors.As(err, &frame) || errors.Is(err, reconcile.ErrOrder) {
		return m.Server.WrongAnswer(fmt.Sprintf("answered a comparison with what is none: %v", err))
	}
	return err
}

// check believes the outcome of a negotiation only if what would be stored then has the
// digest that the log has. It sorts out what only this side has: candidates are dropped,
// and what is stored should not be.
func (m *Importer) check(ctx context.Context, p *Plan, l *localSet, res *reconcile.Result, sum wire.Window) error {
	extra := res.Extra
	isExtra := func(it reconcile.Item) bool {
		_, ok := slices.BinarySearchFunc(extra, it, reconcile.Item.Compare)
		return ok
	}
	known := p.span
	if len(p.pull) > 0 {
		known.To = p.pull[0].From
	}
	p.want = slices.Concat(slices.DeleteFunc(slices.Clone(l.candidates), isExtra), res.Missing)
	slices.SortFunc(p.want, reconcile.Item.Compare)
	whole := slices.Concat(slices.DeleteFunc(slices.Clone(l.stored), isExtra), p.want)
	slices.SortFunc(whole, reconcile.Item.Compare)
	if known != sum.Span() {
		var err error
		if sum, err = m.Server.Sum(ctx, p.topic, known); err != nil {
			return err
		}
	}
	if digest, count := digestOf(whole); digest != sum.Digest || count != sum.Count {
		return m.Server.WrongAnswer(fmt.Sprintf("contradicts itself about %s in %s", p.topic, known))
	}
	if len(l.stored)+len(p.want) > len(whole) {
		return nil // what is stored differs: that shows again once all is here
	}
	return m.drop(ctx, p.topic, known, extra)
}

func digestOf(items []reconcile.Item) (window.Digest, uint64) {
	var l window.Leafer
	for _, it := range items {
		l.Add(it.ID, it.Time, it.Hash)
	}
	return window.DigestOf(l.Leaves())
}

// drop drops candidates that the log does not have.
func (m *Importer) drop(ctx context.Context, topic event.Topic, span window.Span, extra []reconcile.Item) error {
	if len(extra) == 0 {
		return nil
	}
	var ids []event.ID
	err := m.Store.Candidates(ctx, topic, span, func(ev *event.Event) error {
		it := reconcile.Item{ID: ev.ID, Time: ev.Time, Hash: ev.Hash}
		if _, ok := slices.BinarySearchFunc(extra, it, reconcile.Item.Compare); ok {
			ids = append(ids, ev.ID)
		}
		return nil
	})
	if err == nil && len(ids) > 0 {
		err = m.Store.DropCandidates(ctx, ids)
	}
	return storeError(err)
}

// DropRest drops the candidates that are left in a stretch that is proven: what the log
// has of them is stored by now.
func (m *Importer) DropRest(ctx context.Context, topic event.Topic, span window.Span) error {
	var ids []event.ID
	err := m.Store.Candidates(ctx, topic, span, func(ev *event.Event) error {
		ids = append(ids, ev.ID)
		return nil
	})
	if err == nil && len(ids) > 0 {
		err = m.Store.DropCandidates(ctx, ids)
	}
	return storeError(err)
}

// placeChunk is how many events are placed in one transaction; as soon as they have
// m.PageBytes there are no more of them.
const placeChunk = 1000

// errFull ends a search when enough has been found.
var errFull = errors.New("enough was found")

// Assemble stores what comes next of a window up to end: what is here and what fetch fetches
// by its hash, in one order, as one page. It calls progress once there is something.
func (m *Importer) Assemble(ctx context.Context, p *Plan, lease *cache.Lease, end event.ID, fetch FetchFunc, progress func(), fresh func([]event.Event) error) error {
	at := lease.Reached()
	next := after(p.want, at)
	next = next[:sort.Search(len(next), func(i int) bool { return next[i].ID > end })]
	reached := end
	if len(next) > placeChunk {
		next = next[:placeChunk]
		reached = next[placeChunk-1].ID
	}
	here, reached, err := m.here(ctx, p, window.Span{From: at, To: reached})
	if err != nil {
		return storeError(err)
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
			if ev, ok, err = m.fetched(ctx, fetch, p, it); err != nil {
				return err
			}
			if !ok {
				p.forget() // the log has dropped it, or this side has: all is told by pulling
				reached = at
				if len(evs) > 0 { // what has come need not come again
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
	// Even if ctx has ended: what has come need not come again.
	added, err := lease.ApplyPlaced(context.WithoutCancel(ctx), evs, fetched, reached)
	p.placed(lease.Reached())
	if err == nil && len(added) > 0 {
		p.compared.Saved += len(added) - len(fetched)
		err = fresh(added)
	}
	return storeError(err)
}

// after returns the items behind position at.
func after(items []reconcile.Item, at event.ID) []reconcile.Item {
	return items[sort.Search(len(items), func(i int) bool { return items[i].ID > at }):]
}

// here returns those of what is wanted in span that are here, and the position up to
// which these are all: where they have m.PageBytes.
func (m *Importer) here(ctx context.Context, p *Plan, span window.Span) (found map[reconcile.Item]event.Event, until event.ID, err error) {
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
		return found, span.To, notFull(err)
	}
	wanted := map[event.Hash]reconcile.Item{}
	var hashes []event.Hash
	for _, it := range after(p.want, span.From) {
		if it.ID > span.To {
			break
		}
		if p.foreign.has(it) {
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
	return found, span.To, notFull(err)
}

func notFull(err error) error {
	if errors.Is(err, errFull) {
		return nil
	}
	return err
}

// fetched returns a missing event, fetching it together with those that follow if
// need be. ok is false if the log does not have it any more.
func (m *Importer) fetched(ctx context.Context, fetch FetchFunc, p *Plan, it reconcile.Item) (ev event.Event, ok bool, err error) {
	if ev, ok = p.find(it); ok {
		return ev, true, nil
	}
	batch := after(p.missing, it.ID-1)
	if len(batch) == 0 || batch[0] != it {
		batch = []reconcile.Item{it} // it was here, and is not any more
	}
	batch = batch[:min(len(batch), m.PageLimit, wire.MaxHashes)]
	p.compared.Asked += len(batch)
	evs, err := fetch(ctx, p.topic, batch)
	if err != nil {
		return ev, false, err
	}
	p.got = append(p.got, evs...)
	slices.SortFunc(p.got, func(a, b event.Event) int { return cmp.Compare(a.ID, b.ID) })
	ev, ok = p.find(it)
	return ev, ok, nil
}

func (p *Plan) find(it reconcile.Item) (ev event.Event, ok bool) {
	i, ok := slices.BinarySearchFunc(p.got, it.ID, func(ev event.Event, id event.ID) int { return cmp.Compare(ev.ID, id) })
	if !ok || p.got[i].Hash != it.Hash {
		return ev, false
	}
	return p.got[i], true
}

// placed lets go of what was fetched and has been stored up to position at.
func (p *Plan) placed(at event.ID) {
	p.got = slices.DeleteFunc(p.got, func(ev event.Event) bool { return ev.ID <= at })
}
