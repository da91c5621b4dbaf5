package cache

import (
	"bytes"
	"context"
	"fmt"
	"strings"
	"testing"

	"github.com/rstream-dev/rstream/event"
	"github.com/rstream-dev/rstream/internal/longtest"
	"github.com/rstream-dev/rstream/internal/pagetest"
	"github.com/rstream-dev/rstream/window"
)

func TestReadEdges(t *testing.T) {
	db := openServer(t)
	ctx := context.Background()
	all := topics(t, "*")
	if evs, next, err := db.Read(ctx, all, 0, event.MaxID, 10); len(evs) != 0 || next != 0 || err != nil {
		t.Errorf("an empty log: %d events up to %s, %v", len(evs), next, err)
	}
	mustAppend(t, db, drafts("alice", "x", "k", 10)...)
	for _, c := range []struct {
		topic              string
		after, until, next event.ID
		limit, n           int
	}{
		{"*", 0, event.MaxID, 10, 100, 10},
		{"*", 0, event.MaxID, 4, 4, 4},
		{"*", 3, 7, 7, 100, 4},
		{"*", 7, 3, 7, 100, 0}, // until before after
		{"*", 7, 7, 7, 100, 0},
		{"*", 0, 10, 0, 0, 0}, // limit 0 is no event
		{"*", 0, 10, 0, -1, 0},
		{"*", 10, event.MaxID, 10, 100, 0}, // the edge
		{"alice/x$", 9, 10, 10, 1, 1},
		{"nobody", 2, event.MaxID, 10, 100, 0}, // no storage: looked up to the head
	} {
		evs, next, err := db.Read(ctx, topics(t, c.topic), c.after, c.until, c.limit)
		if len(evs) != c.n || next != c.next || err != nil {
			t.Errorf("Read(%s, %d, %d, %d) = %d events up to %s, %v, want %d up to %s",
				c.topic, c.after, c.until, c.limit, len(evs), next, err, c.n, c.next)
		}
	}
	var notHeld *window.NotHeldError
	for _, after := range []event.ID{11, event.MaxID} {
		if _, _, err := db.Read(ctx, all, after, event.MaxID, 10); !asError(err, &notHeld) || notHeld.Some {
			t.Errorf("Read after %s, beyond the head: %v", after, err)
		}
	}
	if _, _, err := db.Read(ctx, nil, 0, 10, 10); !asError(err, &notHeld) {
		t.Errorf("Read of no topic: %v", err)
	}
	if err := changeLog(db, `horizon = 5`); err != nil { // retention
		t.Fatal(err)
	}
	db.tables.Horizon.Forget()
	if _, _, err := db.Read(ctx, all, 4, 10, 10); !asError(err, &notHeld) || !notHeld.Some || notHeld.Oldest != 5 {
		t.Errorf("Read below the horizon: %v", err)
	}
	if h, err := db.Horizon(ctx); h != 5 || err != nil {
		t.Errorf("Horizon = %s, %v", h, err)
	}
}

func asError[E error](err error, target *E) bool {
	e, ok := err.(interface{ Unwrap() error })
	for ; ok; e, ok = err.(interface{ Unwrap() error }) {
		err = e.Unwrap()
		if found, is := err.(E); is {
			*target = found
			return true
		}
	}
	return false
}

// A chunk ends at a megabyte, but has one event at least.
func TestReadBytes(t *testing.T) {
	db := openServer(t)
	var ds []event.Draft
	for i := range 5 {
		d := draft("alice", "x", fmt.Sprint(i))
		d.Value = []byte(`"` + strings.Repeat("x", 600_000) + `"`)
		ds = append(ds, d)
	}
	mustAppend(t, db, ds...)
	for _, topic := range []string{"*", "alice/x$"} {
		evs, next, err := db.Read(context.Background(), topics(t, topic), 0, 5, 100)
		if len(evs) != 2 || next != 2 || err != nil {
			t.Errorf("Read(%s) = %d events up to %s, %v", topic, len(evs), next, err)
		}
		checkIDs(t, topic, readAll(t, db, topics(t, topic), window.Span{To: 5}, 100), allIDs(5))
	}
}

