package main

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"path/filepath"
	"testing"

	"github.com/rstream-dev/rstream/rstreamtest"
)

// Wherever the indexer is cut off, each event counts once.
func TestIndexer(t *testing.T) {
	s := rstreamtest.NewServer(t)
	file := filepath.Join(t.TempDir(), "index.json")
	seed := rand.Uint64()
	t.Logf("seed %d", seed)
	rng := rand.New(rand.NewPCG(seed, 0))
	want := map[string]int{}
	for range 20 {
		for range rng.IntN(20) {
			user := fmt.Sprint("user", rng.IntN(3))
			s.Put(user+"/log", rng.IntN(1000))
			want[user]++
		}
		ctx, cancel := context.WithCancel(t.Context())
		cut := rng.IntN(2) == 0
		if cut {
			go cancel()
		}
		if err := run(ctx, s.URL, file, true); err != nil && !(cut && errors.Is(err, context.Canceled)) {
			t.Fatal(err)
		}
		cancel()
	}
	if err := run(t.Context(), s.URL, file, true); err != nil {
		t.Fatal(err)
	}
	index, err := readIndex(file)
	if err != nil || index.Cursor.ID != s.Head() || fmt.Sprint(index.Events) != fmt.Sprint(want) {
		t.Errorf("index up to %s: %v, %v, want %v", index.Cursor, index.Events, err, want)
	}
}
