package client

import (
	"context"
	"errors"
	"slices"

	"github.com/rstream-dev/rstream/cache"
	"github.com/rstream-dev/rstream/client/internal/imports"
	"github.com/rstream-dev/rstream/event"
	"github.com/rstream-dev/rstream/internal/wire"
	"github.com/rstream-dev/rstream/reconcile"
	"github.com/rstream-dev/rstream/window"
)

// maxGroup is how many topics are pulled together. Each request names them all, and the
// server compares each event with them.
const maxGroup = 100

// A TopicGroup is a list of topics that are synced one after the other. The first Sync of the
// Batch that has to fetch events fetches those of the later topics, too, in the same
// requests and transactions: events of many topics cost little more than the same
// events of one. Each topic is compared with the server in its own Sync. A TopicGroup is used by
// one goroutine at a time, and once.
type TopicGroup struct {
	topics []event.Topic
	r      Range // of the Sync that pulls
	shares map[event.Topic]*Share
	proven map[event.Topic]provenSum
}

// A provenSum is the sum of a range that was proven together with those of other topics.
type provenSum struct {
	r        Range
	sum      wire.Window
	removals int64 // of the copy at that time
}

// NewTopicGroup returns a TopicGroup of topics, in the order in which they will be synced.
func NewTopicGroup(topics []event.Topic) *TopicGroup {
	return &TopicGroup{topics: topics, shares: map[event.Topic]*Share{}, proven: map[event.Topic]provenSum{}}
}

// A Share is the traffic that the Syncs of other topics in a TopicGroup had for a topic, less
// the traffic that its own Sync had for others. Added to the difference that a Sync has made
// to the Stats of the Client, it gives the traffic for its topic.
type Share struct {
	Windows int   // pulled by other Syncs
	Events  int   // received and stored
	Bytes   int64 // of their lines
}

// TakeShare returns the Share of topic since the last call. A caller that reports the
// traffic of a Sync calls it after the Sync.
func (g *TopicGroup) TakeShare(topic event.Topic) (s Share) {
	if g != nil && g.shares[topic] != nil {
		s, *g.shares[topic] = *g.shares[topic], Share{}
	}
	return s
}

// share returns the Share of topic, to be changed.
func (g *TopicGroup) share(topic event.Topic) *Share {
	s := g.shares[topic]
	if s == nil {
		s = &Share{}
		g.shares[topic] = s
	}
	return s
}

// pullGroup pulls the missing events of topic in span, together with those of the topics
// in g that lack the same spans. It does nothing if there is no such topic, or if imported
// events may be some of the missing ones: which, each topic finds out in its own Sync.
func (c *Client) pullGroup(ctx context.Context, g *TopicGroup, topic event.Topic, span window.Span, s *Synced, fresh func([]event.Event) error) error {
	if g == nil {
		return nil
	}
	others, err := c.companions(ctx, g, topic, span)
	if err != nil || len(others) == 0 {
		return storeError(err)
	}
	before := s.Windows
	defer func() {
		for _, t := range others {
			g.share(t).Windows += s.Windows - before
		}
	}()
	topicOf := map[event.Storage]int{}
	receive := func(evs []event.Event) error {
		own := g.shareOut(evs, topic, others, topicOf)
		if len(own) == 0 && len(evs) > 0 {
			return nil
		}
		return fresh(own)
	}
	err = c.pullMissing(ctx, append([]event.Topic{topic}, others...), span, s, receive)
	if errors.As(err, new(*StatusError)) {
		return nil // the server may refuse so many topics; topic alone gets an error of its own
	}
	if err == nil {
		err = c.proveGroup(ctx, g, others)
	}
	return err
}

// proveGroup proves the range of g of several topics in one transaction, as far as they
// are whole. The errors of a topic are returned by its own Sync.
func (c *Client) proveGroup(ctx context.Context, g *TopicGroup, topics []event.Topic) error {
	removals, err := c.store.Removals(ctx)
	if err != nil {
		return storeError(err)
	}
	sums := map[event.Topic]wire.Window{}
	var proofs []cache.Proof
	for _, t := range topics {
		sum, err := c.requestSum(ctx, t, g.r)
		if permanent(err) {
			return nil
		}
		if err != nil {
			return err
		}
		leaves, err := c.storedLeaves(ctx, t, sum.Span())
		if err != nil {
			return storeError(err)
		}
		if digest, count := window.DigestOf(leaves); digest == sum.Digest && count == sum.Count {
			sums[t] = sum
			proofs = append(proofs, c.proofOf(t, sum))
		}
	}
	err = c.store.ProveAll(ctx, proofs, removals)
	if errors.Is(err, cache.ErrLost) {
		return nil
	}
	if err != nil {
		return storeError(err)
	}
	for t, sum := range sums {
		g.proven[t] = provenSum{g.r, sum, removals}
	}
	return nil
}

