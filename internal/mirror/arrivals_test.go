package mirror

import (
	"strings"
	"testing"

	"github.com/rstream-dev/rstream/internal/sse"
)

// Blocks that have arrived count with all of their parts.
func TestArrivalsCountBytes(t *testing.T) {
	large := strings.Repeat("x", 1<<20)
	for part, f := range map[string]sse.Frame{"data": {Data: []byte(large)}, "type": {Type: large}, "cursor": {Cursor: large}} {
		a := newArrivals()
		a.stop() // so that put does not wait
		for range maxBatchBytes >> 20 {
			if a.isFull() {
				t.Errorf("%s: full with %d blocks", part, len(a.frames))
			}
			a.put(f, nil)
		}
		if !a.isFull() {
			t.Errorf("%s: not full with %d blocks", part, len(a.frames))
		}
	}
}
