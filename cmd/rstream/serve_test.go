package main

import (
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
)

// An address with a password is rejected, and the error does not show the password.
func TestListenShowsNoPassword(t *testing.T) {
	for _, address := range []string{"bob:Hunter2@127.0.0.1:0", "http://bob:Hunter2@127.0.0.1:0", "bob:Hunter2@"} {
		if err := checkListen("--listen", address, false, ""); err == nil || strings.Contains(err.Error(), "Hunter2") {
			t.Errorf("--listen %s: %v", address, err)
		}
	}
}

// The topics of a mirror are taken as they are: a path may have commas and quotes. Spaces separate
// those of the environment.
func TestMirroredTopicsAsTheyAre(t *testing.T) {
	for _, test := range []struct {
		name, env, config string
		args              []string
		want              []string
	}{
		{name: "command line", args: []string{"--topic", `alice/a,b`, "--topic", `bob/"x"`}, want: []string{`alice/a,b`, `bob/"x"`}},
		{name: "environment", env: `alice/a,b bob/"x"`, want: []string{`alice/a,b`, `bob/"x"`}},
		{name: "config", config: `topic: ['alice/a,b', 'bob/"x"']`, want: []string{`alice/a,b`, `bob/"x"`}},
		{name: "config with one", config: `topic: alice/a,b`, want: []string{`alice/a,b`}},
	} {
		t.Run(test.name, func(t *testing.T) {
			alone(t)
			t.Setenv("RSTREAM_TOPIC", test.env)
			config := filepath.Join(t.TempDir(), "config.yaml")
			if err := os.WriteFile(config, []byte(test.config), 0o600); err != nil {
				t.Fatal(err)
			}
			var got []string
			a := testApp(t)
			a.onServe = func(o serveOptions) { got = o.topics }
			root := newRootCommand(a)
			root.SetArgs(append([]string{"serve", "--mirror", "http://a.example", "--config", config}, test.args...))
			if err := root.ExecuteContext(t.Context()); err != nil || !slices.Equal(got, test.want) {
				t.Errorf("the topics are %q, %v, want %q", got, err, test.want)
			}
		})
	}
}
