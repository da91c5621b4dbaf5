package auth

import (
	"bytes"
	"log/slog"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"
)

// TestPipeForKeys: a pipe in the place of a file is an error, and is not waited for.
func TestPipeForKeys(t *testing.T) {
	dir := t.TempDir()
	keys, revoked := filepath.Join(dir, "keys.json"), filepath.Join(dir, "revoked")
	k := newKey(t, EdDSA)
	writeKeys(t, keys, k)
	replaceFile(t, revoked, nil)
	g := newGuard(t, Config{Keys: keys, Revoked: revoked})
	for _, path := range []string{keys, revoked} {
		if err := os.Remove(path); err != nil {
			t.Fatal(err)
		}
		if err := syscall.Mkfifo(path, 0o600); err != nil {
			t.Fatal(err)
		}
		failed := make(chan error, 1)
		go func() { failed <- g.Reload(t.Context()) }()
		select {
		case err := <-failed:
			if err == nil || !strings.Contains(err.Error(), path+": is not a regular file") {
				t.Errorf("%v", err)
			}
		case <-time.After(30 * time.Second):
			t.Fatal("the guard waits for a pipe")
		}
		if _, err := g.Check(t.Context(), sign(t, k, nil)); err != nil {
			t.Error(err)
		}
	}
}

// TestPasswordOfJWKS: the password in the URL of keys is not logged.
func TestPasswordOfJWKS(t *testing.T) {
	var said bytes.Buffer
	newGuard(t, Config{JWKS: "http://me:pa55word@127.0.0.1:0/keys", Logger: slog.New(slog.NewTextHandler(&said, nil))})
	if text := said.String(); strings.Contains(text, "pa55word") || !strings.Contains(text, "me:xxxxx@") {
		t.Error(text)
	}
}
