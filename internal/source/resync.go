package source

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"maps"
	"net/http"
	"net/url"
	"slices"

	"github.com/rstream-dev/rstream/event"
	"github.com/rstream-dev/rstream/internal/sse"
	"github.com/rstream-dev/rstream/internal/wire"
)

// An upstreamLog is what a log must tell when the state of an rstream server is compared with
// the log's own.
type upstreamLog interface {
	Log() string
	Head() event.ID
	StateAfter(ctx context.Context, topic event.Topic, at event.ID, after event.Storage, fn func(*event.Event) error) error
	Origins(ctx context.Context, ids []event.ID) ([]event.Origin, error)
	BeforeLast(ctx context.Context, topics []event.Topic, n int, from, until event.ID) (event.ID, error)
	Read(ctx context.Context, topics []event.Topic, after, until event.ID, limit int) ([]event.Event, event.ID, error)
	EventsByID(ctx context.Context, ids []event.ID) ([]event.Event, error)
	LastFrom(ctx context.Context, name string, before event.ID, n int) ([]event.ID, []event.Origin, error)
}

// skipDropped goes on from oldest, since the server has dropped the history before it: with
// a gap, and the state there.
func (f *follower) skipDropped(ctx context.Context, oldest event.ID) error {
	at, err := parseUpstreamCursor(f.state.Cursor)
	if err != nil {
		return err
	}
	if oldest <= at.ID {
		return f.cfg.wrongAnswer("says that history after %s was dropped, and that it has the history after %s", at.ID, oldest)
	}
	return f.resync(ctx, f.state.Log, oldest, "the server has dropped events")
}

// followRestored goes on from the position where the server's log has parted from the one
// that was followed, if it says that it continues that one.
func (f *follower) followRestored(ctx context.Context, refused error) error {
	info, err := f.cfg.upstreamInfo(ctx)
	if err != nil {
		return err
	}
	ours, err := parseUpstreamCursor(f.state.Cursor)
	if err != nil {
		return err
	}
	if info.Log == f.state.Log || info.Parent == nil || info.Parent.Log != f.state.Log {
		return refused // it is another log, or one that was rolled back and does not know
	}
	var parted event.ID
	if info.Parent.Head != nil {
		parted = *info.Parent.Head
	} else if parted, err = f.findParted(ctx); err != nil {
		return err
	}
	if ours.ID <= parted {
		f.state.Log, f.state.Cursor = info.Log, ours.Point().Cursor(info.Log).String()
		if err := f.commit(ctx, &batch{}); err != nil {
			return err
		}
		return errRecovered
	}
	reason := fmt.Sprintf("the server was restored from a backup: its log has other events after %s", parted)
	return f.resync(ctx, info.Log, max(parted, info.Horizon.ID), reason)
}

// partedBatch is how many events are compared at a time to find where two logs have parted.
const partedBatch = 256

// findParted returns the last position up to which the server's log has the events that the
// log has from the one that was followed: with the same ids. It looks from the newest
// backwards until it finds one that both have.
func (f *follower) findParted(ctx context.Context) (event.ID, error) {
	for before := event.MaxID; ; {
		ids, origins, err := f.cfg.Log.LastFrom(ctx, f.cfg.Name, before, partedBatch)
		if err != nil || len(ids) == 0 {
			return event.Beginning, err
		}
		before = ids[0]
		parted, found, err := f.comparePlaces(ctx, ids, origins)
		if err != nil || found {
			return parted, err
		}
	}
}

// comparePlaces compares some events, in the order of ids, with those of the server. found is
// false if it lacks the first one, or has it elsewhere; else parted is the last one before such.
func (f *follower) comparePlaces(ctx context.Context, ids []event.ID, origins []event.Origin) (parted event.ID, found bool, err error) {
	type place struct {
		hash event.Hash
		id   event.ID // in the log that was followed
	}
	var places []place
	var hashes []event.Hash
	for i, id := range ids {
		theirs, err := event.ParseID(origins[i].ID)
		if origins[i].Log != f.state.Log || err != nil {
			continue // an event that the log has made itself
		}
		evs, err := f.cfg.Log.EventsByID(ctx, []event.ID{id}) // values may be large
		if err != nil {
			return 0, false, err
		}
		if len(evs) == 1 { // else it was dropped
			places, hashes = append(places, place{evs[0].Hash, theirs}), append(hashes, evs[0].Hash)
		}
	}
	if len(places) == 0 {
		return 0, false, nil
	}
	stubs, err := f.cfg.upstreamStubs(ctx, hashes)
	if err != nil {
		return 0, false, err
	}
	for _, p := range places {
		if stubs[p.hash] != p.id {
			break
		}
		parted, found = p.id, true
	}
	return parted, found, nil
}

