//go:build unix

package main

import (
	"bytes"
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"flag"
	"fmt"
	"io"
	"math/rand/v2"
	"net/http"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/rstream-dev/rstream/cache"
	"github.com/rstream-dev/rstream/event"
	"github.com/rstream-dev/rstream/internal/longtest"
)

var clusterRounds = flag.Int("cluster.rounds", 0, "how many faults clusters of three nodes and three NATS servers have; if 0, 20, and 1,000 with -full")

// A clusterRound is what was seen in one round, or in some.
type clusterRound struct {
	rounds, acked, failed, lost, twice int
	longest                            time.Duration // without an acknowledged append
}

func (r *clusterRound) add(other clusterRound) {
	r.rounds += other.rounds
	r.acked += other.acked
	r.failed += other.failed
	r.lost += other.lost
	r.twice += other.twice
	r.longest = max(r.longest, other.longest)
}

// A faultTable adds up rounds by fault.
type faultTable struct {
	mu     sync.Mutex
	faults map[string]*clusterRound
}

func (f *faultTable) add(fault string, r clusterRound) {
	f.mu.Lock()
	defer f.mu.Unlock()
	if f.faults[fault] == nil {
		f.faults[fault] = &clusterRound{}
	}
	f.faults[fault].add(r)
}

// String returns the table in Markdown.
func (f *faultTable) String() string {
	f.mu.Lock()
	defer f.mu.Unlock()
	var b strings.Builder
	b.WriteString("| fault | rounds | acknowledged | failed attempts | lost | twice | longest time without an acknowledged append |\n|---|---|---|---|---|---|---|\n")
	var sum clusterRound
	row := func(name string, r *clusterRound) {
		fmt.Fprintf(&b, "| %s | %d | %d | %d | %d | %d | %.1f s |\n", name, r.rounds, r.acked, r.failed, r.lost, r.twice, r.longest.Seconds())
	}
	for _, fault := range clusterFaults {
		if r := f.faults[fault.name]; r != nil {
			row(fault.name, r)
			sum.add(*r)
		}
	}
	row("all", &sum)
	return b.String()
}

// A clusterRig is a cluster of three nodes over three NATS servers, all of them processes, with
// those who append and read.
type clusterRig struct {
	*testing.T
	random  *rand.Rand
	nats    *natsCluster
	nodes   [3]*serverProcess
	urls    clusterURLs
	truth   *truthOfCluster
	writers []*clusterWriter
	readers []*clusterReader

	ctx  context.Context // ends with the first error of those
	fail context.CancelCauseFunc
}

// clusterPatience is how long a test waits for a cluster to go on.
const clusterPatience = 4 * time.Minute

func newClusterRig(t *testing.T, random *rand.Rand) *clusterRig {
	g := &clusterRig{T: t, random: random, nats: startNATSCluster(t), truth: newTruthOfCluster()}
	g.ctx, g.fail = context.WithCancelCause(t.Context())
	program := programLink(t)
	for i := range g.nodes {
		name := string(rune('a' + i))
		g.nodes[i] = startProcess(t, program, name, "--nats", g.nats.url(i), "--stream", "log", "--init", "--replicas", "3", "--node", name,
			"--ttl", expiring+"=2s", "--history", "20s", "--heartbeat", "1s")
		g.urls.set(i, g.nodes[i].url)
	}
	return g
}

// await waits until is returns true.
func (g *clusterRig) await(what string, is func() bool) {
	g.Helper()
	for limit := time.After(clusterPatience); !is(); {
		select {
		case <-g.ctx.Done():
			g.Fatal(context.Cause(g.ctx))
		case <-limit:
			g.Fatalf("waited in vain until %s", what)
		case <-time.After(5 * time.Millisecond):
		}
	}
}

// more waits until n more events are acknowledged.
func (g *clusterRig) more(n int, what string) {
	g.Helper()
	want := g.truth.count() + n
	g.await(fmt.Sprintf("%d more events are acknowledged %s", n, what), func() bool { return g.truth.count() >= want })
}

