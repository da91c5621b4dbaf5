package cache

import (
	"errors"
	"fmt"
	"maps"
	"path/filepath"
	"slices"
	"testing"

	"pgregory.net/rapid"

	"github.com/rstream-dev/rstream/event"
	"github.com/rstream-dev/rstream/window"
)

// An event that was invented gives way to another one with its id, and its window is in doubt
// there. A proven one stays.
func TestDisplaced(t *testing.T) {
	mine := madeEvent("alice", "posts/1", 5)
	for name, tc := range map[string]struct {
		held   string
		proven bool
		topic  string
		later  event.Event
		gone   bool
	}{
		"of another storage":              {"alice", false, "bob", madeEvent("bob", "x", 5), true},
		"of another storage, proven":      {"alice", true, "bob", madeEvent("bob", "x", 5), false},
		"of the same storage":             {"alice/p*", false, "alice", forged(mine), true},
		"of the same storage, proven":     {"alice/p*", true, "alice", forged(mine), false},
		"for a topic around a held one":   {"alice", false, "*", madeEvent("bob", "x", 5), true},
		"around a held one, proven":       {"alice", true, "*", madeEvent("bob", "x", 5), false},
		"the same event":                  {"alice/p*", false, "alice", mine, false},
		"the same event, which is proven": {"alice/p*", true, "alice", mine, false},
	} {
		t.Run(name, func(t *testing.T) {
			db := openClient(t)
			ctx := t.Context()
			l := mustClaim(t, db, tc.held, 0, 10)
			mustApply(t, l, 10, madeEvent("alice", "posts/1", 2), mine, madeEvent("alice", "posts/1", 7))
			held := topics(t, tc.held)
			if tc.proven {
				removals, err := db.Removals(ctx)
				if err == nil {
					err = db.Prove(ctx, held[0], window.Span{To: 10}, removals, 0)
				}
				if err != nil {
					t.Fatal(err)
				}
			}
			l = mustClaim(t, db, tc.topic, 0, 10)
			l.Distrust(tc.proven)
			_, err := l.Apply(ctx, []event.Event{tc.later}, 8)
			same := tc.later.Hash == mine.Hash
			if stays := !tc.gone && !same; stays != errors.As(err, new(*ConflictError)) || !stays && err != nil {
				t.Fatalf("Apply: %v", err)
			}
			var doubts []Doubt
			want := mine
			if tc.gone {
				want, doubts = tc.later, []Doubt{{held[0], spanOf(5)}}
			}
			got, err := db.Doubts(ctx)
			if err != nil || !slices.Equal(got, doubts) {
				t.Errorf("in doubt is %v, %v, want %v", got, err, doubts)
			}
			if stored := storedIn(t, db); len(stored) != 3 || string(stored[1].Line()) != string(want.Line()) {
				t.Errorf("stored is %v", stored)
			}
		})
	}
}

// A displacing is a copy that is filled by servers which invent events and leave out others.
type displacing struct {
	t     *rapid.T
	db    *DB
	truth []event.Event
	said  map[event.Topic]map[event.ID]event.Event // what a pull of a topic has stored last
}

const displacingEnd = 24

// Whatever servers send, no id is stored twice, proven events stay, and there is a doubt about each
// event that gave way to another one.
func TestDisplacedModel(t *testing.T) {
	dir, n := t.TempDir(), 0
	rapid.Check(t, func(t *rapid.T) {
		n++
		d := displacing{t: t, db: mustOpen(t, filepath.Join(dir, fmt.Sprint(n, ".db")), Config{Role: Client, Log: testLog}),
			said: map[event.Topic]map[event.ID]event.Event{}}
		defer d.db.Close()
		for id := event.ID(1); id <= displacingEnd; id++ {
			if rapid.IntRange(0, 3).Draw(t, "hole") > 0 {
				d.truth = append(d.truth, d.anyEvent(event.All, id, ""))
			}
		}
		t.Repeat(map[string]func(*rapid.T){"": d.check, "pull": d.pull, "pull2": d.pull, "prove": d.prove, "replace": d.replace})
	})
}

func (d *displacing) anyEvent(topic event.Topic, id event.ID, key string) event.Event {
	names := []event.Storage{{User: "alice", Path: "posts/1"}, {User: "alice", Path: "y"}, {User: "bob", Path: "x"}}
	names = slices.DeleteFunc(names, func(s event.Storage) bool { return !topic.Matches(s.User, s.Path) })
	of := rapid.SampledFrom(names).Draw(d.t, "storage")
	draft := draft(of.User, of.Path, key)
	return event.New(id, event.Time(1000*id), draft, draft.Hash())
}

func (d *displacing) topic() event.Topic {
	return topics(d.t, rapid.SampledFrom([]string{"*", "alice", "alice/p*", "bob"}).Draw(d.t, "topic"))[0]
}

