package cache

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"os"
	"runtime"
	"slices"
	"strings"
	"testing"

	"pgregory.net/rapid"

	"github.com/rstream-dev/rstream/cache/internal/dbfile"
	"github.com/rstream-dev/rstream/cache/internal/rows"
	"github.com/rstream-dev/rstream/cache/internal/snapshot"
	"github.com/rstream-dev/rstream/event"
	"github.com/rstream-dev/rstream/internal/longtest"
	"github.com/rstream-dev/rstream/window"
)

// typicalLine is a length that about half of the tests' lines exceed.
const typicalLine = 205

// setState selects one of the ways to fold states.
func setState(t testing.TB) (draw func(*rapid.T)) {
	chunk, gather, few, seal := rows.StorageChunk, snapshot.GatherMax, snapshot.FewStorages, snapshot.SealSpan
	size := snapshot.LinesBytes
	t.Cleanup(func() {
		rows.StorageChunk, snapshot.GatherMax, snapshot.FewStorages, snapshot.SealSpan = chunk, gather, few, seal
		snapshot.LinesBytes = size
	})
	snapshot.SealSpan = event.BlockSize
	return func(t *rapid.T) {
		rows.StorageChunk = rapid.SampledFrom([]int{1, 3, 500}).Draw(t, "chunk")
		snapshot.GatherMax = rapid.SampledFrom([]event.ID{0, 50, gather}).Draw(t, "gather")
		snapshot.FewStorages = rapid.SampledFrom([]int{0, 2, few}).Draw(t, "few")
		snapshot.LinesBytes = rapid.SampledFrom([]int{0, 3 * typicalLine, size}).Draw(t, "bytes")
	}
}

// stateLines returns the events of a state in their order.
func stateLines(evs []event.Event, topic event.Topic, at event.ID) (state []event.Event) {
	for _, line := range fold(evs, topic, at) {
		ev, err := event.ParseLine([]byte(line))
		if err != nil {
			panic(err)
		}
		state = append(state, ev)
	}
	return state
}

// keep stores the state of topic at position at, as if it was fetched.
func keep(t fataler, db *DB, evs []event.Event, topic event.Topic, at event.ID) {
	t.Helper()
	ctx := context.Background()
	w, busy, err := db.Snapshots().KeepSnapshot(ctx, topic, at)
	if err != nil || busy {
		t.Fatalf("KeepSnapshot: busy %v, %v", busy, err)
	}
	state := stateLines(evs, topic, at)
	for i := range state {
		if err := w.Add(ctx, &state[i]); err != nil {
			t.Fatalf("%v", err)
		}
	}
	if err := w.Finish(ctx); err != nil {
		t.Fatalf("%v", err)
	}
}

func mustSeal(t fataler, db *DB, topic event.Topic) {
	t.Helper()
	if err := db.Snapshots().SealStates(context.Background(), topic); err != nil {
		t.Fatalf("%v", err)
	}
}

func kept(t fataler, db *DB) (list []string) {
	t.Helper()
	rows, err := db.file.Read.Query(`SELECT topic || ' ' || at || ' ' || form || ' ' || count || ' ' || whole FROM snapshot ORDER BY topic, at, id`)
	if err != nil {
		t.Fatalf("%v", err)
	}
	defer rows.Close()
	for rows.Next() {
		var s string
		if err := rows.Scan(&s); err != nil {
			t.Fatalf("%v", err)
		}
		list = append(list, s)
	}
	return list
}

func checkKept(t fataler, what string, db *DB, want ...string) {
	t.Helper()
	if got := kept(t, db); !slices.Equal(got, want) {
		t.Fatalf("%s: kept are %q, want %q", what, got, want)
	}
}

