//go:build unix

package main

import (
	"flag"
	"os"
	"path/filepath"
	"testing"

	"github.com/rogpeppe/go-internal/testscript"
)

var update = flag.Bool("update", false, "write what was printed into the scripts' golden files")

func TestMain(m *testing.M) {
	testscript.Main(m, map[string]func(){"rstream": main})
}

// TestScripts runs the conversations of testdata/script. What they can say besides
// testscript's own commands stands in commands, each with its usage.
func TestScripts(t *testing.T) {
	testscript.Run(t, testscript.Params{
		Dir:                 filepath.Join("..", "..", "testdata", "script"),
		Setup:               setUp,
		Cmds:                commands,
		RequireExplicitExec: true,
		RequireUniqueNames:  true,
		UpdateScripts:       *update,
	})
}

// setUp gives a script a home of its own and nothing of the person who runs it.
func setUp(env *testscript.Env) error {
	home := filepath.Join(env.WorkDir, "home")
	env.Setenv("HOME", home)
	env.Setenv("XDG_DATA_HOME", filepath.Join(home, "data"))
	env.Setenv("XDG_CONFIG_HOME", filepath.Join(home, "config"))
	env.Setenv("TZ", "UTC")
	env.Values[jobsKey{}] = jobs{}
	return os.MkdirAll(home, 0o700)
}
