//go:build unix

package main

import (
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
)

// What is added to the config file has all credentials of the command line, with files that mean
// the same in every folder.
func TestAddStoresCredentials(t *testing.T) {
	alone(t)
	dir := t.TempDir()
	t.Chdir(dir)
	makeCertificate(t, dir)
	exposed := filepath.Join(dir, "own.key")
	if err := os.Chmod(exposed, 0o644); err != nil {
		t.Fatal(err)
	}
	flags := strings.Fields("--config config.yaml --token-file t --token-command cat --ca own.pem --client-cert own.pem --client-key own.key --header X-Team:red --header @h")
	if err := os.WriteFile("h", []byte("X-Door: open\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	want := strings.ReplaceAll(`    token-file: DIR/t
    token-command: cat
    ca: DIR/own.pem
    client-cert: DIR/own.pem
    client-key: DIR/own.key
    header:
      - X-Team:red
      - '@DIR/h'
`, "DIR", dir)
	for list, args := range map[string][]string{
		"servers": {"server", "add", "here", "https://a.example"},
		"sources": {"source", "add", "there", "https://b.example/sse", "--kind", "sse"},
	} {
		_ = os.Remove("config.yaml")
		r := runCommand(t, append(args, flags...)...)
		got, err := os.ReadFile("config.yaml")
		if r.status != exitDone || err != nil || !strings.HasPrefix(string(got), list+":\n") || !strings.HasSuffix(string(got), want) {
			t.Errorf("%s: %+v\n%s", list, r, got)
		}
		if note := "rstream: other users can read own.key; "; !strings.HasPrefix(r.err, strings.ReplaceAll(note, "own.key", exposed)) {
			t.Errorf("%s: it says %q", list, r.err)
		}
		if r := runCommand(t, "config", "check", "config.yaml"); r.status != exitDone {
			t.Errorf("%s: %+v", list, r)
		}
		for _, wrong := range [][]string{{"--header", "nonsense"}, {"--ca", "missing"}, {"--client-key", "own.key"}} {
			other := slices.Concat(args, []string{"--config", "config.yaml"}, wrong)
			other[2] = "other"
			r := runCommand(t, other...)
			if r.status != exitUsage || !strings.HasPrefix(r.err, "rstream: error: --") {
				t.Errorf("%s %q: %+v", list, wrong, r)
			}
		}
		if after, err := os.ReadFile("config.yaml"); err != nil || string(after) != string(got) {
			t.Errorf("%s: mistakes have changed the file to\n%s", list, after)
		}
	}
}
