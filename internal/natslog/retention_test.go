package natslog

import (
	"context"
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/rstream-dev/rstream/cache"
	"github.com/rstream-dev/rstream/event"
)

// Values expire by DELs of the committer alone, once each, also after another node has taken
// its place.
func TestExpiry(t *testing.T) {
	t.Parallel()
	url := sharedURL(t)
	var nodes []*node
	for _, name := range []string{"a", "b"} {
		n := &node{t: t, cfg: newConfig(t, url, name), path: t.TempDir() + "/log.db", retain: cache.Retention{TTL: []cache.TTL{{Topic: event.All, Age: 200 * time.Millisecond}}}}
		n.start()
		t.Cleanup(func() { n.stop() })
		nodes = append(nodes, n)
		if name == "a" {
			n.mustAppend(drafts(3, "x")...)
		}
	}
	a, b := nodes[0], nodes[1]
	awaitHead(t, 6, a, b)
	b.mustAppend(drafts(2, "y")...)
	awaitHead(t, 10, a, b)
	a.stop()
	b.mustAppend(drafts(2, "z")...)
	awaitHead(t, 14, b)
	a.start()
	awaitHead(t, 14, a)
	checkEqual(t, 14, a, b)
	if n := strings.Count(a.lines(), `"type":"DEL"`); n != 7 {
		t.Errorf("there are %d DELs, want 7:\n%s", n, a.lines())
	}
}

// The horizon moves on all nodes when the committer says so, and a node that begins later gets
// there, too.
func TestHorizon(t *testing.T) {
	t.Parallel()
	url := sharedURL(t)
	start := func(name string) *node {
		n := &node{t: t, cfg: newConfig(t, url, name), path: t.TempDir() + "/log.db", retain: cache.Retention{History: 100 * time.Millisecond}}
		n.start()
		t.Cleanup(func() { n.stop() })
		return n
	}
	a := start("a")
	list := drafts(2*event.BlockSize+100, "x")
	a.mustAppend(list...)
	b := start("b")
	awaitHead(t, event.ID(len(list)), a, b)
	horizon := func(n *node) event.ID {
		at, err := n.db.Horizon(context.Background())
		if err != nil {
			t.Fatal(err)
		}
		return at
	}
	c := start("c")
	for _, n := range []*node{a, b, c} {
		await(t, fmt.Sprintf("%s has the horizon", n.cfg.Node), func() bool { return horizon(n) == 2*event.BlockSize })
	}
	again := b.mustAppend(list[0])
	if !again[0].Duplicate || again[0].ID != 1 || !again[0].Dropped {
		t.Errorf("a repeat of a dropped event got %+v", again[0])
	}
	if at := a.log.Status().Horizon; at != 2*event.BlockSize {
		t.Errorf("the horizon of the log is %s", at)
	}
}
