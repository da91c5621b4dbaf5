package seen

import (
	"crypto/sha256"
	"fmt"
	"math/rand/v2"
	"slices"
	"testing"

	"github.com/rstream-dev/rstream/cache/internal/rows"
	"github.com/rstream-dev/rstream/event"
)

func TestLastFence(t *testing.T) {
	for range 200 {
		fences := make([]uint64, rand.IntN(40))
		for i := range fences {
			fences[i] = rand.Uint64N(20)
		}
		slices.Sort(fences)
		x, want := rand.Uint64N(22), -1
		for i, f := range fences {
			if f <= x {
				want = i
			}
		}
		if got := lastFence(fences, x); got != want {
			t.Fatalf("lastFence(%v, %d) = %d, want %d", fences, x, got, want)
		}
	}
}

func TestFilter(t *testing.T) {
	const n = 20_000
	f := newFilter(n, 7)
	hash := func(i int) (h event.Hash) { return sha256.Sum256(fmt.Append(nil, i)) }
	var evs []rows.OpenEvent
	for i := range n {
		evs = append(evs, rows.OpenEvent{Hash: hash(i)})
	}
	var g pageBatch
	for _, ev := range sortedByHash(evs) {
		if g = g.appendEntry(ev.Hash[:], 0); g.isBatchFull() || len(g) == n*entryLen {
			if err := f.addBlocks(g, f.appendBlocks(nil, g)); err != nil {
				t.Fatal(err)
			}
			g = g[:0]
		}
	}
	if err := f.addBlocks(g, f.appendBlocks(nil, g)); err != nil {
		t.Fatal(err)
	}
	wrong := 0
	for i := range 2 * n {
		h := hash(i)
		may := f.mayHave(&h, mix(&h, f.salt))
		if i < n && !may {
			t.Fatalf("hash %d seems not to be there", i)
		}
		if i >= n && may {
			wrong++
		}
	}
	if wrong > n/200 {
		t.Errorf("%d of %d hashes seem to be there", wrong, n)
	}
}
