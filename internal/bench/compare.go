package bench

import (
	"context"
	"errors"
	"os"
	"time"
)

// Comparison compares the server with other programs, as far as they are installed. It is
// not one of Benchmarks.
var Comparison = Benchmark{
	Name: "compare", Short: "Compare with Redis and NATS, if they are installed",
	Long: `Compare with Redis and NATS, if redis-server and nats-server are in PATH. They run with
new data in a temporary folder and get the same events in turns with rstream: one append
a request from 64 publishers, batches of 1,000 from four, and a replay of the batches.

For Redis, a batch is a pipeline of 1,000 XADD, and a replay reads with XREAD, 1,000
entries at a time. For NATS, a batch is 1,000 messages to JetStream, and a replay is an
ordered pull. The payload is the line that rstream stores.

Redis runs with appendfsync always. NATS runs twice: as it is by default, when it
acknowledges before it syncs to disk, and with "sync_interval: always". rstream syncs
before it acknowledges.

A program that is not installed, or that does not start, is named on standard error.`,
	run: (*runner).benchPeers,
}

// The goals of a comparison, where there is one.
var (
	goalBatchRedis  = goal{stretch: 1}
	goalReplayRedis = goal{at: 2}
	goalReplayNATS  = goal{at: 3.5}
)

// A contender is a peer with its goals and its results.
type contender struct {
	*peer
	batch, replayed goal
	replays         bool // if false, it is slow: its batches end after a time, and nothing is read

	one, many Rate
	reads     time.Duration
}

// benchPeers runs the same work on this program and on each peer, in turns.
func (r *runner) benchPeers(ctx context.Context) error {
	all, err := r.startContenders(ctx)
	defer func() {
		for _, c := range all {
			c.stop()
		}
	}()
	if err != nil || len(all) == 0 {
		return err
	}
	if r.cfg.Server != "" {
		return r.compareWith(ctx, r.cfg.Server, all)
	}
	p, err := r.startServe(ctx, "compare.db")
	if err != nil {
		return err
	}
	return errors.Join(r.compareWith(ctx, p.url, all), p.stop())
}

// startContenders starts the peers that are installed. If there is an error, some may have
// started.
func (r *runner) startContenders(ctx context.Context) (all []*contender, err error) {
	for _, c := range []struct {
		name string
		contender
		start func(ctx context.Context, dir string) (*peer, error)
	}{
		{"redis", contender{batch: goalBatchRedis, replayed: goalReplayRedis, replays: true}, startRedis},
		{"nats", contender{replayed: goalReplayNATS, replays: true}, startNATS},
		{"nats sync always", contender{}, startNATSSynced},
	} {
		dir, err := os.MkdirTemp(r.dir, "peer-")
		if err != nil {
			return all, err
		}
		if c.peer, err = c.start(ctx, dir); err == nil {
			all = append(all, &c.contender)
			continue
		}
		if ctx.Err() != nil {
			return all, err
		}
		r.cfg.Note("%s: %s", c.name, err)
	}
	return all, nil
}

func (r *runner) compareWith(ctx context.Context, server string, all []*contender) error {
	size := min(batchSize, r.cfg.Events)
	n := max(r.cfg.Events/size/roundCount, 1) // batches of a round
	in := newInput()
	lines := make([][]byte, n*size)
	for i, ev := range in.Events(len(lines)) {
		lines[i] = ev.Line()
	}
	if err := r.compareOne(ctx, server, lines, all); err != nil {
		return err
	}
	if err := r.compareBatch(ctx, server, in, size, lines, all); err != nil {
		return err
	}
	return r.compareReplay(ctx, server, in, roundCount*len(lines), all)
}

// compareOne measures appends of one event from many publishers.
func (r *runner) compareOne(ctx context.Context, server string, lines [][]byte, all []*contender) error {
	load, _ := fanLoad(publisherCount)
	turn, most := r.cfg.Time/(2*roundCount), len(lines)
	var ours Rate
	for i := range roundCount {
		r.reportProgress("append one", float64(i)/roundCount)
		made := load.prepare(i*most, (i+1)*most) // as the lines of the others
		rate, err := made.Run(ctx, server, turn, i*most, (i+1)*most)
		if err != nil {
			return err
		}
		ours = ours.Add(rate)
		for _, c := range all {
			rate, err := c.publishAll(ctx, publisherCount, turn, most, func(conn peerConn, i int) error {
				return conn.publishLines(singleStream, lines[i:i+1])
			})
			if err != nil {
				return err
			}
			c.one = c.one.Add(rate)
		}
	}
	for _, c := range all {
		r.addCompared("append one against "+c.name, ours.PerSecond(), "events/s", baseline{c.kind, c.one.PerSecond()}, goal{})
	}
	return nil
}

// compareBatch measures batches and pipelines of size events, as many as lines has in each
// round.
func (r *runner) compareBatch(ctx context.Context, server string, in Input, size int, lines [][]byte, all []*contender) error {
	load := batches(in, size)
	n := len(lines) / size
	body, bodies := load.Body, make([][]byte, n)
	load.Body = func(i int) (string, []byte) { return "/set", bodies[i%n] }
	var ours Rate
	for i := range roundCount {
		r.reportProgress("append batch", float64(i)/roundCount)
		for j := range bodies { // the lines of the others are also made before
			_, bodies[j] = body(i*n + j)
		}
		rate, err := load.Run(ctx, server, time.Hour, i*n, (i+1)*n)
		if err != nil {
			return err
		}
		ours = ours.Add(rate)
		for _, c := range all {
			turn := time.Hour
			if !c.replays {
				turn = r.cfg.Time
			}
			rate, err := c.publishAll(ctx, load.Publishers, turn, n, func(conn peerConn, i int) error {
				return conn.publishLines(batchStream, lines[i*size:(i+1)*size])
			})
			if err != nil {
				return err
			}
			rate.Events *= size
			c.many = c.many.Add(rate)
		}
	}
	for _, c := range all {
		r.addCompared("append batch against "+c.name, ours.PerSecond(), "events/s", baseline{c.kind, c.many.PerSecond()}, c.batch)
	}
	return nil
}

// compareReplay measures how the n events that compareBatch has appended are read.
func (r *runner) compareReplay(ctx context.Context, server string, in Input, n int, all []*contender) error {
	var ours time.Duration
	for i := range roundCount {
		r.reportProgress("replay", float64(i)/roundCount)
		took, _, err := Replay(ctx, server+historyStream(in), n)
		if err != nil {
			return err
		}
		ours += took
		for _, c := range all {
			if !c.replays {
				continue
			}
			took, err := c.readAll(ctx, n)
			if err != nil {
				return err
			}
			c.reads += took
		}
	}
	perSecond := func(d time.Duration) float64 { return float64(roundCount*n) / d.Seconds() }
	for _, c := range all {
		if c.replays {
			r.addCompared("replay against "+c.name, perSecond(ours), "events/s", baseline{c.kind, perSecond(c.reads)}, c.replayed)
		}
	}
	return nil
}
