package cache

import (
	"context"
	"fmt"
	"math"
	"testing"

	"github.com/rstream-dev/rstream/cache/internal/pages"
	"github.com/rstream-dev/rstream/event"
	"github.com/rstream-dev/rstream/window"
)

// A filter that has seen storages decides about later ones by their names.
func TestStorageFilterLearns(t *testing.T) {
	db := openServer(t)
	ts := topics(t, "alice/a", `al"ice`)
	var want []event.ID
	for i := range 300 {
		user, path := "alice", fmt.Sprint("b/", i)
		switch {
		case i%3 == 0:
			path = fmt.Sprint("a/", i/2)
		case i%7 == 0:
			user = `al"ice`
		}
		mustAppend(t, db, draft(user, path, fmt.Sprint(i)))
		if user != "alice" || i%3 == 0 {
			want = append(want, db.Head())
		}
		if i%10 > 0 {
			continue
		}
		if got := ids(readAll(t, db, ts, window.Span{To: db.Head()}, 100)); fmt.Sprint(got) != fmt.Sprint(want) {
			t.Fatalf("after %d events: read %v, want %v", i+1, got, want)
		}
	}
	if f := db.filters.take(ts); len(f.known) == 0 || len(f.wanted) == 0 {
		t.Error("the filter has learned nothing")
	}
	if f := db.filters.take(ts); len(f.known) > 0 {
		t.Error("a filter is used twice at the same time")
	}
}

// Numbers that a set ignores are looked up by name each time.
func TestStorageFilterLargeNumbers(t *testing.T) {
	f := storageFilter{topics: topics(t, "alice")}
	for _, number := range []int64{0, 1, 64, maxNumber - 1, maxNumber, math.MaxInt64, -1} {
		for user, want := range map[string]bool{"alice": true, "bob": false} {
			f.known, f.wanted = nil, nil
			ev := madeEvent(user, "posts/1", 1)
			for range 2 {
				if got, err := f.wants(pages.Line{ID: 1, Storage: number, Text: ev.Line()}); got != want || err != nil {
					t.Errorf("wants(%d of %s) = %v, %v", number, user, got, err)
				}
			}
			if known := f.known.has(number); known != (number >= 0 && number < maxNumber) {
				t.Errorf("storage %d is known: %v", number, known)
			}
		}
	}
}

// The number of filters is bounded, and one of many topics is not kept.
func TestStorageFiltersAreBounded(t *testing.T) {
	db := openServer(t)
	mustAppend(t, db, draft("alice", "a", "1"))
	for i := range 3 * maxFilters {
		if _, _, err := db.Read(context.Background(), topics(t, fmt.Sprint("alice/", i)), 0, 1, 10); err != nil {
			t.Fatal(err)
		}
	}
	var many []event.Topic
	for i := range maxFilterTopics + 1 {
		many = append(many, topics(t, fmt.Sprint("alice/", i))...)
	}
	if _, _, err := db.Read(context.Background(), many, 0, 1, 10); err != nil {
		t.Fatal(err)
	}
	if n := len(db.filters.filters); n == 0 || n > maxFilters {
		t.Errorf("%d filters are kept", n)
	}
	if db.filters.filters[filterName(many)] != nil {
		t.Error("a filter of many topics is kept")
	}
}
