package server

import (
	"os"
	"runtime/debug"
	"testing"

	"github.com/rstream-dev/rstream/internal/longtest"
)

func TestMain(m *testing.M) {
	debug.SetGCPercent(400) // the heap is small
	longtest.TempInMemory()
	longtest.SetChecks(25, 40, 100)
	os.Exit(m.Run())
}
