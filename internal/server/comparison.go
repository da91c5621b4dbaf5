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

// A peerHas is what the asking side says that it has. What seen says no to, it
// certainly lacks.
type peerHas struct {
	seen  func(event.Hash) bool
	count uint64       // how many events it says that it has
	whole []event.Hash // those that it named as a whole

	inverse bool // it said so with an inverse filter
}

// parsePeerHas checks what a stranger says that it has before it costs anything. It is
// nil if nothing was said.
func parsePeerHas(k *wire.PeerHas) (*peerHas, error) {
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

// getBloom says what the asking side lacks of one set: GET /bloom.
func (s *Server) getBloom(w http.ResponseWriter, r *http.Request) *wire.Error {
	q, err := wire.ParseBloom(r.URL.RawQuery)
	if err != nil {
		return badParameters(err)
	}
	return s.compareSets(w, r, q, func(answers []wire.BloomAnswer) any { return answers[0] })
}

// listBloom says what the asking side lacks of several sets: POST /bloom in JSON.
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
	leave, problem := s.waitForTurn(r)
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
	return writeJSON(w, form(c.answers))
}

// maxMissing is how many hashes one answer lists.
const maxMissing = 1 << 16

// A comparison answers the items of one request, which share its bounds.
type comparison struct {
	set     logSet
	hashes  int // that may still be looked at
	missing int // that may still be listed
	answers []wire.BloomAnswer
}

func (c *comparison) answerItem(item *wire.BloomItem) error {
	theirs, err := parsePeerHas(&item.PeerHas)
	if err != nil {
		return err
	}
	c.set.topics = []event.Topic{item.Of}
	hashes, err := c.set.hashes(c.hashes)
	if err != nil {
		return err
	}
	c.hashes -= len(hashes)
	set := reconcile.FromHashes(c.set.span, hashes) // in order from now on
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

// listMissing lists what is in hashes, which are in order, and not in theirs, and what
// of theirs is not in hashes, as far as that is told.
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

// theirCount is how many events the asking side has, if it says so: in so many words, or
// with its filter. Who names the hashes learns all from the answer without a filter.
func theirCount(item *wire.BloomItem, theirs *peerHas) (n uint64, said bool) {
	switch {
	case item.Count != nil:
		return *item.Count, true
	case item.Filter != nil:
		return theirs.count, true
	}
	return 0, false
}

// ownBits is how many hash functions the server's own filters have: one in 128 of what
// the log does not have is seen in them.
const ownBits = 7

// ownFilter makes a filter of n events with a salt that nobody could know before, an
// inverse one if that is what the asking side speaks. Its slots are for the larger of both
// counts, as far as a filter may be long.
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

// sumOf returns the count and the digest of all that a stretch with filters has, so
// that its reader can tell whether that is what it has then.
func (s *Server) sumOf(r *http.Request, st *resolvedQuery) (*wire.Sum, *wire.Error) {
	if st.peerHas == nil {
		return nil, nil
	}
	leave, problem := s.waitForTurn(r)
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
