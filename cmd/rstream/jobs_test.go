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

type job struct {
	cmd  *exec.Cmd
	done chan struct{} // closed when it has ended
	err  error         // valid once done is closed
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
	env := environment(ts)
	out, err := os.Create(ts.MkAbs(name + ".out"))
	ts.Check(err)
	defer out.Close()
	errs, err := os.Create(ts.MkAbs(name + ".err"))
	ts.Check(err)
	defer errs.Close()
	cmd := &exec.Cmd{Path: find(ts, args[1]), Args: args[1:], Dir: ts.MkAbs("."), Env: env, Stdout: out, Stderr: errs,
		SysProcAttr: &syscall.SysProcAttr{Setpgid: true}} // kill a shell together with its children
	ts.Check(cmd.Start())
	j := &job{cmd: cmd, done: make(chan struct{})}
	go func() { j.err = cmd.Wait(); close(j.done) }()
	ts.Value(jobsKey{}).(jobs)[name] = j
	ts.Defer(func() {
		_ = syscall.Kill(-cmd.Process.Pid, syscall.SIGKILL) // it has usually ended
		<-j.done
		if said, err := os.ReadFile(errs.Name()); err == nil && len(said) > 0 {
			ts.Logf("[%s.err]\n%s", name, said)
		}
	})
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
	ts.Check(jobOf(ts, args[1]).cmd.Process.Signal(sig))
}

func cmdEnded(ts *testscript.TestScript, neg bool, args []string) {
	want(ts, neg, args, 2, "ended NAME STATUS")
	j := jobOf(ts, args[0])
	select {
	case <-j.done:
	case <-time.After(patience):
		ts.Fatalf("%s has not ended after %s", args[0], patience)
	}
	status := "0"
	var exit *exec.ExitError
	if errors.As(j.err, &exit) {
		status = strconv.Itoa(exit.ExitCode())
		if w := exit.Sys().(syscall.WaitStatus); w.Signaled() {
			status = strings.TrimPrefix(unix.SignalName(w.Signal()), "SIG")
		}
	} else {
		ts.Check(j.err)
	}
	if status != args[1] {
		ts.Fatalf("%s ended with %s, want %s", args[0], status, args[1])
	}
}