// pull pulls a part that is missing from a server that may lie.
func (d *displacing) pull(*rapid.T) {
	topic := d.topic()
	from := rapid.IntRange(0, displacingEnd-1).Draw(d.t, "from")
	span := window.Span{From: event.ID(from), To: event.ID(rapid.IntRange(from+1, displacingEnd).Draw(d.t, "to"))}
	l, busy, err := d.db.Leases().Claim(d.t.Context(), []event.Topic{topic}, span)
	if l == nil || busy || err != nil {
		return
	}
	var evs []event.Event
	liar := rapid.Bool().Draw(d.t, "liar")
	for id := l.Span().From + 1; id <= l.Span().To; id++ {
		lie := 9
		if liar {
			lie = rapid.IntRange(0, 9).Draw(d.t, "lie")
		}
		switch right := among(d.truth, topic, spanOf(id)); {
		case lie == 0: // leaves it out
		case lie < 3:
			evs = append(evs, d.anyEvent(topic, id, "invented"))
		default:
			evs = append(evs, right...)
		}
	}
	to := l.Span().To
	l.Distrust(liar)
	_, err = l.Apply(d.t.Context(), evs, to)
	if errors.As(err, new(*ConflictError)) {
		if err := l.Release(d.t.Context()); err != nil {
			d.t.Fatal(err)
		}
		return
	}
	if err != nil {
		d.t.Fatal(err)
	}
	if d.said[topic] == nil {
		d.said[topic] = map[event.ID]event.Event{}
	}
	for _, ev := range evs {
		d.said[topic][ev.ID] = ev
	}
}

func (d *displacing) all() window.Span { return window.Span{To: displacingEnd} }

// prove proves a topic if its stored events are those of the log.
func (d *displacing) prove(*rapid.T) {
	topic := d.topic()
	removals, err := d.db.Removals(d.t.Context())
	if err != nil {
		d.t.Fatal(err)
	}
	leaves, err := d.db.Leaves(d.t.Context(), topic, d.all())
	held, err2 := d.db.Held(d.t.Context(), topic)
	if err != nil || err2 != nil {
		d.t.Fatal(err, err2)
	}
	if held.Contains(d.all()) && slices.Equal(leaves, slowLeaves(among(d.truth, topic, d.all()))) {
		if err := d.db.Prove(d.t.Context(), topic, d.all(), removals, 0); err != nil {
			d.t.Fatal(err)
		}
		// What gave way was wrong, and the doubt about it has ended.
		maps.DeleteFunc(d.said, func(other event.Topic, _ map[event.ID]event.Event) bool { return topic.Contains(other) })
	}
}

// replace replaces the held events of a topic with those of the log.
func (d *displacing) replace(*rapid.T) {
	topic := d.topic()
	held, err := d.db.Held(d.t.Context(), topic)
	if err != nil {
		d.t.Fatal(err)
	}
	for _, span := range held {
		if err := d.db.Replace(d.t.Context(), topic, span, among(d.truth, topic, span)); err != nil {
			d.t.Fatal(err)
		}
	}
	for other := range d.said {
		if other.Overlaps(topic) {
			maps.DeleteFunc(d.said[other], func(id event.ID, ev event.Event) bool { return topic.Matches(ev.User, ev.Path) })
		}
	}
}

func (d *displacing) check(*rapid.T) {
	windows, err := d.db.Windows(d.t.Context())
	if err != nil {
		d.t.Fatal(err)
	}
	stored := map[event.ID]event.Event{}
	var list []event.Event
	for _, ev := range storedIn(d.t, d.db) {
		if was, twice := stored[ev.ID]; twice {
			d.t.Fatalf("stored are %s and %s", was.Line(), ev.Line())
		}
		stored[ev.ID] = ev
		list = append(list, ev)
	}
	for _, w := range windows {
		span := w.Held()
		if w.Proven && !slices.Equal(ids(among(list, w.Topic, span)), ids(among(d.truth, w.Topic, span))) {
			d.t.Fatalf("%s %s is proven with %v, want %v", w.Topic, span, ids(among(list, w.Topic, span)), ids(among(d.truth, w.Topic, span)))
		}
		if _, _, err := d.db.Read(d.t.Context(), []event.Topic{w.Topic}, span.From, span.To, 100); err != nil {
			d.t.Fatal(err)
		}
	}
	for topic, evs := range d.said {
		doubted, err := d.db.Doubted(d.t.Context(), topic)
		if err != nil {
			d.t.Fatal(err)
		}
		for id, ev := range evs {
			if now, ok := stored[id]; (!ok || now.Hash != ev.Hash) && !doubted.Contains(spanOf(id)) {
				d.t.Fatalf("event %s of %s was lost without a doubt about it", ev.Line(), topic)
			}
		}
	}
}
