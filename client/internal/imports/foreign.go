package imports

import (
	"context"
	"crypto/rand"
	"fmt"
	"net/http"
	"slices"

	"github.com/rstream-dev/rstream/event"
	"github.com/rstream-dev/rstream/internal/wire"
	"github.com/rstream-dev/rstream/reconcile"
	"github.com/rstream-dev/rstream/window"
)

// A foreign is what is here of other logs, and where it stands in this one.
type foreign struct {
	hashes []event.Hash // in ascending order
	ids    []event.ID   // of which stubs were sent, in ascending order
}

// has reports whether an item is here. Where no stub was sent, it is not: the log has
// more of it than its hash covers.
func (f *foreign) has(it reconcile.Item) bool {
	_, told := slices.BinarySearch(f.ids, it.ID)
	if !told {
		return false
	}
	_, ok := slices.BinarySearchFunc(f.hashes, it.Hash, event.Hash.Compare)
	return ok
}

// A lookupMethod is how it is found out where events of other logs stand.
type lookupMethod int

const (
	byAll    lookupMethod = iota // by stubs of all that is missing
	byFilter                     // by stubs of what is in a filter of what is known
	byHash                       // by the hashes of what is known
)

// pickMethod picks the cheapest method for so many known hashes, when so many events are
// lacking. A stub takes about eight bytes, a filter ten bits for each that is known,
// and one hash in 128 of the others is in it; to ask for one by its hash takes 200.
func pickMethod(known, lacking uint64) lookupMethod {
	switch {
	case lacking > 1000*known:
		return byHash
	case lacking > 2*known:
		return byFilter
	}
	return byAll
}

// maxAsked is how many gaps are asked about one by one.
const maxAsked = 16

// resolveForeign finds out where in the log the events of other logs stand, and adds those
// that are in gaps. What it adds is a guess until the sums agree: short hashes of two
// events may be the same.
func (m *Importer) resolveForeign(ctx context.Context, topic event.Topic, gaps window.Spans, lacking uint64, l *localSet) error {
	err := m.Store.ForeignHashes(ctx, topic, func(h event.Hash) error {
		if len(l.foreign.hashes) >= maxItems {
			return errTooMany
		}
		l.foreign.hashes = append(l.foreign.hashes, h)
		return nil
	})
	if err != nil {
		return storeError(err)
	}
	known := uint64(len(l.foreign.hashes))
	if known == 0 || lacking == 0 {
		return nil
	}
	how := pickMethod(known, lacking)
	if how != byHash {
		err = m.resolveByStubs(ctx, topic, gaps, lacking, how, l)
	}
	if how == byHash || m.refusedFrames(err) {
		l.candidates, l.foreign.ids = nil, nil
		err = m.resolveByHash(ctx, gaps, lacking, l)
	}
	slices.Sort(l.foreign.ids)
	return err
}

// refusedFrames reports whether a server would rather be asked by hashes: it is older
// than the frames, or they ask for too much.
func (m *Importer) refusedFrames(err error) bool {
	return tooLarge(err) || m.Server.Status(err) == http.StatusBadRequest
}

// addResolved adds what a stub says, if that is in gaps: where an event stands, which is
// here if its hash is known.
func (l *localSet) addResolved(gaps window.Spans, it reconcile.Item, known bool) error {
	if len(l.foreign.ids) >= 2*maxItems {
		return errTooMany
	}
	if it.ID == event.Beginning || !gaps.Contains(window.Span{From: it.ID - 1, To: it.ID}) {
		return nil
	}
	l.foreign.ids = append(l.foreign.ids, it.ID)
	if known {
		l.candidates = append(l.candidates, it)
	}
	return nil
}

// resolveByHash asks by the hashes of what is known.
func (m *Importer) resolveByHash(ctx context.Context, gaps window.Spans, lacking uint64, l *localSet) error {
	round := reconcile.Round{Strategy: reconcile.Stubs,
		Why: fmt.Sprintf("%d held from other logs, requested by hash; %d missing", len(l.foreign.hashes), lacking)}
	for some := range slices.Chunk(l.foreign.hashes, wire.MaxHashes) {
		stubs, err := m.Server.Stubs(ctx, some, &round)
		if err != nil {
			return err
		}
		for _, s := range stubs {
			if err := l.addResolved(gaps, reconcile.Item{ID: s.ID, Time: s.Time, Hash: s.Hash}, true); err != nil {
				return err
			}
		}
	}
	l.rounds = append(l.rounds, round)
	return nil
}

// resolveByStubs asks for stubs with short hashes, whose salt nobody knows before.
func (m *Importer) resolveByStubs(ctx context.Context, topic event.Topic, gaps window.Spans, lacking uint64, how lookupMethod, l *localSet) error {
	known := uint64(len(l.foreign.hashes))
	req := reconcile.StubRequest{Width: reconcile.WidthFor(known, lacking), Salt: m.salt()}
	round := reconcile.Round{Strategy: reconcile.Stubs, Why: fmt.Sprintf("%d held from other logs; all %d missing are named", known, lacking)}
	if how == byFilter {
		round.Why = fmt.Sprintf("%d held from other logs, described by a filter; %d missing", known, lacking)
		var err error
		if req.Filter, err = reconcile.NewBloom(reconcile.FromHashes(window.Span{}, l.foreign.hashes).Items(), known, filterBits, m.salt()); err != nil {
			return err
		}
	}
	byShort := make(map[uint64]event.Hash, known)
	for _, h := range l.foreign.hashes {
		byShort[req.Short(h)] = h
	}
	asked := gaps
	if len(gaps) > maxAsked {
		asked = window.Spans{{From: gaps[0].From, To: gaps[len(gaps)-1].To}}
	}
	for _, req.Span = range asked {
		for !req.Span.Empty() {
			resp, err := m.askStubs(ctx, topic, &req, &round)
			if err != nil {
				return err
			}
			for _, s := range resp.Stubs {
				h, ok := byShort[s.Short]
				if err := l.addResolved(gaps, reconcile.Item{ID: s.ID, Time: s.Time, Hash: h}, ok); err != nil {
					return err
				}
			}
			req.Span.From = resp.To
		}
	}
	l.rounds = append(l.rounds, round)
	return nil
}

// filterBits is how many hash functions a filter of what is known has.
const filterBits = 7

// salt returns what keys short hashes.
func (m *Importer) salt() (s reconcile.Salt) {
	if m.Reconcile.Salt != nil {
		return m.Reconcile.Salt()
	}
	rand.Read(s[:]) // never fails
	return s
}

// askStubs asks once.
func (m *Importer) askStubs(ctx context.Context, topic event.Topic, req *reconcile.StubRequest, round *reconcile.Round) (*reconcile.StubResponse, error) {
	request := req.AppendTo(nil)
	response, err := m.Server.Peer(topic).Ask(ctx, request)
	if err != nil {
		return nil, err
	}
	round.Up, round.Down = round.Up+len(request), round.Down+len(response)
	return reconcile.ParseStubs(response, req, m.Reconcile.Limits)
}
