package server

import (
	"context"
	"maps"
	"path/filepath"
	"slices"
	"sort"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/rstream-dev/rstream/cache"
	"github.com/rstream-dev/rstream/event"
	"github.com/rstream-dev/rstream/internal/testfile"
	"github.com/rstream-dev/rstream/window"
)

// logName is the id of every log in these tests.
const logName = "K7Q2M4X9C0V3B8RT"

// newFile is a new file as cache.Open creates it.
var newFile = testfile.New(func(path string) (string, error) {
	db, err := cache.Open(context.Background(), path, cache.Config{Role: cache.Server})
	if err != nil {
		return "", err
	}
	return db.Log(), db.Close()
})

// openFile opens a new file of the log, and closes it at the end of the test.
func openFile(t *testing.T, now func() time.Time) *cache.DB {
	t.Helper()
	path := filepath.Join(t.TempDir(), "log.db")
	if err := newFile.Write(path, logName); err != nil {
		t.Fatal(err)
	}
	db, err := cache.Open(t.Context(), path, cache.Config{Role: cache.Server, Log: logName, Now: now})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = db.Close() })
	return db
}

// A memLog is the slow oracle: a list that is searched from its beginning.
type memLog struct {
	now     func() time.Time
	look    int           // a Read looks at this many events at most; 0 is all
	reading atomic.Int32  // calls of Read under way
	reads   atomic.Int32  // calls of Read
	calls   atomic.Int32  // calls of Append
	pause   time.Duration // how long a Read takes
	parent  string        // what it was restored from
	parted  event.ID      // and where the two parted

	origins map[event.ID]event.Origin // set before it is served

	mu      sync.RWMutex
	evs     []event.Event
	horizon event.ID
	err     error // of whatever is called next

	appending sync.Mutex
	commit    func([]event.Event, event.ID)
}

func (l *memLog) Log() string { return logName }

func (l *memLog) Origins(_ context.Context, ids []event.ID) ([]event.Origin, error) {
	origins := make([]event.Origin, len(ids))
	for i, id := range ids {
		origins[i] = l.origins[id]
	}
	return origins, nil
}

func (l *memLog) Head() event.ID {
	l.mu.RLock()
	defer l.mu.RUnlock()
	return l.head()
}

func (l *memLog) HeadPoint() (p event.Point) {
	l.mu.RLock()
	defer l.mu.RUnlock()
	if n := len(l.evs); n > 0 {
		p = event.Point{ID: l.evs[n-1].ID, Mark: l.evs[n-1].Mark()}
	}
	return p
}

func (l *memLog) head() event.ID {
	if len(l.evs) == 0 {
		return 0
	}
	return l.evs[len(l.evs)-1].ID
}

func (l *memLog) Horizon(context.Context) (event.ID, error) {
	l.mu.RLock()
	defer l.mu.RUnlock()
	return l.horizon, l.err
}

func (l *memLog) PositionAt(_ context.Context, t event.Time) (event.ID, error) {
	l.mu.RLock()
	defer l.mu.RUnlock()
	n := sort.Search(len(l.evs), func(i int) bool { return l.evs[i].Time > t })
	if n == 0 {
		return 0, l.err
	}
	return l.evs[n-1].ID, l.err
}

func (l *memLog) BeforeLast(_ context.Context, topics []event.Topic, n int, from, until event.ID) (event.ID, error) {
	if n == 0 {
		return until, nil
	}
	ids := idsOf(l.filter(topics, from, until))
	if len(ids) <= n {
		return from, nil
	}
	return ids[len(ids)-n-1], nil
}

func (l *memLog) OnCommit(f func([]event.Event, event.ID)) { l.commit = f }

func (l *memLog) Read(ctx context.Context, topics []event.Topic, after, until event.ID, limit int) ([]event.Event, event.ID, error) {
	l.reads.Add(1)
	l.reading.Add(1)
	defer l.reading.Add(-1)
	if l.pause > 0 {
		timer := time.NewTimer(l.pause)
		defer timer.Stop()
		select {
		case <-timer.C:
		case <-ctx.Done():
			return nil, after, ctx.Err()
		}
	}
	l.mu.RLock()
	defer l.mu.RUnlock()
	if l.err != nil {
		return nil, after, l.err
	}
	if after < l.horizon {
		return nil, after, &window.NotHeldError{After: after, Oldest: l.horizon, Some: true}
	}
	until = min(until, l.head())
	var evs []event.Event
	for i := int(after); i < int(until); i++ {
		if len(evs) == limit || l.look > 0 && i-int(after) == l.look {
			return evs, event.ID(i), nil
		}
		if matches(topics, &l.evs[i]) {
			evs = append(evs, l.evs[i])
		}
	}
	return evs, max(after, until), nil
}

// appendLines appends events to b as NDJSON.
func appendLines(b []byte, evs []event.Event) []byte {
	for i := range evs {
		b = append(evs[i].AppendLine(b), '\n')
	}
	return b
}

func (l *memLog) AppendLines(ctx context.Context, b []byte, topics []event.Topic, after, until event.ID, limit int) ([]byte, event.ID, error) {
	evs, next, err := l.Read(ctx, topics, after, until, limit)
	return appendLines(b, evs), next, err
}

