package source

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"math/rand/v2"
	"net"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/rstream-dev/rstream/cache"
	"github.com/rstream-dev/rstream/event"
	"github.com/rstream-dev/rstream/internal/longtest"
	"github.com/rstream-dev/rstream/internal/server"
)

// The environment that makes a test a process to be killed: a relay, or an rstream server
// whose listener is the first inherited file.
const (
	relayFile    = "RSTREAM_TEST_RELAY_FILE"
	relaySources = "RSTREAM_TEST_RELAY_SOURCES" // KIND=URL, separated by spaces
	relayEvents  = "RSTREAM_TEST_RELAY_EVENTS"
	upstreamFile = "RSTREAM_TEST_UPSTREAM_FILE"
)

// promised are the kinds of which each event must be stored once, and the users of their
// events in this test.
var promised = []string{"sse", "wikimedia", "mercure", "ntfy", "pubky", "rstream"}

// TestKilledRelay is the relay that TestRelayKills kills. It ends once it has as many events
// as the promised kinds have.
func TestKilledRelay(t *testing.T) {
	path := os.Getenv(relayFile)
	if path == "" {
		return
	}
	db, err := cache.Open(context.Background(), path, cache.Config{Role: cache.Server})
	if err != nil {
		t.Fatal(err)
	}
	defer db.Close()
	want, _ := strconv.Atoi(os.Getenv(relayEvents))
	ctx, done := context.WithCancel(t.Context())
	defer done()
	count := func(evs []event.Event) (n int) {
		for i := range evs {
			if evs[i].User != "none" && evs[i].User != Gaps {
				n++
			}
		}
		return n
	}
	var have atomic.Int64
	have.Store(int64(count(allEvents(t, db))))
	db.OnCommit(func(evs []event.Event, _ event.ID) {
		if have.Add(int64(count(evs))) >= int64(want) {
			done()
		}
	})
	if have.Load() >= int64(want) {
		return
	}
	var following sync.WaitGroup
	for _, text := range strings.Fields(os.Getenv(relaySources)) {
		kind, address, _ := strings.Cut(text, "=")
		cfg := followConfig(t, address, strings.Replace(kind, "none", "sse", 1), db)
		cfg.Knobs.End, cfg.Name = Place{}, kind
		if kind == "none" {
			cfg.Knobs.Cursor, cfg.Knobs.ID = Place{In: Nowhere}, Place{In: Nowhere}
		}
		m, err := NewMapper(kind, mappingOf(kind))
		if err != nil {
			t.Fatal(err)
		}
		cfg.Mapper, cfg.RetryMin, cfg.RetryMax = m, time.Millisecond, 10*time.Millisecond
		following.Go(func() { Relay(ctx, cfg) })
	}
	following.Wait()
}

func mappingOf(kind string) Mapping {
	k, err := KindNamed(kind)
	if err != nil {
		return Mapping{}
	}
	return k.Mapping
}

// TestKilledUpstream is the rstream server that TestRelayKills kills.
func TestKilledUpstream(t *testing.T) {
	path := os.Getenv(upstreamFile)
	if path == "" {
		return
	}
	l, err := net.FileListener(os.NewFile(3, "listener"))
	if err != nil {
		t.Fatal(err)
	}
	db, err := cache.Open(context.Background(), path, cache.Config{Role: cache.Server})
	if err != nil {
		t.Fatal(err)
	}
	_ = http.Serve(l, server.New(db, server.Config{Retry: time.Millisecond})) // until it is killed
}

// A havoc serves the events of all kinds of servers but rstream's, and kills the relay and
// the rstream server while it does.
type havoc struct {
	n int // events of each kind

	mu        sync.Mutex
	rng       *rand.Rand
	kills     int            // that are left
	countdown int            // events until the next one
	next      int            // of the kind without ids
	relay     *exec.Cmd      // running
	upstream  *exec.Cmd      // running
	killed    map[string]int // how often each was
}

// served is called before each event. It reports whether the connection is to be torn.
func (h *havoc) served() (torn bool) {
	h.mu.Lock()
	defer h.mu.Unlock()
	h.countdown--
	if h.countdown <= 0 && h.kills > 0 {
		h.kills--
		h.countdown = 1 + h.rng.IntN(max(h.n/10, 100))
		victim, name := h.relay, "relay" // at least once
		if h.killed[name] > 0 && h.rng.IntN(3) == 0 {
			victim, name = h.upstream, "server"
		}
		if victim.Process.Kill() == nil { // it may have ended
			h.killed[name]++
		}
	}
	return h.rng.IntN(60) == 0
}

