//go:build unix

package main

import (
	"bufio"
	"fmt"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"

	"github.com/rstream-dev/rstream/event"
	"github.com/rstream-dev/rstream/internal/longtest"
)

// runIn runs a program in a folder to its end, and returns what it says on standard error.
func runIn(t *testing.T, dir, program string, args ...string) (stderr string, err error) {
	t.Helper()
	cmd := exec.Command(program, args...)
	var b strings.Builder
	cmd.Dir, cmd.Stderr = dir, &b
	cmd.Env = append(os.Environ(), "HOME="+dir, "XDG_CONFIG_HOME=", "XDG_DATA_HOME=", "RSTREAM_SERVER=", "RSTREAM_TOKEN=")
	err = cmd.Run()
	return b.String(), err
}

// metric returns the value of a metric of a server.
func metric(t *testing.T, url, name string) float64 {
	t.Helper()
	resp, err := http.Get(url + "/metrics")
	if err != nil {
		t.Fatal(err)
	}
	defer resp.Body.Close()
	for lines := bufio.NewScanner(resp.Body); lines.Scan(); {
		if v, ok := strings.CutPrefix(lines.Text(), name+" "); ok {
			n, err := strconv.ParseFloat(v, 64)
			if err != nil {
				t.Fatal(err)
			}
			return n
		}
	}
	t.Fatalf("%s has no metric %s", url, name)
	return 0
}

// postNumbers appends events in batches.
func postNumbers(t *testing.T, url string, from, to, batch int) {
	t.Helper()
	var body strings.Builder
	for n := from; n < to; n++ {
		fmt.Fprintf(&body, `{"user":"u%d","path":"posts/%d","key":"k%d","value":{"n":%d,"text":"one two three four five","tags":["a","b"],"ratio":0.%d}}`+"\n", n%50, n%1000, n, n, n)
		if (n+1)%batch == 0 || n+1 == to {
			mustPost(t, url+"/set", body.String())
			body.Reset()
		}
	}
}

// A joined is a node that has joined a cluster.
type joined struct {
	*serverProcess
	took            time.Duration // from the start of the process until it was ready
	messages, bytes float64       // received from NATS
	events          float64       // received from the stream
}

// join starts a node, whose file may exist in dir, and waits until it is ready.
func join(t *testing.T, program, nats, dir, name string) (j joined) {
	t.Helper()
	j.serverProcess = &serverProcess{t: t, program: program, dir: dir, args: []string{"serve", "--db", name + ".db", "--url-file", "url", "--nats", nats, "--stream", "log", "--node", name}}
	began := time.Now()
	j.start("127.0.0.1:0")
	t.Cleanup(j.kill)
	awaitReadinessFor(t, j.url, patience*time.Duration(longtest.Scale(1, 2, 10)))
	j.took = time.Since(began)
	j.messages, j.bytes = metric(t, j.url, "rstream_cluster_received_messages_total"), metric(t, j.url, "rstream_cluster_received_bytes_total")
	j.events = metric(t, j.url, "rstream_mirror_events_total")
	return j
}

