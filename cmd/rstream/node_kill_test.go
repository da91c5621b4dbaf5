//go:build unix

package main

import (
	"context"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/rstream-dev/rstream/event"
	"github.com/rstream-dev/rstream/internal/longtest"
)

// startNATS starts a NATS server as a process, and returns its URL.
func startNATS(t *testing.T) string {
	t.Helper()
	dir := t.TempDir()
	conf := filepath.Join(dir, "nats.conf")
	text := fmt.Sprintf("listen: \"127.0.0.1:-1\"\nmax_payload: 2MB\njetstream { store_dir: %q }\n", dir)
	if err := os.WriteFile(conf, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
	url := filepath.Join(dir, "url")
	cmd := &exec.Cmd{Path: executable(t), Args: []string{natsName, conf, url, "piped"}, Stderr: os.Stderr}
	if _, err := cmd.StdinPipe(); err != nil { // it ends with the test
		t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		_ = cmd.Process.Kill() // it may have ended
		_ = cmd.Wait()
	})
	for deadline := time.Now().Add(patience); ; <-time.After(5 * time.Millisecond) {
		if b, err := os.ReadFile(url); err == nil {
			return strings.TrimSpace(string(b))
		}
		if time.Now().After(deadline) {
			t.Fatal("the NATS server did not start")
		}
	}
}

func executable(t *testing.T) string {
	t.Helper()
	path, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	return path
}

// A reader moves between three nodes of a cluster with its Last-Event-ID, while each of them is
// killed and comes back, the committer too, and appends go through all of them. It gets each
// event once, in order, and all nodes have the same.
func TestNodesKilled(t *testing.T) {
	t.Parallel()
	program := programLink(t)
	nats := startNATS(t)
	var nodes [3]*serverProcess
	var urls [3]string
	for i := range nodes {
		name := string(rune('a' + i))
		nodes[i] = startProcess(t, program, name, "--nats", nats, "--stream", "log", "--init", "--replicas", "1", "--node", name)
		urls[i] = nodes[i].url
	}

	rounds := longtest.Size(1, 6)
	each := 15 // events between two kills
	total := (rounds*len(nodes) + 1) * each
	ctx, cancel := context.WithTimeout(t.Context(), 2*patience)
	defer cancel()
	var read atomic.Int64
	written := make(chan error, 1)
	go func() { written <- writeNumbers(ctx, urls, total, &read) }()

	r := numberReader{ctx: ctx, urls: urls}
	for i := range rounds * len(nodes) {
		for range each {
			if err := r.next(); err != nil {
				t.Fatal(err)
			}
			read.Store(int64(r.n))
		}
		nodes[i%len(nodes)].restart()
	}
	for r.n < total {
		if err := r.next(); err != nil {
			t.Fatal(err)
		}
		read.Store(int64(r.n))
	}
	if err := <-written; err != nil {
		t.Fatal(err)
	}
	t.Logf("%d events over %d connections, %d refused", r.n, r.connections, r.refused)
	query := "/windows?topic=*&since=0&until=" + event.ID(total).String() + "&sum=1"
	want := getText(t, urls[r.on]+query)
	if !strings.Contains(want, fmt.Sprintf(`"count":%d,`, total)) {
		t.Errorf("%d events: %s", total, want)
	}
	for _, url := range urls {
		if got := getText(t, url+query); got != want {
			t.Errorf("the digests differ: %s, not %s", got, want)
		}
	}
}