// start starts a process that may be killed, in place of one that has ended.
func (h *havoc) start(t *testing.T, at **exec.Cmd, child *exec.Cmd) {
	h.mu.Lock()
	defer h.mu.Unlock()
	if err := child.Start(); err != nil {
		t.Fatal(err)
	}
	*at = child
}

// clean is how many events a connection brings before its server ends it in the usual way.
const clean = 25

// send writes the events after some number, at most as many as a connection may bring.
func (h *havoc) send(w http.ResponseWriter, after int, block func(i int) string) {
	for i := after + 1; i <= min(after+clean, h.n); i++ {
		text := block(i)
		if h.served() {
			_, _ = w.Write([]byte(text[:len(text)/2]))
			_ = http.NewResponseController(w).Flush()
			panic(http.ErrAbortHandler)
		}
		_, _ = w.Write([]byte(text))
	}
}

// afterNumber returns the number in a cursor.
func afterNumber(text, prefix string) int {
	n, _ := strconv.Atoi(strings.TrimPrefix(text, prefix))
	return n
}

func (h *havoc) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	w.Header().Set("Content-Type", "text/event-stream")
	last, query := r.Header.Get("Last-Event-ID"), r.URL.Query()
	switch r.URL.Path {
	case "/sse":
		h.send(w, afterNumber(last, ""), func(i int) string { return fmt.Sprintf("id: %d\ndata: %d\n\n", i, i) })
	case "/none": // what is not received is lost
		h.mu.Lock()
		from := h.next
		h.next = min(h.next+clean, h.n)
		h.mu.Unlock()
		if from == 2*clean { // one connection at least is torn, with events lost
			_, _ = fmt.Fprintf(w, "data: %d\n\n", from+1)
			_ = http.NewResponseController(w).Flush()
			panic(http.ErrAbortHandler)
		}
		h.send(w, from, func(i int) string { return fmt.Sprintf("data: %d\n\n", i) })
	case "/wikimedia": // two events have the same time; it goes on a millisecond later than asked
		from := 0
		var places []struct{ Timestamp int }
		if json.Unmarshal([]byte(last), &places) == nil && len(places) == 1 {
			from = (places[0].Timestamp + 1 - 1000) * 2
		}
		h.send(w, max(0, from-1), func(i int) string {
			return fmt.Sprintf("event: message\nid: [{\"topic\":\"x\",\"partition\":0,\"timestamp\":%d}]\ndata: {\"meta\":{\"id\":\"u%d\",\"domain\":\"wikimedia\",\"stream\":\"x\"},\"n\":%d}\n\n", 1000+i/2, i, i)
		})
	case "/mercure":
		w.Header().Set("Mercure-Last-Event-ID", last)
		h.send(w, afterNumber(strings.Replace(last, "earliest", "urn:0", 1), "urn:"), func(i int) string { return fmt.Sprintf("id: urn:%d\ndata: %d\n\n", i, i) })
	case "/ntfy":
		if query.Get("poll") != "1" {
			return // there is nothing new
		}
		h.send(w, afterNumber(query.Get("since"), "m"), func(i int) string {
			return fmt.Sprintf("data: {\"id\":\"m%d\",\"event\":\"message\",\"topic\":\"t\",\"n\":%d}\n\n", i, i)
		})
	case "/pubky":
		_, cursor, _ := strings.Cut(query.Get("user"), ":")
		h.send(w, afterNumber(cursor, ""), func(i int) string {
			return fmt.Sprintf("event: PUT\ndata: pubky://pubky/pub/%d\ndata: cursor: %d\n\n", i, i)
		})
	}
}

// numberOf returns the number in the value of an event of a kind.
func numberOf(kind string, value []byte) string {
	switch kind {
	case "wikimedia", "ntfy":
		return jsonMember(value, "n")
	case "pubky":
		_, rest, _ := strings.Cut(string(value), "/pub/")
		n, _, _ := strings.Cut(rest, `\n`)
		return n
	}
	return string(value)
}