// No event may be missed where the postings end and the open block begins.
func TestReadAcrossBlocks(t *testing.T) {
	alone(t)
	db := openServer(t)
	want := map[string][]event.ID{}
	var ds []event.Draft
	next := event.ID(1)
	flush := func() { mustAppend(t, db, ds...); ds = nil }
	for ; next <= event.ID(longtest.Size(2, 3))*event.BlockSize+5; next++ {
		path := "common"
		if off := uint64(next) % event.BlockSize; off <= 1 || off == event.BlockSize-1 || next%1000 == 0 {
			path = fmt.Sprint("rare/", next%2)
		}
		want[path] = append(want[path], next)
		if ds = append(ds, draft("alice", path, fmt.Sprint(next))); len(ds) == 777 || next%event.BlockSize == event.BlockSize-1 {
			flush()
		}
	}
	flush()
	for path := range want {
		for _, limit := range []int{1, 3, 5000} {
			if path == "common" && limit < 5000 {
				continue
			}
			checkIDs(t, path, readAll(t, db, topics(t, "alice/"+path), window.Span{To: event.MaxID}, limit), want[path])
		}
	}
	two := len(readAll(t, db, topics(t, "*/rare/0$", "alice/rare/1", "nobody"), window.Span{To: event.MaxID}, 4))
	if n := len(want["rare/0"]) + len(want["rare/1"]); two != n {
		t.Errorf("both rare ones have %d events, want %d", two, n)
	}
}

// More storages than are looked up one by one, and more topics than one SQL expression may
// name.
func TestReadManyStorages(t *testing.T) {
	longtest.Require(t)
	db := openServer(t)
	var ds []event.Draft
	var names []string
	for i := range maxSeeks + 10 {
		ds = append(ds, draft("alice", fmt.Sprint("many/", i), "k"))
		if i%40 == 0 {
			names = append(names, fmt.Sprintf("alice/many/%d$", i))
		}
	}
	mustAppend(t, db, append(ds, draft("bob", "x", "k"))...)
	for _, topic := range []string{"alice", "alice/many", "*/many/"} {
		if got := readAll(t, db, topics(t, topic), window.Span{To: event.MaxID}, 5000); len(got) != maxSeeks+10 {
			t.Errorf("%s has %d events", topic, len(got))
		}
	}
	if got := readAll(t, db, topics(t, names...), window.Span{To: event.MaxID}, 50); len(names) <= 100 || len(got) != len(names) {
		t.Errorf("%d topics have %d events", len(names), len(got))
	}
}

// Several spans are stored newest first, each from both ends of a block.
func TestReadPostingsOutOfOrder(t *testing.T) {
	longtest.Require(t)
	db := openClient(t)
	topic := topics(t, "alice/x$")
	var want []event.ID
	for from := event.ID(2 * event.BlockSize); ; from -= 100 {
		l := mustClaim(t, db, "alice", from, from+100)
		var evs []event.Event
		for id := l.Reached() + 1; id <= from+100; id += 3 {
			evs = append(evs, madeEvent("alice", "x", id))
		}
		want = append(ids(evs), want...)
		mustApply(t, l, l.Span().To, evs...)
		mustDo(t, l.Commit)
		if from < 100 {
			break
		}
	}
	held := mustHeld(t, db, topic...)
	if len(held) != 1 {
		t.Fatalf("held is %v", held)
	}
	for _, limit := range []int{7, 5000} {
		checkIDs(t, "alice/x", readAll(t, db, topic, held[0], limit), want)
	}
}

func TestPositionAtEqualTimesAndHoles(t *testing.T) {
	ctx := context.Background()
	db := openClient(t)
	at := func(t event.Time) event.ID {
		id, err := db.PositionAt(ctx, t)
		if err != nil {
			panic(err)
		}
		return id
	}
	if got := at(1); got != 0 {
		t.Errorf("in an empty file: %s", got)
	}
	var evs []event.Event
	for i, id := range []event.ID{3, 4, 5, 4000, 9000, 9001, 1 << 40} {
		d := draft("alice", "x", fmt.Sprint(id))
		evs = append(evs, event.New(id, []event.Time{100, 100, 100, 200, 200, 200, 300}[i], d, d.Hash()))
	}
	store(t, db, "alice", evs...)
	for when, want := range map[event.Time]event.ID{0: 0, 99: 0, 100: 5, 101: 5, 199: 5, 200: 9001, 299: 9001, 300: 1 << 40, 999: 1 << 40} {
		if got := at(when); got != want {
			t.Errorf("PositionAt(%d) = %d, want %d", when, got, want)
		}
	}
}

// Events between the held spans of a topic do not count.
func TestBeforeLastOverHoles(t *testing.T) {
	db := openClient(t)
	ctx := context.Background()
	store(t, db, "alice", madeEvent("alice", "x", 3), madeEvent("alice", "x", 5), madeEvent("alice", "x", 7))
	l := mustClaim(t, db, "alice/x$", 10, 20)
	mustApply(t, l, 20, madeEvent("alice", "x", 15)) // of one storage only
	l = mustClaim(t, db, "alice", 30, 40)
	mustApply(t, l, 40, madeEvent("alice", "x", 35))
	for n, want := range map[int]event.ID{0: 50, 1: 7, 2: 5, 3: 3, 4: 0, 9: 0} {
		if got, err := db.BeforeLast(ctx, topics(t, "alice"), n, 0, 50); got != want || err != nil {
			t.Errorf("BeforeLast(alice, %d) = %s, %v, want %s", n, got, err, want)
		}
	}
	if got, err := db.BeforeLast(ctx, topics(t, "alice/x"), 1, 0, 50); got != 7 || err != nil {
		t.Errorf("BeforeLast(alice/x, 1) = %s, %v", got, err)
	}
	if got, err := db.BeforeLast(ctx, topics(t, "alice/x$"), 1, 0, 50); got != 15 || err != nil {
		t.Errorf("BeforeLast(alice/x$, 1) = %s, %v", got, err)
	}
}

