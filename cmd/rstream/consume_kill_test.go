//go:build unix

package main

import (
	"bufio"
	"bytes"
	"cmp"
	"encoding/json"
	"flag"
	"fmt"
	"io"
	"math/rand/v2"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/rstream-dev/rstream/internal/longtest"
)

var consumerKills = flag.Int("consumer.kills", 0, "how often a consumer, its workers or its server are killed; if 0, 2, 15 with -long, and 50 with -full")

// pythonWorker is the worker of docs/consumers.md, with an event handler that notes what it
// does, and now and then fails, hangs or answers something else.
const pythonWorker = `
import json, os, random, socket, sys, time

log = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
log.connect(sys.argv[1])
log.send(b"pid %d" % os.getpid())
bad = sys.argv[2] == "bad"


def note(what, event):
    log.send(f"{what} {event['id']} {event['path']}".encode())


for line in sys.stdin:
    event = json.loads(line)
    luck = random.random() if bad else 1
    answer = event["id"]
    if luck < 0.01:
        answer += " no luck"
    elif luck < 0.012:
        time.sleep(1000)
    elif luck < 0.016:
        answer = "0000000000000"
    elif luck < 0.02:
        answer = "{}"
    elif luck < 0.024:
        sys.exit(3)
    elif luck < 0.028:
        note("spoils", event)
        answer += "\n" + answer
    else:
        note("done", event)
    print(answer, flush=True)
`

// A killRig is a server, a consumer of it with workers in Python, and what kills them. Workers
// and the rig send notes to one socket, which keeps their order.
type killRig struct {
	*testing.T
	dir     string
	program string
	python  string
	rand    *rand.Rand
	proxy   net.Listener // in front of the server, whose port changes
	server  *exec.Cmd
	tail    *exec.Cmd
	sent    int
	socket  *net.UnixConn
	running sync.WaitGroup

	mu    sync.Mutex
	addr  string // of the server
	errs  bytes.Buffer
	notes []string
	noted chan struct{} // closed at the next note
}

func newKillRig(t *testing.T, seed uint64) *killRig {
	g := &killRig{T: t, dir: t.TempDir(), rand: rand.New(rand.NewPCG(seed, 0)), noted: make(chan struct{})}
	self, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	g.program = filepath.Join(g.dir, "rstream")
	if err := os.Symlink(self, g.program); err != nil { // under this name, the test binary is the program
		t.Fatal(err)
	}
	// The command in PATH may be a script that takes longer to find Python than Python to start.
	python, err := exec.Command("python3", "-c", "import sys; print(sys.executable)").Output()
	if err != nil {
		t.Fatalf("the worker is in Python: %v", err)
	}
	g.python = strings.TrimSpace(string(python)) + " -IS" // without packages, it begins in a tenth of the time
	if err := os.WriteFile(filepath.Join(g.dir, "worker.py"), []byte(pythonWorker), 0o600); err != nil {
		t.Fatal(err)
	}
	g.socket, err = net.ListenUnixgram("unixgram", &net.UnixAddr{Name: filepath.Join(g.dir, "notes"), Net: "unixgram"})
	if err != nil {
		t.Fatal(err)
	}
	if g.proxy, err = net.Listen("tcp", "127.0.0.1:0"); err != nil {
		t.Fatal(err)
	}
	g.running.Go(g.takeNotes)
	g.running.Go(g.forward)
	t.Cleanup(func() {
		g.kill(g.tail)
		g.kill(g.server)
		g.socket.Close()
		g.proxy.Close()
		g.running.Wait()
	})
	return g
}

// takeNotes reads the notes of the workers.
func (g *killRig) takeNotes() {
	b := make([]byte, 200)
	for {
		n, err := g.socket.Read(b)
		if err != nil {
			return
		}
		g.mu.Lock()
		g.notes = append(g.notes, string(b[:n]))
		close(g.noted)
		g.noted = make(chan struct{})
		g.mu.Unlock()
	}
}

// await waits until there are enough notes.
func (g *killRig) await(enough func(notes []string) bool) {
	g.Helper()
	for late := time.After(patience); ; {
		g.mu.Lock()
		done, noted := enough(g.notes), g.noted
		g.mu.Unlock()
		if done {
			return
		}
		select {
		case <-noted:
		case <-late:
			g.Fatalf("the workers do nothing: %s", g.said())
		}
	}
}

