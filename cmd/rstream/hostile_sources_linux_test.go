package main

import (
	"bytes"
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"os"
	"os/exec"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/rstream-dev/rstream/client"
	"github.com/rstream-dev/rstream/internal/longtest"
	"github.com/rstream-dev/rstream/internal/sourcetest"
)

// A hostileWorld is hostile servers as the named sources h0, h1 and so on of a folder.
type hostileWorld struct {
	*walker
	servers []sourcetest.Hostile

	mu   sync.Mutex
	seen []string // the secrets that another host got, one for each request
}

func newHostileWorld(t *testing.T) *hostileWorld {
	dir := t.TempDir()
	h := &hostileWorld{walker: &walker{t: t, dir: dir, env: []string{"HOME=" + dir, "XDG_DATA_HOME=" + dir, "XDG_CONFIG_HOME=" + dir, "RSTREAM_SERVER=", "RSTREAM_TOKEN="}}}
	other := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		h.mu.Lock()
		h.seen = append(h.seen, r.Header.Get("Authorization")+r.Header.Get("Referer"))
		h.mu.Unlock()
		w.Header().Set("Content-Type", "text/event-stream")
		io.WriteString(w, "id: 1\ndata: 1\n\n"+sourcetest.EndBlock)
	}))
	t.Cleanup(other.Close)
	h.servers = append(sourcetest.HostileStreams(),
		sourcetest.Hostile{Name: "10 GB of comments", Serve: func(w http.ResponseWriter, r *http.Request) {
			sourcetest.WriteEndless(w, "id: 1\ndata: 1\n\n"+sourcetest.EndBlock, ":\n")
		}, Events: 1},
		sourcetest.Hostile{Name: "a redirect to another host", Serve: func(w http.ResponseWriter, r *http.Request) {
			if r.Header.Get("Authorization") != "Bearer t0ken" {
				w.WriteHeader(http.StatusUnauthorized)
				return
			}
			http.Redirect(w, r, other.URL, http.StatusTemporaryRedirect)
		}, Events: 1})
	config := "sources:\n"
	for i, server := range h.servers {
		srv := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			w.Header().Set("Content-Type", "text/event-stream")
			server.Serve(w, r)
		}))
		t.Cleanup(func() {
			srv.CloseClientConnections()
			srv.Close()
		})
		config += fmt.Sprintf("- name: h%d\n  url: %s/?auth=s3cret\n  end: event:end\n  token-file: token\n", i, srv.URL)
	}
	h.write("rstream.yaml", config)
	h.write("token", "t0ken\n")
	return h
}

// maxHostile is how much memory a program may use: it needs a third of it without a source.
const maxHostile = 256 << 20

// peakPattern matches the most memory that a running process has used.
var peakPattern = regexp.MustCompile(`VmHWM:\s+(\d+) kB`)

// watchMemory watches a running program. check, which is called when it has ended, says if it used
// too much memory. What the system reports of an ended program would include the memory of this
// test, which started it.
func watchMemory(cmd *exec.Cmd) (check func(t *testing.T)) {
	peak, ended, watched := 0, make(chan struct{}), make(chan struct{})
	look := func() {
		status, _ := os.ReadFile(fmt.Sprintf("/proc/%d/status", cmd.Process.Pid))
		if m := peakPattern.FindSubmatch(status); m != nil {
			kB, _ := strconv.Atoi(string(m[1]))
			peak = max(peak, kB<<10)
		}
	}
	look()
	go func() {
		defer close(watched)
		again := time.NewTicker(5 * time.Millisecond)
		defer again.Stop()
		for {
			select {
			case <-again.C:
				look()
			case <-ended:
				return
			}
		}
	}()
	return func(t *testing.T) {
		t.Helper()
		close(ended)
		<-watched
		if peak == 0 || peak > maxHostile {
			t.Errorf("%s has used %d bytes of memory", cmd.Args[1], peak)
		}
	}
}

