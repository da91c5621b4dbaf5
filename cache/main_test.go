package cache

import (
	"flag"
	"os"
	"testing"
)

var (
	long       = flag.Bool("long", false, "run the random tests for longer")
	killRounds = flag.Int("kill.rounds", 2, "how often each child is killed; 10 with -long")
	update     = flag.Bool("update", false, "rewrite the files in testdata/cache")
)

// childEnv makes the test binary the child of a test, see kill_test.go.
const childEnv = "RSTREAM_CACHE_CHILD"

func TestMain(m *testing.M) {
	if name := os.Getenv(childEnv); name != "" {
		os.Exit(runChild(name))
	}
	flag.Parse()
	checks, kills := "5", "2" // each case makes files
	if *long {
		checks, kills = "100", "10"
	}
	if underRace {
		checks, kills = "2", "1"
	}
	unlessGiven("rapid.checks", checks)
	unlessGiven("kill.rounds", kills)
	os.Exit(m.Run())
}

// unlessGiven sets a flag that the command line does not.
func unlessGiven(name, value string) {
	given := false
	flag.Visit(func(f *flag.Flag) { given = given || f.Name == name })
	if !given {
		flag.Set(name, value)
	}
}

// onlyLong leaves a test to the long form, where another tells its story shorter.
func onlyLong(t testing.TB) {
	t.Helper()
	if !*long {
		t.Skip("runs with -long")
	}
}

// underRace is set under the race detector, which makes SQLite twenty times slower.
var underRace bool

// alone leaves a test that does one thing after the other to the run without the race
// detector.
func alone(t testing.TB) {
	t.Helper()
	if underRace {
		t.Skip("runs without the race detector")
	}
}

// size is how much there is of something, in the default form and in the long one.
func size(short, most int) int {
	if *long {
		return most
	}
	return short
}
