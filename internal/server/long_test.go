package server

import (
	"os"
	"testing"

	"github.com/rstream-dev/rstream/internal/longtest"
)

func TestMain(m *testing.M) {
	longtest.SetChecks(25, 100)
	os.Exit(m.Run())
}
