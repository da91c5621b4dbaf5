//go:build unix

package main

import (
	"bytes"
	"context"
	"fmt"
	"math/rand/v2"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/rstream-dev/rstream/cache"
	"github.com/rstream-dev/rstream/event"
	"github.com/rstream-dev/rstream/internal/longtest"
	"github.com/rstream-dev/rstream/internal/server"
	"github.com/rstream-dev/rstream/internal/testfile"
)

// spots is how many places of a file are damaged, one at a time.
func spots() int {
	if longtest.Enabled() {
		return 100
	}
	return 6
}

// Wherever a copy is damaged, a command either works or exits with status 1, one line
// that names the file, and a hint. Events that verify finds equal are equal to the
// server's.
func TestDamageAnywhere(t *testing.T) {
	dir := t.TempDir()
	for _, name := range []string{"HOME", "XDG_DATA_HOME", "XDG_CONFIG_HOME"} {
		t.Setenv(name, dir)
	}
	url := serveEvents(t, filepath.Join(dir, "log.db"), 600)
	copied, damaged := filepath.Join(dir, "copy.db"), filepath.Join(dir, "damaged.db")
	if r := runCommand(t, "sync", "alice", "bob", "--cache", copied, "-s", url); r.status != exitDone {
		t.Fatalf("sync: %+v", r)
	}
	truth := runCommand(t, "log", "alice", "bob", "--cache", copied).out
	file, err := os.ReadFile(copied)
	if err != nil {
		t.Fatal(err)
	}
	seed := rand.Uint64()
	rng := rand.New(rand.NewPCG(seed, 0))
	for i := range spots() {
		at, n := rng.IntN(len(file)), 1+rng.IntN(64)
		bad := bytes.Clone(file)
		for i := at; i < min(at+n, len(bad)); i++ {
			bad[i] = byte(rng.Uint32())
		}
		try := func(args ...string) ran {
			t.Helper()
			for _, beside := range []string{"-wal", "-shm"} {
				_ = os.Remove(damaged + beside) // usually there is none
			}
			if err := os.WriteFile(damaged, bad, 0o600); err != nil {
				t.Fatal(err)
			}
			r := runCommand(t, append(args, "--cache", damaged, "-s", url)...)
			if !r.right() {
				t.Errorf("seed %d: %d bytes at %d of %d: %s: %+v", seed, n, at, len(bad), strings.Join(args, " "), r)
			}
			return r
		}
		try([][]string{{"status"}, {"windows"}, {"sync", "alice"}, {"tail", "bob", "--until-live"}}[i%4]...)
		if try("verify").status == exitDone {
			if log := try("log", "alice", "bob"); !partOf(log.out, truth) {
				t.Errorf("seed %d: %d bytes at %d of %d: verify found nothing, log prints\n%s", seed, n, at, len(bad), log.out)
			}
		}
	}
}

// newLog is the template of a new log.
var newLog = testfile.New(func(path string) (log string, err error) {
	db, err := cache.Open(context.Background(), path, cache.Config{Role: cache.Server})
	if err != nil {
		return "", err
	}
	return db.Log(), db.Close()
})

// openNewLog opens a log that does not exist yet.
func openNewLog(t *testing.T, path string) *cache.DB {
	t.Helper()
	if err := newLog.WriteNew(path, ""); err != nil {
		t.Fatal(err)
	}
	db, err := cache.Open(t.Context(), path, cache.Config{Role: cache.Server})
	if err != nil {
		t.Fatal(err)
	}
	return db
}

// serveEvents serves n events of two users.
func serveEvents(t *testing.T, path string, n int) (url string) {
	t.Helper()
	db := openNewLog(t, path)
	var drafts []event.Draft
	for i := range n {
		drafts = append(drafts, event.Draft{User: []string{"alice", "bob"}[i%2], Path: fmt.Sprint("x/", i%7), Type: event.Put,
			Key: fmt.Sprint(i), Value: fmt.Appendf(nil, `{"n":%d}`, i)})
	}
	if _, err := db.Append(t.Context(), drafts); err != nil {
		t.Fatal(err)
	}
	srv := server.New(db, server.Config{})
	http := httptest.NewServer(srv)
	t.Cleanup(func() {
		srv.Stop()
		http.CloseClientConnections()
		http.Close()
		if err := db.Close(); err != nil {
			t.Error(err)
		}
	})
	return http.URL
}

// A ran is the result of a command.
type ran struct {
	status   int
	out, err string
}

func runCommand(t *testing.T, args ...string) ran {
	t.Helper()
	var files [2]*os.File
	for i := range files {
		f, err := os.CreateTemp(t.TempDir(), "said")
		if err != nil {
			t.Fatal(err)
		}
		defer f.Close()
		files[i] = f
	}
	r := ran{status: run(args, strings.NewReader(""), files[0], files[1])}
	for i, text := range []*string{&r.out, &r.err} {
		b, err := os.ReadFile(files[i].Name())
		if err != nil {
			t.Fatal(err)
		}
		*text = string(b)
	}
	return r
}

// right reports whether a command either worked or said what is wrong and what to do.
func (r ran) right() bool {
	if r.status == exitDone || r.status == exitGap {
		return true
	}
	return r.status == exitFailed && strings.Count(r.err, "rstream: error: ") == 1 && strings.Contains(r.err, "rstream: hint: ") &&
		strings.Count(r.err, "\n") == 1+strings.Count(r.err, "rstream: hint: ")
}

// partOf reports whether lines is a subsequence of all.
func partOf(lines, all string) bool {
	for line := range strings.Lines(lines) {
		_, rest, found := strings.Cut(all, line)
		if !found {
			return false
		}
		all = rest
	}
	return true
}
