package pages

import (
	"bytes"
	"slices"
	"testing"

	"github.com/rstream-dev/rstream/event"
)

// Whatever bit of a line flips, its hash is still known.
func TestHashOfDamagedLine(t *testing.T) {
	for _, d := range []event.Draft{
		{User: "alice", Path: "posts/1", Type: event.Put, Key: "k", Value: []byte(`{"text":"hello","n":[1,2]}`)},
		{User: "ali\"ce", Path: `x,"hash":"0`, Type: event.Put, Key: `,"hash":"`, Value: []byte(`",\"hash\":\""`)},
		{User: "bob", Path: "x", Type: event.Del, Key: "gone"},
	} {
		ev := event.New(17, 1_600_000_000_000_000, d, d.Hash())
		line := ev.Line()
		for i := range line {
			for bit := range 8 {
				bad := bytes.Clone(line)
				bad[i] ^= 1 << bit
				if got := hashesIn(bad); !slices.Contains(got, ev.Hash) {
					t.Errorf("bit %d of byte %d of %s: %x", bit, i, line, got)
				}
			}
		}
	}
}
