package cache

import (
	"context"
	"fmt"
	"path/filepath"
	"testing"
	"time"

	"pgregory.net/rapid"

	"github.com/rstream-dev/rstream/event"
	"github.com/rstream-dev/rstream/window"
)

// modelRules are the topics of TTLs, some of which overlap.
var modelRules = []string{"*", "alice", "alice/posts", "alice/once/", "*/once/1*", "*/posts", "bob", "*/posts/1$", "bob/po*"}

// ttls draws the TTLs for opening the log, often the same as before.
func (m *retainModel) ttls(age *rapid.Generator[time.Duration]) []TTL {
	if rapid.Bool().Draw(m.t, "new rules") {
		m.rules = nil
		for _, name := range rapid.SliceOfNDistinct(rapid.SampledFrom(modelRules), 0, 4, rapid.ID).Draw(m.t, "rules") {
			m.rules = append(m.rules, TTL{topics(m.t, name)[0], age.Draw(m.t, "ttl")})
		}
	}
	return m.rules
}

// oldest returns the last time at which a value to expire may have been set.
func oldest(ttls []TTL, ev *event.Event, now event.Time) (t event.Time, some bool) {
	narrowest := -1
	for i := range ttls {
		if ttls[i].Topic.Matches(ev.User, ev.Path) && (narrowest < 0 || event.NarrowestFirst(ttls[i].Topic, ttls[narrowest].Topic) < 0) {
			narrowest = i
		}
	}
	if narrowest < 0 || ttls[narrowest].Age == 0 {
		return 0, false
	}
	return now - event.Time(ttls[narrowest].Age/time.Microsecond), true
}

// takeEnds records the events that expired values: each value that was last set longer ago
// than its TTL, or only some of them if retention was interrupted, and no others.
func (m *retainModel) takeEnds(ttls []TTL, now event.Time) {
	values := map[event.Storage]event.Event{}
	for _, line := range fold(m.log, event.All, m.head()) {
		ev, err := event.Stored([]byte(line))
		if err != nil {
			m.t.Fatalf("%v", err)
		}
		if t, some := oldest(ttls, &ev, now); some && ev.Time <= t {
			values[ev.Storage()] = ev
		}
	}
	for _, ev := range readAll(m.t, m.db, topics(m.t, "*"), window.Span{From: m.head(), To: event.MaxID}, 5000) {
		put, ok := values[ev.Storage()]
		if end := event.Expiry(&put); !ok || ev.Draft.Hash() != end.Hash() || string(ev.Extra) != `"reason":"expired"` {
			m.t.Fatalf("%s has ended %s", ev.Line(), put.Line())
		}
		delete(values, ev.Storage())
		m.take(ev)
	}
	if m.done && len(values) > 0 {
		m.t.Fatalf("%d values were not ended at %s by %v", len(values), now, ttls)
	}
}

// However the rules change, values expire by the narrowest rule of their storage: never
// earlier, and never later than the next round.
func TestTTLsAgainstSlice(t *testing.T) {
	dir, n := t.TempDir(), 0
	rapid.Check(t, func(t *rapid.T) {
		n++
		m := retainModel{t: t, path: filepath.Join(dir, fmt.Sprint(n)), clock: newClock()}
		m.open()
		defer func() { m.db.Close(); removeFiles(m.path) }()
		m.log = append(m.log, mustAppend(t, m.db, draft("alice", "once/1", "first"))[0].Event)
		for range rapid.IntRange(1, 15).Draw(t, "steps") {
			switch rapid.IntRange(0, 9).Draw(t, "step") {
			case 0:
				m.reopen()
			case 1, 2, 3, 4:
				m.append(rapid.IntRange(1, 12).Draw(t, "drafts"))
			default:
				m.retain()
			}
			d := time.Duration(rapid.IntRange(0, 20).Draw(t, "minutes")) * time.Minute
			m.clock.add(d)
			m.passed += d
		}
		m.retain()
		integrity(t, m.db)
	})
}

func TestTTLsThatCannotBe(t *testing.T) {
	db := openServer(t)
	for _, ttls := range [][]TTL{
		{{event.All, -time.Hour}},
		{{event.All, time.Hour}, {topics(t, "alice")[0], 0}, {topics(t, "alice/")[0], time.Hour}},
	} {
		if err := db.Retain(context.Background(), Retention{TTL: ttls}); err == nil {
			t.Errorf("%v: no error", ttls)
		}
	}
	if !(Retention{TTL: []TTL{{event.All, 0}}}).None() {
		t.Error("values of any age are something to do")
	}
}
