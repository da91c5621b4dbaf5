package cache

import (
	"bytes"
	"context"
	"database/sql"
	"fmt"
	"maps"
	"slices"
	"testing"

	"pgregory.net/rapid"

	"github.com/rstream-dev/rstream/cache/internal/rows"
	"github.com/rstream-dev/rstream/cache/internal/snapshot"
	"github.com/rstream-dev/rstream/event"
	"github.com/rstream-dev/rstream/internal/longtest"
	"github.com/rstream-dev/rstream/internal/pagetest"
	"github.com/rstream-dev/rstream/window"
)

// lastOf returns the last event in span of each storage of topic, found one by one.
func lastOf(evs []event.Event, topic event.Topic, span window.Span) (refs []snapshot.Ref) {
	last := map[event.Storage]snapshot.Ref{}
	for _, ev := range among(evs, topic, span) {
		n := ev.Storage()
		last[n] = snapshot.Ref{Storage: n, ID: ev.ID, Put: ev.Type == event.Put, Del: ev.Type != event.Put}
	}
	return slices.SortedFunc(maps.Values(last), func(a, b snapshot.Ref) int { return a.Compare(b.Storage) })
}

// storedIn returns the events that are stored, whatever windows say.
func storedIn(t fataler, db *DB) (evs []event.Event) {
	t.Helper()
	for _, stored := range mustStored(t, db) {
		ev, err := rows.ParseStored(stored.ID, stored.Line)
		if err != nil {
			t.Fatalf("%v", err)
		}
		evs = append(evs, ev)
	}
	return evs
}

// The recent events in memory match the stored ones or are dropped, while two processes
// obtain, forget and replace events in one file.
func TestRecentModel(t *testing.T) {
	most, names := snapshot.RecentEvents, snapshot.RecentNames
	t.Cleanup(func() { snapshot.RecentEvents, snapshot.RecentNames = most, names })
	const head = 120
	evs := bigLogFile().evs[:head]
	root := t.TempDir()
	runs := 0
	rapid.Check(t, func(t *rapid.T) {
		snapshot.RecentEvents = rapid.SampledFrom([]int{10, 50, most}).Draw(t, "most")
		snapshot.RecentNames = rapid.SampledFrom([]int{20, names}).Draw(t, "names")
		path := fmt.Sprintf("%s/%d.db", root, runs)
		dbs := []*DB{mustOpen(t, path, Config{Role: Client, Log: testLog}), mustOpen(t, path, Config{Role: Client, Log: testLog})}
		defer dbs[0].Close()
		defer dbs[1].Close()
		runs++
		span := func(t *rapid.T) window.Span {
			a, b := rapid.IntRange(0, head).Draw(t, "from"), rapid.IntRange(0, head).Draw(t, "to")
			return window.Span{From: event.ID(min(a, b)), To: event.ID(max(a, b))}
		}
		topic := func(t *rapid.T) event.Topic {
			return topics(t, rapid.SampledFrom(modelTopics).Draw(t, "topic"))[0]
		}
		t.Repeat(map[string]func(*rapid.T){
			"obtain": func(t *rapid.T) {
				obtain(t, dbs[rapid.IntRange(0, 1).Draw(t, "by")], topic(t), evs, span(t))
			},
			"forget": func(t *rapid.T) {
				_, _ = dbs[1].Forget(context.Background(), topic(t), span(t).To) // it may also be held by a wider topic
			},
			"replace": func(t *rapid.T) {
				of := topic(t)
				for _, span := range mustHeld(t, dbs[1], of) {
					if err := dbs[1].Replace(context.Background(), of, span, among(evs, of, span)); err != nil {
						t.Fatalf("%v", err)
					}
				}
			},
			"": func(t *rapid.T) {
				of, span := topic(t), span(t)
				for _, db := range dbs {
					checkRecent(t, db, of, span)
				}
			},
		})
	})
}

