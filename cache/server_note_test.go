package cache

import (
	"slices"
	"testing"
)

// Notes of servers add up. A note without a speed or a problem keeps the earlier ones.
func TestServerNotes(t *testing.T) {
	db := openClient(t)
	if notes, err := db.ServerNotes(t.Context()); err != nil || len(notes) != 0 {
		t.Errorf("a new file has %v, %v", notes, err)
	}
	for _, notes := range [][]ServerNote{
		{{URL: "http://b", Seen: 1, Head: 5, Requests: 2, Received: 100, Speed: 50, Overtaken: 1, Problem: "slow", ProblemTime: 1}, {URL: "http://a", Seen: 1}},
		{{URL: "http://b", Seen: 2, Head: 4, Requests: 3, Received: 10}},
		{{URL: "http://b", Seen: 3, Head: 6, Requests: 1, Problem: "wrong", ProblemTime: 3, AsideUntil: 9}},
	} {
		if err := db.NoteServers(t.Context(), notes); err != nil {
			t.Fatal(err)
		}
	}
	want := []ServerNote{{URL: "http://a", Seen: 1},
		{URL: "http://b", Seen: 3, Head: 6, Requests: 6, Received: 110, Speed: 50, Overtaken: 1, Problem: "wrong", ProblemTime: 3, AsideUntil: 9}}
	if notes, err := db.ServerNotes(t.Context()); err != nil || !slices.Equal(notes, want) {
		t.Errorf("the notes are %+v, %v", notes, err)
	}
}
