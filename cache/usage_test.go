package cache

import (
	"context"
	"database/sql"
	"fmt"
	"maps"
	"math"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"pgregory.net/rapid"

	"github.com/rstream-dev/rstream/cache/internal/rows"
	"github.com/rstream-dev/rstream/event"
	"github.com/rstream-dev/rstream/internal/longtest"
	"github.com/rstream-dev/rstream/internal/pagetest"
)

// slowUsage counts events one by one.
func slowUsage(evs []event.Event, topic event.Topic, until event.ID) (usages []event.Usage) {
	of := map[event.Storage]*event.Usage{}
	for i := range evs {
		ev := &evs[i]
		if ev.ID > until || !topic.Matches(ev.User, ev.Path) {
			continue
		}
		u := of[ev.Storage()]
		if u == nil {
			u = &event.Usage{User: ev.User, Path: ev.Path, First: ev.ID}
			of[ev.Storage()] = u
		}
		u.Count++
		u.Bytes += int64(len(ev.Line()) + 1)
		u.Last, u.Time, u.Type = ev.ID, ev.Time, ev.Type
	}
	for _, s := range slices.SortedFunc(maps.Keys(of), event.Storage.Compare) {
		usages = append(usages, *of[s])
	}
	return usages
}

// listUsage returns the usages of topic, list after list. The first lists have limit usages at
// most; in short forms, the others have as many as they may, lest there be thousands of them.
func listUsage(t fataler, db *DB, topic event.Topic, until event.ID, limit int) (usages []event.Usage, damaged bool) {
	t.Helper()
	few := maxUsageEvents
	defer func() { maxUsageEvents = few }()
	lists := 0
	for after := (event.Storage{}); ; {
		if lists++; lists > longtest.Size(50, math.MaxInt) {
			limit, maxUsageEvents = max(limit, 10_000), max(few, 100_000)
		}
		list, err := db.Usage(context.Background(), topic, after, until, limit)
		if err != nil || len(list.Usages) > limit {
			t.Fatalf("Usage(%s, after %s) has %d of %d storages, %v", topic, after, len(list.Usages), limit, err)
		}
		usages, damaged = append(usages, list.Usages...), damaged || list.Damaged
		if list.Next == (event.Storage{}) {
			return usages, damaged
		}
		if n := len(list.Usages); list.Next.Compare(after) <= 0 || n > 0 && list.Next.Compare(storageOf(&list.Usages[n-1])) < 0 {
			t.Fatalf("Usage(%s, after %s) continues after %s", topic, after, list.Next)
		}
		after = list.Next
	}
}

func storageOf(u *event.Usage) event.Storage { return event.Storage{User: u.User, Path: u.Path} }

func checkUsage(t fataler, db *DB, evs []event.Event, topic event.Topic, until event.ID, limit int) {
	t.Helper()
	got, damaged := listUsage(t, db, topic, until, limit)
	if want := slowUsage(evs, topic, until); !slices.Equal(got, want) || damaged {
		t.Fatalf("usage of %s up to %s with limit %d, damaged %v:\n%s\nwant\n%s", topic, until, limit, damaged, usageText(got), usageText(want))
	}
}

func usageText(usages []event.Usage) string {
	var b strings.Builder
	for _, u := range usages {
		fmt.Fprintf(&b, "%+v\n", u)
	}
	return b.String()
}

// setUsage returns a function that draws how much is read at a time.
func setUsage(t testing.TB) (draw func(*rapid.T)) {
	chunk, most := rows.StorageChunk, maxUsageEvents
	t.Cleanup(func() { rows.StorageChunk, maxUsageEvents = chunk, most })
	return func(t *rapid.T) {
		rows.StorageChunk = rapid.SampledFrom([]int{1, 3, 500}).Draw(t, "chunk")
		maxUsageEvents = rapid.SampledFrom([]int{1, 100, 5000, most}).Draw(t, "events at a time")
	}
}

// What a server's file has is counted, whatever retention and appends have done.
func TestUsageOfServer(t *testing.T) {
	start, draw := retainStartFile(), setUsage(t)
	n, most := 0, longtest.Scale(1, 4, 10)
	rapid.Check(t, func(rt *rapid.T) {
		if n++; n > most {
			return
		}
		draw(rt)
		db := openBytes(t, start.bytes, Config{Role: Server})
		defer db.Close()
		all := slices.Clone(start.evs)
		w := meddler{t: rt, db: db, all: &all}
		for range rapid.IntRange(1, longtest.Size(2, 4)).Draw(rt, "rounds") {
			w.meddle()
			long := draft("alice", "long", fmt.Sprint(len(all)))
			long.Value = fmt.Appendf(nil, `"%0*d"`, rapid.SampledFrom([]int{1, 4000, 20_000}).Draw(rt, "length"), 0)
			mustAppend(rt, db, long)
			evs := storedIn(rt, db)
			for range 4 {
				topic := topics(rt, rapid.SampledFrom(modelTopics).Draw(rt, "topic"))[0]
				until := rapid.SampledFrom([]event.ID{db.Head(), event.MaxID, db.Head() - 1, w.horizon(), 5000}).Draw(rt, "until")
				checkUsage(rt, db, evs, topic, until, rapid.SampledFrom([]int{1, 7, 10_000}).Draw(rt, "limit"))
			}
		}
	})
}

