package reconcile

import (
	"fmt"
	"math"
)

// A guess says about how many events each side lacks.
type guess struct{ missing, extra float64 }

func (g guess) total() float64 { return g.missing + g.extra }

// A plan is what to do next, and why.
type plan struct {
	strategy Strategy
	why      string
	cells    int // of a sketch
	up, back int // hash functions of the bloom filters there and back; zero for none
}

// The rates of bloom filters: what they wrongly hide is cheap to repair with a
// sketch, so a large one is best there, and a small one where only another filter
// can repair it.
const (
	fewestHashes = 2
	mostHashes   = 7
	aloneHashes  = 7
)

// probeCells is a sketch that is sent when nothing is known: it peels if few
// events differ, and tells about how many if not.
const probeCells = 32

// cellsFor returns how many cells peel with d differences, almost always.
func cellsFor(d float64) int {
	return max(probeCells, int(math.Ceil(1.35*d+3.5*math.Sqrt(d)+8)))
}

// pick is the rule by which Auto goes on after the sums differ, within limits. A
// short list is exact at once. A list of gaps has a known price and is exact, too.
// Then it is a sketch as long as few events differ; above about five in a hundred
// it is a bloom filter, whose price does not grow with the difference, and later a
// sketch for what that hid. Since that takes a round more, it must save a fifth.
//
// gaps is what a list of gaps takes, or -1; least is how many cells a sketch must
// have because fewer were not enough.
func pick(n, peer uint64, g guess, gaps, least int, limits Limits) plan {
	if n <= maxList {
		return plan{strategy: List, why: fmt.Sprintf("%d hashes are few", n)}
	}
	best, cost := plan{}, math.Inf(1)
	offer := func(p plan, c float64) {
		if c < cost {
			best, cost = p, c
		}
	}
	if cells := max(least, cellsFor(g.total())); cells <= limits.Cells {
		c := float64(cells) * cellBytes
		offer(plan{strategy: Sketch, cells: cells, why: fmt.Sprintf("about %.0f of %d differ: a sketch takes %.0f bytes", g.total(), max(n, peer), c)}, c)
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
				f.why = fmt.Sprintf("about %.0f of %d differ: a filter of one in %.0f takes %.0f bytes", g.total(), max(n, peer), 1/hidden, f.bytes)
				offer(f.plan, c)
			}
		}
	}
	if gaps >= 0 {
		offer(plan{strategy: Gaps, why: fmt.Sprintf("the gaps take %d bytes", gaps)}, float64(gaps))
	}
	if best.strategy == Auto {
		return plan{strategy: Exact, why: fmt.Sprintf("%d and %d are too many for a sketch and for a filter", n, peer)}
	}
	return best
}