// upstreamStubs asks an rstream server for the ids of events. It lacks those that are not
// returned.
func (c *Config) upstreamStubs(ctx context.Context, hashes []event.Hash) (ids map[event.Hash]event.ID, err error) {
	ids = map[event.Hash]event.ID{}
	left := map[event.Hash]bool{}
	for _, h := range hashes {
		left[h] = true
	}
	request := question{method: http.MethodPost, path: "get", params: url.Values{"stubs": {"1"}}, body: wire.AppendHashes(nil, hashes)}
	err = c.askFor(ctx, request, func(resp *http.Response) error {
		for stubs := newStateReader(resp.Body); ; {
			line, err := stubs.next()
			if errors.Is(err, io.EOF) {
				return nil
			}
			var s wire.Stub
			if err == nil {
				err = json.Unmarshal(line, &s)
			}
			if err != nil {
				return c.nameReadError(err)
			}
			if !left[s.Hash] { // or the answer may never end
				return c.wrongAnswer("sent the id of event %s, which was not asked for", s.Hash)
			}
			delete(left, s.Hash)
			ids[s.Hash] = s.ID
		}
	})
	return ids, err
}

// upstreamInfo asks an rstream server about its log.
func (c *Config) upstreamInfo(ctx context.Context) (info wire.Info, err error) {
	err = c.askFor(ctx, question{method: http.MethodGet}, func(resp *http.Response) error {
		const most = 64 << 10
		if err := json.NewDecoder(io.LimitReader(resp.Body, most)).Decode(&info); err != nil {
			return c.nameReadError(err)
		}
		if info.Log != wire.LogOf(resp.Header) || info.Parent != nil && !event.ValidLogID(info.Parent.Log) {
			return c.wrongAnswer("names two logs, or one that is none")
		}
		return nil
	})
	return info, err
}

// A question is a request for JSON.
type question struct {
	method, path string
	params       url.Values
	body         []byte // JSON
}

// askFor makes one request to an rstream server, and calls fn with the response.
func (c *Config) askFor(ctx context.Context, q question, fn func(*http.Response) error) error {
	base, _, err := c.upstreamURL()
	if err != nil {
		return err
	}
	target := base.JoinPath(q.path)
	if q.path == "" && target.Path == "" {
		target.Path = "/"
	}
	target.RawQuery = q.params.Encode()
	req, err := http.NewRequestWithContext(ctx, q.method, target.String(), bytes.NewReader(q.body))
	if err != nil {
		return err
	}
	if req.Header, err = c.header(ctx); err != nil {
		return err
	}
	req.Header.Set("Accept", wire.JSON)
	if q.body != nil {
		req.Header.Set("Content-Type", wire.JSON)
	}
	hc, release := c.httpClient()
	defer release()
	resp, err := hc.Do(req)
	if err != nil {
		return c.nameError(err)
	}
	body := sse.NewIdleBody(resp.Body, c.idle())
	defer body.Close()
	resp.Body = body
	if _, err := c.checkAnswer(resp, wire.JSON); err != nil {
		return err
	}
	return fn(resp)
}

// maxMoves is how often a resync begins again since the server has dropped its position.
const maxMoves = 10

// resync is resyncAt. If the server drops the position meanwhile, it goes on from the oldest
// one that the server still has.
func (f *follower) resync(ctx context.Context, log string, at event.ID, reason string) (err error) {
	for range maxMoves {
		err = f.resyncAt(ctx, log, at, reason)
		var status *StatusError
		if !errors.As(err, &status) || status.Status != http.StatusGone || status.problem == nil || status.problem.Oldest == nil || *status.problem.Oldest <= at {
			break
		}
		at = *status.problem.Oldest
	}
	return err
}

