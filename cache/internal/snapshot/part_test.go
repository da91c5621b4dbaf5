package snapshot

import (
	"slices"
	"testing"

	"github.com/rstream-dev/rstream/cache/internal/pages"
)

func FuzzDecodeIDs(f *testing.F) {
	b := appendRef(nil, "", "alice\x00posts/1", 7, &pages.Locator{})
	f.Add(appendRef(b, "alice\x00posts/1", "alice\x00posts/12", 1<<62, &pages.Locator{Page: pages.MaxKey, Offset: 4000, Length: 50, Sum: 1 << 31}))
	f.Add([]byte{0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 1, 1})
	f.Fuzz(func(t *testing.T, b []byte) {
		refs, err := decodeIDs(b)
		if err != nil {
			return
		}
		var again []byte
		before := ""
		for _, r := range refs {
			n := r.User + "\x00" + r.Path
			again, before = appendRef(again, before, n, r.ID, &r.at), n
		}
		back, err := decodeIDs(again)
		if err != nil || !slices.EqualFunc(refs, back, func(a, b Ref) bool { return a.Storage == b.Storage && a.ID == b.ID && a.at == b.at }) {
			t.Fatalf("%v, written and read again, are %v, %v", refs, back, err)
		}
	})
}
