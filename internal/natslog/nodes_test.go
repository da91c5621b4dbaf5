package natslog

import (
	"fmt"
	"strings"
	"testing"
	"time"
)

// Each node answers for itself. One that was killed is there without an answer, also if it was the
// last committer, until it is started again. One that was stopped is not there.
func TestNodes(t *testing.T) {
	t.Parallel()
	url := sharedURL(t)
	start := func(name string) *node {
		return startNode(t, newConfig(t, url, name), func(l *Log) {
			l.Introduce(func() About { return About{URL: "http://" + name, Version: "v-" + name, Trouble: "no room"} })
		})
	}
	a := start("a")
	a.mustAppend(drafts(7, "x")...)
	b, c := start("b"), start("c")
	awaitHead(t, 7, b, c)
	l, err := Connect(t.Context(), newConfig(t, url, "asks"))
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	l.nodesWait = 500 * time.Millisecond // those that were killed cost as much each time
	describe := func() string {
		nodes, incomplete, err := l.Nodes(t.Context())
		if err != nil || incomplete != nil {
			t.Fatal(err, incomplete)
		}
		var texts []string
		committers := 0 // on a slow machine, any node may have become it
		for _, n := range nodes {
			text := n.Node
			switch {
			case n.Committer && n.Claimed:
				committers++
			case n.Committer:
				text += " commits without a claim"
			case n.Claimed:
				text += " claimed"
			}
			if !n.Answers {
				text += " silent"
			} else if !n.Following || n.Seq < 2 {
				text += " not following"
			} else if n.URL != "http://"+n.Node || n.Version != "v-"+n.Node || n.Trouble != "no room" || n.Log != a.db.Log() {
				t.Errorf("%s says %+v", n.Node, n)
			}
			if n.Head != 0 && n.Head != 7 {
				t.Errorf("%s is at %s", n.Node, n.Head)
			}
			texts = append(texts, text)
		}
		return fmt.Sprintf("%s, %d of them committing", strings.Join(texts, ", "), committers)
	}
	become := func(want string) {
		t.Helper()
		got := ""
		for limit := time.After(testPatience); got != want; {
			select {
			case <-limit:
				t.Fatalf("the nodes are %q, want %q", got, want)
			default:
				got = describe()
			}
		}
	}
	become("a, b, c, 1 of them committing")
	b.kill()
	become("a, b silent, c, 1 of them committing")
	b.start()
	become("a, b, c, 1 of them committing")
	c.stop()
	become("a, b, 1 of them committing")
}

// The last committer is known after it was killed, and others have forgotten it.
func TestLastCommitter(t *testing.T) {
	t.Parallel()
	a := startNode(t, newConfig(t, sharedURL(t), "a"), nil)
	a.mustAppend(draft("p", "x"))
	a.kill()
	l, err := Connect(t.Context(), a.cfg)
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	deleteConsumers(t, l)
	nodes, incomplete, err := l.Nodes(t.Context())
	if err != nil || incomplete != nil || len(nodes) != 1 || nodes[0] != (NodeStatus{Node: "a", Claimed: true}) {
		t.Errorf("the nodes are %+v, %v", nodes, err)
	}
	b := startNode(t, newConfig(t, a.cfg.URL, "b"), nil)
	b.mustAppend(draft("p", "y"))
	nodes, incomplete, err = l.Nodes(t.Context())
	if err != nil || incomplete != nil || len(nodes) != 1 || nodes[0].Node != "b" || !nodes[0].Committer || !nodes[0].Claimed || nodes[0].Head != 2 {
		t.Errorf("the nodes are %+v, %v", nodes, err)
	}
}

// deleteConsumers deletes all consumers of the stream, as the server does when they are not used.
func deleteConsumers(t *testing.T, l *Log) {
	t.Helper()
	stream, err := l.js.Stream(t.Context(), l.cfg.Stream)
	if err != nil {
		t.Fatal(err)
	}
	for name := range stream.ConsumerNames(t.Context()).Name() {
		if err := stream.DeleteConsumer(t.Context(), name); err != nil {
			t.Fatal(err)
		}
	}
}

// Nobody is there without nodes, and nothing is waited for.
func TestNoNodes(t *testing.T) {
	t.Parallel()
	l, err := Connect(t.Context(), newConfig(t, sharedURL(t), "asks"))
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	if _, _, err := l.Create(t.Context(), Creation{}); err != nil {
		t.Fatal(err)
	}
	if nodes, incomplete, err := l.Nodes(t.Context()); err != nil || incomplete != nil || len(nodes) != 0 {
		t.Errorf("the nodes are %+v, %v", nodes, err)
	}
}

// A node with a new file tells who commits now, and not who has committed in the history that it
// fetches.
func TestCommitterIsToldAtTheEnd(t *testing.T) {
	t.Parallel()
	for _, name := range []string{"a", "b", "a", "b"} {
		n := startNode(t, newConfig(t, sharedURL(t), name), nil)
		n.mustAppend(draft("p", "x"))
		n.stop()
	}
	last := startNode(t, newConfig(t, sharedURL(t), "c"), nil)
	last.mustAppend(draft("p", "y"))
	var w witness
	cfg := newConfig(t, sharedURL(t), "d")
	cfg.OnNews = w.note
	startNode(t, cfg, nil).mustAppend(draft("p", "z"))
	await(t, "the node tells who commits", func() bool { return w.count("commits now") > 0 })
	if w.count("a commits now")+w.count("b commits now") > 0 {
		t.Errorf("the node says %q", w.texts)
	}
}

// Config.Wait is for shorter times than the usual ones, not for longer.
func TestWait(t *testing.T) {
	t.Parallel()
	const shorter = nodesWait - time.Millisecond
	for wait, want := range map[time.Duration]time.Duration{0: nodesWait, shorter: shorter, time.Hour: nodesWait} {
		cfg := newConfig(t, sharedURL(t), "asks")
		cfg.Wait = wait
		l, err := Connect(t.Context(), cfg)
		if err != nil {
			t.Fatal(err)
		}
		defer l.Close()
		if l.nodesWait != want || l.cfg.within(time.Second) != time.Second {
			t.Errorf("with Wait %s, nodes have %s to answer, want %s", wait, l.nodesWait, want)
		}
	}
}
