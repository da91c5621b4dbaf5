package imports

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"slices"

	"github.com/rstream-dev/rstream/event"
	"github.com/rstream-dev/rstream/internal/wire"
	"github.com/rstream-dev/rstream/reconcile"
	"github.com/rstream-dev/rstream/window"
)

// A Plan lists the events known to be missing from a topic's windows, and where each
// comes from. It covers span except for pull.
type Plan struct {
	topic   event.Topic
	span    window.Span
	pull    window.Spans
	want    []reconcile.Item // all events to be stored, in order
	missing []reconcile.Item // those of want that are not here
	foreign foreign          // local events from other logs

	removals int64 // of the store before the comparison: the plan relies on held events

	got      []event.Event // those of missing that are fetched and not yet stored
	compared *Comparison
}

// Knows returns the end of the range from position at on that the plan covers. If it does
// not cover at, end is at, and until is the next position that it covers, or MaxID.
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

// dropPlan drops the plan, so that all events not yet stored are pulled.
func (p *Plan) dropPlan() { p.span, p.want, p.missing, p.got = window.Span{}, nil, nil, nil }

// Compare determines which events are missing from a range that has candidates, and of
// which held events are stored. It reports in found how it did so. If there are no
// candidates, or the two sides do not reach agreement, the Plan is nil and all gaps must
// be pulled.
func (m *Importer) Compare(ctx context.Context, topic event.Topic, sum wire.Window, held uint64, found *Comparison) (*Plan, error) {
	*found = Comparison{Outcome: reconcile.Pull.String(), Why: WhyPull}
	removals, err := m.Store.Removals(ctx)
	if err != nil {
		return nil, NewStoreError(err)
	}
	l, err := m.findLocal(ctx, topic, sum.Span(), sum.Count-min(held, sum.Count))
	found.Rounds = l.rounds
	if errors.Is(err, errTooMany) || m.isUnsupported(err) {
		found.Why = err.Error()
		return nil, nil
	}
	if err != nil || l.span.Empty() {
		return nil, m.badAnswer(err)
	}
	res, err := reconcile.Negotiate(ctx, reconcile.FromItems(l.span, l.allItems()), m.Server.Peer(topic), m.Reconcile)
	if m.isUnsupported(err) || tooLarge(err) {
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
	// An event whose short hash was mistaken for another's is here, too.
	missing := slices.DeleteFunc(slices.Clone(res.Missing), func(it reconcile.Item) bool { return l.foreign.isAvailable(it) })
	p := &Plan{topic: topic, span: l.span, pull: res.Pull, missing: missing, foreign: l.foreign, removals: removals, compared: found}
	return p, m.checkPlan(ctx, p, l, res, sum)
}

// isUnsupported reports whether the server is too old to know the request.
func (m *Importer) isUnsupported(err error) bool {
	status := m.Server.Status(err)
	return status == http.StatusNotFound || status == http.StatusMethodNotAllowed
}

// tooLarge reports whether a comparison exceeds the limits of one side.
func tooLarge(err error) bool {
	var frame *reconcile.FrameError
	return errors.As(err, &frame) && frame.TooLarge
}

// badAnswer turns an error about the form of a response into the Server's error for it.
func (m *Importer) badAnswer(err error) error {
	var frame *reconcile.FrameError
	if errors.As(err, &frame) || errors.Is(err, reconcile.ErrOrder) {
		return m.Server.WrongAnswer(fmt.Sprintf("sent an invalid reconciliation response: %v", err))
	}
	return err
}

// checkPlan accepts the result of a negotiation only if the events that it would store
// have the log's digest. Candidates that only this side has are dropped. Stored events
// that only this side has should not exist.
func (m *Importer) checkPlan(ctx context.Context, p *Plan, l *localSet, res *reconcile.Result, sum wire.Window) error {
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
		return nil // the stored events differ: the proof fails once all events are here
	}
	return m.dropExtra(ctx, p.topic, known, extra)
}

func digestOf(items []reconcile.Item) (window.Digest, uint64) {
	var l window.Leafer
	for _, it := range items {
		l.Add(it.ID, it.Time, it.Hash)
	}
	return window.DigestOf(l.Leaves())
}

// dropExtra drops candidates that the log does not have.
func (m *Importer) dropExtra(ctx context.Context, topic event.Topic, span window.Span, extra []reconcile.Item) error {
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
	return NewStoreError(err)
}

// DropRest drops the candidates that are left in a proven range: those that the log has
// are stored by now.
func (m *Importer) DropRest(ctx context.Context, topic event.Topic, span window.Span) error {
	var ids []event.ID
	err := m.Store.Candidates(ctx, topic, span, func(ev *event.Event) error {
		ids = append(ids, ev.ID)
		return nil
	})
	if err == nil && len(ids) > 0 {
		err = m.Store.DropCandidates(ctx, ids)
	}
	return NewStoreError(err)
}
