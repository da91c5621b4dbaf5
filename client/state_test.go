package client

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"net/http"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"pgregory.net/rapid"

	"github.com/rstream-dev/rstream/cache"
	"github.com/rstream-dev/rstream/event"
	"github.com/rstream-dev/rstream/internal/longtest"
	"github.com/rstream-dev/rstream/internal/wire"
)

// A change is an event as the slow reader sees it, with what a fold needs.
type change struct {
	ID, Time, User, Path, Type string
	line                       string
}

// changes returns all events of the log after position since, read slowly.
func (f *fixture) changes(since string) (all []change) {
	for _, ev := range f.truth("*", since, "") {
		c := change{line: ev.line}
		if err := json.Unmarshal([]byte(ev.line), &c); err != nil {
			f.t.Fatal(err)
		}
		all = append(all, c)
	}
	return all
}

// slowState computes the state of topic with a map, in order.
func slowState(all []change, topic event.Topic, in func(*change) bool) (lines []string) {
	state := map[[2]string]string{}
	for i := range all {
		switch c := &all[i]; {
		case !in(c) || !topic.Matches(c.User, c.Path):
		case c.Type == "PUT":
			state[[2]string{c.User, c.Path}] = c.line
		default:
			delete(state, [2]string{c.User, c.Path})
		}
	}
	for _, name := range slices.SortedFunc(maps.Keys(state), func(a, b [2]string) int { return slices.Compare(a[:], b[:]) }) {
		lines = append(lines, state[name])
	}
	return lines
}

var stateStorages = []string{"alice/posts", "alice/posts/1", "alice/posts/1/x", "alice/posts-old", "alice/x", "bob/posts", "bob/posts/1"}

// putSome appends n events that set, end and set again.
func (f *fixture) putSome(draw func(int) int, n int) {
	var drafts []event.Draft
	for range n {
		user, path, _ := strings.Cut(stateStorages[draw(len(stateStorages))], "/")
		if draw(3) == 0 {
			path += fmt.Sprint("/", draw(40))
		}
		d := event.Draft{User: user, Path: path, Type: event.Put, Key: fmt.Sprint(f.puts.Add(1)), Value: fmt.Appendf(nil, "%d", draw(1000))}
		if draw(3) == 0 {
			d.Type, d.Value = event.Del, nil
		}
		drafts = append(drafts, d)
	}
	for some := range slices.Chunk(drafts, 500) { // each has a time
		if _, err := f.db.Append(f.t.Context(), some); err != nil {
			f.t.Error(err)
		}
	}
}

// steady draws the same numbers each time.
func steady() func(int) int {
	x := uint32(1)
	return func(n int) int {
		x = x*1664525 + 1013904223
		return int(x>>8) % n
	}
}

func collectState(t fataler, c *Client, topic event.Topic, at event.Moment) (lines []string) {
	for ev, err := range c.State(context.Background(), topic, at) {
		if err != nil {
			t.Fatalf("%v", err)
		}
		lines = append(lines, string(ev.Line()))
	}
	return lines
}

type fataler interface {
	Fatalf(format string, args ...any)
}

