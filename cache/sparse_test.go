package cache

import (
	"context"
	"fmt"
	"testing"
	"time"

	"github.com/rstream-dev/rstream/event"
	"github.com/rstream-dev/rstream/window"
)

// briefly returns a context for calls that would go on for days if their work were that of the ids.
func briefly(t *testing.T) context.Context {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	t.Cleanup(cancel)
	return ctx
}

// The work of reading a range is that of its events, however far apart their ids are.
func TestSparse(t *testing.T) {
	db, ctx := openClient(t), briefly(t)
	const far = 1 << 50
	all := window.Span{To: event.MaxID - 1}
	var evs []event.Event
	for i, id := range []event.ID{5, 70 * event.BlockSize, 200 * event.BlockSize, far, far + 1, far + 100*event.BlockSize, event.MaxID - event.BlockSize, event.MaxID - 2} {
		d := draft("alice", fmt.Sprint("x/", i%2), fmt.Sprint(id))
		evs = append(evs, event.New(id, event.TimeOf(newClock().at), d, d.Hash()))
	}
	l := mustClaim(t, db, "alice", all.From, all.To)
	mustApply(t, l, all.To, evs...)
	mustDo(t, l.Commit)
	for _, name := range []string{"alice", "alice/x/1", "*", "nobody"} {
		topic := topics(t, name)[0]
		for _, span := range []window.Span{all, {From: 6, To: far}, {From: far, To: all.To}, {From: event.MaxID - 100, To: event.MaxID - 1}, {From: event.MaxID - 1, To: event.MaxID}} {
			var want window.Leafer
			for i := range evs {
				if ev := &evs[i]; topic.Matches(ev.User, ev.Path) && span.Contains(spanOf(ev.ID)) {
					want.Add(ev.ID, ev.Time, ev.Hash)
				}
			}
			leaves := fmt.Sprint(want.Leaves())
			for what, read := range map[string]func() ([]window.Leaf, error){
				"Leaves":         func() ([]window.Leaf, error) { return db.Leaves(ctx, topic, span) },
				"ImportedLeaves": func() ([]window.Leaf, error) { return db.Imports().ImportedLeaves(ctx, topic, span) },
				"UnionLeaves":    func() ([]window.Leaf, error) { return db.UnionLeaves(ctx, []event.Topic{topic}, span) },
				"CheckedLeaves":  func() ([]window.Leaf, error) { return db.CheckedLeaves(ctx, topic, span) },
				"Each": func() ([]window.Leaf, error) {
					var l window.Leafer
					err := db.Each(ctx, []event.Topic{topic}, span, func(ev *event.Event) error { l.Add(ev.ID, ev.Time, ev.Hash); return nil })
					return l.Leaves(), err
				},
			} {
				if what == "Each" && !mustHeld(t, db, topic).Contains(span) {
					continue
				}
				if got, err := read(); err != nil || fmt.Sprint(got) != leaves {
					t.Fatalf("%s of %s in %s are %v, %v, want %s", what, name, span, got, err, leaves)
				}
			}
		}
	}
}
