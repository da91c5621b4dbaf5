//go:build unix

package main

import (
	"net/url"
	"regexp"
	"strconv"
	"testing"
	"time"

	"github.com/rstream-dev/rstream/internal/bench"
	"github.com/rstream-dev/rstream/internal/longtest"
	"github.com/rstream-dev/rstream/internal/wire"
)

var cpuSeconds = regexp.MustCompile(`(?m)^process_cpu_seconds_total (\S+)$`)

// cpu returns the CPU time that the server has used.
func (n *nodeServer) cpu() float64 {
	found := cpuSeconds.FindStringSubmatch(n.s.get(n.url + "/metrics"))
	if found == nil {
		n.s.t.Fatal("the server does not tell its CPU time")
	}
	seconds, err := strconv.ParseFloat(found[1], 64)
	if err != nil {
		n.s.t.Fatal(err)
	}
	return seconds
}

// fanOut has the server deliver events to readers, and returns the CPU time that it took.
func (n *nodeServer) fanOut(readers, events, turn int) float64 {
	n.s.t.Helper()
	in := bench.Input{User: "crowd", Run: n.name + strconv.Itoa(turn) + "-"}
	load := bench.Load{Publishers: 1, Type: wire.JSON, Body: func(i int) (string, []byte) {
		d := in.Draft(i)
		return wire.SetPath(d.Storage()), in.Body(i)
	}}
	before := n.cpu()
	if _, err := bench.FanOut(n.s.t.Context(), n.url, "/events?since=now&topic="+url.QueryEscape(in.User), readers, load, time.Hour, events); err != nil {
		n.s.t.Fatal(err)
	}
	return n.cpu() - before
}

// TestLookingCost compares the CPU time of fan-out of a server whose board and whose board
// elsewhere are looked at with that of one that nobody looks at. Readers come and go in each turn.
func TestLookingCost(t *testing.T) {
	longtest.Require(t)
	const turns = 12
	s := newBoardStory(t, "b")
	looked := s.nodes[0]
	alone := &nodeServer{s: s, name: "alone", readers: map[int]*nodeReader{}}
	alone.start()
	page, _ := s.look()
	looked.read("crowd")
	s.agree(patience, "a page looks at the board", page)
	const readers, events = 200, 1000
	var with, without float64
	for turn := range turns + 1 {
		a, b := alone.fanOut(readers, events, turn), looked.fanOut(readers, events, turn)
		if turn == 0 {
			continue // it fills caches
		}
		without, with = without+a, with+b
		t.Logf("turn %d: %.2f s CPU alone, %.2f s looked at", turn, a, b)
	}
	t.Logf("looking costs %+.1f %% of the CPU time of %d deliveries", 100*(with/without-1), turns*readers*events)
	if with > 1.1*without { // the goal is 1.02; on a machine with other work the measure is not that good
		t.Errorf("looking costs too much")
	}
}
