package server

import (
	"context"
	"maps"
	"slices"
	"sort"

	"github.com/rstream-dev/rstream/event"
	"github.com/rstream-dev/rstream/window"
)

func (l *memLog) Leaves(ctx context.Context, topic event.Topic, span window.Span) ([]window.Leaf, error) {
	return l.UnionLeaves(ctx, []event.Topic{topic}, span)
}

func (l *memLog) UnionLeaves(_ context.Context, topics []event.Topic, span window.Span) ([]window.Leaf, error) {
	var leaves window.Leafer
	for _, ev := range l.filter(topics, span.From, span.To) {
		leaves.Add(ev.ID, ev.Time, ev.Hash)
	}
	return leaves.Leaves(), nil
}

func (l *memLog) LearnLeaves([]event.Topic, window.Span, []byte) {}

func (l *memLog) LastAt(_ context.Context, at event.ID) (t event.Time, mark event.Mark, ok bool, err error) {
	l.mu.RLock()
	defer l.mu.RUnlock()
	n := sort.Search(len(l.evs), func(i int) bool { return l.evs[i].ID > at })
	if n == 0 {
		return 0, 0, false, nil
	}
	ev := &l.evs[n-1]
	return ev.Time, event.MarkOf(ev.ID, ev.Time, ev.Hash), true, nil
}

// cursor returns the cursor of a position, as the server must send it.
func (l *memLog) cursor(at event.ID) event.Cursor {
	_, mark, _, _ := l.LastAt(context.Background(), at)
	return event.Point{ID: at, Mark: mark}.Cursor(logName)
}

func (l *memLog) StateAfter(_ context.Context, topic event.Topic, at event.ID, after event.Storage, fn func(*event.Event) error) error {
	last := map[event.Storage]event.Event{}
	for _, ev := range l.filter([]event.Topic{topic}, event.Beginning, at) {
		last[ev.Storage()] = ev
	}
	for _, storage := range slices.SortedFunc(maps.Keys(last), event.Storage.Compare) {
		if ev := last[storage]; ev.Type == event.Put && storage.Compare(after) > 0 {
			if err := fn(&ev); err != nil {
				return err
			}
		}
	}
	return nil
}

func (l *memLog) Parent(context.Context) (string, event.ID, error) {
	l.mu.RLock()
	defer l.mu.RUnlock()
	return l.parent, l.parted, l.err
}

func (l *memLog) EventsByID(_ context.Context, ids []event.ID) (evs []event.Event, err error) {
	for _, ev := range l.filter([]event.Topic{event.All}, event.Beginning, event.MaxID) {
		if slices.Contains(ids, ev.ID) {
			evs = append(evs, ev)
		}
	}
	return evs, nil
}

func (l *memLog) ByHash(_ context.Context, hashes []event.Hash, fn func(*event.Event) error) error {
	for _, ev := range l.filter([]event.Topic{event.All}, event.Beginning, event.MaxID) {
		if slices.Contains(hashes, ev.Hash) {
			if err := fn(&ev); err != nil {
				return err
			}
		}
	}
	return nil
}
