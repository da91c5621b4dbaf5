//go:build unix

package main

import (
	"bytes"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"syscall"
	"testing"
	"time"

	"github.com/rstream-dev/rstream/event"
)

// A namedTail is "rstream tail --name" of several servers, as a process that writes to a file.
type namedTail struct {
	t       *testing.T
	program string
	args    []string
	dir     string
	cmd     *exec.Cmd
}

// startNamedTail starts a tail of the servers.
func startNamedTail(t *testing.T, program string, urls ...string) *namedTail {
	t.Helper()
	k := &namedTail{t: t, program: program, dir: t.TempDir(), args: []string{"tail", "alice", "--name", "reader", "--cache", "copy.db", "-o", "json"}}
	for _, url := range urls {
		k.args = append(k.args, "-s", url)
	}
	k.start()
	t.Cleanup(func() { _ = k.cmd.Process.Kill() })
	return k
}

func (k *namedTail) start() {
	k.t.Helper()
	out, err := os.OpenFile(filepath.Join(k.dir, "out"), os.O_CREATE|os.O_APPEND|os.O_WRONLY, 0o600)
	if err != nil {
		k.t.Fatal(err)
	}
	defer out.Close()
	log, err := os.OpenFile(filepath.Join(k.dir, "log"), os.O_CREATE|os.O_APPEND|os.O_WRONLY, 0o600)
	if err != nil {
		k.t.Fatal(err)
	}
	defer log.Close()
	k.cmd = exec.Command(k.program, k.args...)
	k.cmd.Dir, k.cmd.Stdout, k.cmd.Stderr = k.dir, out, log
	k.cmd.Env = append(os.Environ(), "HOME="+k.dir, "XDG_CONFIG_HOME=", "XDG_DATA_HOME=", "RSTREAM_SERVER=", "RSTREAM_TOKEN=")
	if err := k.cmd.Start(); err != nil {
		k.t.Fatal(err)
	}
}

// stop ends the tail as a service manager does.
func (k *namedTail) stop() {
	k.t.Helper()
	_ = k.cmd.Process.Signal(syscall.SIGTERM)
	if err := k.cmd.Wait(); err != nil {
		k.t.Errorf("the tail ends with %v:\n%s", err, k.read("log"))
	}
}

func (k *namedTail) read(name string) []byte {
	b, err := os.ReadFile(filepath.Join(k.dir, name))
	if err != nil && !os.IsNotExist(err) {
		k.t.Error(err)
	}
	return b
}

// checkNumbers waits until the tail has written total lines, ends it, and checks that they are
// those of writeNumbers, each once and in order.
func (k *namedTail) checkNumbers(total int) {
	k.t.Helper()
	for deadline := time.Now().Add(patience); bytes.Count(k.read("out"), []byte("\n")) < total; {
		if time.Now().After(deadline) {
			k.t.Fatalf("the tail has written %d lines of %d:\n%s", bytes.Count(k.read("out"), []byte("\n")), total, k.read("log"))
		}
		<-time.After(5 * time.Millisecond)
	}
	k.stop()
	n := 0
	for line := range bytes.Lines(k.read("out")) {
		ev, err := event.ParseLine(bytes.TrimSpace(line))
		if err != nil {
			k.t.Fatal(err)
		}
		if n++; ev.ID != event.ID(n) || string(ev.Value) != fmt.Sprint(n) {
			k.t.Fatalf("line %d is event %s, %s:\n%s", n, ev.ID, ev.Value, k.read("log"))
		}
	}
	if n != total {
		k.t.Errorf("%d lines, want %d", n, total)
	}
}
