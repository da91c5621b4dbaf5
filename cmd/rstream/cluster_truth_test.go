//go:build unix

package main

import (
	"testing"

	"github.com/rstream-dev/rstream/event"
)

// The truth about a cluster notices what is lost, what comes twice, and what readers must not
// receive.
func TestTruthOfCluster(t *testing.T) {
	newEvent := func(id event.ID, user, key string, kind event.Type) *event.Event {
		d := event.Draft{User: user, Path: "p", Type: kind, Key: key}
		if kind == event.Put {
			d.Value = []byte("1")
		}
		ev := event.New(id, 1795968803000000, d, d.Hash())
		return &ev
	}
	c := newTruthOfCluster()
	c.begin()
	first, second := newEvent(1, "alice", "w0-1", event.Put), newEvent(2, "alice", "w0-2", event.Put)
	again := newEvent(3, "bob", "w0-2", event.Put) // another event with the key of the second one
	for _, ev := range []*event.Event{first, second, first, again, newEvent(4, expiring, "x", event.Put), newEvent(5, expiring, "y", event.Del)} {
		if err := c.receive(ev); err != nil {
			t.Fatal(err)
		}
	}
	for what, ev := range map[string]*event.Event{
		"an event after a gap":            newEvent(7, "alice", "z", event.Put),
		"another event in its place":      newEvent(1, "alice", "other", event.Put),
		"the end of a value that is none": newEvent(6, expiring, "z", event.Del),
	} {
		fork := newTruthOfCluster()
		fork.events, fork.keys, fork.current = append(fork.events, c.events...), map[string]event.ID{}, map[event.Storage]bool{}
		if err := fork.receive(ev); err == nil {
			t.Errorf("%s is taken", what)
		}
	}
	c.acknowledge([]clusterAck{{"w0-1", 1, first.Hash.String()}, {"w0-1", 2, first.Hash.String()}, {"w0-1", 1, second.Hash.String()}, {"w0-9", 2, second.Hash.String()}, {"w0-10", 6, ""}})
	r, lost := c.check()
	if r.acked != 5 || r.lost != 3 || r.twice != 1 || len(lost) != 4 {
		t.Errorf("the check says %+v: %q", r, lost)
	}
	if len(c.acks) != 1 {
		t.Errorf("%d acknowledged events are to be checked later, want 1", len(c.acks))
	}
}