// Random topics and moments, on events and between them, before the first and after
// the last, with windows here and there, appends, cut connections and no server at
// all: each state equals the fold of the server's own NDJSON.
func TestStateModel(t *testing.T) {
	fewChecks(t, longtest.Scale(2, 5, 30))
	f := newFixture(t)
	f.putSome(steady(), event.BlockSize+500)
	p := newTearingProxy(t, f.http.URL, 3, 300_000)
	all := f.changes("")
	dir, runs := t.TempDir(), 0
	topics := []string{"*", "alice", "alice/posts", "alice/posts/", "alice/po*", "alice/posts/1$", "*/posts", "bob", "nobody"}
	rapid.Check(t, func(rt *rapid.T) {
		runs++
		db := f.openCache(filepath.Join(dir, fmt.Sprint(runs)), nil)
		cfg := nervous(p.url())
		cfg.Wait, cfg.PageLimit = true, 5000
		c, err := New(db, cfg)
		if err != nil {
			rt.Fatal(err)
		}
		defer c.Close()
		for range rapid.IntRange(2, 6).Draw(rt, "steps") {
			topic := mustTopic(t, rapid.SampledFrom(topics).Draw(rt, "topic"))
			at := &all[rapid.OneOf(rapid.IntRange(0, len(all)-1), rapid.IntRange(0, 20), rapid.IntRange(len(all)-20, len(all)-1)).Draw(rt, "event")]
			switch step := rapid.SampledFrom([]string{"put", "sync", "id", "id", "time", "now", "before", "forget", "alone"}).Draw(rt, "step"); step {
			case "put":
				f.putSome(func(n int) int { return rapid.IntRange(0, n-1).Draw(rt, "n") }, 5)
				all = append(all, f.changes(all[len(all)-1].ID)...)
			case "sync":
				if _, err := syncAt(t.Context(), c, topic, moment(t, at.ID)); err != nil {
					rt.Fatal(err)
				}
			case "forget":
				if _, err := db.Forget(t.Context(), topic, event.MaxID); err != nil && !errors.As(err, new(*cache.HeldAsError)) {
					rt.Fatal(err)
				}
			case "id", "time":
				when, in := moment(t, at.ID), func(c *change) bool { return c.ID <= at.ID }
				if step == "time" {
					when, in = moment(t, at.Time), func(c *change) bool { return c.Time <= at.Time }
				}
				got := collectState(rt, c, topic, when)
				same(rt, fmt.Sprintf("state of %s at %s", topic, when), got, slowState(all, topic, in))
				// It is held from now on: nobody is asked again.
				before := c.Stats().Requests
				if again := collectState(rt, c, topic, moment(t, at.ID)); step == "id" && (c.Stats().Requests != before || !slices.Equal(again, got)) {
					rt.Fatalf("asking again took %d requests", c.Stats().Requests-before)
				}
			case "now":
				same(rt, "state now", collectState(rt, c, topic, event.Now), slowState(all, topic, func(*change) bool { return true }))
			case "before":
				same(rt, "state before all", collectState(rt, c, topic, moment(t, "2000-01-01T00:00:00Z")), nil)
			case "alone":
				id, err := db.Snapshots().LastState(t.Context(), topic)
				if err != nil {
					break // nothing is known
				}
				var got []string
				err = db.State(t.Context(), topic, id, func(ev *event.Event) error { got = append(got, string(ev.Line())); return nil })
				if err != nil {
					rt.Fatal(err)
				}
				same(rt, "the last state held", got, slowState(all, topic, func(c *change) bool { return c.ID <= id.String() }))
			}
		}
	})
}

func moment(t testing.TB, s string) event.Moment {
	t.Helper()
	m, err := event.ParseMoment(s)
	if err != nil {
		t.Fatal(err)
	}
	return m
}

func same(t fataler, what string, got, want []string) {
	if !slices.Equal(got, want) {
		t.Fatalf("%s is\n%s\nwant\n%s", what, strings.Join(got, "\n"), strings.Join(want, "\n"))
	}
}

// In a log of three blocks, a state in the second block requires the snapshot at its
// beginning and the window itself. Another moment in it requires no request, and the server
// may be gone.
func TestStateFetchesOnlyWhatIsMissing(t *testing.T) {
	f := newFixture(t)
	f.putSome(steady(), 2*event.BlockSize+500)
	all := f.changes("")
	topic := mustTopic(t, "alice/posts")
	upTo := func(at event.ID) func(*change) bool {
		return func(c *change) bool { return c.ID <= at.String() }
	}
	c := newTestClient(t, f.newCache(), hasty(f.http.URL))
	at := event.ID(event.BlockSize + 1234)
	want := slowState(all, topic, upTo(at))
	same(t, "the state", collectState(t, c, topic, moment(t, at.String())), want)
	members := len(slowState(all, topic, upTo(event.BlockSize)))
	window := 0
	for i := range all {
		if id := all[i].ID; id > event.ID(event.BlockSize).String() && id <= event.ID(2*event.BlockSize).String() && topic.Matches(all[i].User, all[i].Path) {
			window++
		}
	}
	if got := int(c.Stats().Events); got != members+window {
		t.Errorf("%d events came, want a snapshot of %d and a window of %d", got, members, window)
	}
	requests := c.Stats().Requests
	f.http.CloseClientConnections()
	other := event.ID(event.BlockSize + 4000)
	same(t, "another moment", collectState(t, c, topic, moment(t, other.String())), slowState(all, topic, upTo(other)))
	same(t, "by its time", collectState(t, c, topic, moment(t, all[at-1].Time)), slowState(all, topic, func(c *change) bool { return c.Time <= all[at-1].Time }))
	part := mustTopic(t, "alice/posts/1")
	same(t, "of a part", collectState(t, c, part, moment(t, at.String())), slowState(all, part, upTo(at)))
	if n := c.Stats().Requests - requests; n != 0 {
		t.Errorf("a held state took %d requests", n)
	}
}

