//go:build unix

package natslog

import (
	"bytes"
	"context"
	"fmt"
	"io"
	"math/rand/v2"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"github.com/nats-io/nats-server/v2/server"

	"github.com/rstream-dev/rstream/event"
	"github.com/rstream-dev/rstream/internal/longtest"
	"github.com/rstream-dev/rstream/internal/testport"
)

// serverVariable has the config file of the NATS server that a process of the test binary is.
const serverVariable = "NATSLOG_TEST_SERVER"

func init() {
	if path := os.Getenv(serverVariable); path != "" {
		runServer(path)
	}
}

// runServer is the NATS server of a config file, until the test ends.
func runServer(path string) {
	o, err := server.ProcessConfigFile(path)
	if err != nil {
		panic(err)
	}
	o.NoSigs, o.NoLog = true, true
	s, err := server.NewServer(o)
	if err != nil {
		panic(err)
	}
	s.Start()
	_, _ = io.Copy(io.Discard, os.Stdin) // it ends with the test
	os.Exit(0)
}

// A cluster is three NATS servers, each a process of the test binary.
type cluster struct {
	t         testing.TB
	addresses []string  // for clients, then of the routes
	config    [3]string // files
	processes [3]*exec.Cmd
}

func startCluster(t testing.TB) *cluster {
	t.Helper()
	c := &cluster{t: t, addresses: testport.Addresses(6)}
	var routes []string
	for _, address := range c.addresses[3:] {
		routes = append(routes, "nats-route://"+address)
	}
	for i := range c.processes {
		c.config[i] = filepath.Join(t.TempDir(), "nats.conf")
		writeFile(t, c.config[i], fmt.Sprintf(`
			server_name: s%d, listen: %q, max_payload: 2MB
			jetstream { store_dir: %q }
			cluster { name: test, listen: %q, no_advertise: true, routes: [%s] }
		`, i, c.addresses[i], filepath.Join(t.TempDir(), "js"), c.addresses[3+i], strings.Join(routes, ", ")))
		c.start(i)
	}
	t.Cleanup(func() {
		for i := range c.processes {
			c.kill(i)
		}
	})
	return c
}

func (c *cluster) start(i int) {
	c.t.Helper()
	cmd := exec.Command(os.Args[0])
	cmd.Env = append(os.Environ(), serverVariable+"="+c.config[i])
	cmd.Stderr = c.t.Output()
	if _, err := cmd.StdinPipe(); err != nil {
		c.t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		c.t.Fatal(err)
	}
	c.processes[i] = cmd
}

// kill kills a server, which may be frozen.
func (c *cluster) kill(i int) {
	_ = c.processes[i].Process.Kill() // it may have ended
	_ = c.processes[i].Wait()
}

// signal stops a server in the middle of what it does, or lets it go on.
func (c *cluster) signal(i int, s syscall.Signal) {
	c.t.Helper()
	if err := c.processes[i].Process.Signal(s); err != nil {
		c.t.Fatal(err)
	}
}

// leader returns the server that leads the stream, as far as a node can say, or another one.
func (c *cluster) leader(n *node, or int) int {
	ctx, cancel := context.WithTimeout(c.t.Context(), time.Second)
	defer cancel()
	s, err := n.log.Stream(ctx)
	if err != nil {
		return or
	}
	for _, r := range s.Replicas {
		if r.Leader {
			return int(r.Server[1] - '0')
		}
	}
	return or
}

func (c *cluster) url(i int) string { return "nats://" + c.addresses[i] }

// A load appends events through all nodes, and keeps what was acknowledged.
type load struct {
	mu    sync.Mutex
	nodes [3]*node // nil: it is away
	acked map[string]event.ID
	count atomic.Int64
	fails atomic.Int64
}

func (l *load) node(i int) *node {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.nodes[i]
}

func (l *load) set(i int, n *node) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.nodes[i] = n
}

// write appends until ctx ends. It sends each event until it is acknowledged, through one node
// or another.
func (l *load) write(ctx context.Context, writer int, random *rand.Rand) {
	on := writer % 3
	for i := 0; ctx.Err() == nil; i++ {
		list := drafts(1+random.IntN(3), fmt.Sprintf("w%d-%d-", writer, i))
		for ctx.Err() == nil {
			n := l.node(on)
			if n == nil {
				on = (on + 1) % 3
				pauseTest(ctx)
				continue
			}
			receipts, err := n.append(list...)
			if err != nil {
				l.fails.Add(1)
				on = random.IntN(3)
				pauseTest(ctx)
				continue
			}
			l.mu.Lock()
			for j := range receipts {
				l.acked[list[j].Key] = receipts[j].ID
			}
			l.mu.Unlock()
			l.count.Add(int64(len(list)))
			break
		}
		pauseTest(ctx)
	}
}