// resyncAt makes the state that the log has of the source that of the server at a position,
// notes a gap, and moves the cursor there. log is the id of the server's log, "" if any may
// answer. If resyncAt is interrupted, what it has stored counts when it is called again: until
// the end, the cursor stays.
func (f *follower) resyncAt(ctx context.Context, log string, at event.ID, reason string) error {
	_, topics, err := f.cfg.upstreamURL()
	if err != nil {
		return err
	}
	var cursor event.Cursor
	for _, topic := range topics {
		if cursor, err = f.resyncTopic(ctx, log, topic, at); err != nil {
			return err
		}
		log = cursor.Log
	}
	b := &batch{}
	if f.state.Cursor != "" {
		b.add(f.gap(reason), "")
	}
	f.state.Restored = f.state.Restored || f.state.Log != "" && f.state.Log != log
	f.state.Begun, f.state.Log, f.state.Cursor = true, log, cursor.Point().Cursor(log).String()
	if err := f.commitReceived(ctx, b); err != nil {
		return err
	}
	return errRecovered
}

// maxMerged is how many differences are stored in one transaction.
const maxMerged = 1000

// A stateMerge compares the state that a server has of a topic with the one that the log has.
type stateMerge struct {
	f     *follower
	log   string // the id of the server's, "" before the first answer
	own   ownState
	known map[event.Hash]event.ID // the differences that the log has had
	diffs []stateDiff
	after event.Storage // the last one that was merged
}

// A stateDiff is a storage whose value differs. One of the two may be missing.
type stateDiff struct {
	own    *event.Event
	origin event.Origin
	theirs *event.Event
}

// resyncTopic stores what the state of a topic at a position has and the log does not.
func (f *follower) resyncTopic(ctx context.Context, log string, topic event.Topic, at event.ID) (cursor event.Cursor, err error) {
	m := stateMerge{f: f, log: log, own: ownState{log: f.cfg.Log, topic: topic, at: f.cfg.Log.Head()}}
	for attempt := 0; ; attempt++ {
		before := m.after
		cursor, err = m.readState(ctx, topic, at)
		if err == nil {
			break
		}
		if m.after != before {
			attempt = 0
		}
		// Torn where it was: the next request goes on from there.
		if isFinal(err) || ctx.Err() != nil || attempt == 3 {
			return cursor, err
		}
	}
	return cursor, m.finish(ctx)
}

// readState merges the values of the server's state after the last one that was merged. The
// cursor that it returns has the whole id of the log.
func (m *stateMerge) readState(ctx context.Context, topic event.Topic, at event.ID) (cursor event.Cursor, err error) {
	c, after := &m.f.cfg, m.after
	q := wire.SnapshotQuery{Topic: topic, At: event.At(event.Cursor{ID: at}), After: after}
	err = c.askFor(ctx, question{method: http.MethodGet, path: "snapshot", params: q.Values()}, func(resp *http.Response) error {
		var ok bool
		if cursor, ok = wire.CursorIn(resp.Header, wire.HeaderTo); !ok || cursor.ID != at {
			return c.wrongAnswer("did not send the state at %s", at)
		}
		if cursor.Log = wire.LogOf(resp.Header); m.log != "" && cursor.Log != m.log {
			return c.wrongAnswer("is the log %s now, and was %s", cursor.Log, m.log)
		}
		m.log = cursor.Log
		values := newStateReader(resp.Body)
		for {
			line, err := values.next()
			switch {
			case errors.Is(err, io.EOF):
				return nil
			case errors.Is(err, errStateForm):
				return c.wrongAnswer("sent a state that cannot be read")
			case err != nil:
				return c.nameReadError(err)
			}
			ev, err := event.ParseLine(line)
			if err != nil {
				return c.wrongAnswer("sent a bad event: %v", err)
			}
			if len(ev.Value) > wire.MaxValue {
				return c.wrongAnswer("sent event %s, whose value is longer than %d bytes", ev.ID, wire.MaxValue)
			}
			if s := ev.Storage(); ev.ID > at || ev.Type != event.Put || !topic.Matches(ev.User, ev.Path) || s.Compare(after) <= 0 {
				return c.wrongAnswer("sent event %s, which is not in the state at %s", ev.ID, at)
			}
			after = ev.Storage()
			if err := m.mergeValue(ctx, &ev); err != nil {
				return err
			}
		}
	})
	return cursor, err
}

