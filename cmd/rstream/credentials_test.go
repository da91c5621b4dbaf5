//go:build unix

package main

import (
	"context"
	"fmt"
	"io/fs"
	"net/http"
	"net/http/httptest"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"

	"github.com/spf13/cobra"

	"github.com/rstream-dev/rstream/event"
	"github.com/rstream-dev/rstream/internal/longtest"
	"github.com/rstream-dev/rstream/internal/server"
	"github.com/rstream-dev/rstream/internal/wire"
)

// asking are the commands that make requests to --server, with arguments that make them do
// so. The commands share one copy and run in this order.
var asking = []struct {
	name string
	args string
}{
	{"put", "alice/a 1"},
	{"put", "--from events.jsonl"},
	{"put", "alice/q 1 --queue"},
	{"sync", "alice"},
	{"sync", "--at now bob"},
	{"tail", "alice --until-live"},
	{"tail", "bob --count 1"},
	{"state", "alice"},
	{"get", "bob/b --at now"},
	{"del", "alice/q"},
	{"ls", ""},
	{"status", ""},
	{"top", "--once"},
	{"verify", ""},
	{"import", "moved.rstream --server URL --cache imported.db"},
	{"doctor", "--for 1s"},
	{"bench append", "--for 20ms --events 20 --server URL"},
	{"bench put", "--for 20ms --events 20 --server URL"},
	{"bench sync", "--events 20 --server URL"},
	{"bench forget", "--events 20 --server URL"},
	{"bench replay", "--events 20 --server URL"},
	{"bench fanout", "--for 20ms --events 20 --server URL"},
	{"source try", "URL/events?topic=bob --count 1 --kind sse --token-file SECRETS/token --header @SECRETS/headers"},
}

// notAsking are the commands that make no request to --server.
var notAsking = strings.Fields(`log outbox outbox-drop outbox-retry windows cursor cursor-list cursor-set cursor-rm dead dead-list dead-retry dead-drop forget
	serve cluster cluster-status cluster-adopt key key-new key-list key-public token token-show backup compact export salvage
	config config-show config-check config-path server server-list server-add server-rm source source-list source-add source-reset source-rm demo man version
	bench bench-topics bench-readers bench-idle bench-state bench-open bench-disk bench-reconcile bench-match bench-consume bench-worker bench-compare bench-limit bench-server
	completion completion-bash completion-zsh completion-fish completion-powershell help`)

// A doorkeeper lets through only requests that have all credentials.
type doorkeeper struct {
	next http.Handler

	mu      sync.Mutex
	passed  int
	refused []string
	crowded func() // if set, called with each request after the first hundred
}

const (
	doorToken  = "a-token-that-nobody-else-has"
	doorHeader = "a-header-that-nobody-else-has"
)

func (d *doorkeeper) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	ok := r.Header.Get("Authorization") == "Bearer "+doorToken && r.Header.Get("X-Door") == doorHeader
	d.mu.Lock()
	if d.passed++; !ok {
		d.refused = append(d.refused, r.Method+" "+r.RequestURI)
	}
	if d.passed > 100 && d.crowded != nil {
		d.crowded()
	}
	d.mu.Unlock()
	if !ok {
		wire.Errorf(http.StatusUnauthorized, "no").Write(w)
		return
	}
	d.next.ServeHTTP(w, r)
}

func (d *doorkeeper) callWhenCrowded(crowded func()) {
	d.mu.Lock()
	defer d.mu.Unlock()
	d.crowded = crowded
}

// takeCounts returns what was counted since the last call.
func (d *doorkeeper) takeCounts() (passed int, refused []string) {
	d.mu.Lock()
	defer d.mu.Unlock()
	passed, refused = d.passed, d.refused
	d.passed, d.refused = 0, nil
	return passed, refused
}

// commandNames returns the commands below cmd that do something.
func commandNames(cmd *cobra.Command) (names []string) {
	for _, c := range cmd.Commands() {
		names = append(names, strings.TrimPrefix(c.CommandPath(), "rstream "))
		names = append(names, commandNames(c)...)
	}
	return names
}

