//go:build unix

package main

import (
	"encoding/json"
	"fmt"
	"maps"
	"strings"
	"testing"
	"time"

	"github.com/rstream-dev/rstream/internal/longtest"
)

// shown returns what a page shows: how many connections each server and each topic has. It returns
// nil while the page is loaded.
func (p *browserPage) shown() (all boardCount) {
	v, err := p.eval(`(() => {
		const all = {}
		const add = (kind, rows, count, name) => {
			for (const tr of document.querySelectorAll(rows)) all[kind + tr.cells[name].firstChild.textContent] = Number(tr.cells[count].textContent)
		}
		add('server ', '#server-rows tr', 0, 2)
		add('topic ', '#topic-rows tr', 1, 2)
		if (document.getElementById('status')?.className === 'live') all.all = Number(document.getElementById('count').textContent)
		return all
	})()`)
	if err != nil || json.Unmarshal([]byte(v), &all) != nil {
		return nil
	}
	return all
}

// toShow returns what a page must show.
func (s *boardStory) toShow() boardCount {
	all := boardCount{"all": 0}
	for _, n := range append([]*nodeServer{s.board}, s.nodes...) {
		if n.process.ProcessState == nil {
			all["server "+n.name] = 0
		}
	}
	for name, n := range s.counted() {
		node, topic, _ := strings.Cut(name, " ")
		all["server "+node] += n
		all["topic "+topic] += n
		all["all"] += n
	}
	return all
}

// show waits until all pages show the connections that this test has open.
func (s *boardStory) show(most time.Duration, what string, pages ...*browserPage) {
	s.t.Helper()
	began := time.Now()
	for i, p := range pages {
		var got, want boardCount
		ticker := time.NewTicker(50 * time.Millisecond)
		for {
			if got, want = p.shown(), s.toShow(); maps.Equal(got, want) {
				break
			}
			if time.Since(began) > most {
				s.t.Fatalf("not within %s: %s: page %d shows %v, want %v", most, what, i+1, got, want)
			}
			<-ticker.C
		}
		ticker.Stop()
	}
	s.note("%s, after %s: the pages show %v", what, time.Since(began).Round(10*time.Millisecond), s.toShow())
}

// TestBoardInBrowsers is the story of three servers, one board and two browsers, with the traffic
// between the servers.
func TestBoardInBrowsers(t *testing.T) {
	longtest.Require(t)
	t.Parallel()
	c := startChromium(t)
	if c == nil {
		return
	}
	s := newBoardStory(t, "b", "c")
	b := s.nodes[0]
	s.until(patience, "two nodes wait", func() bool {
		return strings.Contains(s.get(s.board.url+"/metrics"), "\nrstream_board_nodes 2\n")
	})
	for i, n := range []*nodeServer{s.board, b, s.nodes[1]} {
		for _, topic := range boardTopics[i:] {
			n.read(topic)
		}
	}
	s.note("three servers have readers")
	s.silent(2 * time.Second)

	first, second := c.newPage(), c.newPage()
	before := s.sent()
	first.open(s.board.url + "/dashboard")
	s.show(patience, "the first browser looks", first)
	if s.sent() == before {
		t.Error("with the first viewer, no byte came from the nodes")
	}
	second.open(s.board.url + "/dashboard#alice")
	s.show(patience, "the second browser looks", first, second)
	second.waitText("#room-reader-rows", "alice")
	b.read("carol")
	s.show(5*time.Second, "a reader of b has come", first, second)
	first.keepScreenshots("readers")
	b.stopReaders("carol")
	s.show(5*time.Second, "it has left", first, second)

	b.kill(b.process)
	s.until(patience, "the readers of b have ended", func() bool {
		b.mu.Lock()
		defer b.mu.Unlock()
		return len(b.readers) == 0
	})
	s.show(20*time.Second, "b was killed", first, second)
	first.keepScreenshots("killed")
	b.start()
	b.read("alice")
	s.show(20*time.Second, "b was started again", first, second)
	s.board.kill(s.board.process)
	for _, p := range []*browserPage{first, second} {
		p.wait(`document.getElementById('status').className === 'lost'`)
	}
	first.keepScreenshots("lost")
	s.board.start()
	s.board.read("alice")
	s.show(20*time.Second, "the board was killed and started again", first, second)
	second.keepScreenshots("room")

	second.open("about:blank")
	s.note("the second browser leaves")
	b.read("carol")
	s.show(5*time.Second, "a reader of b has come", first)
	first.open("about:blank")
	took := s.until(20*time.Second, "the nodes stop", func() bool { return !s.reporting() })
	s.note("%s after the last browser has left, the nodes stop", took.Round(time.Second))
	s.silent(2 * time.Second)
	for _, p := range []*browserPage{first, second} {
		p.checkQuiet(s.board.url)
	}
}

// TestRoomOfAnotherServerInBrowser follows the room of a topic that another server has, by an
// EventSource and nothing else, while that server and the one in between are killed.
func TestRoomOfAnotherServerInBrowser(t *testing.T) {
	longtest.Require(t)
	t.Parallel()
	c := startChromium(t)
	if c == nil {
		return
	}
	board := startKillable(&walker{t: t, dir: t.TempDir()}, "--node main")
	b := newKillable(&walker{t: t, dir: t.TempDir()})
	b.flags = fmt.Sprintf("--node b --board %s --advertise %s", board.base, b.base)
	b.restart()
	s := &boardStory{t: t}
	s.until(patience, "b waits", func() bool {
		return strings.Contains(s.get(board.base+"/metrics"), "\nrstream_board_nodes 1\n")
	})
	p := c.newPage()
	p.open(board.base + "/dashboard#carol")
	p.waitText("#room-said", "Live")
	kills := 0
	checkRoomInBrowser(p, b, func() {
		if kills++; kills%3 == 0 {
			board.killAndRestart()
			return
		}
		before := p.value("lost")
		b.killDuring(func() { // the browser asks in vain meanwhile
			p.wait(fmt.Sprintf("lost > %s + 1 || got.filter(x => x === 'state').length > 1", before))
		})
	})
	p.checkQuiet(board.base)
}
