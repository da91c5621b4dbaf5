//go:build unix

package main

import (
	"bytes"
	"encoding/json"
	"fmt"
	"math/rand/v2"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/rstream-dev/rstream/internal/longtest"
)

// pythonWorker is the worker of docs/consumers.md, with an event handler that notes what it
// does, and now and then fails, hangs or answers something else.
const pythonWorker = `
import json, os, random, sys, time

log = os.open(sys.argv[1], os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o600)
pids = os.open(sys.argv[1] + ".pid", os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o600)
os.write(pids, b"%d\n" % os.getpid())
bad = sys.argv[2] == "bad"


def note(what, event):
    os.write(log, f"{what} {event['id']} {event['path']}\n".encode())


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

// A killRig is a server, a consumer of it with workers in Python, and what kills them.
type killRig struct {
	*testing.T
	dir     string
	program string
	rand    *rand.Rand
	addr    string
	server  *exec.Cmd
	tail    *exec.Cmd
	errs    bytes.Buffer
	sent    int
}

func (g *killRig) command(name string, args ...string) *exec.Cmd {
	cmd := exec.Command(name, args...)
	cmd.Dir = g.dir
	cmd.Env = append(os.Environ(), "HOME="+g.dir, "XDG_CONFIG_HOME=", "XDG_DATA_HOME=", "RSTREAM_SERVER=http://"+g.addr)
	cmd.Stderr = &g.errs
	return cmd
}

func (g *killRig) startServer() {
	g.Helper()
	g.server = g.command(g.program, "serve", "--listen", g.addr, "--db", "server.db")
	if err := g.server.Start(); err != nil {
		g.Fatal(err)
	}
	for deadline := time.Now().Add(patience); ; {
		conn, err := net.Dial("tcp", g.addr)
		if err == nil {
			conn.Close()
			return
		}
		if time.Now().After(deadline) {
			g.Fatalf("the server does not listen: %s", g.errs.String())
		}
		<-time.After(10 * time.Millisecond)
	}
}

func (g *killRig) startTail(worker string, args ...string) {
	g.Helper()
	g.tail = g.command(g.program, append([]string{"tail", "alice", "--name", "mine", "--cache", "copy.db", "--pipe", "python3 worker.py done.log " + worker,
		"--workers", "4", "--try-timeout", "2s", "-q", "--wait"}, args...)...)
	if err := g.tail.Start(); err != nil {
		g.Fatal(err)
	}
}

// put appends n events, each of one of ten storages. The server may be killed while it does.
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
		g.Fatalf("put: %v: %s", err, g.errs.String())
	}
}

func (g *killRig) kill(cmd *exec.Cmd) {
	cmd.Process.Kill()
	cmd.Wait()
}

// killWorkers kills the processes of the worker that live.
func (g *killRig) killWorkers() {
	path := filepath.Join(g.dir, "done.log.pid")
	b, err := os.ReadFile(path)
	if err != nil {
		return // none has started
	}
	pids := strings.Fields(string(b))
	for _, text := range pids[max(0, len(pids)-4):] { // others have ended long ago
		pid, err := strconv.Atoi(text)
		line, err2 := os.ReadFile(fmt.Sprintf("/proc/%d/cmdline", pid))
		if err == nil && err2 == nil && bytes.Contains(line, []byte("done.log")) {
			syscall.Kill(pid, syscall.SIGKILL)
		}
	}
}

// note writes a line into the file of the workers.
func (g *killRig) note(text string) {
	g.Helper()
	f, err := os.OpenFile(filepath.Join(g.dir, "done.log"), os.O_WRONLY|os.O_APPEND|os.O_CREATE, 0o600)
	if err != nil {
		g.Fatal(err)
	}
	defer f.Close()
	fmt.Fprintln(f, text)
}

// Whatever is killed, each event is done, and the order of each storage holds. An event is done
// again only after a kill, or next to an answer that ended a worker.
func TestConsumerSurvivesKills(t *testing.T) {
	if _, err := exec.LookPath("python3"); err != nil {
		t.Fatalf("the worker is in Python: %v", err)
	}
	seed := uint64(time.Now().UnixNano())
	t.Logf("seed %d", seed)
	g := &killRig{T: t, dir: t.TempDir(), rand: rand.New(rand.NewPCG(seed, 0))}
	self, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	g.program = filepath.Join(g.dir, "rstream")
	if err := os.Symlink(self, g.program); err != nil { // under this name, the test binary is the program
		t.Fatal(err)
	}
	if err := os.WriteFile(filepath.Join(g.dir, "worker.py"), []byte(pythonWorker), 0o600); err != nil {
		t.Fatal(err)
	}
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	g.addr = listener.Addr().String()
	listener.Close()
	g.startServer()
	defer func() { g.kill(g.server) }()
	g.put(10)
	g.startTail("bad")
	kills := longtest.Size(2, 50)
	for i := range kills {
		g.put(longtest.Size(30, 60))
		<-time.After(time.Duration(g.rand.IntN(300)) * time.Millisecond)
		what := (i + int(seed)) % 4
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
	g.tail.Process.Signal(syscall.SIGTERM)
	// If it has only just started, the signal kills it.
	if err := g.tail.Wait(); err != nil && err.Error() != "signal: terminated" {
		t.Errorf("the tail ended with %v: %s", err, g.errs.String())
	}
	g.note("kill")
	g.startTail("good", "--until-live")
	if err := g.tail.Wait(); err != nil {
		t.Fatalf("the last tail: %v: %s", err, g.errs.String())
	}
	g.check()
}

// check reads what the workers have noted.
func (g *killRig) check() {
	g.Helper()
	cmd := g.command(g.program, "log", "alice", "--cache", "copy.db")
	out, err := cmd.Output()
	if err != nil {
		g.Fatalf("log: %v: %s", err, g.errs.String())
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
	notes, err := os.ReadFile(filepath.Join(g.dir, "done.log"))
	if err != nil {
		g.Fatal(err)
	}
	next := map[string]int{} // of each storage, how many are done
	mark, since := 0, map[string]int{}
	repeats := 0
	for line := range strings.Lines(string(notes)) {
		f := strings.Fields(line)
		if f[0] != "done" && f[0] != "spoils" {
			mark++
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
