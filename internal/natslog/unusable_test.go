package natslog

import (
	"errors"
	"net/http"
	"strings"
	"testing"
	"time"

	"github.com/nats-io/nats.go/jetstream"

	"github.com/rstream-dev/rstream/internal/wire"
)

// A running node whose stream cannot be used any more says so, and refuses appends at once with the
// cause.
func TestUnusableStream(t *testing.T) {
	t.Parallel()
	for name, c := range map[string]struct {
		change func(t *testing.T, a *node)
		cause  string
	}{
		"deleted": {func(t *testing.T, a *node) {
			if err := newStreams(t, a.cfg.URL).DeleteStream(t.Context(), a.cfg.Stream); err != nil {
				t.Fatal(err)
			}
		}, ErrNoStream.Error()},
		"limited": {func(t *testing.T, a *node) {
			changeStream(t, a, func(cfg *jetstream.StreamConfig, _ jetstream.StreamState) { cfg.MaxAge = time.Hour })
		}, "drops messages"},
		"sealed": {func(t *testing.T, a *node) {
			changeStream(t, a, func(cfg *jetstream.StreamConfig, _ jetstream.StreamState) { cfg.Sealed = true })
		}, "is sealed"},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			a := startNode(t, newConfig(t, sharedURL(t), "a"), nil)
			a.mustAppend(draft("p", "one"))
			b := startNode(t, newConfig(t, a.cfg.URL, "b"), nil)
			awaitHead(t, 1, b)
			c.change(t, a)
			for _, n := range []*node{a, b} {
				await(t, n.cfg.Node+" is not ready", func() bool {
					err := n.mirror.Ready()
					return err != nil && strings.Contains(err.Error(), c.cause)
				})
				_, err := n.append(draft("p", "two"))
				var problem *wire.Error
				if !errors.As(err, &problem) || problem.Status != http.StatusServiceUnavailable || !strings.HasPrefix(problem.Detail, wire.NothingAppended+": this server takes no appends now: ") || !strings.Contains(problem.Detail, c.cause) {
					t.Errorf("%s: the append got %v, want the cause %q", n.cfg.Node, err, c.cause)
				}
			}
			if name == "limited" {
				changeStream(t, a, func(cfg *jetstream.StreamConfig, _ jetstream.StreamState) { cfg.MaxAge = 0 })
				await(t, "the nodes are ready", func() bool { return a.mirror.Ready() == nil && b.mirror.Ready() == nil })
				b.mustAppend(draft("p", "two"))
			}
		})
	}
}
