package main

import (
	"errors"
	"testing"

	"github.com/rstream-dev/rstream/event"
)

// A node says where it is, also if it has events that the stream lacks.
func TestMemberStatusText(t *testing.T) {
	zero, three, head := int64(0), int64(3), event.ID(9)
	for want, m := range map[string]memberStatus{
		"a: no answer": {},
		"a: has everything, another node has this name":                               {Answers: true, Ready: true, Head: &head, Behind: &zero, Shared: true},
		"a: has everything":                                                           {Answers: true, Ready: true, Head: &head, Behind: &zero},
		"a: at 0000000000009, 3 events behind":                                        {Answers: true, Ready: true, Head: &head, Behind: &three},
		"a: at 0000000000009, 2 events ahead of the stream, not ready: other history": {Answers: true, Head: &head, Behind: &zero, Ahead: 2, Trouble: "other history"},
	} {
		m.Node = "a"
		if got := m.String(); got != want {
			t.Errorf("%q, want %q", got, want)
		}
	}
}

// If no node assigns ids, the hint depends on whether nodes run.
func TestNoCommitterHint(t *testing.T) {
	for _, c := range []struct {
		nodes []memberStatus
		want  string
	}{
		{nil, `start nodes with "rstream serve --nats"`},
		{[]memberStatus{{Node: "a"}}, `start nodes with "rstream serve --nats"`},
		{[]memberStatus{{Node: "a", Answers: true}}, "the nodes run; the output says why they are not ready"},
	} {
		s := clusterStatus{Nodes: c.nodes}
		var exit *exitError
		if err := s.problem(); !errors.As(err, &exit) || exit.hint != c.want {
			t.Errorf("%+v: %v, hint %q", c.nodes, err, exit.hint)
		}
	}
}