// pause waits for a random time: in most cases less than a cluster takes to notice.
func (g *clusterRig) pause() {
	most := 2 * time.Second
	if g.random.IntN(3) == 0 {
		most = 12 * time.Second
	}
	select {
	case <-time.After(time.Duration(g.random.Int64N(int64(most)))):
	case <-g.ctx.Done():
	}
}

// committer returns the node that commits.
func (g *clusterRig) committer() (i int) {
	g.Helper()
	g.await("a node commits", func() bool {
		i = g.nats.committer()
		return i >= 0
	})
	return i
}

// leader returns the NATS server that leads the stream.
func (g *clusterRig) leader() (i int) {
	g.Helper()
	g.await("a NATS server leads the stream", func() bool {
		i = g.nats.leader()
		return i >= 0
	})
	return i
}

// another returns one of three that is not i.
func (g *clusterRig) another(i int) int { return (i + 1 + g.random.IntN(2)) % 3 }

// endNode waits for the end of a node that a signal has ended.
func (g *clusterRig) endNode(i int, sig syscall.Signal) {
	g.Helper()
	cmd := g.nodes[i].cmd
	if err := cmd.Process.Signal(sig); err != nil {
		g.Fatalf("node %d had ended: %v", i, err)
	}
	err := cmd.Wait()
	status := cmd.ProcessState.Sys().(syscall.WaitStatus)
	if killed := status.Signaled() && status.Signal() == syscall.SIGKILL; sig == syscall.SIGKILL && !killed || sig == syscall.SIGTERM && err != nil {
		g.Fatalf("node %d has ended with %v", i, err)
	}
}

func (g *clusterRig) startNode(i int) {
	g.Helper()
	g.nodes[i].start("127.0.0.1:0")
	g.urls.set(i, g.nodes[i].url)
}

// A clusterFault is what a round does.
type clusterFault struct {
	name string
	do   func(g *clusterRig)
}

var clusterFaults = []clusterFault{
	{"`kill -9` of the committer", func(g *clusterRig) { g.stopNode(g.committer(), syscall.SIGKILL) }},
	{"`kill -9` of another node", func(g *clusterRig) { g.stopNode(g.another(g.committer()), syscall.SIGKILL) }},
	{"the committer is terminated", func(g *clusterRig) { g.stopNode(g.committer(), syscall.SIGTERM) }},
	{"another node is terminated", func(g *clusterRig) { g.stopNode(g.another(g.committer()), syscall.SIGTERM) }},
	{"the committer stands still", func(g *clusterRig) { g.freezeNode(g.committer()) }},
	{"another node stands still", func(g *clusterRig) { g.freezeNode(g.another(g.committer())) }},
	{"the committer is cut off from NATS", func(g *clusterRig) { g.cutNode(g.committer()) }},
	{"another node is cut off from NATS", func(g *clusterRig) { g.cutNode(g.another(g.committer())) }},
	{"`kill -9` of the stream's leader", func(g *clusterRig) { g.killServer(g.leader()) }},
	{"`kill -9` of another NATS server", func(g *clusterRig) { g.killServer(g.another(g.leader())) }},
	{"the stream's leader stands still", func(g *clusterRig) { g.freezeServer(g.leader()) }},
	{"another NATS server stands still", func(g *clusterRig) { g.freezeServer(g.another(g.leader())) }},
	{"the stream's leader is cut off from the other NATS servers", func(g *clusterRig) { g.cutServer(g.leader(), 2) }},
	{"another NATS server is cut off from the others", func(g *clusterRig) { g.cutServer(g.another(g.leader()), 2) }},
	{"two NATS servers are cut off from each other", func(g *clusterRig) { g.cutServer(g.leader(), 1) }},
}

// stopNode ends a node, and starts it again, maybe at once.
func (g *clusterRig) stopNode(i int, sig syscall.Signal) {
	g.endNode(i, sig)
	if g.random.IntN(3) > 0 {
		g.more(5, fmt.Sprintf("without node %d", i))
	}
	g.startNode(i)
}

