package bench

import (
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"math"
	"net/http"
	"os"
	"path/filepath"
	"runtime"
	"slices"
	"sync/atomic"
	"time"

	"github.com/rstream-dev/rstream/cache"
	"github.com/rstream-dev/rstream/client"
	"github.com/rstream-dev/rstream/event"
	"github.com/rstream-dev/rstream/internal/hub"
	"github.com/rstream-dev/rstream/internal/wire"
)

// The goals of ratios: those that are known to be possible on a machine with two
// processors that also run the load. See docs/benchmarks.md.
var (
	goalAppendOne     = goal{at: 0.55}
	goalAppendWait    = goal{at: 1.35} // 99th percentile
	goalAppendBatch   = goal{0.95, 1.2}
	goalPut           = goal{at: 0.7}
	goalSync          = goal{1.0, 1.2}
	goalTopics        = goal{at: 1.5}
	goalTopicsSparse  = goal{at: 2}
	goalTopicsAtOnce  = goal{at: 1.3}
	goalForget        = goal{at: 1}
	goalReplay        = goal{0.25, 0.4}
	goalFanout        = goal{at: 0.8}
	goalFanoutWide    = goal{at: 0.9}
	goalFanoutWait    = goal{at: 1.3}
	goalReaders       = goal{at: 1.3}
	goalReadersMemory = goal{at: 1.3}
	goalIdle          = goal{at: 1.1}
	// A log that keeps events as rows takes 3.2 times the limit. The goal is half more.
	goalState   = goal{4.8, 3.2}
	goalHistory = goal{at: 2}
	goalGaps    = goal{at: 2.5} // if ids are shared
	goalSketch  = goal{at: 23.4}
	goalMatch   = goal{at: 2.5}
	goalExec    = goal{at: 0.8}
)

// The goals of values that do not depend on the speed of the machine, or not much.
const (
	goalSyncAgain  = 50.0     // ms
	goalSyncCold   = 1000     // ms
	goalSyncBytes  = 200      // in each direction
	goalBeyondLine = 75.0     // bytes per event
	goalOpenMemory = 200.0    // MiB
	goalPipe       = 30_000.0 // events/s
	goalWebhook    = 20_000.0 // events/s
)

const (
	publisherCount = 64
	batchSize      = 1000 // events of a batch
	roundCount     = 3    // turns of a measurement and its limit
)

// newInput returns events that are new to every log.
func newInput() Input {
	run := rand.Text()[:10]
	return Input{User: "bench-" + run, Run: run}
}

// benchAppend measures appends of one event and of batches.
func (r *runner) benchAppend(ctx context.Context) (err error) {
	p, err := r.startPair(ctx)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, p.stopBoth()) }()
	if err := r.appendOne(ctx, p); err != nil {
		return err
	}
	if err := r.appendBatch(ctx, p); err != nil {
		return err
	}
	r.sayMemory("append", p)
	return nil
}

func (r *runner) appendOne(ctx context.Context, p *pair) error {
	in := newInput()
	load := Load{Publishers: publisherCount, Type: wire.JSON, Body: func(i int) (string, []byte) {
		d := in.Draft(i)
		return wire.SetPath(d.Storage()), in.Body(i)
	}}
	var ours, limit Rate
	turn, most := r.cfg.Time/(2*roundCount), max(r.cfg.Events/roundCount, 1)
	for i := range roundCount {
		r.reportProgress("append one", float64(i)/roundCount)
		rate, err := load.Run(ctx, p.limit.url, turn, 0, most)
		if err != nil {
			return err
		}
		limit = limit.Add(rate)
		if rate, err = load.Run(ctx, p.url, turn, i*most, (i+1)*most); err != nil {
			return err
		}
		ours = ours.Add(rate)
	}
	r.addCompared("append one", ours.PerSecond(), "events/s", baseline{doNothing, limit.PerSecond()}, goalAppendOne)
	r.compareWait("append one p50", 0.5, &ours, doNothing, &limit, goal{})
	r.compareWait("append one p99", 0.99, &ours, doNothing, &limit, goalAppendWait)
	return nil
}

func (r *runner) appendBatch(ctx context.Context, p *pair) error {
	in := newInput()
	size := min(batchSize, r.cfg.Events)
	load := batches(in, size)
	n := max(r.cfg.Events/size/roundCount, 1)
	var ours Rate
	var stored storeTimes
	for i := range roundCount {
		r.reportProgress("append batch", float64(i)/roundCount)
		if err := r.storeLimits(ctx, &stored, in.Events(n*size)); err != nil {
			return err
		}
		// The lines of the limits are made before, too.
		made := load.prepare(i*n, (i+1)*n)
		rate, err := made.Run(ctx, p.url, time.Hour, i*n, (i+1)*n)
		if err != nil {
			return err
		}
		ours = ours.Add(rate)
	}
	r.compareStored("append batch", ours.PerSecond(), ours.Events, &stored, goalAppendBatch)
	r.addFigure("append batch p99", milliseconds(ours.Wait(0.99)), "ms")
	return nil
}

