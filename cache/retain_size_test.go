package cache

import (
	"context"
	"fmt"
	"strings"
	"testing"

	"github.com/rstream-dev/rstream/event"
	"github.com/rstream-dev/rstream/internal/longtest"
)

// After most of a log is dropped, it takes at most twice the size of the remaining lines,
// whether they are adjacent or one to a page. Its hashes stay and are not counted.
func TestRetainedSize(t *testing.T) {
	blocks := longtest.Size(2, 3)
	for _, c := range []struct {
		name string
		path func(i int) string
	}{
		{"together", func(i int) string { return fmt.Sprint("p/", i*7919%(event.BlockSize/10)) }},
		{"apart", func(i int) string {
			if i%10 == 3 {
				return fmt.Sprint("once/", i)
			}
			return fmt.Sprint("p/", i%7)
		}},
	} {
		db := openServer(t)
		for from := 0; from < blocks*event.BlockSize; from += 2048 {
			var ds []event.Draft
			for i := from; i < from+2048; i++ {
				d := draft("alice", c.path(i), fmt.Sprint(i))
				d.Value = []byte(`"` + strings.Repeat("x", 50+i%50) + `"`)
				ds = append(ds, d)
			}
			mustAppend(t, db, ds...)
		}
		if err := db.RetainOnce(context.Background(), Retention{MaxBytes: 1}); err != nil {
			t.Fatal(err)
		}
		lines := 0
		for _, line := range mustState(t, db, event.All, db.Head()) {
			lines += len(line) + 1
		}
		var size int
		err := db.file.Read.QueryRow(`SELECT sum(pgsize) FROM dbstat WHERE name IN ('page', 'page_stretch', 'page_posting')`).Scan(&size)
		if err != nil {
			t.Fatal(err)
		}
		if size > 2*lines {
			t.Errorf("%s: %d bytes of lines take %d", c.name, lines, size)
		}
	}
}
