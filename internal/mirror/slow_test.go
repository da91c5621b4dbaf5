package mirror_test

import (
	"context"
	"errors"
	"iter"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/rstream-dev/rstream/cache"
	"github.com/rstream-dev/rstream/event"
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

// A fullLog is the file of a mirror on a full disk.
type fullLog struct {
	*cache.DB
	receives atomic.Int64
}

var errFullLog = errors.New("no space left")

func (l *fullLog) Receive(context.Context, []event.Event) error {
	l.receives.Add(1)
	return errFullLog
}

// A mirror that cannot store what it receives is in trouble until it can: connections that are
// made in the meantime are no good news.
func TestFullLog(t *testing.T) {
	origin := newNode(t).serve(t)
	origin.mustPut(t, "a", 3)
	near := newNode(t).follow(t, origin, "")
	near.awaitReady(t)
	near.stop()
	origin.mustPut(t, "b", 3)
	up, err := mirror.NewHTTP(mirror.HTTPConfig{URL: origin.url})
	if err != nil {
		t.Fatal(err)
	}
	db, err := cache.Open(t.Context(), near.path, cache.Config{Role: cache.Server, Mirror: &cache.Mirrored{}})
	if err != nil {
		t.Fatal(err)
	}
	defer db.Close()
	log := &fullLog{DB: db}
	m := mirror.New(log, mirror.Config{Upstream: up, Name: "upstream", RetryMin: time.Millisecond, RetryMax: 5 * time.Millisecond, OnTrouble: func(err error, _ time.Duration) {
		if !errors.Is(err, errFullLog) {
			t.Errorf("reported %v", err)
		}
	}})
	ctx, cancel := context.WithCancel(t.Context())
	var running sync.WaitGroup
	running.Go(func() { m.Run(ctx) })
	until(t, "three attempts", func() bool { return log.receives.Load() >= 3 })
	if r := m.Report(); r.Connected || r.Trouble != errFullLog.Error() && r.Trouble != "" {
		t.Errorf("it reports %+v", r)
	}
	cancel()
	running.Wait()
}