// A state that is folded from a sealed snapshot equals the one folded without it, in the log
// and in a copy.
func TestSealedStatesAgainstMap(t *testing.T) {
	alone(t)
	draw := setState(t)
	server, evs := bigLog(t)
	client, _ := bigCopy(t)
	snapshot.FewStorages = 0
	for _, db := range []*DB{server, client} {
		mustSeal(t, db, event.All)
		mustSeal(t, db, topics(t, "alice")[0])
		checkKept(t, "a part of the whole needs none of its own", db,
			fmt.Sprintf("* 4096 ids %d 1", len(fold(evs, event.All, 4096))), fmt.Sprintf("* 8192 ids %d 1", len(fold(evs, event.All, 8192))))
		if from, err := db.Snapshots().StateFrom(context.Background(), event.All, 5000); from != 4096 || err != nil {
			t.Fatalf("the state at 5000 comes from %d, %v", from, err)
		}
	}
	rapid.Check(t, func(t *rapid.T) {
		draw(t)
		topic := topics(t, rapid.SampledFrom(modelTopics).Draw(t, "topic"))[0]
		at := drawSpan(t, server.Head()).To
		checkState(t, server, evs, topic, at)
		checkState(t, client, evs, topic, at)
	})
}

// A snapshot follows at least as many events as it has members, and a topic of a few storages
// has none.
func TestSealsKeepTheirDistance(t *testing.T) {
	setState(t)
	db, _ := bigLog(t)
	snapshot.FewStorages = 1000
	mustSeal(t, db, event.All)
	checkKept(t, "of a few storages", db)
	var ds []event.Draft
	for i := range event.BlockSize + 2000 {
		ds = append(ds, draft("zoe", fmt.Sprint("p/", i), "k"))
	}
	mustAppend(t, db, ds...)
	mustAppend(t, db, drafts("zoe", "p/0", "more", 3*event.BlockSize)...)
	mustSeal(t, db, topics(t, "zoe")[0])
	// 3,796 of zoe's 6,096 storages are there at the end of block 2, all of them one
	// block later: the next may not follow earlier than 6,096 events after that.
	checkKept(t, "of many", db, "zoe 4096 ids 0 1", "zoe 8192 ids 0 1", "zoe 12288 ids 3796 1", "zoe 16384 ids 6096 1", "zoe 24576 ids 6096 1")
	mustSeal(t, db, topics(t, "zoe")[0])
	if n := len(kept(t, db)); n != 5 {
		t.Errorf("sealing again made %d more", n-5)
	}
}

// The distance of two snapshots is counted in events: a topic that is quiet while the log
// grows by billions of ids has few snapshots.
func TestSealsOfQuietTopic(t *testing.T) {
	setState(t)
	snapshot.FewStorages, snapshot.SealSpan = 0, 10
	var evs []event.Event
	for i := range event.ID(25) {
		evs = append(evs, madeEvent("alice", fmt.Sprint("p/", i), 1+i<<30))
	}
	db := openClient(t)
	alice := topics(t, "alice")[0]
	obtain(t, db, alice, evs, window.Span{From: 0, To: event.MaxID - 1})
	mustSeal(t, db, alice)
	checkKept(t, "of 25 events", db, fmt.Sprintf("alice %d ids 10 1", 9<<30+event.BlockSize), fmt.Sprintf("alice %d ids 20 1", 19<<30+event.BlockSize))
	checkState(t, db, evs, alice, 1<<40)
}

