package natslog

import (
	"errors"
	"fmt"
	"path/filepath"
	"testing"

	"github.com/rstream-dev/rstream/cache"
	"github.com/rstream-dev/rstream/event"
	"github.com/rstream-dev/rstream/internal/mirror"
)

// A node whose file has a part of the log, such as a seed, receives the rest and nothing else,
// even if its file ends inside of a page. If its last event is another one, it receives nothing.
func TestJoin(t *testing.T) {
	t.Parallel()
	url := sharedURL(t)
	a := startNode(t, newConfig(t, url, "a"), nil)
	for _, d := range drafts(9, "one") {
		a.mustAppend(d)
	}
	a.mustAppend(drafts(10, "ten")...)
	evs, _, err := a.db.Read(t.Context(), []event.Topic{event.All}, event.Beginning, a.db.Head(), 100)
	if err != nil || len(evs) != 19 {
		t.Fatal(len(evs), err)
	}
	for _, has := range []int{0, 1, 5, 9, 10, 14, 18, 19} {
		for _, other := range []bool{false, true} {
			held := append([]event.Event(nil), evs[:has]...)
			if other {
				last := &held[has-1]
				*last = event.New(last.ID, last.Time+1, last.Draft, last.Hash)
			}
			n := &node{t: t, cfg: newConfig(t, url, fmt.Sprint("has ", has)), path: filepath.Join(t.TempDir(), "log.db")}
			file, err := cache.Open(t.Context(), n.path, cache.Config{Role: cache.Server, Log: a.db.Log(), Mirror: &cache.Mirrored{}})
			if err != nil {
				t.Fatal(err)
			}
			if err := errors.Join(file.Receive(t.Context(), held), file.Close()); err != nil {
				t.Fatal(err)
			}
			n.start()
			if other {
				var conflict *mirror.ConflictError
				await(t, "the stream is refused", func() bool { return errors.As(n.mirror.Ready(), &conflict) })
				if n.db.Head() != event.ID(has) {
					t.Errorf("a node with another event %d is at %s", has, n.db.Head())
				}
			} else {
				await(t, "the node is ready", func() bool { return n.mirror.Ready() == nil })
				checkEqual(t, len(evs), a, n)
				if got := n.mirror.Report().Events; got != int64(len(evs)-has) {
					t.Errorf("a node with %d events has received %d", has, got)
				}
			}
			n.stop()
			if has == 0 {
				break // there is no other event
			}
		}
	}
}