// pauseTest waits for some milliseconds: the test is about faults, and not about load.
func pauseTest(ctx context.Context) {
	select {
	case <-time.After(5 * time.Millisecond):
	case <-ctx.Done():
	}
}

// Nodes and servers of a cluster are killed and cut off from each other while events are
// appended through all nodes. Every acknowledged event is there, once, at the id that was said,
// and all nodes have the same log. The batches have many messages each; a test of the program has
// nodes that are processes, and many more faults.
func TestClusterFaults(t *testing.T) {
	t.Parallel()
	c := startCluster(t)
	seed := uint64(time.Now().UnixNano())
	t.Logf("seed %d", seed)
	random := rand.New(rand.NewPCG(seed, 0))
	l := &load{acked: map[string]event.ID{}}
	var nodes [3]*node
	var proxies [3]*proxy
	for i := range nodes {
		proxies[i] = newProxy(t, c.url(i))
		cfg := newConfig(t, proxies[i].url(), fmt.Sprintf("n%d", i))
		cfg.Replicas, cfg.AppendWait = 3, 10*time.Second
		n := &node{t: t, cfg: cfg, path: filepath.Join(t.TempDir(), "log.db"), setup: func(l *Log) { l.pageBytes = 1 }} // so that most batches have many messages
		await(t, "a node starts", func() bool {
			return n.tryStart(t.Context()) == nil
		})
		t.Cleanup(func() { n.stop() })
		nodes[i] = n
		l.set(i, n)
	}
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	var writing sync.WaitGroup
	for w := range 4 {
		r := rand.New(rand.NewPCG(seed, uint64(w+1)))
		writing.Go(func() { l.write(ctx, w, r) })
	}
	more := func(n int64, what string) {
		want := l.count.Load() + n
		await(t, fmt.Sprintf("%d more events are acknowledged %s", n, what), func() bool { return l.count.Load() >= want })
	}
	more(10, "at first")
	for round := range longtest.Scale(3, 6, 50) {
		kind := round % 6
		i := random.IntN(3)
		switch kind {
		case 0: // the committer is killed
			for j, n := range nodes {
				if n.log.lease.isMine() {
					i = j
				}
			}
			fallthrough
		case 3: // a node is killed
			l.set(i, nil)
			nodes[i].kill()
			more(10, fmt.Sprintf("without node %d", i))
			await(t, "the node starts again", func() bool { return nodes[i].tryStart(t.Context()) == nil })
			l.set(i, nodes[i])
		case 1: // the server of the stream's leader, or another one, is killed
			if random.IntN(2) == 0 {
				i = c.leader(nodes[i], i)
			}
			c.kill(i)
			more(10, fmt.Sprintf("without server %d", i))
			c.start(i)
		case 2: // a node is cut off
			proxies[i].cut(true)
			more(10, fmt.Sprintf("without the connection of node %d", i))
			proxies[i].cut(false)
		case 4: // a node hears nothing
			proxies[i].setMute()
			more(10, fmt.Sprintf("while node %d hears nothing", i))
			proxies[i].cut(false)
		case 5: // a server, or the stream's leader, is cut off from all others
			if random.IntN(2) == 0 {
				i = c.leader(nodes[i], i)
			}
			c.signal(i, syscall.SIGSTOP)
			more(10, fmt.Sprintf("while server %d stands still", i))
			c.signal(i, syscall.SIGCONT)
		}
		more(5, "afterwards")
	}
	cancel()
	writing.Wait()
	awaitHead(t, 1, nodes[:]...)
	last := event.Beginning
	for _, id := range l.acked {
		last = max(last, id)
	}
	awaitHead(t, last, nodes[:]...)
	await(t, "the nodes agree", func() bool {
		return nodes[0].db.Head() == nodes[1].db.Head() && nodes[1].db.Head() == nodes[2].db.Head()
	})
	checkEqual(t, int(nodes[0].db.Head()), nodes[:]...)
	l.check(t, nodes[0].lines())
	t.Logf("%d events acknowledged, %d appends failed, head %s", l.count.Load(), l.fails.Load(), nodes[0].db.Head())
}

// check checks that each acknowledged event is in lines once, with its id, and that no key is
// there twice.
func (l *load) check(t *testing.T, lines string) {
	found := map[string]event.ID{}
	for line := range strings.Lines(lines) {
		ev, err := event.ParseLine(bytes.TrimSuffix([]byte(line), []byte{'\n'}))
		if err != nil {
			t.Fatal(err)
		}
		if id, twice := found[ev.Key]; twice {
			t.Errorf("%s is there twice, as %s and %s", ev.Key, id, ev.ID)
		}
		found[ev.Key] = ev.ID
	}
	for key, id := range l.acked {
		if found[key] != id {
			t.Errorf("%s was acknowledged as %s, and is %s", key, id, found[key])
		}
	}
}
