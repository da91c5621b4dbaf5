package reconcile

import (
	"fmt"
	"math"
)

// A guess is an estimate of how many events each side lacks.
type guess struct{ missing, extra float64 }

func (g guess) total() float64 { return g.missing + g.extra }

// A plan is the next step, and the reason for it.
type plan struct {
	strategy Strategy
	why      string
	cells    int // of a sketch
	up, back int // hash functions of the bloom filters of the request and the response; zero for none
}

// Hash functions of bloom filters. Events that a filter wrongly hides are cheap to find
// with a sketch, so with one a high error rate is best. A low rate is best if only
// another filter can find them.
const (
	fewestHashes = 2
	mostHashes   = 7
	aloneHashes  = 7
)

// probeCells is the size of the first sketch, when nothing is known. It peels if few
// events differ. Otherwise it yields an estimate of how many do.
const probeCells = 32

// cellsFor returns the number of cells that almost always peel with d differences.
func cellsFor(d float64) int {
	return max(probeCells, int(math.Ceil(1.35*d+3.5*math.Sqrt(d)+8)))
}

// pickPlan returns the plan of Auto if the sums differ, within limits. A short list is exact
// at once. A list of gaps has a known cost and is exact as well. Otherwise a sketch is
// cheapest if few events differ. Above about five in a hundred it is a bloom filter, whose
// cost does not grow with the difference, and later a sketch for the events that the filter
// hid. Because that takes one more round, it must save a fifth.
//
// gaps is the size of a list of gaps in bytes, or -1; least is the minimum number of cells
// of a sketch, because fewer were not enough.
func pickPlan(n, peer uint64, g guess, gaps, least int, limits Limits) plan {
	if n <= maxList {
		return plan{strategy: List, why: fmt.Sprintf("a list of %d hashes is short", n)}
	}
	best, cost := plan{}, math.Inf(1)
	offer := func(p plan, c float64) {
		if c < cost {
			best, cost = p, c
		}
	}
	if cells := max(least, cellsFor(g.total())); cells <= limits.Cells {
		c := float64(cells) * cellBytes
		offer(plan{strategy: Sketch, cells: cells, why: fmt.Sprintf("about %.0f of %d events differ: a sketch takes %.0f bytes", g.total(), max(n, peer), c)}, c)
	}
	for k := fewestHashes; k <= mostHashes; k++ {
		up, back := bloomBytes(n, k), bloomBytes(peer, k)
		hidden := math.Pow(2, -float64(k))
		for _, f := range []struct {
			plan
			bytes, largest float64
			left           guess
		}{
			{plan{up: k}, up, up, guess{g.missing * hidden, g.extra}},
			{plan{back: k}, back, back, guess{g.missing, g.extra * hidden}},
			{plan{up: k, back: k}, up + back, max(up, back), guess{g.missing * hidden, g.extra * hidden}},
		} {
			c := 1.25 * (f.bytes + float64(cellsFor(f.left.total()))*cellBytes)
			if f.largest <= float64(limits.Filter) {
				f.strategy = Bloom
				f.why = fmt.Sprintf("about %.0f of %d events differ: a filter with 1 false positive in %.0f takes %.0f bytes", g.total(), max(n, peer), 1/hidden, f.bytes)
				offer(f.plan, c)
			}
		}
	}
	if gaps >= 0 {
		offer(plan{strategy: Gaps, why: fmt.Sprintf("a list of gaps takes %d bytes", gaps)}, float64(gaps))
	}
	if best.strategy == Auto {
		return plan{strategy: Exact, why: fmt.Sprintf("%d and %d events are too many for a sketch or a filter", n, peer)}
	}
	return best
}