// checkRecent reports whether the recent events were known.
func checkRecent(t fataler, db *DB, topic event.Topic, span window.Span) (ok bool) {
	t.Helper()
	var refs []snapshot.Ref
	err := db.file.View(context.Background(), func(tx *sql.Tx) error {
		removals, err := rows.LoadRemovals(tx)
		if err != nil {
			return err
		}
		refs, ok, err = db.snapshots.LastRecent(context.Background(), tx, topic, span, removals)
		return err
	})
	if err != nil {
		t.Fatalf("%v", err)
	}
	same := func(a, b snapshot.Ref) bool {
		return a.Storage == b.Storage && a.ID == b.ID && a.Put == b.Put && a.Del == b.Del
	}
	if want := lastOf(storedIn(t, db), topic, span); ok && !slices.EqualFunc(refs, want, same) {
		t.Fatalf("of %s %s the last recent events are %v, want %v", topic, span, refs, want)
	}
	return ok
}

// A process that stores events does not read them again to seal their state: here it could
// not.
func TestSealsFromRecent(t *testing.T) {
	setState(t)
	snapshot.FewStorages = 0
	server := openServer(t)
	var ds []event.Draft
	for i := range longtest.Size(2, 3) * event.BlockSize {
		d := draft("alice", fmt.Sprint("p/", i%700), fmt.Sprint(i))
		if i%5 == 0 {
			d = event.Draft{User: "alice", Path: d.Path, Type: event.Del, Key: d.Key}
		}
		ds = append(ds, d)
	}
	mustAppend(t, server, ds[:5000]...)
	mustAppend(t, server, ds[5000:]...)
	evs := storedIn(t, server)
	client := openClient(t)
	obtain(t, client, event.All, evs, window.Span{From: 0, To: server.Head()})
	for _, db := range []*DB{server, client} {
		shift := func(old, new string) {
			t.Helper()
			if err := edit(db, func(tx pagetest.DB) error {
				_, err := pagetest.EditEach(tx, func(ev *pagetest.Event) bool {
					ev.Line = bytes.Replace(ev.Line, []byte(old), []byte(new), 1)
					return true
				})
				return err
			}); err != nil {
				t.Fatal(err)
			}
		}
		shift(`{"id":`, `-"id":`)
		mustSeal(t, db, event.All)
		shift(`-"id":`, `{"id":`)
		want := []string{}
		for at := event.ID(event.BlockSize); at <= server.Head(); at += event.BlockSize {
			want = append(want, fmt.Sprintf("* %d ids %d 1", at, len(fold(evs, event.All, at))))
		}
		checkKept(t, "of recent events", db, want...)
		for _, at := range []event.ID{4096, 5000, 8192, server.Head()} {
			checkState(t, db, evs, event.All, at)
		}
	}
}

// A process does not have all recent events of a topic if another process, or a narrower
// window, stored a part.
func TestSealsBesideOthers(t *testing.T) {
	setState(t)
	snapshot.FewStorages, snapshot.SealSpan = 0, 10
	evs := bigLogFile().evs[:event.BlockSize]
	path := t.TempDir() + "/copy.db"
	one := mustOpen(t, path, Config{Role: Client, Log: testLog})
	defer one.Close()
	two := mustOpen(t, path, Config{Role: Client, Log: testLog})
	defer two.Close()
	alice := topics(t, "alice")[0]
	span := window.Span{From: 0, To: event.BlockSize}
	obtain(t, two, alice, evs, span)
	l, _, err := one.Leases().Claim(t.Context(), []event.Topic{event.All}, span)
	if err != nil {
		t.Fatal(err)
	}
	rest := slices.DeleteFunc(slices.Clone(evs), func(ev event.Event) bool { return ev.User == "alice" })
	if _, err := l.Apply(t.Context(), rest, span.To); err != nil {
		t.Fatal(err)
	}
	if err := l.Commit(t.Context()); err != nil {
		t.Fatal(err)
	}
	if checkRecent(t, one, event.All, span) {
		t.Error("one process knows what the other has stored")
	}
	mustSeal(t, one, event.All)
	checkKept(t, "of both", one, fmt.Sprintf("* 4096 ids %d 1", len(fold(evs, event.All, 4096))))
	checkState(t, one, evs, event.All, 4096)
}
