package reconcile

import (
	"fmt"
	"math"
	"slices"
)

// tryPlan sends one request as planned and learns from the response.
func (n *negotiation) tryPlan(p plan) error {
	req := n.newRequest()
	var err error
	if req.body, err = n.makeBody(p); err != nil {
		return err
	}
	if p.back > 0 {
		req.Back, req.BackSalt = p.back, n.Salt()
	}
	resp, err := n.askPeer(req, p.strategy, p.why)
	if err != nil {
		return err
	}
	return n.applyResponse(p, req, resp)
}

// makeBody returns the second frame of the request, or nil.
func (n *negotiation) makeBody(p plan) (body, error) {
	v, count := n.view, n.view.sum.Count
	switch p.strategy {
	case Gaps:
		return gaps{n.held}, nil
	case List:
		l := list{salt: n.Salt()}
		key := l.salt.keyer()
		for it, err := range v.Items() {
			if err != nil {
				return nil, err
			}
			l.shorts = append(l.shorts, key.shortHash(&it.Hash))
		}
		slices.Sort(l.shorts)
		l.shorts = slices.Compact(l.shorts)
		return l, nil
	case Sketch:
		s := sketched{salt: n.Salt(), n: count}
		var err error
		s.cells, err = newSketch(v.Items(), p.cells, s.salt.keyer())
		return s, err
	case Inverse:
		return n.filterBody(NewInverse(v.Items(), count, int(max(count, n.theirs.Count)), n.Salt()))
	case Bloom:
		if p.up > 0 {
			return n.filterBody(NewBloom(v.Items(), count, p.up, n.Salt()))
		}
	}
	return nil, nil
}

// filterBody keeps a nil *Filter out of the interface.
func (n *negotiation) filterBody(f *Filter, err error) (body, error) {
	if err != nil {
		return nil, err
	}
	return f, nil
}

// applyResponse updates the view with a response, and ends the negotiation if the sums then
// agree. If they do not, although the strategy should have found the whole difference, the
// next round counts as a correction.
func (n *negotiation) applyResponse(p plan, req *Request, resp *Response) error {
	extra, err := n.view.matching(resp.Unknown, saltOf(req.body))
	if err != nil {
		return err
	}
	if resp.Filter != nil && p.back > 0 {
		if extra, err = n.view.findItems(func(it Item) bool { return !resp.Filter.Seen(it.Hash) }); err != nil {
			return err
		}
	}
	added, gone, err := n.view.learn(resp.Missing, extra)
	if err != nil {
		return err
	}
	if n.tooMany() {
		return nil
	}
	if n.view.sum.Equal(n.theirs) {
		n.conclude(p.strategy, "%d events were missing here and %d there", len(n.view.added), len(n.view.gone))
		return nil
	}
	if p.strategy == Gaps || added+gone > 0 {
		n.gaps = -1
	}
	if p.strategy == Gaps && resp.Partial && added > 0 {
		if err := n.measureGaps(); err != nil {
			return err
		}
	}
	if !resp.Partial && resp.Estimate == 0 {
		n.corrections++
	}
	n.guessAfter(p, resp, float64(added), float64(gone))
	return nil
}

// tooMany ends the negotiation if the peer lists more events than it has.
func (n *negotiation) tooMany() bool {
	if uint64(len(n.view.added)) <= n.theirs.Count {
		return false
	}
	n.pullAll("the peer lists more events than it has")
	return true
}

// saltOf returns the salt of the short hashes in the response to b.
func saltOf(b body) Salt {
	switch b := b.(type) {
	case list:
		return b.salt
	case sketched:
		return b.salt
	case *Filter:
		return b.salt
	}
	return Salt{}
}

// guessAfter estimates the remaining difference. A filter that found events has hidden as
// many as its error rate implies; the response to a sketch that was too small has an
// estimate.
func (n *negotiation) guessAfter(p plan, resp *Response, added, gone float64) {
	before := n.guess
	n.recount()
	diff := n.diff()
	switch {
	case p.strategy == Sketch && resp.Estimate > 0:
		// The estimate deviates by about a quarter.
		total := min(float64(resp.Estimate), float64(n.theirs.Count)+float64(n.view.sum.Count))
		n.guess.missing = max(n.guess.missing, (1.2*total+diff)/2)
		n.guess.extra = max(n.guess.extra, (1.2*total-diff)/2)
		n.leastCells = 3 * p.cells / 2
	case p.strategy == Bloom:
		extra := max(0, before.extra-gone)
		if p.back > 0 {
			extra = gone / (math.Pow(2, float64(p.back)) - 1)
		}
		missing := before.missing
		if p.up > 0 {
			missing = added / (math.Pow(2, float64(p.up)) - 1)
		}
		n.guess.missing = max(n.guess.missing, missing, diff+extra)
		n.guess.extra = max(n.guess.extra, extra, n.guess.missing-diff)
		n.leastCells = 0
	}
}