// batches returns a load of batches, each with size events, several in flight.
func batches(in Input, size int) Load {
	return Load{Publishers: 4, Events: size, Type: wire.NDJSON, Body: func(i int) (string, []byte) {
		var body []byte
		for j := range size {
			body = append(body, in.Line(i*size+j)...)
		}
		return "/set", body
	}}
}

// storeTimes is how long the limits of storage took.
type storeTimes struct{ rows, file time.Duration }

// storeLimits stores events as raw rows and in a plain file, removes both, and adds to t.
func (r *runner) storeLimits(ctx context.Context, t *storeTimes, evs []event.Event) (err error) {
	dir, err := os.MkdirTemp(r.dir, "raw-")
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, os.RemoveAll(dir)) }()
	rows, err := RawInserts(ctx, dir, evs, batchSize)
	if err != nil {
		return err
	}
	file, err := FileWrites(dir, evs, batchSize)
	t.rows, t.file = t.rows+rows, t.file+file
	return err
}

// compareStored compares a rate with those of the limits of storage for n events.
func (r *runner) compareStored(name string, rate float64, n int, t *storeTimes, g goal) {
	r.addCompared(name, rate, "events/s", baseline{rawRows, float64(n) / t.rows.Seconds()}, g)
	r.addCompared(name+" against a file", rate, "events/s", baseline{plainFile, float64(n) / t.file.Seconds()}, goal{})
}

// fillPair appends the events to be read.
func (r *runner) fillPair(ctx context.Context, p *pair) (Input, error) {
	return appendEvents(ctx, p.url, r.cfg.Events)
}

// appendEvents appends n events of a new input.
func appendEvents(ctx context.Context, server string, n int) (Input, error) {
	in := newInput()
	size := min(batchSize, n)
	load := batches(in, size)
	if _, err := load.Run(ctx, server, time.Hour, 0, n/size); err != nil {
		return in, err
	}
	rest := batches(in, 1)
	_, err := rest.Run(ctx, server, time.Hour, n/size*size, n)
	return in, err
}

// benchSync measures the first and the second sync of a log.
func (r *runner) benchSync(ctx context.Context) (err error) {
	p, err := r.startPair(ctx)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, p.stopBoth()) }()
	r.reportProgress("sync", 0)
	in, err := r.fillPair(ctx, p)
	if err != nil {
		return err
	}
	topic, err := event.ParseTopic(in.User)
	if err != nil {
		return err
	}
	evs := in.Events(r.cfg.Events)
	var first time.Duration
	var stored storeTimes
	var again []time.Duration
	var copied string
	for i := range roundCount {
		r.reportProgress("sync", float64(i+1)/(roundCount+1))
		if err := r.storeLimits(ctx, &stored, evs); err != nil {
			return err
		}
		copied = filepath.Join(r.dir, fmt.Sprintf("copy-%d.db", i))
		s, err := r.syncOnce(ctx, p.url, topic, copied, r.cfg.Events)
		if err != nil {
			return err
		}
		first, again = first+s.first, append(again, s.again)
	}
	slices.Sort(again)
	n := roundCount * r.cfg.Events
	r.compareStored("sync", float64(n)/first.Seconds(), n, &stored, goalSync)
	r.atMost("sync again", milliseconds(again[len(again)/2]), "ms", goalSyncAgain)
	r.sayMemory("sync", p)
	if err := p.restartServer(ctx, r); err != nil {
		return err
	}
	cold, err := r.syncOnce(ctx, p.url, topic, copied, 0)
	if err != nil {
		return err
	}
	r.atMost("sync again cold", milliseconds(cold.first), "ms", goalSyncCold)
	r.atMost("sync again requests", float64(cold.requests), "requests", 1)
	r.atMost("sync again bytes up", float64(cold.up), "bytes", goalSyncBytes)
	r.atMost("sync again bytes", float64(cold.down), "bytes", goalSyncBytes)
	return nil
}

// syncTimes are the figures of two syncs. The second one adds nothing.
type syncTimes struct {
	first, again       time.Duration
	requests, up, down int64 // of the second: queries and bodies
}

// syncOnce syncs a copy twice. The first sync must add adds events.
func (r *runner) syncOnce(ctx context.Context, server string, topic event.Topic, file string, adds int) (t syncTimes, err error) {
	cfg := accessTo(ctx, server)
	base := http.DefaultTransport
	if cfg.TLS != nil {
		base = newTransport(ctx, 0)
	}
	sent := &queryCounter{base: base}
	info, err := client.Probe(ctx, cfg)
	if err != nil {
		return t, err
	}
	db, err := cache.Open(ctx, file, cache.Config{Role: cache.Client, Log: info.Log})
	if err != nil {
		return t, err
	}
	defer func() { err = errors.Join(err, db.Close()) }()
	cfg.HTTP = &http.Client{Transport: sent}
	c, err := client.New(db, cfg)
	if err != nil {
		return t, err
	}
	defer c.Close()
	start := time.Now()
	synced, err := c.Sync(ctx, topic, client.SyncOptions{})
	if err == nil && synced.Added != adds {
		err = fmt.Errorf("received %d of %d events", synced.Added, adds)
	}
	if err != nil {
		return t, err
	}
	t.first = time.Since(start)
	before, up, start := c.Stats(), sent.bytes.Load(), time.Now()
	if _, err := c.Sync(ctx, topic, client.SyncOptions{}); err != nil {
		return t, err
	}
	t.again = time.Since(start)
	after := c.Stats()
	t.requests, t.down, t.up = after.Requests-before.Requests, after.Bytes-before.Bytes, sent.bytes.Load()-up
	return t, nil
}

