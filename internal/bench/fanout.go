package bench

import (
	"context"
	"errors"
	"fmt"
	"net/url"
	"path/filepath"
	"time"

	"github.com/rstream-dev/rstream/internal/wire"
)

// broadcast is the path where the limit serves its fan-out.
const broadcast = "/broadcast"

const (
	idleCount = 2000 // idle subscribers
	crowdSize = 1000 // readers, including two that lag
	fanEvents = 100_000

	floodEvents = 40_000
	leastSize   = 250 // bytes of an event in a stream, at least

	// laggardTime is how long a reader that never reads is used. The server disconnects it once
	// it has made no progress for 30 seconds.
	laggardTime = 20 * time.Second
)

// What the limits of fan-out are, in results.
const (
	bareBroadcaster = "bare broadcaster"
	noLaggards      = "no lagging readers"
)

// fanLoad returns a load of one event a request, and the path of a stream of them.
func fanLoad(publishers int) (load Load, stream string) {
	in := newInput()
	load = Load{Publishers: publishers, Type: wire.JSON, Body: func(i int) (string, []byte) {
		d := in.Draft(i)
		return wire.SetPath(d.Storage()), in.Body(i)
	}}
	return load, liveStream(in)
}

func liveStream(in Input) string {
	return "/events?since=now&topic=" + url.QueryEscape(in.User)
}

func historyStream(in Input) string {
	return "/events?since=beginning&topic=" + url.QueryEscape(in.User)
}

// measureFan posts for one turn while subscribers read.
func (r *runner) measureFan(ctx context.Context, server string, subscribers, publishers int) (Rate, error) {
	load, stream := fanLoad(publishers)
	return FanOut(ctx, server, stream, subscribers, load, r.cfg.Time/roundCount, min(r.cfg.Events, fanEvents))
}

// benchFanout measures the delivery of events to many subscribers.
func (r *runner) benchFanout(ctx context.Context) (err error) {
	p, err := r.startPair(ctx)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, p.stopBoth()) }()
	for _, f := range []struct {
		subscribers, publishers int
		rate, wait              goal
	}{{100, publisherCount, goalFanout, goal{}}, {1000, 1, goalFanoutWide, goalFanoutWait}} {
		name := fmt.Sprintf("fanout %d", f.subscribers)
		var ours, limit Rate
		for i := range roundCount {
			r.reportProgress(name, float64(i)/roundCount)
			rate, err := r.measureFan(ctx, p.limit.url+broadcast, f.subscribers, f.publishers)
			if err != nil {
				return fmt.Errorf("the limit: %w", err)
			}
			limit = limit.Add(rate)
			if rate, err = r.measureFan(ctx, p.url, f.subscribers, f.publishers); err != nil {
				return err
			}
			ours = ours.Add(rate)
		}
		r.addCompared(name, ours.PerSecond(), "events/s", baseline{bareBroadcaster, limit.PerSecond()}, f.rate)
		r.compareWait(name+" p50", 0.5, &ours, bareBroadcaster, &limit, goal{})
		r.compareWait(name+" p99", 0.99, &ours, bareBroadcaster, &limit, f.wait)
	}
	r.sayMemory("fanout", p)
	return nil
}

// benchIdle measures the cost of a subscriber that receives nothing.
func (r *runner) benchIdle(ctx context.Context) error {
	r.reportProgress("idle", 0)
	ours, err := r.idleMemory(ctx, "", "bench", "server", "--db", filepath.Join(r.dir, "idle.db"))
	if err != nil {
		return err
	}
	r.reportProgress("idle", 0.5)
	limit, err := r.idleMemory(ctx, broadcast, "bench", "limit")
	if err != nil || ours == 0 { // the system does not tell
		return err
	}
	r.addCompared("idle", ours, "KiB/subscriber", baseline{bareBroadcaster, limit}, goalIdle)
	return nil
}

// idleMemory returns how much a process grows per idle subscriber, after it has
// collected its garbage.
func (r *runner) idleMemory(ctx context.Context, base string, args ...string) (kib float64, err error) {
	n := min(idleCount, r.cfg.Events)
	p, err := r.startProcess(ctx, args...)
	if err != nil {
		return 0, err
	}
	defer func() { err = errors.Join(err, p.stop()) }()
	stream := p.url + base + liveStream(newInput())
	warm, err := Gather(ctx, stream, 10, 0)
	if err != nil {
		return 0, err
	}
	defer warm.Close()
	before, err := p.residentNow()
	if err != nil {
		return 0, err
	}
	crowd, err := Gather(ctx, stream, n, 0)
	if err != nil {
		return 0, err
	}
	defer crowd.Close()
	after, err := p.residentNow()
	return (after - before) * 1024 / float64(n), err
}

// benchReaders measures how a reader that never reads, and a slow one, affect all others.
// Both servers are ours and receive the same load; only one has these two readers.
func (r *runner) benchReaders(ctx context.Context) (err error) {
	var servers [2]*process
	for i := range servers {
		if servers[i], err = r.startServe(ctx, fmt.Sprintf("readers-%d.db", i)); err != nil {
			return err
		}
		defer func() { err = errors.Join(err, servers[i].stop()) }()
	}
	without, with := servers[0], servers[1]
	all := "/events?since=now&topic=*"
	never, err := Lag(ctx, with.url+all, 0)
	if err != nil {
		return err
	}
	connected := time.Now()
	defer func() { never.Close() }()
	slow, err := Lag(ctx, with.url+all, 20*time.Millisecond)
	if err != nil {
		return err
	}
	defer slow.Close()
	var rates [2]Rate
	for i, p := range servers {
		r.reportProgress("readers", float64(i)/(roundCount+2))
		if err := r.floodReader(ctx, p.url); err != nil {
			return err
		}
	}
	for round := range roundCount {
		r.reportProgress("readers", float64(round+2)/(roundCount+2))
		if time.Since(connected) > laggardTime {
			next, err := Lag(ctx, with.url+all, 0)
			if err != nil {
				return err
			}
			never.Close()
			never, connected = next, time.Now()
		}
		for i, p := range servers {
			rate, err := r.measureFan(ctx, p.url, crowdSize-2, 1)
			if err != nil {
				return err
			}
			rates[i] = rates[i].Add(rate)
		}
	}
	sent := int64(leastSize * (floodEvents + rates[1].Events))
	if read := slow.Close(); r.cfg.Events >= floodEvents && read > sent {
		return fmt.Errorf("the slow reader read %d bytes and did not lag", read)
	}
	r.compareWait("readers p99", 0.99, &rates[1], noLaggards, &rates[0], goalReaders)
	if m := with.memory(); m > 0 {
		r.addCompared("readers server memory", m, "MiB", baseline{noLaggards, without.memory()}, goalReadersMemory)
	}
	return nil
}

// floodReader appends more than the system buffers for a reader that does not read.
func (r *runner) floodReader(ctx context.Context, server string) error {
	n := min(r.cfg.Events, floodEvents)
	load := batches(newInput(), min(n, batchSize))
	_, err := load.Run(ctx, server, time.Hour, 0, n/min(n, batchSize))
	return err
}
