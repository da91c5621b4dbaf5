package dbfile

import (
	"errors"
	"os"
	"path/filepath"
	"testing"
	"testing/synctest"
	"time"
)

// A backup has no write-ahead log before its upgrade has ended. Other processes that open it wait,
// however long that takes.
func TestFindWALWaitsForUpgrade(t *testing.T) {
	path := filepath.Join(t.TempDir(), "log.db")
	synctest.Test(t, func(t *testing.T) {
		var err error
		server := &File{Path: path, absPath: path}
		if server.held, err = newHeld(path); err != nil {
			t.Fatal(err)
		}
		defer server.held.Close()
		if err := server.held.serve(); err != nil {
			t.Fatal(err)
		}
		unmark, err := server.markUpgrade()
		if err != nil {
			t.Fatal(err)
		}
		if _, err := server.markUpgrade(); !errors.Is(err, ErrLocked) {
			t.Errorf("a second upgrade: %v", err)
		}
		f := &File{Path: path, absPath: path}
		if f.held, err = newHeld(path); err != nil {
			t.Fatal(err)
		}
		defer f.held.Close()
		start := time.Now()
		f.progress = func(p Progress) {
			if !p.Waiting {
				t.Errorf("%+v", p)
			}
			if time.Since(start) > 5*findWALTime {
				if err := errors.Join(os.WriteFile(path+"-wal", nil, 0o600), unmark()); err != nil {
					t.Error(err)
				}
			}
		}
		if err := f.findWAL(t.Context()); err != nil {
			t.Errorf("after %s: %v", time.Since(start), err)
		}
		if err := os.Remove(path + "-wal"); err != nil {
			t.Fatal(err)
		}
		if err := f.findWAL(t.Context()); !errors.Is(err, ErrLinked) {
			t.Errorf("without an upgrade: %v", err)
		}
	})
}

// newHeld opens a file as another process does.
func newHeld(path string) (*heldFile, error) {
	f, err := os.OpenFile(path, os.O_RDWR|os.O_CREATE, 0o600)
	return &heldFile{File: f}, err
}
