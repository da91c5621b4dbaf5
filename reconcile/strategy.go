package reconcile

import "fmt"

// A Strategy is a way to find out what is missing.
type Strategy uint8

// The strategies. The first six cost no filter; those from Gaps to Exact can be
// forced. Stubs is none of Negotiate, but what comes before it between two logs.
const (
	Auto    Strategy = iota // the plan picks
	Summary                 // the sums alone: where each negotiation begins
	Equal                   // both sides have the same
	Empty                   // one side has nothing
	Prefix                  // the asking side has the first part of what the other has
	Pull                    // everything is to be pulled: nothing better was left
	Gaps                    // the stretches in which the asking side is whole; needs shared ids
	List                    // the short hashes of all that it holds, if they are few
	Bloom                   // a bloom filter, and a sketch or another filter for what it hides
	Sketch                  // a rateless IBLT of the difference
	Inverse                 // an inverse bloom filter
	Exact                   // digests of blocks, then all of those that differ
	Stubs                   // where events of another log stand
)

var strategyNames = [...]string{
	Auto: "auto", Summary: "summary", Equal: "equal", Empty: "empty", Prefix: "prefix", Pull: "pull", Gaps: "gaps",
	List: "list", Bloom: "bloom", Sketch: "sketch", Inverse: "inverse", Exact: "exact", Stubs: "stubs",
}

// String returns the name of s.
func (s Strategy) String() string {
	if int(s) < len(strategyNames) {
		return strategyNames[s]
	}
	return fmt.Sprintf("strategy(%d)", uint8(s))
}

// ParseStrategy reads the name of a strategy that can be forced, or auto.
func ParseStrategy(name string) (Strategy, error) {
	for s, n := range strategyNames {
		if n == name && (Strategy(s) == Auto || Strategy(s) >= Gaps && Strategy(s) <= Exact) {
			return Strategy(s), nil
		}
	}
	return Auto, fmt.Errorf("strategy %.40q: want auto, gaps, list, bloom, sketch, inverse or exact", name)
}