// Readers see a prefix of the log during writes, never a hole in it.
func TestReadWhileAppending(t *testing.T) {
	db := openServer(t)
	done := make(chan error, 1)
	go func() {
		for i := range 60 {
			if _, err := db.Append(context.Background(), drafts("alice", fmt.Sprint(i%3), fmt.Sprint(i), 60)); err != nil {
				done <- err
				return
			}
		}
		done <- nil
	}()
	for at := event.Beginning; at < 3_600; {
		evs, next, err := db.Read(context.Background(), topics(t, "alice/0", "alice/1", "alice/2"), at, event.MaxID, 500)
		if err != nil {
			t.Fatal(err)
		}
		if len(evs) != int(next-at) {
			t.Fatalf("after %s there are %d events up to %s", at, len(evs), next)
		}
		at = next
	}
	if err := <-done; err != nil {
		t.Error(err)
	}
}

// A scan that stops at its bound continues after the last event that it saw.
func TestReadInShortScans(t *testing.T) {
	defer func(n int) { maxScan = n }(maxScan)
	maxScan = 10
	db := openServer(t)
	mustAppend(t, db, drafts("alice", "x", "k", 30)...) // a multiple of the bound
	mustAppend(t, db, drafts("bob", "x", "k", 25)...)
	for topic, want := range map[string][]event.ID{"*": allIDs(55), "alice": allIDs(30), "bob/x$": allIDs(55)[30:], "nobody": nil} {
		for _, limit := range []int{1, 10, 100} {
			checkIDs(t, topic, readAll(t, db, topics(t, topic), window.Span{To: event.MaxID}, limit), want)
		}
	}
}

// A server and a copy return the same events, however many are read at a time.
func TestReadOfBothRoles(t *testing.T) {
	alone(t)
	server, evs := bigLog(t)
	client, _ := bigCopy(t)
	span := window.Span{From: event.BlockSize - 300, To: min(event.BlockSize+900, server.Head())}
	for _, name := range append([]string{"*"}, modelTopics...) {
		for _, limit := range []int{90, 1000}[:longtest.Size(1, 2)] {
			ts := topics(t, name)
			for _, db := range []*DB{server, client} {
				checkIDs(t, name, readAll(t, db, ts, span, limit), ids(among(evs, ts[0], span)))
			}
		}
	}
}

// A line that contains another id than its key is reported as damage, also if ids are missing
// so that the other id would be in order.
func TestReadIDBetweenOthers(t *testing.T) {
	db := openClient(t)
	var evs []event.Event
	for id := event.ID(2); id <= 200; id += 2 {
		evs = append(evs, madeEvent("alice", []string{"a", "b", "c"}[id%3], id))
	}
	store(t, db, "alice", evs...)
	const damaged = 100
	if err := edit(db, func(tx pagetest.DB) error {
		was, is := event.ID(damaged).String(), event.ID(damaged+1).String()
		return pagetest.SetLine(tx, damaged, bytes.Replace(evs[damaged/2-1].Line(), []byte(was), []byte(is), 1))
	}); err != nil {
		t.Fatal(err)
	}
	ctx := context.Background()
	path := evs[damaged/2-1].Path
	for _, topic := range topics(t, "alice", "alice/"+path, "alice/"+path+"$") {
		ts := []event.Topic{topic}
		for _, to := range []event.ID{damaged, damaged + 1, 200} {
			for _, after := range []event.ID{0, damaged - 2} {
				for _, limit := range []int{1000, int(to - after), 1} {
					if after == 0 && limit == 1 {
						continue // the damage need not be read
					}
					// What comes before the damage is read; then it is an error.
					var err error
					for at := after; at < to && err == nil; {
						var some []event.Event
						if some, at, err = db.Read(ctx, ts, at, to, limit); len(some) > 0 && some[len(some)-1].ID >= damaged {
							t.Fatalf("event %s is read before the damage is told", some[len(some)-1].ID)
						}
					}
					wantError(t, "Read", err, ErrCorrupt)
					err = nil
					for at := after; at < to && err == nil; {
						_, at, err = db.AppendLines(ctx, nil, ts, at, to, limit)
					}
					wantError(t, "AppendLines", err, ErrCorrupt)
				}
			}
		}
		if got := readAll(t, db, ts, window.Span{From: damaged, To: 200}, 7); len(got) == 0 {
			t.Errorf("nothing of %s is read behind the damage", topic)
		}
	}
}