// exact compares digests of blocks, then requests all items of those that differ. It finds
// the whole difference, whatever filters did before, or finds that the peer contradicts
// itself.
func (n *negotiation) exact(why string) error {
	for range maxExact {
		req := n.newRequest()
		l, err := n.makeLeaves()
		if err != nil {
			return err
		}
		req.body = l
		resp, err := n.askPeer(req, Exact, why)
		if err != nil {
			return err
		}
		if err := n.fetchBlocks(l.shift, resp.Blocks, why); err != nil || n.done {
			return err
		}
		if n.view.sum.Equal(n.theirs) {
			n.conclude(Exact, "%s; %d events were missing here and %d there", why, len(n.view.added), len(n.view.gone))
			return nil
		}
		if !resp.Partial || len(resp.Blocks) == 0 {
			break
		}
	}
	n.pullAll("all blocks were compared, but the digests still differ: the peer contradicts itself")
	return nil
}

// makeLeaves returns the digests of the local blocks. These are the blocks of the log if ids
// are shared, but larger if they were too many.
func (n *negotiation) makeLeaves() (leaves, error) {
	v, shared := n.view, n.view.base.Shared()
	shift := blockShift
	if !shared {
		shift = shiftFor(min(v.sum.Count, n.theirs.Count), n.Limits.Leaves)
	}
	for ; ; shift++ {
		l := leaves{shift: shift}
		err := eachLeaf(v.Items(), shared, shift, func(of leaf, _ uint64) bool {
			l.of = append(l.of, of)
			return len(l.of) <= n.Limits.Leaves
		})
		if err != nil || len(l.of) <= n.Limits.Leaves {
			return l, err
		}
	}
}

// fetchBlocks requests the items of blocks, in as many requests as necessary. It splits a block
// that does not fit into a response into sixteen parts.
func (n *negotiation) fetchBlocks(shift int, of []Block, why string) error {
	for len(of) > 0 && !n.done && !n.view.sum.Equal(n.theirs) {
		batch := n.firstBatch(of)
		req := n.newRequest()
		bs := blocks{shift: shift}
		for _, b := range batch {
			bs.numbers = append(bs.numbers, b.Number)
		}
		req.body = bs
		resp, err := n.askPeer(req, Exact, why)
		if err != nil {
			return err
		}
		covered := min(resp.Covered, len(batch))
		if err := n.replaceBlocks(shift, bs.numbers[:covered], resp.Missing); err != nil {
			return err
		}
		if n.tooMany() {
			return nil
		}
		of = of[covered:]
		if covered == 0 {
			if err := n.split(shift, batch[0], why); err != nil {
				return err
			}
			of = of[1:]
		}
		if len(n.res.Rounds) > maxExact {
			n.pullAll(fmt.Sprintf("%d rounds were not enough", len(n.res.Rounds)))
		}
	}
	return nil
}

func (n *negotiation) split(shift int, b Block, why string) error {
	down := min(4, shift)
	if down == 0 {
		n.pullAll(fmt.Sprintf("block %d with a single key does not fit into a response", b.Number))
		return nil
	}
	parts := make([]Block, 1<<down)
	for i := range parts {
		parts[i] = Block{b.Number<<down | uint64(i), b.Count >> down}
	}
	return n.fetchBlocks(shift-down, parts, why)
}

// firstBatch returns the first blocks whose items fit into one response, at least one block.
func (n *negotiation) firstBatch(of []Block) []Block {
	items := uint64(0)
	for i, b := range of[:min(len(of), n.Limits.Leaves)] {
		if items += b.Count; i > 0 && items > uint64(n.Limits.Missing) {
			return of[:i]
		}
	}
	return of[:min(len(of), n.Limits.Leaves)]
}

// replaceBlocks replaces the local items of some blocks by those of the peer.
func (n *negotiation) replaceBlocks(shift int, numbers []uint64, theirs []Item) error {
	shared := n.view.base.Shared()
	within := func(it Item) bool {
		_, ok := slices.BinarySearch(numbers, it.key(shared)>>shift)
		return ok
	}
	extra, err := n.view.findItems(within)
	if err != nil {
		return err
	}
	var missing []Item
	for _, it := range theirs {
		if _, ok := extra[it]; ok {
			delete(extra, it)
		} else if within(it) {
			missing = append(missing, it)
		}
	}
	_, _, err = n.view.learn(missing, extra)
	return err
}