// freezeNode stops a node in the middle of what it does for a while.
func (g *clusterRig) freezeNode(i int) {
	p := g.nodes[i].cmd.Process
	if err := p.Signal(syscall.SIGSTOP); err != nil {
		g.Fatal(err)
	}
	defer func() { _ = p.Signal(syscall.SIGCONT) }()
	g.pause()
	g.more(5, fmt.Sprintf("while node %d stands still", i))
}

// cutNode cuts a node off from all NATS servers.
func (g *clusterRig) cutNode(i int) {
	links := g.nats.clients[i][:]
	how := g.cut(nil, links)
	g.pause()
	g.more(5, fmt.Sprintf("while node %d is cut off, %s", i, how))
	g.restore(links)
}

// killServer kills a NATS server, and starts it again, maybe at once.
func (g *clusterRig) killServer(i int) {
	g.nats.servers[i].kill()
	if g.random.IntN(3) > 0 {
		g.more(5, fmt.Sprintf("without NATS server %d", i))
	}
	g.nats.start(i)
}

// freezeServer stops a NATS server in the middle of what it does for a while.
func (g *clusterRig) freezeServer(i int) {
	s := g.nats.servers[i]
	s.signal(g.T, syscall.SIGSTOP)
	defer s.signal(g.T, syscall.SIGCONT)
	g.pause()
	g.more(5, fmt.Sprintf("while NATS server %d stands still", i))
}

// cutServer cuts a NATS server off from one or both of the others.
func (g *clusterRig) cutServer(i, n int) {
	others := []int{(i + 1) % 3, (i + 2) % 3}
	g.random.Shuffle(2, func(i, j int) { others[i], others[j] = others[j], others[i] })
	to, from := g.nats.links(i, others[:n]...)
	how := g.cut(to, from)
	g.pause()
	g.more(5, fmt.Sprintf("while NATS server %d is cut off from %v, %s", i, others[:n], how))
	g.restore(append(to, from...))
}

// cut breaks the links to a process, and those from it, in one of four ways.
func (g *clusterRig) cut(to, from []*link) (how string) {
	hears, speaks := true, true
	switch g.random.IntN(4) {
	case 0:
		for _, l := range slices.Concat(to, from) {
			l.refuse()
		}
		return "connections are refused"
	case 1:
		how, hears, speaks = "nothing is delivered", false, false
	case 2:
		how, hears = "nothing is delivered to it", false
	case 3:
		how, speaks = "nothing is delivered from it", false
	}
	hold := func(links []*link, in, out int) {
		for _, l := range links {
			if !hears {
				l.hold(in)
			}
			if !speaks {
				l.hold(out)
			}
		}
	}
	hold(to, toTarget, fromTarget)
	hold(from, fromTarget, toTarget)
	return how
}

// restore makes links whole. What was held is delivered, or the connections have ended meanwhile.
func (g *clusterRig) restore(links []*link) {
	ended := g.random.IntN(2) == 0
	for _, l := range links {
		l.restore(ended)
	}
}

// Nodes and NATS servers, all of them processes, are killed, terminated, stopped for a while and
// cut off from each other, while events are appended through all nodes, and values expire. Every
// acknowledged event is in the log once, at the id that was said; readers that move between the
// nodes receive each event once, in order; and in the end all nodes have the same events,
// the same state and the same horizon.
func TestClusterSurvivesFaults(t *testing.T) {
	longtest.Require(t)
	t.Parallel()
	table := &faultTable{faults: map[string]*clusterRound{}}
	t.Cleanup(func() { t.Logf("\n%s", table) })
	rounds, clusters := cmp.Or(*clusterRounds, longtest.Scale(0, 20, 1000)), longtest.Scale(0, 2, 40)
	for n := range clusters {
		t.Run(fmt.Sprint(n), func(t *testing.T) {
			t.Parallel()
			seed := uint64(time.Now().UnixNano())
			t.Logf("seed %d", seed)
			g := newClusterRig(t, rand.New(rand.NewPCG(seed, 0)))
			stop := g.startLoad(seed)
			for i := n; i < rounds; i += clusters {
				g.round(i, table)
			}
			stop()
			g.checkEnd()
		})
	}
}

