package main

import (
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
)

// The file of known servers contains no passwords, and loses those of an earlier
// version.
func TestServersFileHasNoPasswords(t *testing.T) {
	dir := t.TempDir()
	t.Setenv("XDG_DATA_HOME", dir)
	path := filepath.Join(dir, "rstream", "servers.json")
	if err := os.MkdirAll(filepath.Dir(path), 0o700); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(path, []byte(`{"http://u:Hunter2@a":"0123456789ABCDEF","http://b":"5ZC8Y0M7Q2KJ4T1R"}`), 0o600); err != nil {
		t.Fatal(err)
	}
	known, err := loadServers()
	if err != nil || known["http://a"] != "0123456789ABCDEF" || known["http://b"] != "5ZC8Y0M7Q2KJ4T1R" || len(known) != 2 {
		t.Errorf("servers are %v, %v", known, err)
	}
	a := app{servers: []string{"http://other:Hunter3@a"}}
	if _, log, err := a.cacheFile(t.Context()); err != nil || log != "0123456789ABCDEF" {
		t.Errorf("the log is %q, %v", log, err)
	}
	if err := learnServers("0123456789ABCDEF", "http://u:Hunter2@c"); err != nil {
		t.Fatal(err)
	}
	if b, err := os.ReadFile(path); err != nil || strings.Contains(string(b), "Hunter") || !strings.Contains(string(b), `"http://c"`) {
		t.Errorf("the file is %s, %v", b, err)
	}
	if err := learnServers("", "http://u:Hunter2@c"); err != nil {
		t.Fatal(err)
	}
	if known, err = loadServers(); err != nil || len(known) != 2 {
		t.Errorf("servers are %v, %v", known, err)
	}
}

// Of processes that learn servers at once, each one's is in the file.
func TestServersLearnedAtOnce(t *testing.T) {
	t.Setenv("XDG_DATA_HOME", t.TempDir())
	const log, n = "0123456789ABCDEF", 50
	if _, err := newDataFile(log); err != nil {
		t.Fatal(err)
	}
	var learning sync.WaitGroup
	for i := range n {
		learning.Go(func() {
			if err := learnServers(log, fmt.Sprintf("http://%d.example", i)); err != nil {
				t.Error(err)
			}
		})
	}
	learning.Wait()
	if known, err := loadServers(); err != nil || len(known) != n {
		t.Errorf("%d servers are known, want %d: %v", len(known), n, err)
	}
}