// A node with a seed reads only what came after it from the stream, however long the log is. One
// without a seed reads everything. Both have the same then.
func TestNodeJoins(t *testing.T) {
	t.Parallel()
	program := programLink(t)
	server := startNATS(t)
	a := startProcess(t, program, "a", "--nats", server, "--stream", "log", "--init", "--replicas", "1", "--node", "a")
	awaitReadiness(t, a.url)
	events := longtest.Scale(10_000, 100_000, 1_000_000)
	rest, batch := events/100, max(events/1000, 100)
	postNumbers(t, a.url, 0, events, batch)

	dir := t.TempDir()
	began := time.Now()
	if text, err := runIn(t, dir, program, "backup", "--seed", "seeded.db", "--db", filepath.Join(a.dir, "a.db")); err != nil {
		t.Fatalf("backup --seed: %v: %s", err, text)
	}
	info, err := os.Stat(filepath.Join(dir, "seeded.db"))
	if err != nil {
		t.Fatal(err)
	}
	t.Logf("a seed of %d events: %d bytes, %s", events, info.Size(), time.Since(began).Round(time.Millisecond))
	postNumbers(t, a.url, events, events+rest, batch)

	seeded := join(t, program, server, dir, "seeded")
	fresh := join(t, program, server, t.TempDir(), "fresh")
	for _, j := range []joined{seeded, fresh} {
		t.Logf("%-32s ready after %6s; %8.0f events in %5.0f messages, %9.0f bytes from NATS", j.args[2], j.took.Round(time.Millisecond), j.events, j.messages, j.bytes)
	}
	if int(seeded.events) != rest || int(fresh.events) != events+rest {
		t.Errorf("a node with a seed has received %.0f events, want %d; one without %.0f, want %d", seeded.events, rest, fresh.events, events+rest)
	}
	// With few events, much of it is what a node asks to find its place.
	if most := fresh.bytes / float64(longtest.Scale(3, 10, 50)); seeded.bytes > most {
		t.Errorf("a node with a seed has received %.0f bytes from NATS, want at most %.0f", seeded.bytes, most)
	}
	query := "/windows?topic=*&since=0&until=" + event.ID(events+rest).String() + "&sum=1"
	want := getText(t, a.url+query)
	if !strings.Contains(want, fmt.Sprintf(`"count":%d,`, events+rest)) {
		t.Errorf("%d events: %s", events+rest, want)
	}
	for _, j := range []joined{seeded, fresh} {
		if got := getText(t, j.url+query); got != want {
			t.Errorf("the digests differ: %s, not %s", got, want)
		}
	}
}

// A node that cannot have the first events of the log is refused, and told what to do.
func TestNodeLacksBegin(t *testing.T) {
	t.Parallel()
	program := programLink(t)
	server := startNATS(t)
	a := startProcess(t, program, "a", "--nats", server, "--stream", "log", "--init", "--replicas", "1", "--node", "a")
	awaitReadiness(t, a.url)
	postNumbers(t, a.url, 0, 10, 10)
	a.kill()
	conn, err := nats.Connect(server)
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	js, err := jetstream.New(conn)
	if err != nil {
		t.Fatal(err)
	}
	stream, err := js.Stream(t.Context(), "log")
	if err != nil {
		t.Fatal(err)
	}
	cfg := stream.CachedInfo().Config
	if err := js.DeleteStream(t.Context(), "log"); err != nil {
		t.Fatal(err)
	}
	cfg.FirstSeq = 9
	if _, err := js.CreateStream(t.Context(), cfg); err != nil {
		t.Fatal(err)
	}
	refused := func(what string, want ...string) {
		t.Helper()
		dir := t.TempDir()
		text, err := runIn(t, dir, program, "serve", "--listen", "127.0.0.1:0", "--db", "b.db", "--nats", server, "--stream", "log")
		if err == nil {
			t.Errorf("%s was taken", what)
		}
		for _, part := range want {
			if !strings.Contains(text, part) {
				t.Errorf("%s: %s\nwant %s", what, text, part)
			}
		}
		if exists(filepath.Join(dir, "b.db")) {
			t.Errorf("%s: there is a file", what)
		}
	}
	refused("a purged stream", "was purged: it begins at message 9", `hint: "rstream cluster adopt" continues the log in a new stream, with the file of a node`)

	if err := js.DeleteStream(t.Context(), "log"); err != nil {
		t.Fatal(err)
	}
	dir := t.TempDir()
	if text, err := runIn(t, dir, program, "cluster", "adopt", "c.db", "--db", filepath.Join(a.dir, "a.db"), "--nats", server, "--stream", "log", "--replicas", "1"); err != nil {
		t.Fatalf("cluster adopt: %v: %s", err, text)
	}
	refused("a stream that begins in the middle of the log", "begins after 000000000000A, so each node needs a file that has all events up to there", `hint: start this node with the file of another one: "rstream backup --seed" writes a copy`)
	c := join(t, program, server, dir, "c")
	if got := c.events; got != 0 {
		t.Errorf("the node of the new log has received %.0f events", got)
	}
}