func matches(topics []event.Topic, ev *event.Event) bool {
	return slices.ContainsFunc(topics, func(t event.Topic) bool { return t.Matches(ev.User, ev.Path) })
}

// filter returns the events of topics in (after, until].
func (l *memLog) filter(topics []event.Topic, after, until event.ID) (evs []event.Event) {
	l.mu.RLock()
	defer l.mu.RUnlock()
	for i := range l.evs {
		if ev := &l.evs[i]; ev.ID > after && ev.ID <= until && matches(topics, ev) {
			evs = append(evs, *ev)
		}
	}
	return evs
}

func (l *memLog) Append(_ context.Context, drafts []event.Draft) ([]event.Receipt, error) {
	l.calls.Add(1)
	l.appending.Lock()
	defer l.appending.Unlock()
	receipts, fresh, err := l.add(drafts)
	if err == nil && l.commit != nil {
		l.commit(fresh, l.Head())
	}
	return receipts, err
}

func (l *memLog) add(drafts []event.Draft) (receipts []event.Receipt, fresh []event.Event, err error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.err != nil {
		return nil, nil, l.err
	}
	for _, d := range drafts {
		h := d.Hash()
		if known := l.find(h); known != nil {
			receipts = append(receipts, l.knownReceipt(known))
			continue
		}
		ev := event.New(event.ID(len(l.evs)+1), event.TimeOf(l.now()), d, h)
		l.evs = append(l.evs, ev)
		fresh = append(fresh, ev)
		receipts = append(receipts, event.Receipt{Event: ev})
	}
	return receipts, fresh, nil
}

// find returns the event with a hash, if the log has it. Nothing is repeated in a log that is too
// large to be searched for each event.
func (l *memLog) find(h event.Hash) *event.Event {
	if len(l.evs) >= 1000 {
		return nil
	}
	for i := range l.evs {
		if l.evs[i].Hash == h {
			return &l.evs[i]
		}
	}
	return nil
}

// knownReceipt returns the receipt of an event that the log already had. Events that are not
// part of the state at its horizon are dropped.
func (l *memLog) knownReceipt(ev *event.Event) event.Receipt {
	if !l.isDropped(ev) {
		return event.Receipt{Event: *ev, Duplicate: true}
	}
	return event.Receipt{Event: event.Event{ID: ev.ID, Draft: ev.Draft, Hash: ev.Hash}, Duplicate: true, Dropped: true}
}

// isDropped reports whether an event is below the horizon and not part of the state there.
func (l *memLog) isDropped(ev *event.Event) bool {
	later := func(other event.Event) bool {
		return other.ID > ev.ID && other.ID <= l.horizon && other.Storage() == ev.Storage()
	}
	return ev.ID <= l.horizon && (ev.Type != event.Put || slices.ContainsFunc(l.evs, later))
}

// Usage goes through all events for each storage.
func (l *memLog) Usage(_ context.Context, topic event.Topic, after event.Storage, until event.ID, limit int) (list event.UsageList, err error) {
	l.mu.RLock()
	defer l.mu.RUnlock()
	of := map[event.Storage]*event.Usage{}
	for i := range l.evs {
		ev := &l.evs[i]
		if ev.ID > until || l.isDropped(ev) || !topic.Matches(ev.User, ev.Path) {
			continue
		}
		u := of[ev.Storage()]
		if u == nil {
			u = &event.Usage{User: ev.User, Path: ev.Path, First: ev.ID}
			of[ev.Storage()] = u
		}
		u.Count++
		u.Bytes += int64(len(ev.Line())) + 1
		u.Last, u.Time, u.Type = ev.ID, ev.Time, ev.Type
	}
	for _, s := range slices.SortedFunc(maps.Keys(of), event.Storage.Compare) {
		if s.Compare(after) <= 0 {
			continue
		}
		if len(list.Usages) == limit {
			last := list.Usages[limit-1]
			list.Next = event.Storage{User: last.User, Path: last.Path}
			break
		}
		list.Usages = append(list.Usages, *of[s])
	}
	return list, l.err
}

// set changes the log without the server.
func (l *memLog) set(f func()) {
	l.mu.Lock()
	defer l.mu.Unlock()
	f()
}

// put appends n events to a storage and fails the test on an error.
func (l *memLog) put(t *testing.T, user, path string, n int) {
	t.Helper()
	for range n {
		d := event.Draft{User: user, Path: path, Type: event.Put, Key: l.Head().String(), Value: []byte(`{"n":1}`)}
		if _, err := l.Append(t.Context(), []event.Draft{d}); err != nil {
			t.Fatal(err)
		}
	}
}

func newLog() *memLog { return &memLog{now: time.Now} }

func idsOf(evs []event.Event) (ids []event.ID) {
	for i := range evs {
		ids = append(ids, evs[i].ID)
	}
	return ids
}

func topicsOf(t interface{ Fatal(...any) }, names ...string) (ts []event.Topic) {
	for _, name := range names {
		topic, err := event.ParseTopic(name)
		if err != nil {
			t.Fatal(err)
		}
		ts = append(ts, topic)
	}
	return ts
}
