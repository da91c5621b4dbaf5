package main

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"github.com/rstream-dev/rstream/internal/mirror"
	"github.com/rstream-dev/rstream/internal/natslog"
	"github.com/rstream-dev/rstream/internal/wire"
)

// syncAge is for how long the answers of the NATS servers about their disks count. They are asked
// again after half of it, or after awayPause while one of them has not answered, since it may
// come back with other settings.
const (
	syncAge   = time.Minute
	awayPause = 2 * time.Second
)

// A diskCheck is the check of --durable always: no NATS server acknowledges an append before it is
// synced.
type diskCheck struct {
	ask    func(ctx context.Context) ([]natslog.Replica, []natslog.ServerSync, error)
	proven atomic.Bool           // appends are durable, as far as is known
	reason atomic.Pointer[error] // why not; nil: nobody was asked

	mu       sync.Mutex
	at       time.Time       // of the last answers that were as they must be
	complete bool            // all replicas were among them
	always   map[string]bool // servers that have said so when they were last asked
}

// run asks the servers from time to time until ctx ends. It logs each change of what it finds.
func (d *diskCheck) run(ctx context.Context, say *slog.Logger) {
	said := ""
	for {
		select {
		case <-time.After(awayPause):
		case <-ctx.Done():
			return
		}
		err := d.proveAgain(ctx)
		switch {
		case ctx.Err() != nil:
			return
		case err == nil && said != "" && d.proven.Load():
			said = ""
			say.Info("appends are durable again")
		case err != nil && wire.SteadyText(err) != said:
			said = wire.SteadyText(err)
			say.Warn("the NATS servers were asked when they sync", "error", said)
		}
	}
}

// proveAgain is prove, at the time for it.
func (d *diskCheck) proveAgain(ctx context.Context) error {
	d.mu.Lock()
	age := syncAge / 2
	if !d.complete {
		age = awayPause
	}
	d.mu.Unlock()
	return d.prove(ctx, age)
}

// prove asks the servers, unless answers that are younger than age have proven that appends are
// durable. If they cannot be asked, younger answers than syncAge still count.
func (d *diskCheck) prove(ctx context.Context, age time.Duration) error {
	d.mu.Lock()
	defer d.mu.Unlock()
	if d.proven.Load() && time.Since(d.at) < age {
		return nil
	}
	replicas, said, err := d.ask(ctx)
	if err == nil {
		d.complete, err = d.judge(replicas, said)
	}
	var away *mirror.UnreachableError
	switch {
	case err == nil:
		d.at = time.Now()
	case ctx.Err() != nil: // the caller has gone: nothing was found
		return err
	case errors.As(err, &away) && d.proven.Load() && time.Since(d.at) < syncAge:
		return nil
	}
	d.reason.Store(&err)
	d.proven.Store(err == nil)
	return err
}

// problem returns an error unless appends are durable, as far as is known.
func (d *diskCheck) problem() error {
	switch why := d.reason.Load(); {
	case d.proven.Load():
		return nil
	case why == nil || *why == nil:
		return errors.New("whether appends are durable there is not known yet")
	default:
		return fmt.Errorf("whether appends are durable there is not known: %w", *why)
	}
}

// judge returns an error unless all replicas that can acknowledge an append sync it first.
// A replica that has said so counts while it is away. One that never has must be offline: it
// acknowledges nothing, and the others must be a majority. complete says that all have answered.
func (d *diskCheck) judge(replicas []natslog.Replica, said []natslog.ServerSync) (complete bool, err error) {
	if d.always == nil {
		d.always = map[string]bool{}
	}
	answered := map[string]bool{}
	for _, s := range said {
		answered[s.Server] = true
		if d.always[s.Server] = s.Always; !s.Always {
			err = durableErrorf("the server %s has a sync_interval of %s", s.Server, s.Interval)
		}
	}
	if err != nil {
		return false, err
	}
	if len(said) == 0 {
		return false, durableErrorf("no NATS server has said when it syncs")
	}
	var unknown []string
	complete = true
	for _, r := range replicas {
		complete = complete && answered[r.Server]
		switch {
		case d.always[r.Server]:
		case !r.Offline:
			return false, durableErrorf("the server %s did not say when it syncs", r.Server)
		default:
			unknown = append(unknown, r.Server)
		}
	}
	if n := len(replicas); n > 0 && n-len(unknown) <= n/2 {
		return false, durableErrorf("no majority of the replicas has said when it syncs; these are offline: %s", strings.Join(unknown, ", "))
	}
	return complete, nil
}

func durableErrorf(format string, args ...any) error {
	return &natslog.SetupError{Text: "--durable always: " + fmt.Sprintf(format, args...)}
}

// askWhenSynced asks the NATS servers when they sync, and then which of them have the stream.
func (n *node) askWhenSynced(ctx context.Context) ([]natslog.Replica, []natslog.ServerSync, error) {
	stream, err := n.Stream(ctx)
	if err != nil {
		return nil, nil, err
	}
	said, err := n.CheckDurable(ctx, expectedServers(stream.Replicas))
	if err != nil {
		return nil, nil, err
	}
	missing := func(r natslog.Replica) bool {
		return !slices.ContainsFunc(said, func(s natslog.ServerSync) bool { return s.Server == r.Server })
	}
	if slices.ContainsFunc(stream.Replicas, missing) { // it may be offline by now
		stream, err = n.Stream(ctx)
	}
	return stream.Replicas, said, err
}

// expectedServers returns the servers that answer when they are asked.
func expectedServers(replicas []natslog.Replica) (names []string) {
	for _, r := range replicas {
		if !r.Offline {
			names = append(names, r.Server)
		}
	}
	return names
}
