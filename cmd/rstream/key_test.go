package main

import (
	"os"
	"path/filepath"
	"sync"
	"testing"

	"github.com/rstream-dev/rstream/internal/auth"
)

// Of keys that are added to a file at once, each one is in the file.
func TestKeysAddedAtOnce(t *testing.T) {
	const n = 8
	path := filepath.Join(t.TempDir(), "keys.json")
	null, err := os.OpenFile(os.DevNull, os.O_WRONLY, 0)
	if err != nil {
		t.Fatal(err)
	}
	defer null.Close()
	var adding sync.WaitGroup
	for range n {
		a := &app{out: newOutput(t.Context(), null)}
		adding.Go(func() {
			if err := runKeyNew(a, path, auth.EdDSA); err != nil {
				t.Error(err)
			}
		})
	}
	adding.Wait()
	if keys, err := readKeys(path); err != nil || len(keys) != n {
		t.Errorf("%d keys were added, want %d: %v", len(keys), n, err)
	}
}
