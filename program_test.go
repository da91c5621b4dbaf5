package rstream_test

import (
	"os/exec"
	"strings"
	"testing"
)

// The program has the client of NATS and not its server, which the tests run.
func TestProgramLinksNoServer(t *testing.T) {
	out, err := exec.CommandContext(t.Context(), "go", "list", "-deps", "./cmd/rstream").Output()
	if err != nil {
		t.Fatal(err)
	}
	packages := string(out)
	if !strings.Contains(packages, module+"/event\n") {
		t.Fatalf("these are not the packages of the program:\n%s", packages)
	}
	if strings.Contains(packages, "github.com/nats-io/nats-server") {
		t.Error("the program has the NATS server in it")
	}
}