// mergeValue merges a value of the server's state.
func (m *stateMerge) mergeValue(ctx context.Context, ev *event.Event) error {
	if err := m.passOwn(ctx, ev.Storage()); err != nil {
		return err
	}
	own, err := m.own.peek(ctx)
	if err != nil {
		return err
	}
	d := stateDiff{theirs: ev}
	if own != nil && own.Storage() == ev.Storage() {
		d.own, d.origin = own, m.own.origin()
		m.own.skip()
	}
	m.after = ev.Storage()
	if isUpstreamsOwn(ev) || d.own != nil && d.own.Hash == ev.Hash {
		return nil
	}
	return m.add(ctx, d)
}

// passOwn merges the values of the log in storages before one: the server does not have them.
func (m *stateMerge) passOwn(ctx context.Context, until event.Storage) error {
	for {
		own, err := m.own.peek(ctx)
		if err != nil || own == nil || own.Storage().Compare(until) >= 0 {
			return err
		}
		if err := m.dropOwn(ctx, own); err != nil {
			return err
		}
	}
}

// dropOwn merges a value of the log that the server does not have.
func (m *stateMerge) dropOwn(ctx context.Context, own *event.Event) error {
	d := stateDiff{own: own, origin: m.own.origin()}
	m.own.skip()
	if d.origin.Source != m.f.cfg.Name || isUpstreamsOwn(own) {
		return nil // it is from somewhere else
	}
	return m.add(ctx, d)
}

func (m *stateMerge) add(ctx context.Context, d stateDiff) error {
	m.diffs = append(m.diffs, d)
	if len(m.diffs) < maxMerged {
		return nil
	}
	return m.store(ctx)
}

// finish merges the values of the log after those of the server.
func (m *stateMerge) finish(ctx context.Context) error {
	for {
		own, err := m.own.peek(ctx)
		if err != nil {
			return err
		}
		if own == nil {
			return m.store(ctx)
		}
		if err := m.dropOwn(ctx, own); err != nil {
			return err
		}
	}
}

// gapKey begins the key of an event that stands for those that were lost. The hash of the
// event that it follows comes next, so that it is made once.
const gapKey = "gap:"

// store stores the differences: values as their authors have made them, unless the log has
// had them already and lost them since; removals with a key of the log's own.
func (m *stateMerge) store(ctx context.Context) error {
	diffs := m.diffs
	m.diffs = nil
	if err := m.lookUp(ctx, diffs); err != nil {
		return err
	}
	b := &batch{log: m.log}
	for i := range diffs {
		if err := m.addDiff(ctx, b, &diffs[i]); err != nil {
			return err
		}
	}
	if len(b.drafts) == 0 {
		return nil
	}
	return m.f.commit(ctx, b)
}

// lookUp finds out which values of the server the log has had.
func (m *stateMerge) lookUp(ctx context.Context, diffs []stateDiff) (err error) {
	var hashes []event.Hash
	for _, d := range diffs {
		if d.theirs != nil {
			hashes = append(hashes, d.theirs.Hash)
		}
	}
	m.known, err = m.f.cfg.Log.Taken(ctx, hashes)
	return err
}

