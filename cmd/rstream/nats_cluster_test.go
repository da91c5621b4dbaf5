//go:build unix

package main

import (
	"bytes"
	"context"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/rstream-dev/rstream/internal/natslog"
)

// A natsCluster is three NATS servers, each a process. They, three nodes and the test connect to
// each server through a link of their own.
type natsCluster struct {
	t       *testing.T
	servers [3]*natsServer
	routes  [3][3]*link // from a server to a server
	clients [4][3]*link // from a node, or the test, to a server
	watch   *natslog.Log
}

// ofTest is the row of natsCluster.clients for the test itself.
const ofTest = 3

// A natsServer is one process.
type natsServer struct {
	conf, ready string // files
	cmd         *exec.Cmd
}

// startNATSCluster starts the servers, and creates the stream log with three replicas.
func startNATSCluster(t *testing.T) *natsCluster { return startNATSClusterWith(t, "", "") }

// startNATSClusterWith is startNATSCluster with more settings of JetStream, and of the servers.
func startNATSClusterWith(t *testing.T, ofJetStream, more string) *natsCluster {
	t.Helper()
	c := &natsCluster{t: t}
	for i := range c.servers {
		for j := range c.servers {
			c.routes[i][j] = newLink(t)
		}
	}
	for i := range c.clients {
		for j := range c.servers {
			c.clients[i][j] = newLink(t)
		}
	}
	nobody := newLink(t) // servers tell each other this address of all, so that they use the links
	for i := range c.servers {
		dir := t.TempDir()
		var routes []string
		for _, l := range c.routes[i] {
			routes = append(routes, "nats-route://"+l.address())
		}
		s := &natsServer{conf: filepath.Join(dir, "nats.conf"), ready: filepath.Join(dir, "ready")}
		text := fmt.Sprintf(`
			server_name: s%d, listen: "127.0.0.1:-1", max_payload: 2MB
			jetstream { store_dir: %q %s }
			cluster { name: test, listen: "127.0.0.1:-1", advertise: %q, no_advertise: true, routes: [%s] }
			%s
		`, i, dir, ofJetStream, nobody.address(), strings.Join(routes, ", "), more)
		if err := os.WriteFile(s.conf, []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
		c.servers[i] = s
		c.begin(i)
		t.Cleanup(func() { s.kill() })
	}
	for i := range c.servers {
		c.awaitStart(i)
	}
	watch, err := natslog.Connect(t.Context(), natslog.Config{URL: c.url(ofTest), Stream: "log", Node: "test", Replicas: 3, Later: true})
	if err != nil {
		t.Fatal(err)
	}
	c.watch = watch
	t.Cleanup(watch.Close)
	for deadline := time.Now().Add(clusterPatience); ; <-time.After(100 * time.Millisecond) { // they elect a leader first
		if _, _, err = watch.Create(t.Context(), natslog.Creation{}); err == nil {
			return c
		}
		if time.Now().After(deadline) {
			t.Fatal(err)
		}
	}
}

// url returns the addresses of all servers for a node, or for the test.
func (c *natsCluster) url(from int) string {
	var urls []string
	for _, l := range c.clients[from] {
		urls = append(urls, "nats://"+l.address())
	}
	return strings.Join(urls, ",")
}

// start starts a server that was killed.
func (c *natsCluster) start(i int) {
	c.t.Helper()
	c.begin(i)
	c.awaitStart(i)
}

func (c *natsCluster) begin(i int) {
	c.t.Helper()
	s := c.servers[i]
	_ = os.Remove(s.ready)
	s.cmd = &exec.Cmd{Path: executable(c.t), Args: []string{natsName, s.conf, s.ready, "piped"}, Stderr: c.t.Output()}
	if _, err := s.cmd.StdinPipe(); err != nil { // it ends with the test
		c.t.Fatal(err)
	}
	if err := s.cmd.Start(); err != nil {
		c.t.Fatal(err)
	}
}

// awaitStart waits until a server accepts connections, and directs the links to it.
func (c *natsCluster) awaitStart(i int) {
	c.t.Helper()
	for deadline := time.Now().Add(clusterPatience); ; <-time.After(5 * time.Millisecond) {
		b, err := os.ReadFile(c.servers[i].ready)
		if client, route, ok := bytes.Cut(bytes.TrimSpace(b), []byte("\n")); err == nil && ok {
			for _, row := range c.routes {
				row[i].setTarget(string(route))
			}
			for _, row := range c.clients {
				row[i].setTarget(strings.TrimPrefix(string(client), "nats://"))
			}
			return
		}
		if time.Now().After(deadline) {
			c.t.Fatalf("NATS server %d did not start", i)
		}
	}
}

func (s *natsServer) kill() {
	_ = s.cmd.Process.Kill() // it may have ended
	_ = s.cmd.Wait()
}

// signal stops a server in the middle of what it does, or lets it go on.
func (s *natsServer) signal(t *testing.T, sig syscall.Signal) {
	t.Helper()
	if err := s.cmd.Process.Signal(sig); err != nil {
		t.Fatal(err)
	}
}

// leader returns the server that leads the stream, -1 if nobody says so.
func (c *natsCluster) leader() int {
	ctx, cancel := context.WithTimeout(c.t.Context(), 2*time.Second)
	defer cancel()
	s, err := c.watch.Stream(ctx)
	if err != nil {
		return -1
	}
	for _, r := range s.Replicas {
		if r.Leader {
			return int(r.Server[1] - '0')
		}
	}
	return -1
}

// committer returns the node that commits, -1 if none says so.
func (c *natsCluster) committer() int {
	name, err := c.watch.Committer(c.t.Context())
	if err != nil || name == "" {
		return -1
	}
	return int(name[0] - 'a')
}

// links returns the links to a server from some others, and those from it to them.
func (c *natsCluster) links(i int, others ...int) (to, from []*link) {
	for _, j := range others {
		to, from = append(to, c.routes[j][i]), append(from, c.routes[i][j])
	}
	return to, from
}

// waitForEnd returns when the standard input has ended.
func waitForEnd() { _, _ = io.Copy(io.Discard, os.Stdin) }
