package snapshot

import (
	"cmp"
	"context"
	"database/sql"
	"slices"
	"strings"
	"sync"

	"github.com/rstream-dev/rstream/cache/internal/pages"
	"github.com/rstream-dev/rstream/event"
	"github.com/rstream-dev/rstream/window"
)

// recent holds the events that this process stored last, sorted by id and without their
// values. During appends a state is sealed from them if they are complete: reading back
// the events would cost nearly as much as writing them.
type recent struct {
	mu       sync.Mutex
	removals int64 // of the file when the events were stored
	events   []recentEvent
	names    map[int64]event.Storage // of the events' storages
	bytes    int                     // of names
}

type recentEvent struct {
	id      event.ID
	storage int64
	put     bool
	at      pages.Locator
}

// RecentEvents and RecentNames bound the events kept and the bytes of their names. They
// are variables for the tests.
var (
	RecentEvents = int(8 * event.BlockSize)
	RecentNames  = 2 << 20
)

// addRecent records the events that a committed transaction stored, or found stored, with the
// numbers of their storages and their places. removals is the file's count of removals
// after it.
func (r *recent) addRecent(evs []event.Event, storages []int64, places []pages.Posted, removals int64) {
	more := max(len(evs)-RecentEvents, 0)
	if evs, storages, places = evs[more:], storages[more:], places[more:]; len(evs) == 0 {
		return
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	n := len(r.events)
	if r.names == nil || removals != r.removals || n > 0 && evs[0].ID <= r.events[n-1].id ||
		len(r.names) > RecentEvents || r.bytes > RecentNames {
		r.removals, r.events, r.names, r.bytes = removals, nil, map[int64]event.Storage{}, 0
	}
	for i := range evs {
		ev := &evs[i]
		if _, ok := r.names[storages[i]]; !ok {
			r.names[storages[i]] = event.Storage{User: strings.Clone(ev.User), Path: strings.Clone(ev.Path)}
			r.bytes += len(ev.User) + len(ev.Path)
		}
		r.events = append(r.events, recentEvent{ev.ID, storages[i], ev.Type == event.Put, places[i].Locator})
	}
	if more = len(r.events) - RecentEvents; more > 0 {
		r.events = slices.Delete(r.events, 0, more+RecentEvents/4) // make room for many, so that it is seldom
	}
}

// within returns the events in span, none if the file has had removals since. The caller
// holds mu.
func (r *recent) within(span window.Span, removals int64) []recentEvent {
	if removals != r.removals {
		return nil
	}
	return r.events[r.indexAfter(span.From):r.indexAfter(span.To)]
}

// indexAfter returns the index of the first event after a position.
func (r *recent) indexAfter(at event.ID) int {
	i, _ := slices.BinarySearchFunc(r.events, at+1, func(ev recentEvent, id event.ID) int { return cmp.Compare(ev.id, id) })
	return i
}

// isDense reports whether the event of every id in span is recent.
func (r *recent) isDense(span window.Span, removals int64) bool {
	r.mu.Lock()
	defer r.mu.Unlock()
	return len(r.within(span, removals)) == int(span.To-span.From)
}

// lastRecent returns the last event in span of each storage of topic, sorted by name; ok is
// false if the file has events there that are not recent.
func (r *recent) lastRecent(ctx context.Context, tx *sql.Tx, topic event.Topic, span window.Span, removals int64) (refs []Ref, ok bool, err error) {
	refs, n := r.lastHere(topic, span, removals)
	if n == 0 || n == int(span.To-span.From) {
		return refs, n > 0, nil
	}
	stored, err := pages.Count(ctx, tx, span)
	return refs, n == stored, err
}

// lastHere returns the last recent event in span of each storage of topic. n is how many
// recent events there are in span.
func (r *recent) lastHere(topic event.Topic, span window.Span, removals int64) (refs []Ref, n int) {
	r.mu.Lock()
	evs := r.within(span, removals)
	most := min(len(evs), len(r.names))
	seen := make(map[int64]struct{}, most)
	refs = make([]Ref, 0, most)
	for _, ev := range slices.Backward(evs) {
		if _, ok := seen[ev.storage]; ok {
			continue
		}
		seen[ev.storage] = struct{}{}
		if n := r.names[ev.storage]; topic.Matches(n.User, n.Path) {
			refs = append(refs, Ref{Storage: n, ID: ev.id, Put: ev.put, Del: !ev.put, at: ev.at})
		}
	}
	n = len(evs)
	r.mu.Unlock()
	slices.SortFunc(refs, func(a, b Ref) int { return a.Compare(b.Storage) })
	return refs, n
}