// tail, sync and a relay of hostile servers end with an error or go on, in bounded memory, and
// print events only. No other host gets a secret, and one source stops no other one.
func TestHostileSources(t *testing.T) {
	t.Parallel()
	h := newHostileWorld(t)
	commands := []string{"tail --until-live"}
	if longtest.Enabled() {
		commands = append(commands, "sync --print -q")
	}
	for i, server := range h.servers {
		for _, command := range commands {
			t.Run(server.Name+"/"+command[:4], func(t *testing.T) { h.follow(t, i, command) })
		}
	}
	t.Run("relay", h.relay)
	h.mu.Lock()
	defer h.mu.Unlock()
	if len(h.seen) < 2 || strings.Join(h.seen, "") != "" {
		t.Errorf("another host got %q", h.seen)
	}
}

// follow runs a command on a source.
func (h *hostileWorld) follow(t *testing.T, i int, command string) {
	server := h.servers[i]
	args := strings.Fields(fmt.Sprintf("%s -s h%d --cache %s%d.db -o json --config rstream.yaml", command, i, command[:4], i))
	cmd := h.command(args...)
	var out, errs bytes.Buffer
	cmd.Stdout, cmd.Stderr = &out, &errs
	err := cmd.Start()
	if err != nil {
		t.Fatal(err)
	}
	checkMemory := watchMemory(cmd)
	err = cmd.Wait()
	if failed := err != nil; failed != (server.Err != "") || !strings.Contains(errs.String(), server.Err) || strings.Contains(errs.String(), "s3cret") {
		t.Errorf("%v, %s", err, &errs)
	}
	if n := strings.Count(out.String(), "\n"); n != server.Events {
		t.Errorf("%d lines, want %d: %s", n, server.Events, &out)
	}
	for line := range strings.Lines(out.String()) {
		if !json.Valid([]byte(line)) || strings.ContainsAny(strings.TrimSpace(line), "\x00\x01\x1b\x7f") {
			t.Errorf("line %q", line)
		}
	}
	checkMemory(t)
}

// relay serves a relay of all sources.
func (h *hostileWorld) relay(t *testing.T) {
	var names []string
	for i := range h.servers {
		names = append(names, fmt.Sprint("h", i))
	}
	cmd := h.command("serve", "--listen", "127.0.0.1:0", "--db", "relay.db", "--config", "rstream.yaml", "--source", strings.Join(names, ","))
	said := &lockedBuffer{}
	cmd.Stderr = said
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	checkMemory := watchMemory(cmd)
	said.waitFor(t, " on http://", " from relay.db")
	_, address, _ := strings.Cut(said.String(), " on ")
	address, _, _ = strings.Cut(address, " ")
	c, err := client.New(nil, client.Config{Servers: []string{address}})
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	asExpected := func(s *client.Source, server *sourcetest.Hostile) bool {
		return s.Events >= int64(server.Events) && strings.Contains(s.Trouble, server.Err) && !strings.Contains(s.Trouble+s.URL, "s3cret")
	}
	late := time.After(patience)
	for tick := time.NewTicker(50 * time.Millisecond); ; {
		sources, err := c.Sources(t.Context())
		if err != nil {
			t.Fatal(err)
		}
		i := slices.IndexFunc(sources, func(s client.Source) bool {
			return !asExpected(&s, &h.servers[slices.Index(names, s.Name)])
		})
		if i < 0 && len(sources) == len(names) {
			break
		}
		select {
		case <-tick.C:
			continue
		case <-late:
			t.Errorf("source %+v", sources[i])
		}
		break
	}
	_ = cmd.Process.Signal(syscall.SIGTERM)
	if err := cmd.Wait(); err != nil {
		t.Errorf("%v: %s", err, said)
	}
	if strings.Contains(said.String(), "s3cret") {
		t.Errorf("the log has a secret: %s", said)
	}
	checkMemory(t)
}
