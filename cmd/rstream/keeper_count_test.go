//go:build unix

package main

import (
	"os"
	"path/filepath"
	"strings"
	"testing"
)

// A named tail that ends after a number of events resumes after the last one printed,
// not after its batch. A tail whose output failed resumes at its old position.
func TestNamedTailCount(t *testing.T) {
	dir := t.TempDir()
	for _, name := range []string{"HOME", "XDG_DATA_HOME", "XDG_CONFIG_HOME"} {
		t.Setenv(name, dir)
	}
	args := []string{"--cache", filepath.Join(dir, "copy.db"), "-s", serveEvents(t, filepath.Join(dir, "log.db"), 20)}
	want := runCommand(t, append([]string{"tail", "alice", "--since", "beginning", "--until-live"}, args...)...).out
	full, err := os.OpenFile("/dev/full", os.O_WRONLY, 0)
	if err != nil {
		t.Fatal(err)
	}
	defer full.Close()
	null, err := os.OpenFile(os.DevNull, os.O_WRONLY, 0)
	if err != nil {
		t.Fatal(err)
	}
	defer null.Close()
	tail := append([]string{"tail", "alice", "--name", "c", "--count", "3", "--until-live"}, args...)
	got := ""
	for left := 10; left > 0; left -= 3 {
		if status := run(tail, strings.NewReader(""), full, null); status != exitFailed {
			t.Errorf("with a full output the status is %d", status)
		}
		r := runCommand(t, tail...)
		if n := strings.Count(r.out, "\n"); r.status != exitDone || n != min(3, left) {
			t.Errorf("of %d lines that are left a tail prints %d: %+v", left, n, r)
		}
		got += r.out
	}
	if got != want {
		t.Errorf("all tails print\n%s\nwant\n%s", got, want)
	}
}