// If nothing before a window is held, its state begins with the members of the snapshot
// alone, not with an event of an earlier window that was deleted between the two.
func TestStateOfDisconnectedWindows(t *testing.T) {
	put := func(id event.ID, path string) event.Event { return madeEvent("alice", path, id) }
	del := event.Draft{User: "alice", Path: "x", Type: event.Del, Key: "k"}
	gone := event.New(150, put(150, "x").Time, del, del.Hash())
	evs := []event.Event{put(10, "stays"), put(50, "x"), put(60, "y"), gone, put(250, "z"), put(260, "y")}
	db := openClient(t)
	alice := topics(t, "alice")[0]
	obtain(t, db, alice, evs, window.Span{From: 0, To: 100})
	obtain(t, db, alice, evs, window.Span{From: 200, To: 300})
	err := db.State(context.Background(), alice, 250, noEvent)
	wantNotHeld(t, err, window.NotHeldError{After: 100, Oldest: 200, Some: true})
	keep(t, db, evs, alice, 200)
	for _, at := range []event.ID{0, 9, 10, 55, 100, 200, 249, 250, 251, 300} {
		checkState(t, db, evs, alice, at)
	}
	if lines := mustState(t, db, alice, 255); len(lines) != 3 || strings.Contains(strings.Join(lines, ""), `"path":"x"`) {
		t.Errorf("the state at 255 is %q", lines)
	}
	wantNotHeld(t, db.State(context.Background(), alice, 150, noEvent), window.NotHeldError{After: 100, Oldest: 200, Some: true})
	wantNotHeld(t, db.State(context.Background(), alice, 301, noEvent), window.NotHeldError{After: 300})
}

// A stateModel is a copy of the first events of a log and the spans and states it knows.
type stateModel struct {
	db   *DB
	kept []keptState
}

type keptState struct {
	topic event.Topic
	at    event.ID
}

// known reports whether the state can be folded from held events and kept states.
func (m *stateModel) known(t *rapid.T, topic event.Topic, at event.ID) bool {
	from := at
	for _, span := range mustHeld(t, m.db, topic) {
		if span.From <= at && at <= span.To {
			from = span.From
		}
	}
	return from == event.Beginning || slices.ContainsFunc(m.kept, func(k keptState) bool {
		return k.topic.Contains(topic) && from <= k.at && k.at <= at
	})
}

func TestStateModel(t *testing.T) {
	draw := setState(t)
	head := 120
	if longtest.Enabled() {
		head = 400
	}
	root := t.TempDir()
	evs := bigLogFile().evs[:head]
	rapid.Check(t, func(t *rapid.T) {
		draw(t)
		dir, err := os.MkdirTemp(root, "")
		if err != nil {
			t.Fatalf("%v", err)
		}
		m := stateModel{db: mustOpen(t, dir+"/copy.db", Config{Role: Client, Log: testLog})}
		defer m.db.Close()
		topic := rapid.Custom(func(t *rapid.T) event.Topic {
			return topics(t, rapid.SampledFrom(modelTopics).Draw(t, "topic"))[0]
		})
		position := rapid.Custom(func(t *rapid.T) event.ID { return event.ID(rapid.IntRange(0, head).Draw(t, "position")) })
		t.Repeat(map[string]func(*rapid.T){
			"obtain": func(t *rapid.T) {
				a, b := position.Draw(t, "from"), position.Draw(t, "to")
				obtain(t, m.db, topic.Draw(t, "of"), evs, window.Span{From: min(a, b), To: max(a, b)})
			},
			"keep": func(t *rapid.T) {
				k := keptState{topic.Draw(t, "of"), position.Draw(t, "at")}
				keep(t, m.db, evs, k.topic, k.at)
				m.kept = append(m.kept, k)
			},
			"forget": func(t *rapid.T) {
				of, before := topic.Draw(t, "of"), position.Draw(t, "before")
				_, err := m.db.Forget(context.Background(), of, before)
				var wider *HeldAsError
				if errors.As(err, &wider) {
					return
				}
				if err != nil {
					t.Fatalf("%v", err)
				}
				m.kept = slices.DeleteFunc(m.kept, func(k keptState) bool { return of.Contains(k.topic) && k.at <= before })
			},
			"replace": func(t *rapid.T) {
				of := topic.Draw(t, "of")
				for _, span := range mustHeld(t, m.db, of) {
					if err := m.db.Replace(context.Background(), of, span, among(evs, of, span)); err != nil {
						t.Fatalf("%v", err)
					}
				}
			},
			"": func(t *rapid.T) {
				of, at := topic.Draw(t, "of"), position.Draw(t, "at")
				if m.known(t, of, at) {
					checkState(t, m.db, evs, of, at)
					return
				}
				var hole *window.NotHeldError
				if err := m.db.State(context.Background(), of, at, noEvent); !errors.As(err, &hole) {
					t.Fatalf("the state of %s at %d: %v, but it is not known", of, at, err)
				}
			},
		})
	})
}