// TestEveryCommandSendsCredentials: each command that asks a server sends the token and the
// headers with each request, and shows and stores neither. A new command must be in one of
// the tables.
func TestEveryCommandSendsCredentials(t *testing.T) {
	dir := t.TempDir()
	t.Chdir(dir)
	for _, name := range []string{"HOME", "XDG_DATA_HOME", "XDG_CONFIG_HOME", "XDG_CONFIG_DIRS"} {
		t.Setenv(name, dir)
	}
	known := slices.Clone(notAsking)
	for _, c := range asking {
		known = append(known, strings.ReplaceAll(c.name, " ", "-"))
	}
	root := newRootCommand(&app{out: &output{}})
	for _, name := range commandNames(root) {
		if !slices.Contains(known, strings.ReplaceAll(name, " ", "-")) {
			t.Errorf("%q is in no table: does it make requests to --server?", name)
		}
	}

	db := openNewLog(t, filepath.Join(dir, "log.db"))
	drafts := []event.Draft{{User: "bob", Path: "b", Type: event.Put, Key: "k", Value: []byte("1")}}
	if _, err := db.Append(t.Context(), drafts); err != nil {
		t.Fatal(err)
	}
	srv := server.New(db, server.Config{})
	door := &doorkeeper{next: srv}
	listen := httptest.NewServer(door)
	t.Cleanup(func() {
		srv.Stop()
		listen.CloseClientConnections()
		listen.Close()
		if err := db.Close(); err != nil {
			t.Error(err)
		}
	})
	secrets := t.TempDir()
	write := func(path, text string) {
		if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	write(filepath.Join(secrets, "token"), doorToken+"\n")
	write(filepath.Join(secrets, "headers"), "X-Door: "+doorHeader+"\n")
	write("events.jsonl", `{"user":"alice","path":"x","value":1}`+"\n"+`{"user":"alice","path":"x","value":2}`+"\n")
	t.Setenv("RSTREAM_SERVER", listen.URL)
	t.Setenv("RSTREAM_CACHE", filepath.Join(dir, "copy.db"))
	t.Setenv("RSTREAM_TOKEN_FILE", filepath.Join(secrets, "token"))
	t.Setenv("RSTREAM_HEADER", "@"+filepath.Join(secrets, "headers"))
	var said strings.Builder
	do := func(args ...string) ran {
		r := ran{}
		if args[0] == "bench" { // it runs itself, which must not be the tests
			ctx, cancel := context.WithCancel(t.Context())
			defer cancel()
			if !longtest.Enabled() {
				door.callWhenCrowded(cancel) // a thousand readers say no more
			}
			cmd := exec.CommandContext(ctx, "rstream", args...)
			cmd.Cancel = func() error { return cmd.Process.Signal(os.Interrupt) } // it removes its files
			out, err := cmd.CombinedOutput()
			if r.err = string(out); cmd.ProcessState == nil {
				t.Fatal(err)
			}
			r.status = cmd.ProcessState.ExitCode()
		} else {
			r = runCommand(t, args...)
		}
		said.WriteString(r.out + r.err)
		return r
	}
	for _, c := range asking {
		if c.name == "import" {
			if r := do("export", "alice", "--to", "moved.rstream"); r.status != exitDone {
				t.Fatalf("export: %+v", r)
			}
		}
		args := append(strings.Fields(c.name), strings.Fields(strings.NewReplacer("URL", listen.URL, "SECRETS", secrets).Replace(c.args))...)
		r := do(args...)
		passed, refused := door.takeCounts()
		if passed == 0 || len(refused) > 0 {
			t.Errorf("rstream %s: %d requests, without credentials %q; status %d: %s", strings.Join(args, " "), passed, refused, r.status, r.err)
		}
		if r.status == exitNotAllowed || r.status == exitUsage || r.status == exitUnreachable {
			t.Errorf("rstream %s: status %d: %s", strings.Join(args, " "), r.status, r.err)
		}
	}
	do("config", "show")
	write("config.yaml", "header: 'X-Door: "+doorHeader+"'\nservers:\n  - name: here\n    url: "+listen.URL+"\n    header: ['X-Door: "+doorHeader+"', 'X-Other: 1']\n")
	for _, name := range []string{"RSTREAM_HEADER", "RSTREAM_CACHE", "RSTREAM_SERVER"} {
		t.Setenv(name, "")
	}
	do("config", "show", "--config", "config.yaml")
	do("server", "list", "--config", "config.yaml")
	if r := do("ls", "--config", "config.yaml", "-s", "here"); r.status != exitDone {
		t.Errorf("with headers in the config: %+v", r)
	}
	if _, refused := door.takeCounts(); len(refused) > 0 {
		t.Errorf("with headers in the config: %q", refused)
	}
	if err := os.Remove("config.yaml"); err != nil {
		t.Fatal(err)
	}
	findSecrets(t, dir, said.String())
}

// findSecrets reports credentials in the files below dir, and in what was printed.
func findSecrets(t *testing.T, dir, said string) {
	hasSecret := func(text string) bool { return strings.Contains(text, doorToken) || strings.Contains(text, doorHeader) }
	if len(said) < 1000 || hasSecret(said) {
		t.Errorf("a command printed a credential, or %d bytes are too few", len(said))
	}
	err := filepath.WalkDir(dir, func(path string, d fs.DirEntry, err error) error {
		if err != nil || !d.Type().IsRegular() {
			return err
		}
		b, err := os.ReadFile(path)
		if hasSecret(string(b)) {
			t.Errorf("%s has a credential", path)
		}
		return err
	})
	if err != nil {
		t.Error(err)
	}
}

// A source belongs to somebody else: it gets the credentials of the command line and its own
// of the config file, and none that are for servers.
func TestSourceGetsNoServerCredentials(t *testing.T) {
	dir := t.TempDir()
	t.Chdir(dir)
	for _, name := range []string{"HOME", "XDG_DATA_HOME", "XDG_CONFIG_HOME", "XDG_CONFIG_DIRS"} {
		t.Setenv(name, dir)
	}
	var mu sync.Mutex
	var got []string // what the requests brought
	srv := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		mu.Lock()
		got = append(got, r.Header.Get("Authorization")+"|"+r.Header.Get("X-Door"))
		mu.Unlock()
		w.Header().Set("Content-Type", "text/event-stream")
		fmt.Fprint(w, "id: 1\ndata: {}\n\n")
		w.(http.Flusher).Flush()
		<-r.Context().Done()
	}))
	t.Cleanup(srv.Close)
	for name, text := range map[string]string{
		"token": "environment\n", "own": "own\n",
		"config.yaml": "token-file: token\nheader: 'X-Door: config'\nsources:\n  - name: foreign\n    url: " + srv.URL + "\n    kind: sse\n    token-file: own\n",
	} {
		if err := os.WriteFile(name, []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	for _, test := range []struct{ env, args, want string }{
		{"RSTREAM_TOKEN=environment", "source try URL --count 1 --kind sse", "|"},
		{"RSTREAM_TOKEN=environment", "source try URL --count 1 --kind sse --config config.yaml", "|"},
		{"RSTREAM_TOKEN_FILE=token", "source try URL --count 1 --kind sse", "|"},
		{"RSTREAM_HEADER=X-Door: environment", "source try URL --count 1 --kind sse --token-file own", "Bearer own|"},
		{"RSTREAM_TOKEN=environment", "sync URL --idle 1ms", "|"},
		{"RSTREAM_TOKEN=environment", "doctor URL --for 1s", "|"},
		{"RSTREAM_TOKEN=environment", "doctor URL --for 1s -s URL", "Bearer environment|"},
		{"RSTREAM_TOKEN=environment", "sync -s foreign --idle 1ms --config config.yaml", "Bearer own|"},
		{"RSTREAM_TOKEN=environment", "sync -s foreign --idle 1ms --config config.yaml --header X-Door:line", "Bearer own|line"},
	} {
		name, value, _ := strings.Cut(test.env, "=")
		t.Run(test.args, func(t *testing.T) {
			t.Setenv(name, value)
			mu.Lock()
			got = nil
			mu.Unlock()
			r := runCommand(t, strings.Fields(strings.ReplaceAll(test.args, "URL", srv.URL))...)
			mu.Lock()
			defer mu.Unlock()
			if len(got) == 0 || slices.ContainsFunc(got, func(s string) bool { return s != test.want }) {
				t.Errorf("%s: the requests brought %q, not %q: %+v", test.env, got, test.want, r)
			}
		})
	}
}
