package natslog

import (
	"context"
	"errors"
	"testing"
	"time"

	"github.com/rstream-dev/rstream/event"
)

// lastMessage returns the last message of the stream of a node.
func lastMessage(t *testing.T, n *node) uint64 {
	t.Helper()
	s, err := n.log.Stream(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	return s.Last
}

// A committer that does not follow the stream commits nothing: it may be another one by now.
func TestBlindCommitter(t *testing.T) {
	t.Parallel()
	cfg := newConfig(t, sharedURL(t), "a")
	cfg.LeaseTime = time.Hour // the node does not give up
	a := startNode(t, cfg, nil)
	a.mustAppend(draft("p", "one"))
	before := lastMessage(t, a)
	a.log.lease.setFollowing(false)
	ctx, cancel := context.WithTimeout(t.Context(), 300*time.Millisecond)
	defer cancel()
	r := &request{}
	r.Drafts = []event.Draft{draft("p", "two")}
	r.Hashes = []event.Hash{r.Drafts[0].Hash()}
	if err := a.log.committer.submit(ctx, r); err == nil {
		t.Error("the append was acknowledged")
	}
	if now := lastMessage(t, a); now != before {
		t.Errorf("the stream has %d messages, and had %d", now, before)
	}
	a.log.lease.setFollowing(true)
	if r := a.mustAppend(draft("p", "three")); r[0].ID > 3 {
		t.Errorf("the append got %s", r[0].ID)
	}
	checkEqual(t, int(a.db.Head()), a)
}

// A node does not claim the role over a claim that came since it found nobody in it.
func TestClaimSinceLooked(t *testing.T) {
	t.Parallel()
	a := startNode(t, newConfig(t, sharedURL(t), "a"), nil)
	a.mustAppend(draft("p", "one"))
	before := lastMessage(t, a)
	if err := a.log.lease.claimWhole(t.Context(), 0); !errors.Is(err, errFence) {
		t.Errorf("the claim got %v", err)
	}
	if now := lastMessage(t, a); now != before {
		t.Errorf("the stream has %d messages, and had %d", now, before)
	}
}