// startLoad starts those who append and read. stop ends those who append, once their last appends
// are acknowledged.
func (g *clusterRig) startLoad(seed uint64) (stop func()) {
	g.Helper()
	var writing, reading sync.WaitGroup
	begin := func(running *sync.WaitGroup, run func() error) {
		running.Go(func() {
			if err := run(); err != nil {
				g.fail(err)
			}
		})
	}
	stopped := make(chan struct{})
	for i := range 4 {
		w := &clusterWriter{name: fmt.Sprint(i), urls: &g.urls, truth: g.truth, random: rand.New(rand.NewPCG(seed, uint64(i+1))), on: i % 3}
		g.writers = append(g.writers, w)
		begin(&writing, func() error { return w.write(g.ctx, stopped) })
	}
	for i := range 3 {
		r := &clusterReader{urls: &g.urls, truth: g.truth, random: rand.New(rand.NewPCG(seed, uint64(i+11))), on: i}
		g.readers = append(g.readers, r)
		begin(&reading, func() error { return r.read(g.ctx) })
	}
	g.Cleanup(func() {
		g.fail(errors.New("the test has ended"))
		writing.Wait()
		reading.Wait()
		if g.Failed() {
			g.logNodes()
		}
	})
	g.truth.begin()
	first := &clusterWriter{name: "first", urls: &g.urls, truth: g.truth, random: rand.New(rand.NewPCG(seed, 0))}
	if err := first.fillBlock(g.ctx); err != nil {
		g.Fatal(err)
	}
	g.more(10, "at first")
	return func() {
		close(stopped)
		ended := make(chan struct{})
		go func() {
			writing.Wait()
			close(ended)
		}()
		g.await("the last appends are acknowledged", func() bool {
			select {
			case <-ended:
				return true
			default:
				return false
			}
		})
	}
}

// logNodes logs the last messages of the nodes.
func (g *clusterRig) logNodes() {
	for _, n := range g.nodes {
		b, err := os.ReadFile(filepath.Join(n.dir, "log"))
		if err != nil {
			g.Error(err)
		}
		lines := bytes.SplitAfter(b, []byte("\n"))
		g.Logf("%s\n%s", n.args, bytes.Join(lines[max(0, len(lines)-60):], nil))
	}
}

// round has one fault, waits until appends go on and readers have everything, and checks what
// was acknowledged.
func (g *clusterRig) round(i int, table *faultTable) {
	g.Helper()
	fault := clusterFaults[g.random.IntN(len(clusterFaults))]
	began, failed := time.Now(), g.failedAppends()
	g.truth.begin()
	fault.do(g)
	g.more(5, "afterwards")
	last := g.truth.lastAcked()
	g.await(fmt.Sprintf("readers are at %s", last), func() bool { return g.truth.head() >= last })
	r := g.check(fmt.Sprintf("round %d, %s", i, fault.name))
	r.rounds, r.failed = 1, g.failedAppends()-failed
	table.add(fault.name, r)
	g.Logf("round %d, %.1f s: %s: %d acknowledged, %d attempts failed, %.1f s without", i, time.Since(began).Seconds(), fault.name, r.acked, r.failed, r.longest.Seconds())
}

// check checks what was acknowledged.
func (g *clusterRig) check(when string) clusterRound {
	g.Helper()
	r, lost := g.truth.check()
	for _, text := range lost {
		g.Errorf("%s: %s", when, text)
	}
	return r
}

func (g *clusterRig) failedAppends() (n int) {
	for _, w := range g.writers {
		n += int(w.failed.Load())
	}
	return n
}

