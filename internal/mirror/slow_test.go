package mirror_test

import (
	"context"
	"iter"
	"sync"
	"testing"
	"time"

	"github.com/rstream-dev/rstream/cache"
	"github.com/rstream-dev/rstream/internal/mirror"
	"github.com/rstream-dev/rstream/internal/server"
)

// A slowUpstream yields a batch each time that its gate has an element.
type slowUpstream struct {
	*mirror.HTTP
	gate chan struct{}
}

func (u *slowUpstream) Follow(ctx context.Context, after mirror.Position) iter.Seq2[mirror.Batch, error] {
	return func(yield func(mirror.Batch, error) bool) {
		for b, err := range u.HTTP.Follow(ctx, after) {
			if len(b.Events) > 0 && err == nil {
				select {
				case <-u.gate:
				case <-ctx.Done():
					return
				}
			}
			if !yield(b, err) {
				return
			}
		}
	}
}

// open lets everything pass until a node has what another one has.
func (u *slowUpstream) open(n, of *node) {
	for n.db.Head() < of.db.Head() {
		select {
		case u.gate <- struct{}{}:
		case <-time.After(time.Millisecond):
		}
	}
}

// startWith serves the mirror of an upstream of a log.
func (n *node) startWith(t *testing.T, up mirror.Upstream, log string) {
	t.Helper()
	db, err := cache.Open(context.Background(), n.path, cache.Config{Role: cache.Server, Log: log, Mirror: &cache.Mirrored{}})
	if err != nil {
		t.Fatal(err)
	}
	n.db = db
	n.mirror = mirror.New(db, mirror.Config{Upstream: up, Name: "upstream", ApplyWait: time.Second})
	n.srv = server.New(db, server.Config{Mirror: n.mirror})
	ctx, cancel := context.WithCancel(context.Background())
	var running sync.WaitGroup
	running.Go(func() { n.mirror.Run(ctx) })
	n.back()
	n.stop = sync.OnceFunc(func() {
		n.handler.Store(nil)
		n.srv.Stop()
		n.front.CloseClientConnections()
		cancel()
		running.Wait()
		if err := db.Close(); err != nil {
			t.Error(err)
		}
	})
}
