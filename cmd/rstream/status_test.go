//go:build unix

package main

import (
	"path/filepath"
	"regexp"
	"strings"
	"testing"
)

// statusTimes are the times of positions.
var statusTimes = regexp.MustCompile(`, \d{4}-\d\d-\d\d \d\d:\d\d:\d\d`)

// A copy is up to date only if all followed topics are: the newest position held may
// belong to another topic.
func TestStatusOfOlderTopic(t *testing.T) {
	dir := t.TempDir()
	for _, name := range []string{"HOME", "XDG_DATA_HOME", "XDG_CONFIG_HOME"} {
		t.Setenv(name, dir)
	}
	url := serveEvents(t, filepath.Join(dir, "log.db"), 10)
	try := func(want string, args ...string) {
		t.Helper()
		r := runCommand(t, append(args, "--cache", filepath.Join(dir, "copy.db"), "-s", url, "-o", "text")...)
		if r.status != exitDone || !strings.Contains(statusTimes.ReplaceAllString(r.out, ""), want) {
			t.Errorf("%q: want %q: %+v", args, want, r)
		}
	}
	try("fetched", "sync", "alice")
	try("\nreached   000000000000A, up to date\n", "status")
	try("", "put", "bob/new", "1")
	try("fetched", "sync", "bob")
	try("\nreached   000000000000B\n", "status")
	try("fetched", "sync")
	try("\nreached   000000000000B, up to date\n", "status")
}
