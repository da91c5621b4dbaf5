package source

import (
	"bufio"
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"math/rand/v2"
	"net"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/rstream-dev/rstream/cache"
	"github.com/rstream-dev/rstream/internal/longtest"
	"github.com/rstream-dev/rstream/internal/sourcetest"
)

// The environment that makes the test a process to be killed: a source, or its follower.
const (
	killSource   = "RSTREAM_TEST_SOURCE"
	killFollower = "RSTREAM_TEST_FOLLOWER"
)

// A killPlan is what such a process does.
type killPlan struct {
	Kind, URL, File string
	N               int
	Begun           time.Time
	Every           time.Duration
	Seed            uint64
	AskAfter        int // the source asks for a kill after so many events
}

// TestKilledProcess is the process that TestKills kills.
func TestKilledProcess(t *testing.T) {
	var p killPlan
	switch text := os.Getenv(killSource) + os.Getenv(killFollower); {
	case text == "":
		return
	case json.Unmarshal([]byte(text), &p) != nil:
		t.Fatal(text)
	case os.Getenv(killSource) != "":
		p.serve(t)
	default:
		p.follow(t)
	}
}

// serve serves a stream on the socket that the process has inherited.
func (p *killPlan) serve(t *testing.T) {
	l, err := net.FileListener(os.NewFile(3, "socket"))
	if err != nil {
		t.Fatal(err)
	}
	sent := 0
	var mu sync.Mutex
	s := &sourcetest.Stream{Kind: p.Kind, N: p.N, Begun: p.Begun, Every: p.Every, Cut: cutter(p.Seed), Sent: func() {
		mu.Lock()
		defer mu.Unlock()
		if sent++; sent == p.AskAfter {
			fmt.Println("kill")
		}
	}}
	t.Fatal(http.Serve(l, s))
}

func (p *killPlan) follow(t *testing.T) {
	db, err := cache.Open(context.Background(), p.File, cache.Config{Role: cache.Server})
	if err != nil {
		t.Fatal(err)
	}
	defer db.Close()
	if _, err := Follow(t.Context(), kindConfig(t, p.URL, p.Kind, db)); err != nil {
		t.Fatal(err)
	}
}

// Sources of each kind and their followers are killed again and again while events come.
// The connections break, too. Each event is stored once.
func TestKills(t *testing.T) {
	kills, events := 2, 300
	if longtest.Enabled() {
		kills, events = 20, 4000
	}
	for _, kind := range sourcetest.Kinds {
		t.Run(kind, func(t *testing.T) { testKills(t, kind, kills, events) })
	}
}

func testKills(t *testing.T, kind string, kills, events int) {
	seed := rand.Uint64()
	t.Logf("seed %d", seed)
	rng := rand.New(rand.NewPCG(seed, 1))
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	socket, err := l.(*net.TCPListener).File()
	if err != nil {
		t.Fatal(err)
	}
	defer socket.Close()
	k := &killer{t: t, socket: socket, plan: killPlan{Kind: kind, URL: "http://" + l.Addr().String(), File: filepath.Join(t.TempDir(), "source.db"),
		N: events, Begun: time.Now(), Every: 100 * time.Microsecond, Seed: seed}}
	var source, follower *killed
	defer func() { source.end(); follower.end() }()
	sources, followers := 0, 0
	for follower == nil || !follower.done() {
		if source == nil {
			k.plan.AskAfter = 1 + rng.IntN(min(2*events/kills, events/2)) // before the end
			if sources+followers >= kills {
				k.plan.AskAfter = 0
			}
			source = k.start(killSource)
		}
		if follower == nil {
			follower = k.start(killFollower)
		}
		select {
		case <-source.asked:
			if follower.done() {
				break
			}
			if sources > followers || rng.IntN(2) == 0 {
				follower.end()
				follower = nil
				followers++
			}
			source.end() // another one asks later
			source = nil
			sources++
		case <-follower.ended:
		}
	}
	if err := follower.err; err != nil {
		t.Fatalf("%v\n%s", err, &follower.out)
	}
	if sources == 0 || followers == 0 && longtest.Enabled() {
		t.Errorf("%d sources and %d followers were killed", sources, followers)
	}
	t.Logf("%d sources and %d followers killed", sources, followers)
	checkKind(t, openLog(t, k.plan.File), kind, events)
}

// A killer starts the processes.
type killer struct {
	t      *testing.T
	socket *os.File
	plan   killPlan
}

// A killed process is one to be killed.
type killed struct {
	cmd   *exec.Cmd
	asked chan struct{} // receives when it asks for a kill
	ended chan struct{}
	out   bytes.Buffer // valid once ended is closed, as err
	err   error
}

func (k *killer) start(as string) *killed {
	text, err := json.Marshal(k.plan)
	if err != nil {
		k.t.Fatal(err)
	}
	p := &killed{cmd: exec.Command(os.Args[0], "-test.run=^TestKilledProcess$"), asked: make(chan struct{}, 1), ended: make(chan struct{})}
	p.cmd.Env = append(os.Environ(), as+"="+string(text))
	p.cmd.ExtraFiles = []*os.File{k.socket}
	out, err := p.cmd.StdoutPipe()
	if err == nil {
		err = p.cmd.Start()
	}
	if err != nil {
		k.t.Fatal(err)
	}
	go func() {
		lines := bufio.NewScanner(io.TeeReader(out, &p.out))
		for lines.Scan() {
			if strings.HasPrefix(lines.Text(), "kill") {
				p.asked <- struct{}{}
			}
		}
		p.err = p.cmd.Wait()
		close(p.ended)
	}()
	return p
}

// end kills p, which may be nil.
func (p *killed) end() {
	if p != nil {
		_ = p.cmd.Process.Kill() // it may have ended
		<-p.ended
	}
}

func (p *killed) done() bool {
	select {
	case <-p.ended:
		return true
	default:
		return false
	}
}
