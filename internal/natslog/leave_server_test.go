package natslog

import (
	"testing"
	"time"

	"github.com/nats-io/nats-server/v2/server"
)

// A node leaves a NATS server that takes its connection and does not reach the stream, if it
// knows another one.
func TestLeaveServer(t *testing.T) {
	t.Parallel()
	alone := newServer(t, func(o *server.Options) { o.JetStream = false })
	good, other := newProxy(t, sharedURL(t)), newProxy(t, sharedURL(t))
	other.cut(true)
	n := startNode(t, newConfig(t, good.url()+","+other.url(), "a"), func(l *Log) { l.minStay = 50 * time.Millisecond })
	n.mustAppend(drafts(5, "x")...)
	other.setServer(alone.ClientURL())
	good.cut(true)
	other.cut(false)
	await(t, "the node is with the other server", func() bool { return n.log.Status().Server == alone.Name() })
	good.cut(false)
	if r := n.mustAppend(draft("p", "more")); r[0].ID != 6 {
		t.Errorf("the append got %s", r[0].ID)
	}
	if at := n.log.Status().Server; at != shared.server.Name() {
		t.Errorf("the node is with the server %s", at)
	}
	checkEqual(t, 6, n)
}
