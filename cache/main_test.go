package cache

import (
	"flag"
	"os"
	"testing"
)

var (
	killRounds = flag.Int("kill.rounds", 2, "how often each child is killed")
	update     = flag.Bool("update", false, "write the files in testdata/cache anew")
)

// childEnv makes the test binary the child of a test, see kill_test.go.
const childEnv = "RSTREAM_CACHE_CHILD"

func TestMain(m *testing.M) {
	if name := os.Getenv(childEnv); name != "" {
		os.Exit(runChild(name))
	}
	flag.Parse()
	given := false
	flag.Visit(func(f *flag.Flag) { given = given || f.Name == "rapid.checks" })
	if !given {
		flag.Set("rapid.checks", "15") // each case makes files
	}
	os.Exit(m.Run())
}