// beginSnapshot begins to store a state and writes a part of it.
func beginSnapshot(t *testing.T, db *DB, c *clock, at event.ID) *SnapshotWriter {
	t.Helper()
	ctx := context.Background()
	w, _, err := db.Snapshots().KeepSnapshot(ctx, event.All, at)
	if err != nil {
		t.Fatal(err)
	}
	d := draft("aaa", "first", "k")
	d.Value = []byte(`"` + strings.Repeat("x", 100_000) + `"`)
	large := event.New(1, 1, d, d.Hash())
	c.add(dbfile.LeaseTime / 4) // it is due
	if err := w.Add(ctx, &large); err != nil {
		t.Fatal(err)
	}
	if n := countParts(t, db); n != 1 {
		t.Fatalf("%d parts are written", n)
	}
	return w
}

func countParts(t *testing.T, db *DB) (n int) {
	t.Helper()
	if err := db.file.ViewRow(context.Background(), `SELECT count(*) FROM part`, nil, &n); err != nil {
		t.Fatal(err)
	}
	return n
}

// No reader sees an unfinished snapshot, only one process writes it at a time, and it is
// removed if that process ends or stops.
func TestKeepSnapshotGivenUp(t *testing.T) {
	for name, end := range map[string]func(*DB, *clock){
		"killed": func(one *DB, _ *clock) { kill(one) },
		"asleep": func(_ *DB, c *clock) { c.add(2 * dbfile.LeaseTime) },
	} {
		t.Run(name, func(t *testing.T) {
			evs := bigLogFile().evs[:100]
			path := t.TempDir() + "/copy.db"
			ctx := context.Background()
			now := newClock()
			one := mustOpen(t, path, Config{Role: Client, Log: testLog, Now: now.now})
			w := beginSnapshot(t, one, now, 50)
			two := mustOpen(t, path, Config{Role: Client, Log: testLog, Now: now.now})
			defer two.Close()
			if _, busy, err := two.Snapshots().KeepSnapshot(ctx, event.All, 50); !busy || err != nil {
				t.Fatalf("a second writer: busy %v, %v", busy, err)
			}
			wantNotHeld(t, two.State(ctx, event.All, 50, noEvent), window.NotHeldError{})
			end(one, now)
			keep(t, two, evs, event.All, 50)
			checkState(t, two, evs, event.All, 50)
			checkKept(t, "afterwards", two, fmt.Sprintf("* 50 lines %d 1", len(fold(evs, event.All, 50))))
			if n := countParts(t, two); n != 1 {
				t.Errorf("%d parts are left", n)
			}
			if name == "asleep" {
				defer one.Close()
				wantError(t, "writing on", w.Finish(ctx), ErrLost)
			}
		})
	}
}

// A slow writer of a state is not replaced.
func TestKeepSnapshotSlowly(t *testing.T) {
	evs := bigLogFile().evs[:100]
	path := t.TempDir() + "/copy.db"
	now := newClock()
	one := mustOpen(t, path, Config{Role: Client, Log: testLog, Now: now.now})
	defer one.Close()
	two := mustOpen(t, path, Config{Role: Client, Log: testLog, Now: now.now})
	defer two.Close()
	ctx := context.Background()
	w, _, err := one.Snapshots().KeepSnapshot(ctx, event.All, 50)
	if err != nil {
		t.Fatal(err)
	}
	state := stateLines(evs, event.All, 50)
	for i := range state {
		now.add(dbfile.LeaseTime / 2)
		if _, busy, err := two.Snapshots().KeepSnapshot(ctx, event.All, 50); !busy || err != nil {
			t.Fatalf("a second writer beside member %d: busy %v, %v", i, busy, err)
		}
		if err := w.Add(ctx, &state[i]); err != nil {
			t.Fatal(err)
		}
	}
	if err := w.Finish(ctx); err != nil {
		t.Fatal(err)
	}
	checkState(t, two, evs, event.All, 50)
}