// provenBefore returns the sum of topic's range r, if it was proven with those of other
// topics and nothing was removed from the copy since.
func (c *Client) provenBefore(ctx context.Context, g *TopicGroup, topic event.Topic, r Range) (sum wire.Window, ok bool) {
	if g == nil {
		return sum, false
	}
	proven, ok := g.proven[topic]
	if !ok || proven.r != r {
		return sum, false
	}
	delete(g.proven, topic) // a second Sync looks again
	removals, err := c.store.Removals(ctx)
	return proven.sum, err == nil && removals == proven.removals
}

// maxShared is how many storages shareOut remembers between two calls.
const maxShared = 1 << 16

// shareOut adds received events to the shares of their topics, and returns those of topic.
// topicOf has the index in others for storages that were seen before, -1 for those of topic.
func (g *TopicGroup) shareOut(evs []event.Event, topic event.Topic, others []event.Topic, topicOf map[event.Storage]int) (own []event.Event) {
	of := g.share(topic)
	if len(topicOf) > maxShared {
		clear(topicOf)
	}
	for i := range evs {
		ev := &evs[i]
		n, known := topicOf[ev.Storage()]
		if !known {
			n = slices.IndexFunc(others, func(t event.Topic) bool { return t.Matches(ev.User, ev.Path) })
			topicOf[ev.Storage()] = n
		}
		if n < 0 {
			own = append(own, *ev)
			continue
		}
		size := int64(len(ev.Line()) + len("\n"))
		s := g.share(others[n])
		s.Events, s.Bytes = s.Events+1, s.Bytes+size
		of.Events, of.Bytes = of.Events-1, of.Bytes-size
	}
	return own
}

// companions returns the topics of g after topic that lack the same spans of span, share no
// event with any topic before them, and have not been pulled with another. It returns none
// if there are imported events.
func (c *Client) companions(ctx context.Context, g *TopicGroup, topic event.Topic, span window.Span) (others []event.Topic, err error) {
	imported, err := c.hasImports(ctx, span)
	if err != nil || imported {
		return nil, err
	}
	windows, err := c.store.Windows(ctx)
	if err != nil {
		return nil, err
	}
	held := window.NewSet(windows...)
	gaps := held.Held(topic).Gaps(span)
	for i := slices.Index(g.topics, topic) + 1; i > 0 && i < len(g.topics) && len(others) < maxGroup-1; i++ {
		t := g.topics[i]
		// A topic that shares events may lack nothing once the other one is held.
		if g.shares[t] == nil && !slices.ContainsFunc(g.topics[:i], t.Overlaps) && slices.Equal(held.Held(t).Gaps(span), gaps) {
			others = append(others, t)
		}
	}
	return others, nil
}

// hasImports reports whether the copy has imported events that may be some of the missing
// ones in span.
func (c *Client) hasImports(ctx context.Context, span window.Span) (bool, error) {
	candidates, err := c.store.CandidateSpan(ctx, event.All, span)
	if err != nil || !candidates.Empty() {
		return true, err
	}
	errFound := errors.New("there is one")
	err = c.store.ForeignHashes(ctx, event.All, func(event.Hash) error { return errFound })
	if errors.Is(err, errFound) {
		return true, nil
	}
	return false, err
}

// fetched returns how many events of topic other Syncs of the group have stored.
func (g *TopicGroup) fetched(topic event.Topic) int {
	if g == nil || g.shares[topic] == nil {
		return 0
	}
	return max(0, g.shares[topic].Events)
}

// pulled returns what ensureProven has found out about topic if another Sync of the group
// has pulled it.
func (g *TopicGroup) pulled(topic event.Topic) (found imports.Comparison, ok bool) {
	found = imports.Comparison{Outcome: reconcile.Pull.String(), Why: imports.WhyPull}
	return found, g != nil && g.shares[topic] != nil && g.shares[topic].Windows > 0
}