// Of a copy, the events that are held count.
func TestUsageOfCopy(t *testing.T) {
	alone(t)
	draw := setUsage(t)
	dir := t.TempDir()
	n := 0
	rapid.Check(t, func(t *rapid.T) {
		n++
		draw(t)
		m := forgetModel{db: mustOpen(t, filepath.Join(dir, fmt.Sprint(n)), Config{Role: Client, Log: testLog}), held: map[event.Topic]heldSet{}}
		defer m.db.Close()
		for range rapid.IntRange(1, 3).Draw(t, "rounds") {
			m.fetch(t)
			if rapid.Bool().Draw(t, "forget") {
				m.forget(t)
			}
			var evs []event.Event
			for i := range clientLog {
				if ev := &clientLog[i]; m.holds(ev) {
					evs = append(evs, *ev)
				}
			}
			for _, name := range clientTopics {
				checkUsage(t, m.db, evs, topics(t, name)[0], event.MaxID, rapid.SampledFrom([]int{1, 100}).Draw(t, "limit"))
			}
			checkUsage(t, m.db, evs, event.All, anyPosition(t, "until"), 100)
		}
	})
}

// holds reports whether an event is held under any topic.
func (m *forgetModel) holds(ev *event.Event) bool {
	for topic, set := range m.held {
		if topic.Matches(ev.User, ev.Path) && set[ev.ID] {
			return true
		}
	}
	return false
}

// An event that is stored and in no window does not count.
func TestUsageNotHeld(t *testing.T) {
	db := openClient(t)
	store(t, db, "alice", madeEvent("alice", "posts/1", 3), madeEvent("alice", "posts/1", 7), madeEvent("alice", "posts/2", 9))
	if err := rawExec(db, `UPDATE window SET start = 5, reached = 8, stop = 8, sum = row_sum(topic, state, 5, 8, 8, moment, proven)`); err != nil {
		t.Fatal(err)
	}
	checkUsage(t, db, []event.Event{madeEvent("alice", "posts/1", 7)}, event.All, event.MaxID, 10)
}

// Damage is reported by the storage that it concerns, or by the list if that is not known.
// Other numbers are right.
func TestUsageOfDamaged(t *testing.T) {
	for _, c := range []struct {
		name    string
		damage  func(tx pagetest.DB) error
		storage string // which is damaged, if it is known
	}{
		{"posting", func(tx pagetest.DB) error {
			_, err := tx.Exec(`UPDATE page_posting SET count = count + 1 WHERE block = 0 AND octet = (SELECT id - 1 FROM storage WHERE path = 'p/2') / 8`)
			return err
		}, "alice/p/2"},
		{"page of the open block", func(tx pagetest.DB) error { return pagetest.Flip(tx, event.BlockSize+500, 777) }, ""},
		{"page of the last event of p/3", func(tx pagetest.DB) error { return pagetest.Flip(tx, 100, 777) }, "alice/p/3"},
		{"another page", func(tx pagetest.DB) error { return pagetest.Flip(tx, 300, 777) }, "none"},
	} {
		t.Run(c.name, func(t *testing.T) {
			db := openServer(t)
			var ds []event.Draft
			for i := range int(event.BlockSize) {
				ds = append(ds, draft("alice", fmt.Sprint("p/", i%3), fmt.Sprint(i)))
			}
			ds[99].Path = "p/3"
			// p/2 shares its postings with no other storage.
			mustExec(t, db, `INSERT INTO storage (id, user, path) VALUES (9, 'alice', 'p/2'), (17, 'alice', 'p/3')`)
			mustAppend(t, db, ds...)
			mustAppend(t, db, drafts("alice", "p/0", "open", 1000)...)
			mustAppend(t, db, drafts("alice", "p/1", "open", 1)...)
			mustAppend(t, db, drafts("alice", "p/2", "open", 1)...)
			want := slowUsage(storedIn(t, db), event.All, event.MaxID)
			if err := edit(db, c.damage); err != nil {
				t.Fatal(err)
			}
			got, damaged := listUsage(t, db, event.All, event.MaxID, 10)
			if damaged != (c.storage == "") || len(got) != len(want) {
				t.Fatalf("damaged %v:\n%s", damaged, usageText(got))
			}
			for i := range got {
				u := &got[i]
				switch {
				case u.Damaged != (u.Name() == c.storage):
					t.Errorf("%+v", u)
				case !u.Damaged && !damaged && *u != want[i], u.Count > want[i].Count:
					t.Errorf("%+v, want %+v", u, want[i])
				}
			}
		})
	}
}

// A storage that forgets its events is left out, and the list goes past it.
func TestUsageOfNothing(t *testing.T) {
	db := openClient(t)
	setStorageChunk(t, 2)
	if got, damaged := listUsage(t, db, event.All, event.MaxID, 1); len(got) > 0 || damaged {
		t.Errorf("an empty copy has %s", usageText(got))
	}
	err := db.file.Update(context.Background(), func(tx *sql.Tx) error {
		for i := range 5 {
			if _, err := tx.Exec(`INSERT INTO storage (user, path) VALUES ('alice', ?)`, fmt.Sprint(i)); err != nil {
				return err
			}
		}
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	store(t, db, "alice", madeEvent("alice", "9", 3))
	checkUsage(t, db, []event.Event{madeEvent("alice", "9", 3)}, event.All, event.MaxID, 1)
}
