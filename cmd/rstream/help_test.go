//go:build unix

package main

import (
	"strings"
	"testing"
	"unicode/utf8"
)

// The help of each command has an example and exit statuses, and fits 80 columns.
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
		for line := range strings.Lines(r.out) {
			if n := utf8.RuneCountInString(strings.TrimRight(line, "\n")); n > 80 {
				t.Errorf("%s --help has a line of %d columns: %s", name, n, line)
			}
		}
		for _, want := range []string{"Examples:", "Exit status:", "rstream " + name} {
			if r.status != exitDone || r.err != "" || !strings.Contains(r.out, want) {
				t.Errorf("%s --help has no %q: %+v", name, want, r)
			}
		}
	}
}
