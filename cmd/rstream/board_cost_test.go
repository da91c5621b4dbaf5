//go:build unix

package main

import (
	"io"
	"math"
	"net/http"
	"net/url"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strconv"
	"testing"
	"time"

	"github.com/rstream-dev/rstream/internal/bench"
	"github.com/rstream-dev/rstream/internal/longtest"
	"github.com/rstream-dev/rstream/internal/testport"
	"github.com/rstream-dev/rstream/internal/wire"
)

// fanOut has the server deliver events to readers.
func (n *nodeServer) fanOut(readers, events, turn int) {
	n.s.t.Helper()
	in := bench.Input{User: "crowd", Run: n.name + strconv.Itoa(turn) + "-"}
	load := bench.Load{Publishers: 1, Type: wire.JSON, Body: func(i int) (string, []byte) {
		d := in.Draft(i)
		return wire.SetPath(d.Storage()), in.Body(i)
	}}
	if _, err := bench.FanOut(n.s.t.Context(), n.url, "/events?since=now&topic="+url.QueryEscape(in.User), readers, load, time.Hour, events); err != nil {
		n.s.t.Fatal(err)
	}
}

var (
	profileTotal = regexp.MustCompile(`Total samples = ([\d.]+)ms`)
	profilePart  = regexp.MustCompile(`accounting for ([\d.]+)(?:ms)?,`)
)

// profile returns how many samples of CPU time the server takes during load, and how many of them
// are in the board or in reports to one.
func (n *nodeServer) profile(admin string, seconds int, load func()) (all, looking float64) {
	t := n.s.t
	t.Helper()
	type result struct {
		body []byte
		err  error
	}
	done := make(chan result, 1)
	go func() {
		req, err := http.NewRequestWithContext(t.Context(), http.MethodGet, "http://"+admin+"/debug/pprof/profile?seconds="+strconv.Itoa(seconds), nil)
		if err != nil {
			done <- result{nil, err}
			return
		}
		resp, err := http.DefaultClient.Do(req)
		if err != nil {
			done <- result{nil, err}
			return
		}
		defer resp.Body.Close()
		b, err := io.ReadAll(resp.Body)
		done <- result{b, err}
	}()
	var got result
	for got.body == nil && got.err == nil {
		select {
		case got = <-done:
		default:
			load()
		}
	}
	if got.err != nil {
		t.Fatal(got.err)
	}
	file := filepath.Join(t.TempDir(), "cpu.pprof")
	if err := os.WriteFile(file, got.body, 0o600); err != nil {
		t.Fatal(err)
	}
	// A server whose readers are others makes no requests but those to a board.
	const focus = `internal/(board|report|sse)\.|server\.\(\*(boardStream|lookStream|controlStream)\)|server\.\(\*Server\)\.(getLooks|postReport)|main\.boardLinks|net/http\.\(\*(persistConn|Transport|Client)\)`
	out, err := exec.CommandContext(t.Context(), "go", "tool", "pprof", "-top", "-unit=ms", "-focus="+focus, file).CombinedOutput()
	if err != nil {
		t.Fatalf("%v\n%s", err, out)
	}
	ms := func(r *regexp.Regexp) float64 {
		found := r.FindSubmatch(out)
		if found == nil {
			t.Fatalf("no %s in the profile:\n%s", r, out)
		}
		n, err := strconv.ParseFloat(string(found[1]), 64)
		if err != nil {
			t.Fatal(err)
		}
		return n / 10 // there are 100 samples in a second
	}
	return ms(profileTotal), ms(profilePart)
}

// TestLookingCost counts in profiles how much of the CPU time of fan-out looking takes, on a server
// that reports and on its board. Readers come and go meanwhile. The CPU time of a server that nobody
// looks at says less: it differs by a fifth from turn to turn.
func TestLookingCost(t *testing.T) {
	longtest.Require(t)
	s := newBoardStory(t, "b")
	page, _ := s.look()
	for _, n := range []*nodeServer{s.nodes[0], s.board} {
		admin := testport.Addresses(1)[0]
		n.kill(n.process)
		n.args = append(n.args, "--admin", admin)
		n.start()
		n.read("crowd")
		s.agree(20*time.Second, n.name+" has an address for profiles", page)
		turn := 0
		all, looking := n.profile(admin, 20, func() { turn++; n.fanOut(200, 1000, turn) })
		deviation := 100 * math.Sqrt(max(looking, 1)) / all
		t.Logf("%s: looking takes %.0f of %.0f samples: %.2f %% ± %.2f (two deviations)", n.name, looking, all, 100*looking/all, 2*deviation)
		if all < 100 {
			t.Errorf("%s: the profile has %.0f samples", n.name, all)
		}
		if looking > 0.02*all+3*math.Sqrt(0.02*all) { // three deviations above 2 %
			t.Errorf("%s: looking costs too much", n.name)
		}
	}
}