// countNotes returns how many notes there are.
func (g *killRig) countNotes() int {
	g.mu.Lock()
	defer g.mu.Unlock()
	return len(g.notes)
}

// forward connects clients to the server that there is.
func (g *killRig) forward() {
	for {
		client, err := g.proxy.Accept()
		if err != nil {
			return
		}
		g.mu.Lock()
		addr := g.addr
		g.mu.Unlock()
		server, err := net.Dial("tcp", addr)
		if err != nil {
			client.Close()
			continue
		}
		for _, way := range [][2]net.Conn{{client, server}, {server, client}} {
			g.running.Go(func() {
				_, _ = io.Copy(way[0], way[1])
				client.Close()
				server.Close()
			})
		}
	}
}

// Write keeps what the programs say.
func (g *killRig) Write(b []byte) (int, error) {
	g.mu.Lock()
	defer g.mu.Unlock()
	return g.errs.Write(b)
}

func (g *killRig) said() string {
	g.mu.Lock()
	defer g.mu.Unlock()
	return g.errs.String()
}

func (g *killRig) command(name string, args ...string) *exec.Cmd {
	cmd := exec.Command(name, args...)
	cmd.Dir = g.dir
	cmd.Env = append(os.Environ(), "HOME="+g.dir, "XDG_CONFIG_HOME=", "XDG_DATA_HOME=", "RSTREAM_SERVER=http://"+g.proxy.Addr().String())
	cmd.Stderr = g
	return cmd
}

// servedAt is the address in what a server says when it listens.
var servedAt = regexp.MustCompile(`127\.0\.0\.1:\d+`)

// startServer starts the server and waits until it says where it listens.
func (g *killRig) startServer() {
	g.Helper()
	g.server = g.command(g.program, "serve", "--listen", "127.0.0.1:0", "--db", "server.db")
	r, w, err := os.Pipe()
	if err != nil {
		g.Fatal(err)
	}
	g.server.Stderr = w
	err = g.server.Start()
	w.Close()
	if err != nil {
		g.Fatal(err)
	}
	lines := bufio.NewReader(r)
	for {
		line, err := lines.ReadString('\n')
		if addr := servedAt.FindString(line); addr != "" {
			g.mu.Lock()
			g.addr = addr
			g.mu.Unlock()
			break
		}
		if err != nil {
			g.Fatalf("the server does not listen: %v: %s", err, line)
		}
	}
	g.running.Go(func() {
		_, _ = io.Copy(g, lines)
		r.Close()
	})
}

func (g *killRig) startTail(worker string, args ...string) {
	g.Helper()
	g.tail = g.command(g.program, append([]string{"tail", "alice", "--name", "mine", "--cache", "copy.db", "--pipe", g.python + " worker.py notes " + worker,
		"--workers", "4", "--try-timeout", "5s", "-q", "--wait"}, args...)...)
	if err := g.tail.Start(); err != nil {
		g.Fatal(err)
	}
}

// put appends n events, each of one of ten storages.
func (g *killRig) put(n int) {
	g.Helper()
	var b bytes.Buffer
	for range n {
		g.sent++
		fmt.Fprintf(&b, "{\"user\":\"alice\",\"path\":\"%d\",\"key\":\"k%d\",\"value\":%d}\n", g.rand.IntN(10), g.sent, g.sent)
	}
	cmd := g.command(g.program, "put", "--from", "-", "-q")
	cmd.Stdin = &b
	if err := cmd.Run(); err != nil {
		g.Fatalf("put: %v: %s", err, g.said())
	}
}

func (g *killRig) kill(cmd *exec.Cmd) {
	if cmd != nil && cmd.ProcessState == nil {
		_ = cmd.Process.Kill()
		_ = cmd.Wait()
	}
}

// killWorkers kills the processes of the worker that live.
func (g *killRig) killWorkers() {
	g.mu.Lock()
	var pids []string
	for _, note := range g.notes {
		if pid, ok := strings.CutPrefix(note, "pid "); ok {
			pids = append(pids, pid)
		}
	}
	g.mu.Unlock()
	for _, text := range pids[max(0, len(pids)-4):] { // others have ended long ago
		pid, err := strconv.Atoi(text)
		line, err2 := os.ReadFile(fmt.Sprintf("/proc/%d/cmdline", pid))
		if err == nil && err2 == nil && bytes.Contains(line, []byte("worker.py")) {
			_ = syscall.Kill(pid, syscall.SIGKILL)
		}
	}
}

