// Package window divides a topic's history into stretches and tracks how much of
// each is held here.
//
// A [Span] is a stretch (From, To] between two positions; [Spans] is a set of
// positions as disjoint spans. A [Window] is a span of one topic's history
// together with its [State]: Pending when only a moment inside it is known,
// Pulling once both bounds are known, Committed when every event between them is
// held, Live while its end has not happened yet, Failed when pulling it ended for
// good. What a window holds is one span that begins at From and only ever grows:
// events are received in order, so there is nothing to remember but how far they
// reach.
//
// The package promises that what it calls held was added to it as held, no more.
// It does no I/O, starts no goroutines and reads no clock.
package window

import (
	"fmt"

	"github.com/rstream-dev/rstream/event"
)

// A State is what is known of a window. The zero State is none.
type State uint8

// The states of a window.
const (
	Pending   State = iota + 1 // a moment inside is known, the bounds are not
	Pulling                    // the bounds are known, events are arriving
	Committed                  // every event between the bounds is held
	Live                       // the end has not happened yet
	Failed                     // pulling ended with an error that trying again does not mend
)

var stateNames = [...]string{Pending: "pending", Pulling: "pulling", Committed: "committed", Live: "live", Failed: "failed"}

// String returns the state's name in lower case.
func (s State) String() string {
	if int(s) < len(stateNames) && stateNames[s] != "" {
		return stateNames[s]
	}
	return fmt.Sprintf("state(%d)", uint8(s))
}

// MarshalText returns the state's name.
func (s State) MarshalText() ([]byte, error) { return []byte(s.String()), nil }

// ParseState reads a state's name.
func ParseState(name string) (State, error) {
	for s, n := range stateNames {
		if n == name && n != "" {
			return State(s), nil
		}
	}
	return 0, fmt.Errorf("parse window state %.20q: want pending, pulling, committed, live or failed", name)
}

// next lists, for each state, the states that may follow it. A live window whose
// query has ended is committed at the last position it reached; a pulling one
// that is given up keeps what it read in the same way.
var next = map[State][]State{
	Pending:   {Pulling, Committed, Failed},
	Pulling:   {Pulling, Committed, Failed},
	Live:      {Committed, Failed},
	Failed:    {Pulling, Committed},
	Committed: {},
}

// To reports whether a window in state s may come into state t.
func (s State) To(t State) bool {
	for _, n := range next[s] {
		if n == t {
			return true
		}
	}
	return false
}

// A Window is a stretch of one topic's history and how much of it is held.
type Window struct {
	Topic   event.Topic
	State   State
	From    event.ID // the start; meaningless while pending
	To      event.ID // the end; event.MaxID while live
	Reached event.ID // how far events are held: From ≤ Reached ≤ To
	Proven  bool     // committed, and its digest agreed with the server's
	Err     string   // why it failed

	At event.Moment // what is known of a pending one
}

// Held returns the span of w whose events are all held. It is empty, but stands
// at From, when none are; a pending window holds nothing anywhere.
func (w *Window) Held() Span {
	switch w.State {
	case 0, Pending:
		return Span{}
	case Committed:
		return Span{w.From, w.To}
	}
	return Span{w.From, w.Reached}
}

// Missing returns the span of w that is still to come.
func (w *Window) Missing() Span {
	switch w.State {
	case 0, Pending, Committed:
		return Span{}
	}
	return Span{w.Reached, w.To}
}
