package hub

import (
	"context"
	"fmt"
	"slices"
	"sync"

	"github.com/rstream-dev/rstream/event"
)

// A log is the slow oracle: all events in order, searched one by one.
type log struct {
	mu     sync.Mutex
	evs    []event.Event
	end    event.ID // what lies beyond it is not there yet
	before func() error
}

func (l *log) Read(ctx context.Context, topics []event.Topic, after, until event.ID, limit int) ([]event.Event, event.ID, error) {
	if l.before != nil {
		if err := l.before(); err != nil {
			return nil, after, err
		}
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	var evs []event.Event
	for i := range l.evs {
		ev := &l.evs[i]
		if ev.ID <= after || ev.ID > min(until, l.end) {
			continue
		}
		if limit == 0 {
			return evs, ev.ID - 1, nil
		}
		limit-- // what is looked at counts, found or not
		if matches(topics, ev) {
			evs = append(evs, *ev)
		}
	}
	return evs, max(after, min(until, l.end)), nil
}

func matches(topics []event.Topic, ev *event.Event) bool {
	return slices.ContainsFunc(topics, func(t event.Topic) bool { return t.Matches(ev.User, ev.Path) })
}

// add commits evs and returns the new end.
func (l *log) add(evs ...event.Event) event.ID {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.evs = append(l.evs, evs...)
	l.end = evs[len(evs)-1].ID
	return l.end
}

// between returns the ids of the events of topics in (after, until].
func (l *log) between(topics []event.Topic, after, until event.ID) (ids []event.ID) {
	l.mu.Lock()
	defer l.mu.Unlock()
	for i := range l.evs {
		if ev := &l.evs[i]; ev.ID > after && ev.ID <= until && matches(topics, ev) {
			ids = append(ids, ev.ID)
		}
	}
	return ids
}

func newEvent(id event.ID, user, path string) event.Event {
	return event.Event{ID: id, Draft: event.Draft{User: user, Path: path, Type: event.Put, Key: fmt.Sprint(id), Value: []byte(`1`)}}
}

func topics(t interface{ Fatal(...any) }, names ...string) (ts []event.Topic) {
	for _, name := range names {
		topic, err := event.ParseTopic(name)
		if err != nil {
			t.Fatal(err)
		}
		ts = append(ts, topic)
	}
	return ts
}

func ids(evs []*event.Event) (ids []event.ID) {
	for _, ev := range evs {
		ids = append(ids, ev.ID)
	}
	return ids
}
