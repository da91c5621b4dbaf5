package bench

import (
	"context"
	"errors"
	"fmt"
	"path/filepath"
	"time"

	"github.com/rstream-dev/rstream/cache"
	"github.com/rstream-dev/rstream/client"
	"github.com/rstream-dev/rstream/event"
)

const forgetHelp = `Remove a topic from a local copy that has nothing else. The limit is the sync that has
fetched its events.`

// benchForget measures the removal of a topic from a copy against the sync that fetched it.
func (r *runner) benchForget(ctx context.Context) (err error) {
	p, err := r.startPair(ctx)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, p.stopBoth()) }()
	r.reportProgress("forget", 0)
	in, err := r.fillPair(ctx, p)
	if err != nil {
		return err
	}
	topic, err := event.ParseTopic(in.User)
	if err != nil {
		return err
	}
	var ours, limit time.Duration
	for i := range roundCount {
		r.reportProgress("forget", float64(i+1)/(roundCount+1))
		synced, forgotten, err := r.syncAndForget(ctx, p.url, topic)
		if err != nil {
			return err
		}
		ours, limit = ours+forgotten, limit+synced
	}
	n := float64(roundCount * r.cfg.Events)
	r.addCompared("forget", microseconds(ours)/n, "µs/event", baseline{"sync", microseconds(limit) / n}, goalForget)
	return nil
}

// syncAndForget syncs a topic, which must have all events of the run, into a new copy and
// forgets it.
func (r *runner) syncAndForget(ctx context.Context, server string, topic event.Topic) (synced, forgotten time.Duration, err error) {
	file := filepath.Join(r.dir, "forget.db")
	defer func() { err = errors.Join(err, removeDB(file)) }()
	c, db, err := openCopy(ctx, server, file)
	if err != nil {
		return 0, 0, err
	}
	defer func() {
		c.Close()
		err = errors.Join(err, db.Close())
	}()
	start := time.Now()
	s, err := c.Sync(ctx, topic, client.SyncOptions{})
	if err != nil {
		return 0, 0, err
	}
	synced, start = time.Since(start), time.Now()
	removed, err := db.Forget(ctx, topic, event.MaxID)
	if err == nil && (s.Added != r.cfg.Events || removed != s.Added) {
		err = fmt.Errorf("of %d events, %d were fetched and %d removed", r.cfg.Events, s.Added, removed)
	}
	return synced, time.Since(start), err
}

// openCopy opens a copy of a server's log, and a client that fills it.
func openCopy(ctx context.Context, server, file string) (*client.Client, *cache.DB, error) {
	cfg := accessTo(ctx, server)
	info, err := client.Probe(ctx, cfg)
	if err != nil {
		return nil, nil, err
	}
	db, err := cache.Open(ctx, file, cache.Config{Role: cache.Client, Log: info.Log})
	if err != nil {
		return nil, nil, err
	}
	c, err := client.New(db, cfg)
	if err != nil {
		return nil, nil, errors.Join(err, db.Close())
	}
	return c, db, nil
}
