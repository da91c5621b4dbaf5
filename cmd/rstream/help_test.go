//go:build unix

package main

import (
	"strings"
	"testing"
)

// The help of each command has an example and exit statuses.
func TestHelpOfEachCommand(t *testing.T) {
	names := runCommand(t, "__complete", "").out
	if n := strings.Count(names, "\n"); n < 20 {
		t.Fatalf("there are %d commands: %s", n, names)
	}
	for line := range strings.Lines(names) {
		name, _, ok := strings.Cut(line, "\t")
		if !ok {
			continue // other completions
		}
		r := runCommand(t, name, "--help")
		for _, want := range []string{"Examples:", "Exit status:", "rstream " + name} {
			if r.status != exitDone || r.err != "" || !strings.Contains(r.out, want) {
				t.Errorf("%s --help has no %q: %+v", name, want, r)
			}
		}
	}
}
