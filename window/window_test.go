package window

import (
	"testing"

	"github.com/rstream-dev/rstream/event"
)

var states = []State{Pending, Pulling, Committed, Live, Failed}

func TestStateTransitions(t *testing.T) {
	want := map[State]map[State]bool{
		Pending:   {Pulling: true, Committed: true, Failed: true},
		Pulling:   {Pulling: true, Committed: true, Failed: true},
		Live:      {Committed: true, Failed: true},
		Failed:    {Pulling: true, Committed: true},
		Committed: {},
	}
	for _, from := range append(states, 0, 99) {
		for _, to := range append(states, 0, 99) {
			if got := from.To(to); got != want[from][to] {
				t.Errorf("%s.To(%s) = %v, want %v", from, to, got, want[from][to])
			}
		}
	}
}

func TestStateNames(t *testing.T) {
	for _, s := range states {
		if got, err := ParseState(s.String()); err != nil || got != s {
			t.Errorf("ParseState(%s) = %s, %v", s, got, err)
		}
		if text, err := s.MarshalText(); err != nil || string(text) != s.String() {
			t.Errorf("MarshalText() = %s, %v, want %s", text, err, s)
		}
	}
	for _, name := range []string{"", "Live", "state(0)", "live "} {
		if s, err := ParseState(name); err == nil {
			t.Errorf("ParseState(%q) = %s, want it refused", name, s)
		}
	}
	if got := State(0).String(); got != "state(0)" {
		t.Errorf("State(0) is %q", got)
	}
}

func TestHeldAndMissing(t *testing.T) {
	for _, c := range []struct {
		w             Window
		held, missing Span
	}{
		{Window{State: Pending, From: 3, Reached: 5, To: 9}, Span{}, Span{}},
		{Window{State: Pulling, From: 3, Reached: 3, To: 9}, Span{3, 3}, Span{3, 9}},
		{Window{State: Pulling, From: 3, Reached: 5, To: 9}, Span{3, 5}, Span{5, 9}},
		{Window{State: Failed, From: 3, Reached: 5, To: 9}, Span{3, 5}, Span{5, 9}},
		{Window{State: Live, From: 3, Reached: 5, To: event.MaxID}, Span{3, 5}, Span{5, event.MaxID}},
		{Window{State: Committed, From: 3, Reached: 9, To: 9}, Span{3, 9}, Span{}},
		{Window{From: 3, Reached: 5, To: 9}, Span{}, Span{}}, // no state: nothing is known
	} {
		if got := c.w.Held(); got != c.held {
			t.Errorf("%s: Held() = %s, want %s", c.w.State, got, c.held)
		}
		if got := c.w.Missing(); got != c.missing {
			t.Errorf("%s: Missing() = %s, want %s", c.w.State, got, c.missing)
		}
	}
}

func TestNotHeldError(t *testing.T) {
	for _, c := range []struct {
		err  NotHeldError
		want string
	}{
		{NotHeldError{After: 1}, "nothing is held after 0000000000001"},
		{NotHeldError{After: 1, Oldest: 2, Some: true}, "nothing is held between 0000000000001 and 0000000000002"},
	} {
		if got := c.err.Error(); got != c.want {
			t.Errorf("Error() = %q, want %q", got, c.want)
		}
	}
}
