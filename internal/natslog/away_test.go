//go:build unix

package natslog

import (
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/nats-io/nats.go/jetstream"
)

// While a NATS server is away, the nodes are still there, and so are those that do not answer, except
// the ones whose consumer is on that server: that is said. Its replica is offline.
func TestNodesWithoutServer(t *testing.T) {
	t.Parallel()
	c := startCluster(t)
	urls := []string{c.url(0), c.url(1), c.url(2)}
	cfg := newConfig(t, strings.Join(urls, ","), "a")
	cfg.Replicas = 3
	n := &node{t: t, cfg: cfg, path: t.TempDir() + "/log.db"}
	await(t, "a node starts", func() bool {
		err := n.tryStart(t.Context())
		if err != nil {
			t.Log(err)
		}
		return err == nil
	})
	t.Cleanup(func() { n.stop() })
	n.mustAppend(draft("p", "x"))
	on := map[string]int{} // how many of those that are gone have their consumer on a server
	for i := 0; i < 6 || len(on) < 3; i++ {
		await(t, "a consumer is created", func() bool {
			made, err := n.log.js.CreateConsumer(t.Context(), cfg.Stream, jetstream.ConsumerConfig{
				Name: fmt.Sprintf("gone%d", i), AckPolicy: jetstream.AckNonePolicy, MemoryStorage: true, Replicas: 1, InactiveThreshold: time.Hour,
				Metadata: map[string]string{metaNode: fmt.Sprintf("gone%d", i), metaBoot: fmt.Sprintf("boot%d", i)},
			})
			if err != nil || made.CachedInfo().Cluster == nil || made.CachedInfo().Cluster.Leader == "" {
				return false
			}
			on[made.CachedInfo().Cluster.Leader]++
			return true
		})
	}
	lost := (c.leader(n, 0) + 1) % 3
	c.kill(lost)
	await(t, "the others serve the stream", func() bool {
		n.mustAppend(draft("p", time.Now().String()))
		_, err := n.log.Stream(t.Context())
		return err == nil
	})
	var nodes []NodeStatus
	var incomplete error
	await(t, "the nodes are known", func() (done bool) {
		var err error
		if nodes, incomplete, err = n.log.Nodes(t.Context()); err == nil && incomplete != nil && len(nodes) > 1 {
			return true
		}
		t.Logf("%d nodes, incomplete since %v: %v", len(nodes), incomplete, err)
		return false
	})
	want := 1
	for server, gone := range on {
		if server != fmt.Sprintf("s%d", lost) {
			want += gone
		}
	}
	if !strings.Contains(incomplete.Error(), "a NATS server did not answer about ") || len(nodes) != want {
		t.Errorf("%d nodes, incomplete since %v, with consumers on %v and without s%d", len(nodes), incomplete, on, lost)
	}
	if nodes[0].Node != "a" || !nodes[0].Answers || nodes[1].Answers {
		t.Errorf("the nodes are %+v", nodes)
	}
	await(t, "the replica is offline", func() bool {
		s, err := n.log.Stream(t.Context())
		if err != nil {
			return false
		}
		offline := ""
		for _, r := range s.Replicas {
			if r.Offline {
				offline += r.Server
			}
		}
		return offline == fmt.Sprintf("s%d", lost)
	})
}
