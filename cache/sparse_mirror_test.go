package cache

import (
	"fmt"
	"testing"

	"github.com/rstream-dev/rstream/event"
	"github.com/rstream-dev/rstream/window"
)

// The work of a mirror of some topics is that of their events, however many others its log has.
func TestSparseMirror(t *testing.T) {
	ctx := briefly(t)
	m := newPartMirroring(t, "alice")
	head := func(id event.ID) event.Point { return event.Point{ID: id, Mark: 1} }
	const far = 1 << 50
	var evs []event.Event
	for i, id := range []event.ID{5, far, far + 70*event.BlockSize} {
		d := draft("alice", fmt.Sprint("x/", i%2), fmt.Sprint(id))
		evs = append(evs, event.New(id, event.TimeOf(newClock().at), d, d.Hash()))
	}
	receive := func(evs []event.Event, to event.ID) {
		t.Helper()
		if err := m.mirror.ReceiveUpTo(ctx, evs, head(to)); err != nil {
			t.Fatal(err)
		}
	}
	receive(evs[:1], 7)
	receive(nil, far-2)
	receive(evs[1:], far+80*event.BlockSize)
	receive(nil, 2*far+5)
	for range 2 {
		topic := topics(t, "alice")
		span := window.Span{To: 2*far + 5}
		checkIDs(t, "read", readAll(t, m.mirror, topic, span, 10), ids(evs))
		checkIDs(t, "read one storage", readAll(t, m.mirror, topics(t, "alice/x/1"), span, 10), ids(evs[1:2]))
		var want window.Leafer
		for i := range evs {
			want.Add(evs[i].ID, evs[i].Time, evs[i].Hash)
		}
		if got, err := m.mirror.Leaves(ctx, topic[0], span); err != nil || fmt.Sprint(got) != fmt.Sprint(want.Leaves()) {
			t.Errorf("the leaves are %v, %v", got, err)
		}
		lines, next, err := m.mirror.AppendLines(ctx, nil, topic, 0, span.To, 100)
		if err != nil {
			t.Fatal(err)
		}
		m.mirror.LearnLeaves(topic, window.Span{To: next}, lines)
		if _, err := m.mirror.CheckContents(ctx, func(f Fault) error { return fmt.Errorf("fault %+v", f) }); err != nil {
			t.Error(err)
		}
		if err := m.mirror.Close(); err != nil {
			t.Fatal(err)
		}
		m.openPart(t, "alice")
	}
	for _, cfg := range []Retention{{Horizon: func() event.ID { return far + 10*event.BlockSize }}, {MaxBytes: 1}} {
		if err := m.mirror.RetainOnce(ctx, cfg); err != nil {
			t.Fatal(err)
		}
	}
	var state []event.Event
	err := m.mirror.State(ctx, topics(t, "alice")[0], m.mirror.Head(), func(ev *event.Event) error { state = append(state, *ev); return nil })
	if at, err2 := m.mirror.Horizon(ctx); err != nil || err2 != nil || at != 2*far {
		t.Errorf("the horizon is %s, %v, %v", at, err, err2)
	}
	checkIDs(t, "the state", state, []event.ID{evs[2].ID, evs[1].ID})
}
