//go:build unix

package main

import (
	"context"
	"errors"
	"os/exec"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/rogpeppe/go-internal/testscript"
)

// runLimit is how long a script may wait for a program. None needs a tenth of it.
const runLimit = 2 * time.Minute

// runProgram runs a program with the environment and in the folder of the script, and returns
// its exit status. A worker runs rstream if the script has workers.
func runProgram(ts *testscript.TestScript, program string, args ...string) int {
	ctx, cancel := context.WithTimeout(context.Background(), runLimit)
	defer cancel()
	run := runProcess
	if pool := ts.Value(workersKey{}).(*workers); pool != nil && program == "rstream" {
		run = pool.run
	}
	status := run(ctx, ts, program, args)
	if ctx.Err() != nil {
		ts.Fatalf("%s had to be killed after %s", program, runLimit)
	}
	return status
}

func runProcess(ctx context.Context, ts *testscript.TestScript, program string, args []string) int {
	cmd := exec.CommandContext(ctx, find(ts, program), args...)
	cmd.Args[0], cmd.Dir, cmd.Env = program, ts.MkAbs("."), environment(ts)
	cmd.Stdin, cmd.Stdout, cmd.Stderr = strings.NewReader(""), ts.Stdout(), ts.Stderr()
	cmd.Cancel = func() error { return cmd.Process.Signal(syscall.SIGQUIT) } // it prints its stacks
	cmd.WaitDelay = patience
	var exit *exec.ExitError
	if err := cmd.Run(); err != nil && !errors.As(err, &exit) && ctx.Err() == nil {
		ts.Fatalf("%v", err)
	}
	return cmd.ProcessState.ExitCode()
}

// workers are the idle workers of a test, by the value of TZ, which a process reads once.
type workers struct {
	mu   sync.Mutex
	idle map[string][]*worker
}

type workersKey struct{}

func newWorkers(t *testing.T) *workers {
	pool := &workers{idle: map[string][]*worker{}}
	t.Cleanup(func() {
		for _, idle := range pool.idle {
			for _, w := range idle {
				w.end()
			}
		}
	})
	return pool
}

func (p *workers) run(ctx context.Context, ts *testscript.TestScript, _ string, args []string) int {
	zone := ts.Getenv("TZ")
	w, err := p.take(zone)
	ts.Check(err)
	task := workerTask{args, environment(ts), ts.MkAbs(".")}
	status, err := w.run(ctx, task, ts.Stdout(), ts.Stderr())
	if err != nil { // the command ended the process
		return w.end()
	}
	p.put(zone, w)
	return status
}

func (p *workers) take(zone string) (*worker, error) {
	p.mu.Lock()
	defer p.mu.Unlock()
	idle := p.idle[zone]
	if len(idle) == 0 {
		return startWorker(zone)
	}
	w := idle[len(idle)-1]
	p.idle[zone] = idle[:len(idle)-1]
	return w, nil
}

func (p *workers) put(zone string, w *worker) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.idle[zone] = append(p.idle[zone], w)
}
