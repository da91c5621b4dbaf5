package cache

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"slices"
	"strings"
	"testing"

	"pgregory.net/rapid"

	"github.com/rstream-dev/rstream/cache/internal/rows"
	"github.com/rstream-dev/rstream/cache/internal/snapshot"
	"github.com/rstream-dev/rstream/event"
	"github.com/rstream-dev/rstream/internal/pagetest"
	"github.com/rstream-dev/rstream/window"
)

// fold returns the state of topic at a position, folded with a map, in order.
func fold(evs []event.Event, topic event.Topic, at event.ID) (lines []string) {
	state := map[[2]string]string{}
	for _, ev := range among(evs, topic, window.Span{From: 0, To: at}) {
		if name := [2]string{ev.User, ev.Path}; ev.Type == event.Put {
			state[name] = string(ev.Line())
		} else {
			delete(state, name)
		}
	}
	names := slices.SortedFunc(maps.Keys(state), func(a, b [2]string) int { return slices.Compare(a[:], b[:]) })
	for _, name := range names {
		lines = append(lines, state[name])
	}
	return lines
}

func mustState(t fataler, db *DB, topic event.Topic, at event.ID) (lines []string) {
	t.Helper()
	err := db.State(context.Background(), topic, at, func(ev *event.Event) error {
		lines = append(lines, string(ev.Line()))
		return nil
	})
	if err != nil {
		t.Fatalf("%v", err)
	}
	return lines
}

func checkState(t fataler, db *DB, evs []event.Event, topic event.Topic, at event.ID) {
	t.Helper()
	if got, want := mustState(t, db, topic, at), fold(evs, topic, at); !slices.Equal(got, want) {
		t.Fatalf("the state of %s at %d is\n%s\nwant\n%s", topic, at, strings.Join(got, "\n"), strings.Join(want, "\n"))
	}
}

func setStorageChunk(t testing.TB, n int) {
	old := rows.StorageChunk
	rows.StorageChunk = n
	t.Cleanup(func() { rows.StorageChunk = old })
}

func TestStateAgainstMap(t *testing.T) {
	alone(t)
	server, evs := bigLog(t)
	client, _ := bigCopy(t)
	setStorageChunk(t, rows.StorageChunk)
	rapid.Check(t, func(t *rapid.T) {
		rows.StorageChunk = rapid.SampledFrom([]int{1, 2, 7, 500}).Draw(t, "chunk")
		topic := topics(t, rapid.SampledFrom(modelTopics).Draw(t, "topic"))[0]
		at := drawSpan(t, server.Head()).To
		checkState(t, server, evs, topic, at)
		checkState(t, client, evs, topic, at)
	})
}

// Appends in the meantime do not change a state, whether to existing or to new storages, and
// not even if they move the index.
func TestStateWhileAppending(t *testing.T) {
	db, evs := bigLog(t)
	setStorageChunk(t, 3)
	at, n := db.Head(), 0
	want := fold(evs, event.All, at)
	var got []string
	err := db.State(context.Background(), event.All, at, func(ev *event.Event) error {
		got = append(got, string(ev.Line()))
		ds := []event.Draft{draft(ev.User, ev.Path, "again"), draft(ev.User, ev.Path+"-new", "new")}
		if n++; n == 5 { // seal the open block
			ds = append(ds, drafts("zoe", "last", "fill", event.BlockSize)...)
		}
		_, err := db.Append(context.Background(), ds)
		return err
	})
	if err != nil || !slices.Equal(got, want) {
		t.Fatalf("the state has become %d events, %v, want %d", len(got), err, len(want))
	}
}

