package natslog

import (
	"fmt"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/rstream-dev/rstream/event"
	"github.com/rstream-dev/rstream/internal/longtest"
	"github.com/rstream-dev/rstream/internal/wire"
)

// Appends through both nodes become one log, in which each draft is once, and repeats get the
// receipt of the first.
func TestTwoNodes(t *testing.T) {
	t.Parallel()
	url := sharedURL(t)
	a := startNode(t, newPatientConfig(t, url, "a"), nil)
	first := a.mustAppend(drafts(3, "x")...)
	b := startNode(t, newPatientConfig(t, url, "b"), nil)
	awaitHead(t, 3, b)
	again := b.mustAppend(drafts(4, "x")...)
	for i, r := range again {
		if r.Duplicate != (i < 3) || r.ID != event.ID(i+1) || i < 3 && string(r.Line()) != string(first[i].Line()) {
			t.Errorf("receipt %d is %s, duplicate %v", i, r.Line(), r.Duplicate)
		}
	}
	var appending sync.WaitGroup
	for i := range 20 {
		n := []*node{a, b}[i%2]
		appending.Go(func() {
			if _, err := n.append(drafts(7, fmt.Sprint("k", i/2, "-"))...); err != nil {
				t.Error(err)
			}
		})
	}
	appending.Wait()
	awaitHead(t, 74, a, b)
	checkEqual(t, 74, a, b)
	if s := b.log.Status(); s.IsCommitter || s.Committer != "a" || s.Counters.Forwarded == 0 || s.Counters.Batches != 0 {
		t.Errorf("b did not forward to a: %+v", s)
	}
}

// A batch is appended as a whole, also if it is larger than a message, and so are its
// receipts.
func TestLargeAppend(t *testing.T) {
	t.Parallel()
	url := sharedURL(t)
	a := startNode(t, newConfig(t, url, "a"), nil)
	a.mustAppend(draft("p", "first"))
	b := startNode(t, newConfig(t, url, "b"), nil)
	value := `"` + strings.Repeat("v", wire.MaxValue-2) + `"`
	list := drafts(2000, "many")
	for i := range 2 {
		list = append(list, event.Draft{User: "alice", Path: "big", Type: event.Put, Key: fmt.Sprint("big", i), Value: []byte(value)})
	}
	receipts := b.mustAppend(list...)
	for i := range receipts {
		if receipts[i].ID != event.ID(i+2) { // on a busy machine, an attempt may have been repeated
			t.Fatalf("receipt %d is for %s", i, receipts[i].ID)
		}
	}
	awaitHead(t, event.ID(len(list)+1), a, b)
	checkEqual(t, len(list)+1, a, b)
	if again := b.mustAppend(list[len(list)-1]); !again[0].Duplicate || again[0].ID != receipts[len(receipts)-1].ID {
		t.Errorf("the repeated append got %s", again[0].ID)
	}
}

// The next committer goes on when one stops, and the file of a node that was away catches up.
func TestTakeover(t *testing.T) {
	t.Parallel()
	url := sharedURL(t)
	a := startNode(t, newConfig(t, url, "a"), nil)
	a.mustAppend(drafts(10, "x")...)
	b := startNode(t, newConfig(t, url, "b"), nil)
	c := startNode(t, newConfig(t, url, "c"), nil)
	awaitHead(t, 10, b, c)
	a.stop()
	b.mustAppend(drafts(10, "y")...)
	c.mustAppend(drafts(10, "z")...)
	a.start()
	awaitHead(t, 30, a, b, c)
	checkEqual(t, 30, a, b, c)
	sb, sc := b.log.Status(), c.log.Status()
	if sb.IsCommitter == sc.IsCommitter || sb.Committer != sc.Committer {
		t.Errorf("two nodes disagree about the committer: %+v, %+v", sb, sc)
	}
}

// Two nodes that both commit by force are slow, and never wrong.
func TestTwoCommitters(t *testing.T) {
	t.Parallel()
	url := sharedURL(t)
	force := func(l *Log) { l.forced = true }
	a := startNode(t, newConfig(t, url, "a"), force)
	a.mustAppend(draft("p", "first"))
	b := startNode(t, newConfig(t, url, "b"), force)
	awaitHead(t, 1, b)
	await(t, "b has claimed", func() bool { return b.log.lease.isFollowing() && b.log.lease.claim(t.Context()) == nil })
	if !a.log.lease.isMine() || !b.log.lease.isMine() {
		t.Fatal("there are not two committers")
	}
	count := longtest.Size(60, 3000)
	appendAll := func(prefix string, nodes ...*node) time.Duration {
		began := time.Now()
		var appending sync.WaitGroup
		for w := range 12 {
			n := nodes[w%len(nodes)]
			appending.Go(func() {
				for i := w; i < count; i += 12 {
					key := i
					if i%6 == 5 {
						key-- // the other node has the same
					}
					if _, err := n.append(drafts(2, fmt.Sprint(prefix, key, "-"))...); err != nil {
						t.Error(err)
					}
				}
			})
		}
		appending.Wait()
		return time.Since(began)
	}
	by := func(n *node) Counters { return n.log.Status().Counters }
	two := appendAll("two", a, b)
	batches, conflicts := by(a).Batches+by(b).Batches, by(a).Conflicts+by(b).Conflicts
	one := appendAll("one", a)
	t.Logf("%d appends took %s with two committers, %d batches and %d conflicts; %s with one of them idle", count, two, batches, conflicts, one)
	events := 1 + 4*(count-count/6)
	awaitHead(t, event.ID(events), a, b)
	checkEqual(t, events, a, b)
	if conflicts == 0 {
		t.Error("the committers did not meet")
	}
	if by(a).Batches == 0 || by(b).Batches == 0 {
		t.Errorf("they have stored %d and %d batches", by(a).Batches, by(b).Batches)
	}
}