// A relay of servers of all kinds that is killed again and again, as is the rstream server
// among them, while connections are torn and end after 25 events, has each event once, in
// order, of all kinds that promise that. Of the others there are gaps.
func TestRelayKills(t *testing.T) {
	seed := rand.Uint64()
	t.Logf("seed %d", seed)
	h := &havoc{n: 200, kills: 4, rng: rand.New(rand.NewPCG(seed, 0)), killed: map[string]int{}}
	if longtest.Enabled() {
		h.n, h.kills = 4000, 100
	}
	h.countdown = h.n / 2
	path, upstreamPath := filepath.Join(t.TempDir(), "relay.db"), filepath.Join(t.TempDir(), "upstream.db")
	foreign := serveFunc(t, h.ServeHTTP)
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	file, err := l.(*net.TCPListener).File()
	if err != nil {
		t.Fatal(err)
	}
	defer file.Close()
	address := "http://" + l.Addr().String()
	stopped := make(chan struct{})
	var running sync.WaitGroup
	h.startUpstream(t, upstreamPath, file)
	running.Go(func() { h.keepUpstream(t, upstreamPath, file, stopped) })
	running.Go(func() { h.putAll(t, address) })
	sources := []string{"rstream=" + address, "none=" + foreign + "/none"}
	for _, kind := range promised[:len(promised)-1] {
		sources = append(sources, kind+"="+foreign+"/"+kind+map[string]string{"pubky": "?user=pubky"}[kind])
	}
	for ended := false; !ended; {
		child := exec.Command(os.Args[0], "-test.run=^TestKilledRelay$")
		child.Env = append(os.Environ(), relayFile+"="+path, relaySources+"="+strings.Join(sources, " "), relayEvents+"="+strconv.Itoa(len(promised)*h.n))
		var out bytes.Buffer
		child.Stdout, child.Stderr = &out, &out
		h.start(t, &h.relay, child)
		err := child.Wait()
		if ended = err == nil; !ended && child.ProcessState.ExitCode() != -1 {
			t.Fatalf("%v\n%s", err, &out)
		}
	}
	close(stopped)
	h.mu.Lock()
	_ = h.upstream.Process.Kill() // it may have been killed
	h.mu.Unlock()
	running.Wait()
	if h.killed["relay"] == 0 {
		t.Errorf("killed %v", h.killed)
	}
	checkKinds(t, openLog(t, path), h)
}

func (h *havoc) startUpstream(t *testing.T, path string, listener *os.File) {
	child := exec.Command(os.Args[0], "-test.run=^TestKilledUpstream$")
	child.Env = append(os.Environ(), upstreamFile+"="+path)
	child.ExtraFiles = []*os.File{listener}
	h.start(t, &h.upstream, child)
}

// keepUpstream starts the rstream server again whenever it was killed.
func (h *havoc) keepUpstream(t *testing.T, path string, listener *os.File, stopped <-chan struct{}) {
	for {
		h.mu.Lock()
		child := h.upstream
		h.mu.Unlock()
		_ = child.Wait() // it was killed
		select {
		case <-stopped:
			return
		default:
			h.startUpstream(t, path, listener)
		}
	}
}

// putAll appends the events of the rstream server, some at a time, whatever happens to it.
func (h *havoc) putAll(t *testing.T, address string) {
	for i := 1; i <= h.n; i += 10 {
		var body strings.Builder
		for n := i; n < min(i+10, h.n+1); n++ {
			fmt.Fprintf(&body, `{"user":"rstream","path":"x","key":"%d","value":%d}`+"\n", n, n)
		}
		for {
			resp, err := http.Post(address+"/set", "application/x-ndjson", strings.NewReader(body.String()))
			if err == nil {
				err = errors.Join(err, resp.Body.Close())
			}
			if err == nil && resp.StatusCode < 300 {
				break
			}
			if err == nil && resp.StatusCode < 500 {
				t.Errorf("append: %s", resp.Status)
				return
			}
		}
	}
}

// checkKinds checks what the relay has of each kind.
func checkKinds(t *testing.T, db *cache.DB, h *havoc) {
	t.Helper()
	got, gaps := map[string][]string{}, map[string][]string{}
	evs := allEvents(t, db)
	ids := make([]event.ID, len(evs))
	for i := range evs {
		ids[i] = evs[i].ID
	}
	origins, err := db.Origins(t.Context(), ids)
	if err != nil {
		t.Fatal(err)
	}
	for i, ev := range evs {
		if ev.User == Gaps {
			gaps[ev.Path] = append(gaps[ev.Path], jsonMember(ev.Value, "gap"))
			continue
		}
		kind := origins[i].Source
		got[kind] = append(got[kind], numberOf(kind, ev.Value))
	}
	for _, kind := range promised {
		t.Logf("%-9s %d events, %d gaps", kind, len(got[kind]), len(gaps[kind]))
		if !slices.Equal(got[kind], numbers(h.n)) {
			t.Errorf("%s: %d events: %s", kind, len(got[kind]), firstDifference(got[kind], numbers(h.n)))
		}
		for _, gap := range gaps[kind] { // only before the first event is durable
			if gap != "the server's events have no cursor" {
				t.Errorf("%s: gap %s", kind, gap)
			}
		}
	}
	t.Logf("%-9s %d events, %d gaps; killed %v", "none", len(got["none"]), len(gaps["none"]), h.killed)
	if len(gaps["none"]) == 0 {
		t.Error("no gap of a server without ids")
	}
}
