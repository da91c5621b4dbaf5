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

// A foreign is the set of local events that come from other logs, with their ids in this
// log.
type foreign struct {
	hashes []event.Hash // in ascending order
	ids    []event.ID   // those in the server's stubs, in ascending order
}

// isAvailable reports whether the event of an item is here. If the server sent no stub for
// it, it is not: the log's event has more than its hash covers, and must be fetched.
func (f *foreign) isAvailable(it reconcile.Item) bool {
	_, told := slices.BinarySearch(f.ids, it.ID)
	if !told {
		return false
	}
	_, ok := slices.BinarySearchFunc(f.hashes, it.Hash, event.Hash.Compare)
	return ok
}

// A lookupMethod is a way to find the ids that events of other logs have in this one.
type lookupMethod int

const (
	byAll    lookupMethod = iota // get the stubs of all missing events
	byFilter                     // get the stubs of the missing events in a filter of the known hashes
	byHash                       // send the known hashes
)

// pickMethod picks the cheapest method for a number of known hashes and a number of
// missing events. A stub takes about 8 bytes. A filter takes 10 bits for each known hash,
// and one in 128 of the other hashes passes it. A lookup by hash takes 200 bytes.
func pickMethod(known, lacking uint64) lookupMethod {
	switch {
	case lacking > 1000*known:
		return byHash
	case lacking > 2*known:
		return byFilter
	}
	return byAll
}

// maxAsked is the largest number of gaps that are requested one by one.
const maxAsked = 16

// resolveForeign looks up the ids that events of other logs have in this log, and adds
// those that fall into gaps. They are a guess until the digests agree, because short
// hashes may collide.
func (m *Importer) resolveForeign(ctx context.Context, topic event.Topic, gaps window.Spans, lacking uint64, l *localSet) error {
	err := m.Store.ForeignHashes(ctx, topic, func(h event.Hash) error {
		if len(l.foreign.hashes) >= maxItems {
			return errTooMany
		}
		l.foreign.hashes = append(l.foreign.hashes, h)
		return nil
	})
	if err != nil {
		return NewStoreError(err)
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

// refusedFrames reports whether the server must be asked by hash: it is too old to
// know the frames, or they ask for too much.
func (m *Importer) refusedFrames(err error) bool {
	return tooLarge(err) || m.Server.Status(err) == http.StatusBadRequest
}

// addResolved adds the id in a stub if it falls into gaps. If known, the event itself is
// here and becomes a candidate.
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

// resolveByHash sends the known hashes.
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

// resolveByStubs requests stubs with short hashes. The salt is random, so that nobody can
// prepare collisions.
func (m *Importer) resolveByStubs(ctx context.Context, topic event.Topic, gaps window.Spans, lacking uint64, how lookupMethod, l *localSet) error {
	known := uint64(len(l.foreign.hashes))
	req := reconcile.StubRequest{Width: reconcile.WidthFor(known, lacking), Salt: m.newSalt()}
	round := reconcile.Round{Strategy: reconcile.Stubs, Why: fmt.Sprintf("%d held from other logs; all %d missing are named", known, lacking)}
	if how == byFilter {
		round.Why = fmt.Sprintf("%d held from other logs, described by a filter; %d missing", known, lacking)
		var err error
		if req.Filter, err = reconcile.NewBloom(reconcile.FromHashes(window.Span{}, l.foreign.hashes).Items(), known, filterBits, m.newSalt()); err != nil {
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

// filterBits is the number of hash functions of a filter of the known hashes.
const filterBits = 7

// newSalt returns a new key for short hashes.
func (m *Importer) newSalt() (s reconcile.Salt) {
	if m.Reconcile.Salt != nil {
		return m.Reconcile.Salt()
	}
	rand.Read(s[:]) // never fails
	return s
}

// askStubs sends one request for stubs.
func (m *Importer) askStubs(ctx context.Context, topic event.Topic, req *reconcile.StubRequest, round *reconcile.Round) (*reconcile.StubResponse, error) {
	request := req.AppendTo(nil)
	response, err := m.Server.Peer(topic).Ask(ctx, request)
	if err != nil {
		return nil, err
	}
	round.Up, round.Down = round.Up+len(request), round.Down+len(response)
	return reconcile.ParseStubs(response, req, m.Reconcile.Limits)
}
