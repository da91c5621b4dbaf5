package server

import (
	"crypto/rand"
	"errors"
	"net/http"
	"slices"

	"github.com/rstream-dev/rstream/event"
	"github.com/rstream-dev/rstream/internal/wire"
	"github.com/rstream-dev/rstream/reconcile"
)

// A peerHas describes the events that the requester has. If seen returns false for a hash, the
// requester certainly lacks the event.
type peerHas struct {
	seen  func(event.Hash) bool
	count uint64       // number of events that the requester has
	whole []event.Hash // hashes that it sent, in have or an inverse filter

	inverse bool // it sent an inverse filter
}

// newPeerHas parses a wire.PeerHas. It checks untrusted input before that costs anything. It
// returns nil if k is zero.
func newPeerHas(k *wire.PeerHas) (*peerHas, error) {
	switch {
	case k.Filter != nil:
		f, err := reconcile.ParseFilter(k.Filter, reconcile.Limits{})
		var bad *reconcile.FrameError
		if errors.As(err, &bad) {
			return nil, &reconcile.FrameError{TooLarge: bad.TooLarge, Detail: "bloomFilter: " + bad.Detail}
		} else if err != nil {
			return nil, err
		}
		return &peerHas{seen: f.Seen, count: f.Count, whole: f.Hashes(), inverse: f.Inverse()}, nil
	case k.Have != nil:
		have := make(map[event.Hash]struct{}, len(k.Have))
		for _, h := range k.Have {
			have[h] = struct{}{}
		}
		seen := func(h event.Hash) bool { _, ok := have[h]; return ok }
		return &peerHas{seen: seen, count: uint64(len(have)), whole: k.Have}, nil
	}
	return nil, nil
}

// getBloom compares one set: GET /bloom.
func (s *Server) getBloom(w http.ResponseWriter, r *http.Request) *wire.Error {
	q, err := wire.ParseBloom(r.URL.RawQuery)
	if err != nil {
		return badParameters(err)
	}
	return s.compareSets(w, r, q, func(answers []wire.BloomAnswer) any { return answers[0] })
}

// listBloom compares several sets: POST /bloom in JSON.
func (s *Server) listBloom(w http.ResponseWriter, r *http.Request) *wire.Error {
	body, problem := readBody(w, r, maxBloomBody)
	if problem != nil {
		return problem
	}
	q, err := wire.ParsePostBloom(r.URL.RawQuery, body)
	if err != nil {
		return badParameters(err)
	}
	return s.compareSets(w, r, q, func(answers []wire.BloomAnswer) any {
		if q.One {
			return wire.BloomSingle{Item: answers[0]}
		}
		return wire.BloomAnswers{Items: answers}
	})
}

func (s *Server) compareSets(w http.ResponseWriter, r *http.Request, q *wire.BloomQuery, form func([]wire.BloomAnswer) any) *wire.Error {
	topics := make([]event.Topic, len(q.Items))
	for i := range q.Items {
		topics[i] = q.Items[i].Of
	}
	if problem := s.mayRead(w, topics...); problem != nil {
		return problem
	}
	leave, problem := s.waitForTurn(w, r)
	if problem != nil {
		return problem
	}
	defer leave()
	head := s.log.HeadPoint()
	span, problem := s.resolveSpan(r, q.Since, q.Until, head)
	if problem != nil {
		return problem
	}
	c := comparison{set: logSet{ctx: r.Context(), log: s.log, span: span}, hashes: maxHashes, missing: maxMissing}
	for i := range q.Items {
		if err := c.answerItem(&q.Items[i]); err != nil {
			return s.setProblem(r, err)
		}
	}
	if problem := s.announceSpan(w, r, head, span, wire.JSON); problem != nil {
		return problem
	}
	leave()
	return writeJSON(w, form(c.answers))
}

// maxMissing is the most hashes in one response.
const maxMissing = 1 << 16

// A comparison compares the items of one request, which share its limits.
type comparison struct {
	set     logSet
	hashes  int // hashes that may still be read
	missing int // hashes that may still be listed
	answers []wire.BloomAnswer
}

