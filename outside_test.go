package rstream_test

import (
	"os"
	"os/exec"
	"path/filepath"
	"testing"
)

// A program that is a module of its own compiles against this module's exported API, without
// a network. CI also runs its tests.
func TestOutside(t *testing.T) {
	dir := t.TempDir() // so that no go command changes what is in testdata
	if err := os.CopyFS(dir, os.DirFS("testdata/indexer")); err != nil {
		t.Fatal(err)
	}
	root, err := filepath.Abs(".")
	if err != nil {
		t.Fatal(err)
	}
	for _, args := range [][]string{
		{"mod", "edit", "-replace", module + "=" + root},
		{"vet", "."},
	} {
		cmd := exec.CommandContext(t.Context(), "go", args...)
		cmd.Dir = dir
		cmd.Env = append(os.Environ(), "GOFLAGS=-mod=mod", "GOPROXY=off", "GOSUMDB=off", "GOWORK=off")
		if out, err := cmd.CombinedOutput(); err != nil {
			t.Fatalf("go %v: %v\n%s", args, err, out)
		}
	}
}
