package main

import (
	"os"
	"path/filepath"
	"testing"

	"github.com/rstream-dev/rstream/cache"
	"github.com/rstream-dev/rstream/event"
)

// The search for copies of other logs meets the copy that was just made. It stays open once.
func TestSuggestionClosesOwnCopy(t *testing.T) {
	path := filepath.Join(t.TempDir(), "copy.db")
	db, err := cache.Open(t.Context(), path, cache.Config{Role: cache.Client, Log: event.NewLogID([10]byte{1})})
	if err != nil {
		t.Fatal(err)
	}
	defer db.Close()
	open := func() (n int) {
		handles, err := filepath.Glob("/proc/self/fd/*")
		if err != nil {
			t.Fatal(err)
		}
		for _, handle := range handles {
			if file, err := os.Readlink(handle); err == nil && file == path {
				n++
			}
		}
		return n
	}
	before := open()
	s := &session{db: db}
	if n, err := s.countKnown(t.Context(), path); n != 0 || err != nil {
		t.Errorf("countKnown = %d, %v", n, err)
	}
	if after := open(); before == 0 || after != before {
		t.Errorf("the file is open %d times, and was %d times before", after, before)
	}
}