// Follow under a storm of appends: the state, and then every later change once and
// none earlier.
func TestFollowUnderStorm(t *testing.T) {
	f := newFixture(t)
	draw := steady()
	f.putSome(draw, 2000)
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	var storm sync.WaitGroup
	stated := make(chan struct{}) // closed with the last part of the state
	storm.Go(func() {
		for range longtest.Size(50, 200) {
			f.putSome(draw, 10)
		}
		select { // if the last event were part of the state, no change would end the test
		case <-stated:
			f.put("alice/last", 1)
		case <-ctx.Done():
		}
	})
	c := newTestClient(t, f.newCache(), hasty(f.http.URL))
	topic := mustTopic(t, "alice")
	var at event.ID
	var state, got []string
	for b, err := range c.Follow(ctx, topic) {
		if err != nil {
			t.Fatal(err)
		}
		for _, ev := range b.Events {
			if b.State {
				state = append(state, string(ev.Line()))
				continue
			}
			if got = append(got, string(ev.Line())); ev.Path == "last" {
				cancel()
			}
		}
		if b.State {
			if at = b.Position; at > 0 {
				close(stated)
			}
		}
		if ctx.Err() != nil {
			break
		}
	}
	storm.Wait()
	all := f.changes("")
	same(t, "the state", state, slowState(all, topic, func(c *change) bool { return c.ID <= at.String() }))
	sameEvents(t, "the changes", got, f.truth("alice", at.String(), ""))
	if len(got) == 0 || at <= 2000 {
		t.Logf("the state was that at %d, and %d changes followed", at, len(got))
	}
}

// After yield returns false it is not called again. A state that is cut off leaves nothing
// that would be taken for the whole.
func TestStateEnds(t *testing.T) {
	f := newFixture(t)
	f.putSome(steady(), event.BlockSize+500)
	db := f.newCache()
	c := newTestClient(t, db, hasty(f.http.URL))
	at := moment(t, event.ID(event.BlockSize+100).String())
	n := 0
	for range c.State(t.Context(), event.All, at) {
		if n++; n == 3 {
			break
		}
	}
	if n != 3 {
		t.Errorf("%d events were given after three were enough", n)
	}
	for _, err := range c.Follow(t.Context(), event.All) {
		if err != nil {
			t.Error(err)
		}
		break
	}
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	for _, err := range c.State(ctx, mustTopic(t, "bob"), event.Now) {
		if !errors.Is(err, context.Canceled) {
			t.Errorf("cancelled: %v", err)
		}
	}
}

// A moment beyond the head is refused, and a state that the server no longer has is a gap.
func TestStateOutside(t *testing.T) {
	f := newFixture(t)
	f.putSome(steady(), 10)
	c := newTestClient(t, f.newCache(), hasty(f.http.URL))
	if _, err := c.StateAt(t.Context(), event.All, moment(t, event.ID(11).String())); err == nil || !strings.Contains(err.Error(), "head") {
		t.Errorf("beyond the head: %v", err)
	}
	if got := collectState(t, c, event.All, moment(t, "beginning")); got != nil {
		t.Errorf("at the beginning there are %q", got)
	}
}

// The oldest state that a server has is that at its horizon, where no window ends.
func TestStateAtHorizon(t *testing.T) {
	f := newFixture(t)
	f.putSome(steady(), event.BlockSize+500)
	all := f.changes("")
	if err := f.db.RetainOnce(t.Context(), cache.Retention{MaxBytes: 1}); err != nil {
		t.Fatal(err)
	}
	c := newTestClient(t, f.newCache(), hasty(f.http.URL))
	ctx, cancel := context.WithTimeout(t.Context(), 5*time.Second)
	defer cancel()
	topic := mustTopic(t, "alice/posts")
	for _, at := range []event.ID{event.BlockSize, event.BlockSize + 7} {
		if _, err := c.StateAt(ctx, topic, moment(t, at.String())); err != nil {
			t.Fatal(err)
		}
		same(t, "state at "+at.String(), collectState(t, c, topic, moment(t, at.String())),
			slowState(all, topic, func(c *change) bool { return c.ID <= at.String() }))
	}
	var gone *GapError
	if _, err := c.StateAt(ctx, topic, moment(t, event.ID(event.BlockSize-1).String())); !errors.As(err, &gone) || gone.Oldest != event.BlockSize {
		t.Errorf("before it: %v", err)
	}
}

