package cache

import (
	"flag"
	"os"
	"runtime/debug"
	"strconv"
	"testing"

	"github.com/rstream-dev/rstream/internal/longtest"
)

var (
	killRounds = flag.Int("kill.rounds", 2, "how often each child is killed; 4 with -long, 10 with -full")
	update     = flag.Bool("update", false, "rewrite the files in testdata/cache")
)

// childEnv makes the test binary the child of a test, see kill_test.go.
const childEnv = "RSTREAM_CACHE_CHILD"

func TestMain(m *testing.M) {
	if name := os.Getenv(childEnv); name != "" {
		os.Exit(runChild(name))
	}
	checks, kills := 3, 2 // each case makes files
	if underRace {
		checks, kills = 2, 1
	}
	debug.SetGCPercent(400) // the heap is small
	longtest.TempInMemory()
	longtest.SetChecks(checks, 20, 100)
	longtest.SetDefault("kill.rounds", strconv.Itoa(longtest.Scale(kills, 4, 10)))
	os.Exit(m.Run())
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
