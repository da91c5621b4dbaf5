package pages

import (
	"os"
	"runtime/debug"
	"testing"

	"github.com/rstream-dev/rstream/internal/longtest"
)

func TestMain(m *testing.M) {
	debug.SetGCPercent(400) // the heap is small
	longtest.TempInMemory()
	longtest.SetChecks(12, 16, 100)
	os.Exit(m.Run())
}