func (m *stateMerge) addDiff(ctx context.Context, b *batch, d *stateDiff) error {
	switch {
	case d.theirs == nil:
		b.addAfter(event.Draft{User: d.own.User, Path: d.own.Path, Type: event.Del, Key: gapKey + d.own.Hash.String()}, "", d.own.ID)
		return nil
	case m.known[d.theirs.Hash] == event.Beginning:
		b.add(d.theirs.Draft, d.theirs.ID.String())
		m.f.state.Events++
		m.f.state.Bytes += int64(len(d.theirs.Line()))
		return nil
	}
	// The log has had this value, and another one since.
	last := d.own
	if last == nil {
		var err error
		if last, err = m.f.lastOf(ctx, d.theirs.Storage()); err != nil || last == nil {
			return err
		}
		origins, err := m.f.cfg.Log.Origins(ctx, []event.ID{last.ID})
		if err != nil {
			return err
		}
		d.origin = origins[0]
	}
	if d.origin.Source != m.f.cfg.Name {
		return nil
	}
	again := d.theirs.Draft
	again.Key = gapKey + last.Hash.String()
	b.addAfter(again, "", last.ID)
	return nil
}

// lastOf returns the last event of a storage, nil if it has none.
func (f *follower) lastOf(ctx context.Context, s event.Storage) (*event.Event, error) {
	topics, head := []event.Topic{event.Exactly(s)}, f.cfg.Log.Head()
	before, err := f.cfg.Log.BeforeLast(ctx, topics, 1, event.Beginning, head)
	if err != nil {
		return nil, err
	}
	evs, _, err := f.cfg.Log.Read(ctx, topics, before, head, 1)
	if err != nil || len(evs) == 0 {
		return nil, err
	}
	return &evs[0], nil
}

// An ownState reads the log's state of a topic, some values at a time: no transaction is open
// while a server is waited for.
type ownState struct {
	log   upstreamLog
	topic event.Topic
	at    event.ID

	values  []event.Event
	origins []event.Origin
	after   event.Storage
	ended   bool
}

var errEnough = errors.New("enough was read")

// peek returns the next value, nil after the last one.
func (o *ownState) peek(ctx context.Context) (*event.Event, error) {
	if len(o.values) == 0 && !o.ended {
		if err := o.readMore(ctx); err != nil {
			return nil, err
		}
	}
	if len(o.values) == 0 {
		return nil, nil
	}
	return &o.values[0], nil
}

func (o *ownState) readMore(ctx context.Context) error {
	o.values, o.origins = nil, nil
	err := o.log.StateAfter(ctx, o.topic, o.at, o.after, func(ev *event.Event) error {
		o.values = append(o.values, *ev)
		if len(o.values) == maxMerged {
			return errEnough
		}
		return nil
	})
	if err != nil && !errors.Is(err, errEnough) {
		return err
	}
	o.ended = err == nil
	if len(o.values) == 0 {
		return nil
	}
	o.after = o.values[len(o.values)-1].Storage()
	ids := make([]event.ID, len(o.values))
	for i := range o.values {
		ids[i] = o.values[i].ID
	}
	o.origins, err = o.log.Origins(ctx, ids)
	return err
}

// origin returns where the value of peek is from.
func (o *ownState) origin() event.Origin { return o.origins[0] }

func (o *ownState) skip() { o.values, o.origins = o.values[1:], o.origins[1:] }

// repeatLost replaces events that the log has, but that the server had lost when it was
// restored and has got again: the log does not take a hash twice, and its state would stay
// that of before.
func (f *follower) repeatLost(ctx context.Context, b *batch) error {
	hashes := make([]event.Hash, len(b.drafts))
	at := map[event.Hash]int{}
	for i := range b.drafts {
		hashes[i] = b.drafts[i].Hash()
		at[hashes[i]] = i
	}
	had, err := f.cfg.Log.Taken(ctx, hashes)
	if err != nil || len(had) == 0 {
		return err
	}
	known := slices.Collect(maps.Keys(had))
	ids := make([]event.ID, len(known))
	for i, h := range known {
		ids[i] = had[h]
	}
	origins, err := f.cfg.Log.Origins(ctx, ids)
	if err != nil {
		return err
	}
	for i, h := range known {
		n := at[h]
		if o := origins[i]; o.Source == f.cfg.Name && o.Log != "" && o.Log != f.state.Log && b.foreign[n] != "" {
			b.drafts[n].Key = fmt.Sprintf("%s%s:%s:%s", gapKey, h, f.state.Log, b.foreign[n])
		}
	}
	return nil
}
