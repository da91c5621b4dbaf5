package rstream_test

import (
	"os"
	"os/exec"
	"testing"
)

// A program that is a module of its own compiles against this module's exported API, without
// a network. CI also runs its tests.
func TestOutside(t *testing.T) {
	cmd := exec.CommandContext(t.Context(), "go", "vet", ".")
	cmd.Dir = "testdata/indexer"
	// The command may not change go.mod there; what it finds in the same folder, it keeps.
	cmd.Env = append(os.Environ(), "GOFLAGS=-mod=readonly", "GOPROXY=off", "GOSUMDB=off", "GOWORK=off")
	if out, err := cmd.CombinedOutput(); err != nil {
		t.Fatalf("go vet: %v\n%s", err, out)
	}
}