// note sends a note as workers do.
func (g *killRig) note(text string) {
	g.Helper()
	conn, err := net.Dial("unixgram", filepath.Join(g.dir, "notes"))
	if err != nil {
		g.Fatal(err)
	}
	defer conn.Close()
	if _, err := conn.Write([]byte(text)); err != nil {
		g.Fatal(err)
	}
}

// Whatever is killed, each event is done, and the order of each storage holds. An event is done
// again only after a kill, or next to an answer that ended a worker.
func TestConsumerSurvivesKills(t *testing.T) {
	inParallel(t)
	seed := uint64(time.Now().UnixNano())
	t.Logf("seed %d", seed)
	g := newKillRig(t, seed)
	g.startServer()
	g.put(10)
	g.startTail("bad")
	kills := cmp.Or(*consumerKills, longtest.Scale(2, 15, 50))
	for i := range kills {
		if i > 0 && i%100 == 0 {
			t.Logf("%d kills", i)
		}
		n := longtest.Size(30, 60)
		before, more := g.countNotes(), g.rand.IntN(n)
		g.put(n) // each event gets a note, maybe before put returns
		g.await(func(notes []string) bool { return len(notes) >= before+more })
		what := (i + int(seed%4)) % 4
		if what == 0 || what == 3 {
			g.killWorkers()
		}
		if what == 1 || what == 3 {
			g.kill(g.tail)
		}
		if what == 2 || what == 3 {
			g.kill(g.server)
			g.startServer()
		}
		g.note("kill")
		if what == 1 || what == 3 {
			g.startTail("bad")
		}
	}
	if err := g.tail.Process.Signal(syscall.SIGTERM); err != nil {
		t.Error(err)
	}
	// If it has only just started, the signal kills it.
	if err := g.tail.Wait(); err != nil && err.Error() != "signal: terminated" {
		t.Errorf("the tail ended with %v: %s", err, g.said())
	}
	g.note("kill")
	g.startTail("good", "--until-live")
	if err := g.tail.Wait(); err != nil {
		t.Fatalf("the last tail: %v: %s", err, g.said())
	}
	g.note("end")
	g.await(func(notes []string) bool { return slices.Contains(notes, "end") })
	g.check()
}

// check reads what the workers have noted.
func (g *killRig) check() {
	g.Helper()
	cmd := g.command(g.program, "log", "alice", "--cache", "copy.db")
	out, err := cmd.Output()
	if err != nil {
		g.Fatalf("log: %v: %s", err, g.said())
	}
	want := map[string][]string{} // ids of each storage
	n := 0
	for line := range strings.Lines(string(out)) {
		var ev struct{ ID, Path string }
		if err := json.Unmarshal([]byte(line), &ev); err != nil {
			g.Fatal(err)
		}
		want[ev.Path] = append(want[ev.Path], ev.ID)
		n++
	}
	if n != g.sent {
		g.Errorf("the copy has %d events, want %d", n, g.sent)
	}
	next := map[string]int{} // of each storage, how many are done
	mark, since := 0, map[string]int{}
	repeats := 0
	for _, note := range g.notes {
		f := strings.Fields(note)
		if f[0] == "kill" {
			mark++
		}
		if f[0] != "done" && f[0] != "spoils" {
			continue
		}
		id, path := f[1], f[2]
		done := want[path][:next[path]]
		switch {
		case next[path] < len(want[path]) && want[path][next[path]] == id:
			next[path]++
		case len(done) > 0 && done[len(done)-1] < id:
			g.Errorf("%s of storage %s is done before %s", id, path, want[path][next[path]])
		default:
			repeats++
			if since[id] == mark {
				g.Errorf("%s of storage %s is done again without a reason", id, path)
			}
		}
		if f[0] == "spoils" { // its own try or the next one of the worker fails
			mark++
		}
		since[id] = mark
	}
	for path, ids := range want {
		if next[path] != len(ids) {
			g.Errorf("of storage %s, %d of %d events are done", path, next[path], len(ids))
		}
	}
	g.Logf("%d events, %d done again", n, repeats)
	if limit := n / 2; repeats > limit && n > 1000 {
		g.Errorf("%d events were done again, want at most %d", repeats, limit)
	}
}
