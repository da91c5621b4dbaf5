//go:build unix

package main

import (
	"os"
	"path/filepath"
	"strings"
	"testing"
)

// A command that has its value does not read the standard input of a loop.
func TestInputOfLoop(t *testing.T) {
	dir := t.TempDir()
	for _, name := range []string{"HOME", "XDG_DATA_HOME", "XDG_CONFIG_HOME"} {
		t.Setenv(name, dir)
	}
	url := serveEvents(t, filepath.Join(dir, "log.db"), 4)
	null, err := os.OpenFile(os.DevNull, os.O_WRONLY, 0)
	if err != nil {
		t.Fatal(err)
	}
	defer null.Close()
	for _, line := range []string{
		"put alice/x/0 1", "get alice/x/0", "sync alice", "tail alice --until-live", "put alice/o 1 --offline",
		"put alice/o 2 --queue", "log alice", "state alice", "status", "windows", "verify alice", "outbox", "export alice",
		"import x.jsonl", "cursor set c now alice", "cursor rm c", "forget alice", "del alice/x/0",
	} {
		in := strings.NewReader("a 1\nb 2\n")
		args := append(strings.Fields(line), "--cache", filepath.Join(dir, "copy.db"), "-s", url)
		run(args, in, null, null)
		if in.Len() != 8 {
			t.Errorf("%s has read %d bytes of its input", line, 8-in.Len())
		}
	}
}