// A server that lies about a state, or is cut off while it sends it, leaves nothing that
// would be taken for a state.
func TestLyingSnapshots(t *testing.T) {
	longtest.Require(t)
	f := newFixture(t)
	f.putSome(steady(), event.BlockSize+50)
	all := f.changes("")
	bound := event.ID(event.BlockSize)
	truth := slowState(all, event.All, func(c *change) bool { return c.ID <= bound.String() })
	later, deleted := "", ""
	for _, c := range all {
		if c.ID > bound.String() && c.Type == "PUT" && later == "" && c.User == "alice" {
			later = c.line
		}
		if c.Type == "DEL" && c.ID <= bound.String() {
			deleted = c.line
		}
	}
	end := func(lines ...string) string { return strings.Join(lines, "\n") + "\n" }
	cases := map[string]string{
		"out of order":     end(truth[1], truth[0]),
		"twice":            end(truth[0], truth[0]),
		"after the moment": end(later),
		"a removal":        end(deleted),
		"a wrong hash":     end(strings.Replace(truth[0], `"value":`, `"value":1`, 1)),
		"no event":         end("{}"),
	}
	for name, body := range cases {
		t.Run(name, func(t *testing.T) {
			f.through(func(h http.Handler) http.Handler {
				return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
					if r.URL.Path != "/snapshot" {
						h.ServeHTTP(w, r)
						return
					}
					w.Header().Set(wire.HeaderLog, f.db.Log())
					w.Header().Set(wire.HeaderTo, bound.String())
					w.Header().Set("Content-Type", wire.NDJSON)
					fmt.Fprint(w, body)
				})
			})
			defer f.through(nil)
			db := f.newCache()
			c := newTestClient(t, db, hasty(f.http.URL))
			at := moment(t, (bound + 10).String())
			var lie *ProtocolError
			if _, err := c.StateAt(t.Context(), event.All, at); !errors.As(err, &lie) {
				t.Errorf("%v, want a ProtocolError", err)
			}
			if at, err := db.Snapshots().LastState(t.Context(), event.All); err == nil {
				t.Errorf("a state is known at %s", at)
			}
		})
	}
	t.Run("cut off", func(t *testing.T) {
		p := newTearingProxy(t, f.http.URL, 5, 100_000)
		c := newTestClient(t, f.newCache(), nervous(p.url()))
		at := moment(t, (bound + 10).String())
		got := collectState(t, c, event.All, at)
		same(t, "the state over a bad wire", got, slowState(all, event.All, func(c *change) bool { return c.ID <= (bound + 10).String() }))
	})
}

// The zero Moment is now, not the beginning, whose state is empty.
func TestStateOfTheZeroMoment(t *testing.T) {
	f := newFixture(t)
	f.put("alice/posts/1", 3)
	c := newTestClient(t, f.newCache(), hasty(f.http.URL))
	if s, err := syncAt(t.Context(), c, event.All, event.Moment{}); err != nil || s.Span.To != 3 {
		t.Errorf("SyncAt = %v, %v, want all three events", s.Span, err)
	}
	f.put("alice/posts/2", 1)
	for at, want := range map[event.Moment]int{{}: 2, event.Now: 2, event.FromBeginning: 0} {
		n := 0
		for _, err := range c.State(t.Context(), event.All, at) {
			if err != nil {
				t.Fatal(err)
			}
			n++
		}
		if n != want {
			t.Errorf("the state at %#v has %d events, want %d", at, n, want)
		}
	}
	if at, err := c.StateAt(t.Context(), event.All, event.Moment{}); err != nil || at != 4 {
		t.Errorf("StateAt = %s, %v, want the head", at, err)
	}
}