// A state does not change when the log drops events below its horizon that later ones have
// replaced.
func TestStateAboveHorizon(t *testing.T) {
	db, evs := bigLog(t)
	const horizon = event.BlockSize
	if err := changeLog(db, `horizon = ?`, horizon); err != nil {
		t.Fatal(err)
	}
	left := map[string]bool{}
	for _, line := range fold(evs, event.All, horizon) {
		left[line] = true
	}
	err := edit(db, func(tx pagetest.DB) error {
		_, err := pagetest.RemoveEach(tx, func(ev *pagetest.Event) bool {
			return ev.ID <= horizon && !left[string(ev.Line)]
		})
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	for _, at := range []event.ID{horizon, horizon + 50, db.Head()} {
		checkState(t, db, evs, event.All, at)
	}
	err = db.State(context.Background(), event.All, horizon-1, noEvent)
	wantNotHeld(t, err, window.NotHeldError{After: horizon - 1, Oldest: horizon, Some: true})
	err = db.State(context.Background(), event.All, db.Head()+1, noEvent)
	wantNotHeld(t, err, window.NotHeldError{After: db.Head()})
	// The same with only a horizon.
	if err := changeLog(db, `horizon = next - 1`); err != nil {
		t.Fatal(err)
	}
	err = db.State(context.Background(), event.All, horizon, noEvent)
	wantNotHeld(t, err, window.NotHeldError{After: horizon, Oldest: db.Head(), Some: true})
}

var errUnexpected = errors.New("unexpected event")

func noEvent(*event.Event) error { return errUnexpected }

// A copy knows the states of the spans whose whole history it holds, and never uses an event
// that is stored but not held.
func TestStateOfCopy(t *testing.T) {
	db := openClient(t)
	evs := bigLogFile().evs
	ts := topics(t, "alice", "alice/posts", "bob")
	obtain(t, db, ts[0], evs, window.Span{From: 0, To: 100})
	obtain(t, db, ts[2], evs, window.Span{From: 20, To: 100})
	for at := event.Beginning; at <= 100; at += 10 {
		checkState(t, db, evs, ts[0], at)
		checkState(t, db, evs, ts[1], at)
	}
	wantNotHeld(t, db.State(context.Background(), ts[0], 101, noEvent), window.NotHeldError{After: 100})
	wantNotHeld(t, db.State(context.Background(), ts[2], 50, noEvent), window.NotHeldError{After: 0, Oldest: 20, Some: true})
	wantNotHeld(t, db.State(context.Background(), event.All, 1, noEvent), window.NotHeldError{After: 0})
}

func TestStateEndsWithItsReader(t *testing.T) {
	db, _ := bigLog(t)
	n := 0
	err := db.State(context.Background(), event.All, db.Head(), func(*event.Event) error { n++; return errInjected })
	if wantError(t, "Snapshot", err, errInjected); n != 1 {
		t.Errorf("fn was called %d times after its error", n-1)
	}
	ctx, cancel := context.WithCancel(context.Background())
	cancel()
	wantError(t, "Snapshot", db.State(ctx, event.All, db.Head(), noEvent), context.Canceled)
}

// A reader can stop early, which is not an error.
func TestErrStop(t *testing.T) {
	db, _ := bigLog(t)
	ctx, n := t.Context(), 0
	stop := func(*event.Event) error {
		n++
		return ErrStop
	}
	err := errors.Join(
		db.State(ctx, event.All, db.Head(), stop),
		db.StateAfter(ctx, event.All, db.Head(), event.Storage{}, stop),
		db.Each(ctx, []event.Topic{event.All}, window.Span{To: db.Head()}, stop))
	if err != nil || n != 3 {
		t.Errorf("three reads gave %d events and %v, want one each and no error", n, err)
	}
}

func TestStateOfManyStorages(t *testing.T) {
	db := openServer(t)
	var ds []event.Draft
	for i := range 2*rows.StorageChunk + 1 {
		ds = append(ds, draft("alice", fmt.Sprintf("p/%d", i), "k"))
	}
	var evs []event.Event
	for _, r := range mustAppend(t, db, ds...) {
		evs = append(evs, r.Event)
	}
	checkState(t, db, evs, event.All, db.Head())
	checkState(t, db, evs, topics(t, "alice/p/1*")[0], db.Head())
}

// Long lines among short ones are all returned, however many there are.
func TestStateOfLongLines(t *testing.T) {
	db := openServer(t)
	setState(t)
	long := []byte(`"` + strings.Repeat("x", maxReadBytes/2) + `"`)
	var evs []event.Event
	for i := range 30 {
		d := draft("alice", fmt.Sprintf("p/%d", i), "k")
		if i%3 == 0 {
			d.Value = long
		}
		evs = append(evs, mustAppend(t, db, d)[0].Event)
	}
	for _, snapshot.FewStorages = range []int{0, 100} {
		checkState(t, db, evs, event.All, db.Head())
	}
}

// A name that a damaged file has lost is taken from the lines. If these are too long to be
// read for it, the name is missing, but its storage is not left out.
func TestStateMissesName(t *testing.T) {
	db, evs := bigLog(t)
	setState(t)
	snapshot.FewStorages = 0
	var n event.Storage
	if err := db.file.Read.QueryRow(`SELECT user, path FROM storage WHERE id = 3`).Scan(&n.User, &n.Path); err != nil {
		t.Fatal(err)
	}
	mustExec(t, db, `DELETE FROM storage WHERE id = 3`)
	checkState(t, db, evs, event.All, db.Head())
	snapshot.LinesBytes = 0
	checkState(t, db, evs, event.All, db.Head())
	mustExec(t, db, `INSERT INTO storage (id, user, path) VALUES (3, ?, ?)`, n.User, n.Path)
	d := draft(n.User, n.Path, "long")
	d.Value = []byte(`"` + strings.Repeat("x", 20<<10) + `"`)
	evs = append(evs, mustAppend(t, db, d)[0].Event)
	checkState(t, db, evs, event.All, db.Head())
	mustExec(t, db, `DELETE FROM storage WHERE id = 3`)
	err := db.State(context.Background(), event.All, db.Head(), func(*event.Event) error { return nil })
	wantError(t, "State", err, ErrCorrupt)
}
