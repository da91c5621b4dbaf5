//go:build unix

package main

import (
	"bytes"
	"context"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"testing"

	"github.com/rstream-dev/rstream/cache"
	"github.com/rstream-dev/rstream/internal/server"
	"github.com/rstream-dev/rstream/internal/wire"
)

// A trial is one cell of the table.
type trial struct {
	t   *testing.T
	f   failure
	c   claimant
	dir string
	db  *cache.DB
	srv *server.Server

	good, bad *httptest.Server // two ways to the same log

	mu      sync.Mutex
	appends int           // received by bad
	reached chan struct{} // the failing append has arrived
	release chan struct{} // closed when the command has ended
}

func newTrial(t *testing.T, f failure, c claimant) *trial {
	tr := &trial{t: t, f: f, c: c, dir: t.TempDir(), reached: make(chan struct{}), release: make(chan struct{})}
	tr.db = openNewLog(t, filepath.Join(tr.dir, "log.db"))
	tr.srv = server.New(tr.db, server.Config{})
	tr.good, tr.bad = httptest.NewServer(tr.srv), httptest.NewUnstartedServer(http.HandlerFunc(tr.serve))
	tr.bad.Start() // serve closes its listener
	t.Cleanup(func() {
		tr.srv.Stop()
		for _, s := range []*httptest.Server{tr.good, tr.bad} {
			s.CloseClientConnections()
			s.Close()
		}
		if err := tr.db.Close(); err != nil {
			t.Error(err)
		}
	})
	if c.input != nil {
		var b bytes.Buffer
		for n := 1; n <= f.claimLines(); n++ {
			fmt.Fprintln(&b, c.input(n))
		}
		tr.write(tr.inputFile(), b.Bytes())
	}
	return tr
}

func (tr *trial) inputFile() string { return filepath.Join(tr.dir, "in 100%") }

func (tr *trial) write(path string, b []byte) {
	tr.t.Helper()
	if err := os.WriteFile(path, b, 0o600); err != nil {
		tr.t.Fatal(err)
	}
}

// serve handles requests to bad, where the failure happens.
func (tr *trial) serve(w http.ResponseWriter, r *http.Request) {
	if r.Method != http.MethodPost || r.URL.Path != "/set" {
		tr.srv.ServeHTTP(w, r)
		return
	}
	tr.mu.Lock()
	tr.appends++
	fails := tr.appends == tr.f.at
	tr.mu.Unlock()
	if !fails {
		tr.srv.ServeHTTP(w, r)
		return
	}
	if tr.f.gone {
		tr.bad.Listener.Close()
	}
	if tr.f.there {
		tr.srv.ServeHTTP(httptest.NewRecorder(), r)
	} else if _, err := io.Copy(io.Discard, r.Body); err != nil {
		tr.t.Error(err)
	}
	close(tr.reached)
	if tr.f.held {
		<-tr.release
	}
	if tr.f.status == 0 {
		panic(http.ErrAbortHandler)
	}
	if tr.f.log {
		w.Header().Set(wire.HeaderLog, tr.db.Log())
	}
	if tr.f.gone {
		w.Header().Set("Connection", "close")
	}
	wire.Errorf(tr.f.status, "no").Write(w)
}

// A noticing is a buffer that signals when a text appears.
type noticing struct {
	mu   sync.Mutex
	b    bytes.Buffer
	text string
	seen chan struct{}
	once sync.Once
}

func (n *noticing) Write(p []byte) (int, error) {
	n.mu.Lock()
	defer n.mu.Unlock()
	n.b.Write(p)
	if strings.Contains(n.b.String(), n.text) {
		n.once.Do(func() { close(n.seen) })
	}
	return len(p), nil
}

// command returns a program that uses the server at url.
func (tr *trial) command(ctx context.Context, url string, args ...string) *exec.Cmd {
	cmd := exec.CommandContext(ctx, args[0], args[1:]...)
	cmd.Dir = tr.dir
	cmd.Env = append(os.Environ(), "RSTREAM_SERVER="+url, "HOME="+tr.dir, "XDG_DATA_HOME="+tr.dir, "XDG_CONFIG_HOME="+tr.dir)
	if tr.c.copy {
		cmd.Env = append(cmd.Env, "RSTREAM_CACHE="+filepath.Join(tr.dir, "copy.db"))
	}
	return cmd
}

// must runs a program that must succeed against the good server.
func (tr *trial) must(in []byte, args ...string) string {
	tr.t.Helper()
	cmd := tr.command(tr.t.Context(), tr.good.URL, args...)
	cmd.Stdin = bytes.NewReader(in)
	out, err := cmd.CombinedOutput()
	if err != nil {
		tr.t.Fatalf("%q: %v: %s", args, err, out)
	}
	return string(out)
}

func (tr *trial) run() {
	if tr.c.copy {
		tr.must(nil, "rstream", "sync", "-q")
	}
	if tr.f.gone && tr.f.at == 0 {
		tr.bad.Listener.Close()
	}
	status, said := tr.fail()
	tr.t.Logf("status %d: %s", status, said)
	tr.check(status, said)
	tr.follow(status, said)
}

// fail runs the command with the failure.
func (tr *trial) fail() (status int, said string) {
	ctx, cancel := context.WithTimeout(tr.t.Context(), patience)
	defer cancel()
	cmd := tr.command(ctx, tr.bad.URL, append([]string{"rstream"}, tr.c.args...)...)
	if tr.f.timeout != "" {
		cmd.Env = append(cmd.Env, "RSTREAM_TIMEOUT="+tr.f.timeout)
	}
	stderr := &noticing{text: "trying again", seen: make(chan struct{})}
	cmd.Stderr = stderr
	if tr.c.pipe {
		f, err := os.Open(tr.inputFile())
		if err != nil {
			tr.t.Fatal(err)
		}
		defer f.Close()
		cmd.Stdin = io.MultiReader(f) // not a file, which could be read twice
	}
	if out := outputOf(tr.t, tr.f.stdout); out != nil {
		cmd.Stdout = out
		defer out.Close()
	}
	if err := cmd.Start(); err != nil {
		tr.t.Fatal(err)
	}
	ended := make(chan struct{})
	var signals sync.WaitGroup
	signals.Go(func() { tr.interrupt(cmd, stderr.seen, ended) })
	err := cmd.Wait()
	close(ended)
	close(tr.release)
	signals.Wait()
	if ctx.Err() != nil {
		tr.t.Fatalf("it has not ended after %s: %s", patience, stderr.b.String())
	}
	if err != nil && cmd.ProcessState == nil {
		tr.t.Fatal(err)
	}
	return cmd.ProcessState.ExitCode(), stderr.b.String()
}

// interrupt sends the signal once the failure has happened.
func (tr *trial) interrupt(cmd *exec.Cmd, retried, ended chan struct{}) {
	if tr.f.signal == 0 {
		return
	}
	happened := retried
	if tr.f.held {
		happened = tr.reached
	}
	select {
	case <-happened:
		_ = cmd.Process.Signal(tr.f.signal) // it may have ended
	case <-ended: // nothing to signal
	}
}

// outputOf returns a standard output that is full or closed, nil for none.
func outputOf(t *testing.T, kind string) *os.File {
	t.Helper()
	var f *os.File
	var err error
	switch kind {
	case "full":
		f, err = os.OpenFile("/dev/full", os.O_WRONLY, 0)
	case "closed":
		var r *os.File
		if r, f, err = os.Pipe(); err == nil {
			err = r.Close()
		}
	}
	if err != nil {
		t.Fatal(err)
	}
	return f
}