func TestKeepSnapshotAborted(t *testing.T) {
	db := openClient(t)
	ctx := context.Background()
	w, _, err := db.Snapshots().KeepSnapshot(ctx, event.All, 50)
	if err != nil {
		t.Fatal(err)
	}
	if err := w.Abort(ctx); err != nil {
		t.Fatal(err)
	}
	checkKept(t, "after Abort", db)
	wantError(t, "Finish", w.Finish(ctx), ErrLost)
	evs := bigLogFile().evs[:2]
	if w, _, err = db.Snapshots().KeepSnapshot(ctx, event.All, 50); err != nil {
		t.Fatal(err)
	}
	if err := errors.Join(w.Add(ctx, &evs[0]), w.Add(ctx, &evs[0])); err == nil {
		t.Error("a member was taken twice")
	}
}

// A seal is not kept if events it depends on were removed in the meantime.
func TestSealDuringRemoval(t *testing.T) {
	setState(t)
	snapshot.FewStorages = 0
	db, evs := bigCopy(t)
	ctx := context.Background()
	removals, err := db.Removals(ctx)
	if err != nil {
		t.Fatal(err)
	}
	w := db.snapshots.NewSealed(event.All, event.BlockSize, removals)
	span := window.Span{From: 0, To: 10}
	if err := db.Replace(ctx, event.All, span, among(evs, event.All, span)); err != nil {
		t.Fatal(err)
	}
	wantError(t, "Finish", w.Finish(ctx), ErrLost)
	mustSeal(t, db, event.All)
	checkState(t, db, evs, event.All, 5000)
	if _, err := db.Forget(ctx, event.All, 6000); err != nil {
		t.Fatal(err)
	}
	checkKept(t, "after Forget", db)
}

// No state is sealed after a fetched one, because the events that made it are not stored.
// Once all history is held, a fetched state is not used any more.
func TestSealBehindFetched(t *testing.T) {
	setState(t)
	snapshot.FewStorages, snapshot.SealSpan = 0, 10
	var evs []event.Event
	for id := event.ID(100); id <= 2*event.BlockSize; id += 100 {
		evs = append(evs, madeEvent("alice", fmt.Sprintf("p/%d", id%1500), id))
	}
	evs[0] = madeEvent("alice", "first", 100)
	db := openClient(t)
	obtain(t, db, event.All, evs, window.Span{From: event.BlockSize, To: 3 * event.BlockSize})
	keep(t, db, evs, event.All, event.BlockSize)
	mustSeal(t, db, event.All)
	for _, at := range []event.ID{event.BlockSize, 5000, 2 * event.BlockSize, 9000} {
		checkState(t, db, evs, event.All, at)
	}
	lie := evs[1:]
	keep(t, db, lie, event.All, event.BlockSize+1)
	checkState(t, db, lie, event.All, 9000)
	obtain(t, db, event.All, evs, window.Span{From: event.Beginning, To: event.BlockSize})
	checkState(t, db, evs, event.All, 9000)
	mustSeal(t, db, event.All)
	checkState(t, db, evs, event.All, 9000)
}