func (c *comparison) answerItem(item *wire.BloomItem) error {
	theirs, err := newPeerHas(&item.PeerHas)
	if err != nil {
		return err
	}
	c.set.topics = []event.Topic{item.Of}
	hashes, err := c.set.hashes(c.hashes)
	if err != nil {
		return err
	}
	c.hashes -= len(hashes)
	set := reconcile.FromHashes(c.set.span, hashes) // sorts hashes
	sum, err := set.Sum(event.MaxID)
	if err != nil {
		return err
	}
	a := wire.BloomAnswer{ID: item.ID, Topic: item.Topic, Count: sum.Count, Digest: sum.Digest}
	if theirs != nil {
		c.listMissing(&a, hashes, theirs)
	}
	if count, said := theirCount(item, theirs); item.WantFilter || said && sum.Count > count {
		inverse := theirs != nil && theirs.inverse
		if a.Filter, err = ownFilter(set, sum.Count, count, inverse); err != nil {
			return err
		}
	}
	c.answers = append(c.answers, a)
	return nil
}

// listMissing lists the hashes that are not in theirs, and those of theirs.whole that are not in
// hashes, which must be sorted.
func (c *comparison) listMissing(a *wire.BloomAnswer, hashes []event.Hash, theirs *peerHas) {
	a.Missing = []event.Hash{}
	for _, h := range hashes {
		switch {
		case theirs.seen(h):
		case c.missing == 0:
			a.More = true
		default:
			c.missing--
			a.Missing = append(a.Missing, h)
		}
	}
	for _, h := range theirs.whole {
		if _, ok := slices.BinarySearchFunc(hashes, h, event.Hash.Compare); !ok {
			a.Unknown = append(a.Unknown, h)
		}
	}
}

// theirCount returns how many events the requester has, if it sent a count or a filter. A
// requester that sent its hashes needs no filter: it learns everything from the response.
func theirCount(item *wire.BloomItem, theirs *peerHas) (n uint64, said bool) {
	switch {
	case item.Count != nil:
		return *item.Count, true
	case item.Filter != nil:
		return theirs.count, true
	}
	return 0, false
}

// ownBits is the number of hash functions of the server's filters, which then have one false
// positive in 128.
const ownBits = 7

// ownFilter returns a filter of n events with an unpredictable salt, inverse if the
// requester's is. An inverse filter has slots for the larger of both counts, up to the
// maximum size of a filter.
func ownFilter(set *reconcile.HashSet, n, theirs uint64, inverse bool) (string, error) {
	var salt reconcile.Salt
	rand.Read(salt[:]) // never fails
	var f *reconcile.Filter
	var err error
	if inverse {
		f, err = reconcile.NewInverse(set.Items(), n, int(min(max(n, theirs), reconcile.MaxFullSlots)), salt)
	} else {
		f, err = reconcile.NewBloom(set.Items(), n, ownBits, salt)
	}
	if err != nil {
		return "", err
	}
	return wire.EncodeFilter(f.AppendTo(nil)), nil
}

// sumOf returns the count and the digest of all events in a range with filters, so that the
// reader can check its set afterwards. Without filters, it returns nil.
func (s *Server) sumOf(w http.ResponseWriter, r *http.Request, st *resolvedQuery) (*wire.Sum, *wire.Error) {
	if st.peerHas == nil {
		return nil, nil
	}
	leave, problem := s.waitForTurn(w, r)
	if problem != nil {
		return nil, problem
	}
	defer leave()
	span := st.span()
	set := logSet{ctx: r.Context(), log: s.log, topics: st.topics, span: span}
	hashes, err := set.hashes(maxHashes)
	if err != nil {
		return nil, s.setProblem(r, err)
	}
	sum, err := reconcile.FromHashes(span, hashes).Sum(event.MaxID)
	if err != nil {
		return nil, s.setProblem(r, err)
	}
	return &wire.Sum{Count: sum.Count, Digest: sum.Digest}, nil
}
