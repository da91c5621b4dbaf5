package pages

import (
	"os"
	"testing"

	"github.com/rstream-dev/rstream/internal/longtest"
)

func TestMain(m *testing.M) {
	longtest.SetChecks(20, 100)
	os.Exit(m.Run())
}
