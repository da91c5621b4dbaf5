//go:build unix

package main

import (
	"bytes"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"syscall"

	"github.com/rogpeppe/go-internal/testscript"
)

// nobody is a user who owns nothing.
const nobody = 65534

// cmdNobody runs a program as a user to whom permissions apply, as they do not to root.
// It makes the script's folder and the program accessible.
func cmdNobody(ts *testscript.TestScript, neg bool, args []string) {
	want(ts, neg, args, 2, "nobody STATUS PROGRAM ARG...")
	cmd := &exec.Cmd{Path: find(ts, args[1]), Args: args[1:], Dir: ts.MkAbs("."), Env: environment(ts)}
	if os.Geteuid() == 0 {
		reachable(ts, cmd.Dir)
		reachable(ts, filepath.Dir(cmd.Path))
		cmd.SysProcAttr = &syscall.SysProcAttr{Credential: &syscall.Credential{Uid: nobody, Gid: nobody}}
	}
	var out, errs bytes.Buffer
	cmd.Stdout, cmd.Stderr = &out, &errs
	err := cmd.Run()
	fmt.Fprint(ts.Stdout(), out.String())
	fmt.Fprint(ts.Stderr(), errs.String())
	var exit *exec.ExitError
	if err != nil && !errors.As(err, &exit) {
		ts.Fatalf("%v", err)
	}
	if got := strconv.Itoa(cmd.ProcessState.ExitCode()); got != args[0] {
		ts.Fatalf("ended with status %s, want %s: %s", got, args[0], errs.String())
	}
}

// reachable makes a folder of the test accessible to everyone.
func reachable(ts *testscript.TestScript, dir string) {
	for ; len(dir) > len(filepath.Clean(os.TempDir())); dir = filepath.Dir(dir) {
		info, err := os.Stat(dir)
		ts.Check(err)
		ts.Check(os.Chmod(dir, info.Mode().Perm()|0o055))
	}
}
