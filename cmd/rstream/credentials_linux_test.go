package main

import (
	"path/filepath"
	"strings"
	"syscall"
	"testing"
)

// TestPipeForCertificate: a pipe in the place of a certificate is an error, and is not
// waited for.
func TestPipeForCertificate(t *testing.T) {
	path := filepath.Join(t.TempDir(), "cert.pem")
	if err := syscall.Mkfifo(path, 0o600); err != nil {
		t.Fatal(err)
	}
	c := certificateFiles{certFile: path, keyFile: path}
	if _, err := c.load(); err == nil || !strings.Contains(err.Error(), "is not a regular file") {
		t.Error(err)
	}
}
