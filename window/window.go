// Package window divides a topic's history into ranges and tracks how much of each is
// held locally.
//
// A [Span] is the range (From, To] between two positions; [Spans] is a set of disjoint
// spans. A [Window] is a span of one topic's history with a [State]: Pending while only
// a moment inside it is known, Pulling once both bounds are known, Committed when every
// event between them is held, Live while its end has not happened yet, Failed after an
// error that retrying cannot fix. Events arrive in order, so a window always holds one
// span, which begins at From and only grows. A [Set] holds the windows of one copy. A
// [Digest] identifies the events in a range, so that two copies can be compared.
//
// The package reports a span as held only if the given windows hold all of it. It does
// no I/O, starts no goroutines and reads no clock.
package window

import (
	"fmt"

	"github.com/rstream-dev/rstream/event"
)

// A State is the state of a window. The zero State is not valid.
type State uint8

// The states of a window.
const (
	Pending   State = iota + 1 // a moment inside is known, the bounds are not
	Pulling                    // the bounds are known, events are arriving
	Committed                  // every event between the bounds is held
	Live                       // the end has not happened yet
	Failed                     // pulling ended with an error that retrying cannot fix
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

// ParseState returns the state with the given name.
func ParseState(name string) (State, error) {
	for s, n := range stateNames {
		if n == name && n != "" {
			return State(s), nil
		}
	}
	return 0, fmt.Errorf("parse window state %.20q: want pending, pulling, committed, live or failed", name)
}

// next lists the states that may follow each state. A live window whose query has ended
// is committed up to the position that it reached, and so is a pulling window that is
// abandoned.
var next = map[State][]State{
	Pending:   {Pulling, Committed, Failed},
	Pulling:   {Pulling, Committed, Failed},
	Live:      {Committed, Failed},
	Failed:    {Pulling, Committed},
	Committed: {},
}

// To reports whether a window in state s may change to state t.
func (s State) To(t State) bool {
	for _, n := range next[s] {
		if n == t {
			return true
		}
	}
	return false
}

// A Window is a range of one topic's history and how much of it is held.
type Window struct {
	Topic   event.Topic
	State   State
	From    event.ID // the start; meaningless while pending
	To      event.ID // the end; event.MaxID while live
	Reached event.ID // events are held up to here: From ≤ Reached ≤ To
	Proven  bool     // committed, and its digest matched the server's
	Err     string   // why it failed

	At event.Moment // a moment inside, while pending
}

// Held returns the span of w whose events are all held. If none are, it is empty and
// begins at From. A pending window has no start: its span is zero.
func (w *Window) Held() Span {
	switch w.State {
	case 0, Pending:
		return Span{}
	case Committed:
		return Span{w.From, w.To}
	}
	return Span{w.From, w.Reached}
}

// Missing returns the span of w that is not yet held.
func (w *Window) Missing() Span {
	switch w.State {
	case 0, Pending, Committed:
		return Span{}
	}
	return Span{w.Reached, w.To}
}
