//go:build unix

package main

import (
	"errors"
	"os"
	"os/exec"
	"path/filepath"
	"reflect"
	"strconv"
	"strings"
	"syscall"
	"time"

	"github.com/rogpeppe/go-internal/testscript"
	"golang.org/x/sys/unix"
)

// jobs are the background programs of a script, by name.
type jobs map[string]*job

type jobsKey struct{}

// A job is a program in the background: a process of its own, or rstream in a worker.
type job struct {
	process *os.Process
	worker  bool          // the process is a worker
	done    chan struct{} // closed when it has ended
	status  string        // its exit status or signal; valid once done is closed
	err     error         // valid once done is closed
}

func jobOf(ts *testscript.TestScript, name string) *job {
	j := ts.Value(jobsKey{}).(jobs)[name]
	if j == nil {
		ts.Fatalf("no program %s was started", name)
	}
	return j
}

func cmdStart(ts *testscript.TestScript, neg bool, args []string) {
	want(ts, neg, args, 2, "start NAME PROGRAM ARG...")
	name := args[0]
	out, err := os.Create(ts.MkAbs(name + ".out"))
	ts.Check(err)
	defer out.Close()
	errs, err := os.Create(ts.MkAbs(name + ".err"))
	ts.Check(err)
	defer errs.Close()
	j := &job{done: make(chan struct{})}
	if pool := ts.Value(workersKey{}).(*workers); pool != nil && args[1] == "rstream" {
		ts.Check(j.startInWorker(ts, pool, args[2:], out, errs))
	} else {
		ts.Check(j.startProcess(ts, args[1:], out, errs))
	}
	ts.Value(jobsKey{}).(jobs)[name] = j
	ts.Defer(func() {
		j.end()
		if said, err := os.ReadFile(errs.Name()); err == nil && len(said) > 0 {
			ts.Logf("[%s.err]\n%s", name, said)
		}
	})
}

func (j *job) startProcess(ts *testscript.TestScript, args []string, out, errs *os.File) error {
	cmd := &exec.Cmd{Path: find(ts, args[0]), Args: args, Dir: ts.MkAbs("."), Env: environment(ts), Stdout: out, Stderr: errs,
		SysProcAttr: &syscall.SysProcAttr{Setpgid: true}} // kill a shell together with its children
	if err := cmd.Start(); err != nil {
		return err
	}
	j.process = cmd.Process
	go func() {
		defer close(j.done)
		var exit *exec.ExitError
		if err := cmd.Wait(); !errors.As(err, &exit) {
			j.err = err
		}
		j.status = endOf(cmd.ProcessState)
	}()
	return nil
}

// startInWorker starts rstream in a worker, which is idle again when rstream has ended.
func (j *job) startInWorker(ts *testscript.TestScript, pool *workers, args []string, out, errs *os.File) error {
	zone := ts.Getenv("TZ")
	w, err := pool.take(zone)
	if err != nil {
		return err
	}
	null, err := os.Open(os.DevNull)
	if err != nil {
		return err
	}
	defer null.Close()
	if err := w.send(workerTask{args, environment(ts), ts.MkAbs(".")}, null, out, errs); err != nil {
		return err
	}
	j.process, j.worker = w.cmd.Process, true
	go func() {
		defer close(j.done)
		status, err := w.receive()
		if err != nil { // the program ended the process
			w.end()
			j.status = endOf(w.cmd.ProcessState)
			return
		}
		j.status = strconv.Itoa(status)
		pool.put(zone, w)
	}()
	return nil
}

// jobEnd is how long a job has to end by itself when its script has ended.
const jobEnd = time.Second

// end ends a job that has not ended. A worker that ends in order runs other commands later.
func (j *job) end() {
	select {
	case <-j.done:
		return // its process may run another command
	default:
	}
	if j.worker {
		_ = j.process.Signal(syscall.SIGTERM) // between two commands, a worker ignores it
		select {
		case <-j.done:
			return
		case <-time.After(jobEnd):
		}
	}
	if syscall.Kill(-j.process.Pid, syscall.SIGKILL) != nil { // a worker has no group of its own
		_ = j.process.Kill()
	}
	<-j.done
}

// endOf returns the exit status of a process, or the name of the signal that ended it.
func endOf(state *os.ProcessState) string {
	if w := state.Sys().(syscall.WaitStatus); w.Signaled() {
		return strings.TrimPrefix(unix.SignalName(w.Signal()), "SIG")
	}
	return strconv.Itoa(state.ExitCode())
}

// environment returns the script's environment, which testscript does not export.
func environment(ts *testscript.TestScript) (env []string) {
	vars := reflect.ValueOf(ts).Elem().FieldByName("env")
	for i := range vars.Len() {
		env = append(env, vars.Index(i).String())
	}
	return append(env, "PWD="+ts.MkAbs("."))
}

func find(ts *testscript.TestScript, program string) string {
	for _, dir := range filepath.SplitList(ts.Getenv("PATH")) {
		if path := filepath.Join(dir, program); unix.Access(path, unix.X_OK) == nil {
			return path
		}
	}
	ts.Fatalf("there is no program %s", program)
	return ""
}

func cmdSignal(ts *testscript.TestScript, neg bool, args []string) {
	want(ts, neg, args, 2, "signal SIGNAL NAME")
	sig := unix.SignalNum("SIG" + args[0])
	if sig == 0 {
		ts.Fatalf("there is no signal %s", args[0])
	}
	j := jobOf(ts, args[1])
	select {
	case <-j.done:
		ts.Fatalf("%s has ended with %s", args[1], j.status)
	default:
		ts.Check(j.process.Signal(sig))
	}
}

func cmdEnded(ts *testscript.TestScript, neg bool, args []string) {
	want(ts, neg, args, 2, "ended NAME STATUS")
	j := jobOf(ts, args[0])
	select {
	case <-j.done:
	case <-time.After(patience):
		ts.Fatalf("%s has not ended after %s", args[0], patience)
	}
	ts.Check(j.err)
	if j.status != args[1] {
		ts.Fatalf("%s ended with %s, want %s", args[0], j.status, args[1])
	}
}
