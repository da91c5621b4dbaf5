package cache

import (
	"slices"
	"testing"

	"github.com/rstream-dev/rstream/event"
)

// Events are found by their hashes, in the order of ids, each once; unknown hashes are
// ignored.
func TestByHash(t *testing.T) {
	db := openServer(t)
	var hashes []event.Hash
	var want []event.ID
	for _, r := range mustAppend(t, db, drafts("alice", "x", "k", 2500)...) {
		if r.ID%3 > 0 {
			hashes, want = append(hashes, r.Hash, event.Hash{byte(r.ID), 1}, r.Hash), append(want, r.ID)
		}
	}
	slices.Reverse(hashes)
	var got []event.ID
	err := db.ByHash(t.Context(), hashes, func(ev *event.Event) error {
		if !slices.Contains(hashes, ev.Hash) {
			t.Errorf("event %s was not asked for", ev.ID)
		}
		got = append(got, ev.ID)
		return nil
	})
	if err != nil || !slices.Equal(got, want) {
		t.Errorf("%d events, %v, want %d", len(got), err, len(want))
	}
	if err := db.ByHash(t.Context(), nil, nil); err != nil {
		t.Errorf("of no hashes: %v", err)
	}
}