// A queryCounter is an http.RoundTripper that counts the bytes of paths, queries and
// bodies.
type queryCounter struct {
	base  http.RoundTripper
	bytes atomic.Int64
}

// RoundTrip implements http.RoundTripper.
func (q *queryCounter) RoundTrip(r *http.Request) (*http.Response, error) {
	q.bytes.Add(int64(len(r.URL.RequestURI())) + max(r.ContentLength, 0))
	return q.base.RoundTrip(r)
}

// benchReplay measures one stream of a whole log.
func (r *runner) benchReplay(ctx context.Context) (err error) {
	p, err := r.startPair(ctx)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, p.stopBoth()) }()
	r.reportProgress("replay", 0)
	in, err := r.fillPair(ctx, p)
	if err != nil {
		return err
	}
	var ours, limit time.Duration
	var bytes int64
	for i := range roundCount {
		r.reportProgress("replay", float64(i+1)/(roundCount+1))
		took, _, err := Replay(ctx, fmt.Sprintf("%s/?events=%d", p.limit.url, r.cfg.Events), r.cfg.Events)
		if err != nil {
			return err
		}
		limit += took
		took, size, err := Replay(ctx, p.url+historyStream(in), r.cfg.Events)
		if err != nil {
			return err
		}
		ours, bytes = ours+took, size
	}
	n := float64(roundCount * r.cfg.Events)
	r.addCompared("replay", n/ours.Seconds(), "events/s", baseline{memoryToSSE, n / limit.Seconds()}, goalReplay)
	r.addFigure("replay bytes", float64(bytes)/float64(r.cfg.Events), "bytes/event")
	r.sayMemory("replay", p)
	return nil
}

// benchMatch measures the tables of subscriptions, here and without a server.
func (r *runner) benchMatch(ctx context.Context) error {
	const subscriptions, most = 1_000_000, 10
	n := min(subscriptions, most*r.cfg.Events)
	h := hub.New(nil, event.Beginning, hub.Config{})
	defer h.Close(context.Canceled)
	for i := range n {
		if i%1000 == 0 {
			r.reportProgress("match", float64(i)/float64(n))
		}
		topic, err := event.ParseTopic(matchTopic(i))
		if err != nil {
			return err
		}
		h.Subscribe([]event.Topic{topic}, event.Beginning)
	}
	// A look-up in a map of the same topics is the limit.
	topics := make(map[string]int, n)
	for i := range n {
		topics[matchTopic(i)] = i
	}
	users, keys := make([]string, 1<<16), make([]string, 1<<16)
	for i := range users {
		users[i], keys[i] = matchUser(i*7919%n), matchTopic(i*7919%n)
	}
	// Other work on the machine can only add time, so take the fastest round.
	const rounds = 16
	var before, after runtime.MemStats
	runtime.GC()
	runtime.ReadMemStats(&before)
	matches, found := 0, 0
	fastest, limit := time.Duration(math.MaxInt64), time.Duration(math.MaxInt64)
	for range rounds {
		start := time.Now()
		for _, user := range users {
			matches += h.Matches(user, "posts/2026/11")
		}
		fastest = min(fastest, time.Since(start))
		start = time.Now()
		for i, key := range keys {
			if topics[key] == i*7919%n {
				found++
			}
		}
		limit = min(limit, time.Since(start))
	}
	runtime.ReadMemStats(&after)
	calls := rounds * len(users)
	if found != calls {
		return fmt.Errorf("%d of %d topics are in the map", found, calls)
	}
	perCall := func(d time.Duration) float64 { return float64(d.Nanoseconds()) / float64(len(users)) }
	r.addCompared("match", perCall(fastest), "ns", baseline{"Go map of the topics", perCall(limit)}, goalMatch)
	r.addFigure("match hits", float64(matches)/float64(calls), "topics")
	r.atMost("match allocations", rounded(float64(after.Mallocs-before.Mallocs)/float64(calls)), "allocations", 0)
	return ctx.Err()
}

func matchUser(i int) string { return fmt.Sprintf("user%06d", i/8) }

// matchTopic returns topics of which an event of a user matches about five.
func matchTopic(i int) string {
	return matchUser(i) + [...]string{"", "/posts", "/posts/", "/po*", "/posts/2026", "/posts/2026/11$", "/likes", "/profile$"}[i%8]
}