// Damage of a kept state is reported and never leads to a wrong state.
func TestStateOfDamagedSnapshot(t *testing.T) {
	db := openClient(t)
	evs := bigLogFile().evs[:100]
	keep(t, db, evs, event.All, 90)
	var members []byte
	if err := db.file.Read.QueryRow(`SELECT members FROM part`).Scan(&members); err != nil {
		t.Fatal(err)
	}
	for i := 0; i < len(members); i += 97 {
		bad := bytes.Clone(members)
		bad[i] ^= 1
		if err := rawExec(db, `UPDATE part SET members = ?`, bad); err != nil {
			t.Fatal(err)
		}
		wantError(t, fmt.Sprint("byte ", i), db.State(context.Background(), event.All, 90, noEvent), ErrCorrupt)
	}
	if err := rawExec(db, `UPDATE part SET members = x''`); err != nil {
		t.Fatal(err)
	}
	wantError(t, "no members", db.State(context.Background(), event.All, 90, noEvent), ErrCorrupt)
}

// A state may have more members than fit in one piece.
func TestStateOfLargeValues(t *testing.T) {
	longtest.Require(t)
	db := openServer(t)
	value := []byte(`"` + strings.Repeat("x", maxReadBytes/3) + `"`)
	var ds []event.Draft
	for i := range 20 {
		d := draft("alice", fmt.Sprint(i), "k")
		d.Value = value
		ds = append(ds, d)
	}
	var evs []event.Event
	for _, r := range mustAppend(t, db, ds...) {
		evs = append(evs, r.Event)
	}
	checkState(t, db, evs, event.All, db.Head())
	copied := openClient(t)
	keep(t, copied, evs, event.All, db.Head())
	checkState(t, copied, evs, event.All, db.Head())
}

// A log's states are sealed while it grows.
func TestKeepStates(t *testing.T) {
	setState(t)
	snapshot.FewStorages = 0
	db := openServer(t)
	ctx, cancel := context.WithCancel(context.Background())
	ended := make(chan error)
	go func() { ended <- db.Snapshots().KeepStates(ctx) }()
	for i := range 3 {
		mustAppend(t, db, drafts("alice", "posts", fmt.Sprint(i), event.BlockSize)...)
		for len(kept(t, db)) <= i || !strings.HasSuffix(kept(t, db)[i], " 1") {
			runtime.Gosched()
		}
	}
	cancel()
	wantError(t, "KeepStates", <-ended, context.Canceled)
	checkKept(t, "sealed", db, "* 4096 ids 1 1", "* 8192 ids 1 1", "* 12288 ids 1 1")
}

// The memory of a state does not grow with its size.
func TestStateInBoundedMemory(t *testing.T) {
	longtest.Require(t)
	setState(t)
	if testing.CoverMode() != "" {
		t.Skip("counts memory")
	}
	alive := func(members int) uint64 {
		db := openClient(t)
		defer func(most int) { snapshot.RecentEvents = most }(snapshot.RecentEvents)
		snapshot.RecentEvents = 0 // they have their own bound
		var evs []event.Event
		for id := range event.ID(members) {
			evs = append(evs, madeEvent("alice", fmt.Sprintf("p/%06d", id), id+1))
		}
		store(t, db, "alice", evs...)
		evs = nil
		snapshot.FewStorages, snapshot.GatherMax = 0, 0
		snapshot.SealSpan = event.BlockSize
		mustSeal(t, db, topics(t, "alice")[0])
		db.tables.ForgetWritten() // of the writer, which bounds it separately
		var most uint64
		n := 0
		err := db.State(context.Background(), topics(t, "alice")[0], event.ID(members), func(*event.Event) error {
			if n++; n%(members/10) == 0 {
				var m runtime.MemStats
				runtime.GC()
				runtime.ReadMemStats(&m)
				most = max(most, m.HeapAlloc)
			}
			return nil
		})
		if err != nil || n != members {
			t.Fatalf("%d of %d members, %v", n, members, err)
		}
		return most
	}
	const members, bound = 40_000, 2 << 20
	few := alive(members / 4) // as many as it takes to fill what has a bound of its own
	if many := alive(members); many > few+bound {
		t.Errorf("%d bytes are alive while a state of %d is read, %d while one of %d is", many, members, few, members/4)
	}
}
