//go:build unix

package main

import (
	"flag"
	"fmt"
	"os"
	"os/signal"
	"path/filepath"
	"runtime"
	"runtime/debug"
	"strconv"
	"syscall"
	"testing"

	"github.com/rogpeppe/go-internal/testscript"

	"github.com/rstream-dev/rstream/internal/longtest"
)

var (
	update  = flag.Bool("update", false, "update the scripts' golden files")
	program = flag.String("program", "", "run the scripts with the rstream that lies in this `directory`, as one of a release")
)

func TestMain(m *testing.M) {
	testscript.Main(manyAtOnce{m}, map[string]func(){"rstream": main, workerName: work, natsName: serveNATS, nextName: runNext, hangUpName: hangUp})
}

// manyAtOnce runs more tests in parallel than there are processors, unless a flag
// sets the number: they mostly wait for programs, and some for time to pass.
type manyAtOnce struct{ m *testing.M }

func (r manyAtOnce) Run() int {
	debug.SetGCPercent(400) // the heap is small
	longtest.TempInMemory()
	if err := os.Setenv("PEBBLE_VA_NOSLEEP", "1"); err != nil { // the ACME authority of the tests waits at random otherwise
		panic(err)
	}
	// Programs started by the test would inherit an ignored hangup from nohup.
	signal.Notify(make(chan os.Signal, 1), syscall.SIGHUP)
	longtest.SetDefault("test.parallel", strconv.Itoa(longtest.Size(4, 2)*runtime.GOMAXPROCS(0)))
	return r.m.Run()
}

// inParallel lets a test run beside others in the short forms, in which they mostly wait.
func inParallel(t *testing.T) {
	if !longtest.Enabled() {
		t.Parallel()
	}
}

// TestScripts runs the conversations of testdata/script. See commands for the commands
// that they use in addition to testscript's own. Each has a short form; [long] in it marks
// the rest.
func TestScripts(t *testing.T) {
	inParallel(t)
	var pool *workers
	if *program == "" && longtest.Scale(0, 0, 1) == 0 { // with -full, each command is a process of its own
		pool = newWorkers(t)
	}
	testscript.Run(t, testscript.Params{
		Dir: filepath.Join("..", "..", "testdata", "script"),
		Setup: func(env *testscript.Env) error {
			env.Values[workersKey{}] = pool
			return setUp(env)
		},
		Cmds:                commands,
		Condition:           condition,
		RequireExplicitExec: true,
		RequireUniqueNames:  true,
		UpdateScripts:       *update,
	})
}

// condition tells scripts whether to run in their long form, as [long].
func condition(name string) (bool, error) {
	if name == "long" {
		return longtest.Enabled(), nil
	}
	return false, fmt.Errorf("unknown condition %q", name)
}

// setUp gives a script its own home and removes the settings of the user who runs it.
func setUp(env *testscript.Env) error {
	home := filepath.Join(env.WorkDir, "home")
	env.Setenv("HOME", home)
	env.Setenv("XDG_DATA_HOME", filepath.Join(home, "data"))
	env.Setenv("XDG_CONFIG_HOME", filepath.Join(home, "config"))
	env.Setenv("TZ", "UTC")
	old, err := filepath.Abs("../../testdata/cache") // files of earlier versions
	if err != nil {
		return err
	}
	env.Setenv("OLD", old)
	if *program != "" {
		env.Setenv("PATH", *program+string(filepath.ListSeparator)+env.Getenv("PATH"))
	}
	env.Values[jobsKey{}] = jobs{}
	env.Values[wiresKey{}] = wires{}
	env.Values[gatesKey{}] = gates{}
	env.Values[flakyProxiesKey{}] = flakyProxies{}
	return os.MkdirAll(home, 0o700)
}
