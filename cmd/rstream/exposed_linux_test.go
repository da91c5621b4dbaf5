package main

import (
	"bytes"
	"os"
	"path/filepath"
	"testing"
)

// TestWarnIfExposed: a note says once that others can read a secret, and not where this user can
// do nothing about it.
func TestWarnIfExposed(t *testing.T) {
	path := filepath.Join(t.TempDir(), "token")
	noteOf := func(path string, mode os.FileMode) string {
		t.Helper()
		_ = os.Remove(path) // if it cannot be written
		if err := os.WriteFile(path, nil, 0o600); err != nil {
			t.Fatal(err)
		}
		if err := os.Chmod(path, mode); err != nil {
			t.Fatal(err)
		}
		var said bytes.Buffer
		a := &app{err: &said}
		a.warnIfExposed(path)
		a.warnIfExposed(path)
		return said.String()
	}
	warning := "rstream: other users can read " + path + "; run \"chmod 600 " + path + "\"\n"
	for mode, want := range map[os.FileMode]string{0o600: "", 0o400: "", 0o640: warning, 0o604: warning, 0o444: warning, 0o611: ""} {
		if got := noteOf(path, mode); got != want {
			t.Errorf("mode %o: %q, want %q", mode, got, want)
		}
	}
	if isExposed(filepath.Dir(path)) || isExposed(path+".missing") {
		t.Error("a folder or a missing file has secrets")
	}
	if os.Geteuid() == 0 {
		if err := os.Chown(path, 1, -1); err != nil {
			t.Fatal(err)
		}
		if isExposed(path) {
			t.Error("a file of another user is exposed")
		}
	}
}
