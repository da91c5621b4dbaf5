package reconcile

import "fmt"

// A Strategy is a way to find the difference of two sets.
type Strategy uint8

// The strategies. Those before Gaps send only sums; those from Gaps to Exact can be
// forced. Negotiate does not use Stubs: between two logs, it comes before Negotiate.
const (
	Auto    Strategy = iota // the plan picks a strategy
	Summary                 // only the sums: the start of each negotiation
	Equal                   // both sides have the same events
	Empty                   // one side has no events
	Prefix                  // the requester has the first part of the responder's events
	Pull                    // pull everything: no better way was left
	Gaps                    // the ranges in which the requester is complete; needs shared ids
	List                    // the short hashes of all events of the requester, if they are few
	Bloom                   // a bloom filter, and a sketch or another filter for the events that it hides
	Sketch                  // a rateless IBLT of the difference
	Inverse                 // an inverse bloom filter
	Exact                   // digests of blocks, then all events of those that differ
	Stubs                   // the places of events of another log
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

// ParseStrategy parses the name of a strategy that can be forced, or "auto".
func ParseStrategy(name string) (Strategy, error) {
	for s, n := range strategyNames {
		if n == name && (Strategy(s) == Auto || Strategy(s) >= Gaps && Strategy(s) <= Exact) {
			return Strategy(s), nil
		}
	}
	return Auto, fmt.Errorf("strategy %.40q: want auto, gaps, list, bloom, sketch, inverse or exact", name)
}