// checkEnd checks that all nodes have the log that readers have received.
func (g *clusterRig) checkEnd() {
	g.Helper()
	g.await("all values that expire have", func() bool { return g.truth.head() >= g.truth.lastAcked() && g.truth.expired() })
	g.check("at the end")
	head := g.truth.head()
	g.await("all readers have everything", func() bool {
		return !slices.ContainsFunc(g.readers, func(r *clusterReader) bool { return event.ID(r.at.Load()) < head })
	})
	for i := range g.nodes {
		g.await(fmt.Sprintf("node %d is at %s", i, head), func() bool {
			at, _ := g.info(i)
			if at > head {
				g.Fatalf("node %d is at %s, after %s, although nobody appends", i, at, head)
			}
			return at == head
		})
	}
	var horizon event.ID
	g.await("the horizons have moved, and agree", func() bool {
		_, horizon = g.info(0)
		_, b := g.info(1)
		_, c := g.info(2)
		return horizon > 0 && horizon == b && b == c
	})
	connections := int64(0)
	for _, r := range g.readers {
		connections += r.connections.Load()
	}
	g.Logf("%d events, horizon %d, %d streams of %d readers", head, horizon, connections, len(g.readers))
	first := map[string]string{}
	for i := range g.nodes {
		for _, query := range []string{
			fmt.Sprintf("/windows?topic=*&since=%s&until=%s&sum=1", horizon, head),
			fmt.Sprintf("/snapshot?topic=*&at=%s", head),
			fmt.Sprintf("/events?topic=*&since=%s&until=%s", horizon, head),
		} {
			body := g.body(i, query)
			if first[query] == "" {
				first[query] = body
			}
			if body != first[query] {
				g.Errorf("GET %s: node %d sends %d bytes that are not those of node 0", query, i, len(body))
			}
		}
	}
	g.checkLines(first[fmt.Sprintf("/events?topic=*&since=%s&until=%s", horizon, head)], horizon, head)
	for i, n := range g.nodes {
		g.endNode(i, syscall.SIGTERM)
		db, err := cache.Open(g.Context(), filepath.Join(n.dir, string(rune('a'+i))+".db"), cache.Config{Role: cache.Server, Mirror: &cache.Mirrored{}})
		if err != nil {
			g.Fatal(err)
		}
		if err := db.Check(g.Context()); err != nil {
			g.Errorf("the file of node %d: %v", i, err)
		}
		if err := db.Close(); err != nil {
			g.Error(err)
		}
	}
}

// checkLines compares lines of nodes with the log that readers have received.
func (g *clusterRig) checkLines(lines string, from, to event.ID) {
	g.Helper()
	at := from
	for line := range strings.Lines(lines) {
		ev, err := event.ParseLine([]byte(strings.TrimSuffix(line, "\n")))
		if err != nil {
			g.Fatal(err)
		}
		if at++; ev.ID != at {
			g.Fatalf("event %s follows %s", ev.ID, at-1)
		}
		if err := g.truth.receive(&ev); err != nil {
			g.Fatal(err)
		}
	}
	if at != to {
		g.Errorf("the lines end at %s, not %s", at, to)
	}
}

// info returns the head and the horizon of a node.
func (g *clusterRig) info(i int) (head, horizon event.ID) {
	g.Helper()
	var info struct{ Head, Horizon event.Cursor }
	if err := json.Unmarshal([]byte(g.body(i, "/")), &info); err != nil {
		g.Fatal(err)
	}
	return info.Head.ID, info.Horizon.ID
}

// body returns the body of a response of a node, which must be 200.
func (g *clusterRig) body(i int, target string) string {
	g.Helper()
	ctx, cancel := context.WithTimeout(g.ctx, clusterPatience)
	defer cancel()
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, g.urls.get(i)+target, nil)
	if err != nil {
		g.Fatal(err)
	}
	req.Header.Set("Accept", "application/json")
	if strings.HasPrefix(target, "/events") {
		req.Header.Set("Accept", "application/x-ndjson")
	}
	resp, err := clusterHTTP.Do(req)
	if err != nil {
		g.Fatal(err)
	}
	defer resp.Body.Close()
	b, err := io.ReadAll(resp.Body)
	if err != nil || resp.StatusCode != http.StatusOK {
		g.Fatalf("GET %s: %s %.200s %v", target, resp.Status, b, err)
	}
	return string(b)
}
