//go:build unix

package main

import (
	"bytes"
	"strings"
	"testing"
	"unicode/utf8"

	"github.com/spf13/cobra"
)

// TestHelpWidth: the help of every command and subcommand fits 80 columns.
func TestHelpWidth(t *testing.T) {
	a := testApp(t)
	root := newRootCommand(a)
	read := 0
	var visit func(cmd *cobra.Command)
	visit = func(cmd *cobra.Command) {
		var help bytes.Buffer
		cmd.SetOut(&help)
		cmd.InitDefaultHelpFlag()
		if err := cmd.Help(); err != nil {
			t.Error(err)
		}
		for line := range strings.Lines(help.String()) {
			if n := utf8.RuneCountInString(strings.TrimRight(line, "\n")); n > helpWidth {
				t.Errorf("%s --help has a line of %d columns: %s", cmd.CommandPath(), n, line)
			}
		}
		read++
		for _, c := range cmd.Commands() {
			visit(c)
		}
	}
	visit(root)
	if read < 40 {
		t.Errorf("%d commands", read)
	}
}

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
