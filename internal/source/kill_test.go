package source

import (
	"bytes"
	"context"
	"fmt"
	"math/rand/v2"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"sync"
	"testing"

	"github.com/rstream-dev/rstream/cache"
	"github.com/rstream-dev/rstream/internal/longtest"
)

// The environment that makes the test a follower to be killed.
const (
	killFile = "RSTREAM_TEST_FOLLOW_FILE"
	killURL  = "RSTREAM_TEST_FOLLOW_URL"
)

// TestKilledFollower is the process that TestKills kills.
func TestKilledFollower(t *testing.T) {
	path := os.Getenv(killFile)
	if path == "" {
		return
	}
	db, err := cache.Open(context.Background(), path, cache.Config{Role: cache.Server})
	if err != nil {
		t.Fatal(err)
	}
	defer db.Close()
	if _, err := Follow(t.Context(), followConfig(t, os.Getenv(killURL), "sse", db)); err != nil {
		t.Fatal(err)
	}
}

// A follower that is killed again and again while events arrive, and a source that breaks
// its connections, end with each event once.
func TestKills(t *testing.T) {
	seed := rand.Uint64()
	t.Logf("seed %d", seed)
	kills, events := 6, 3000
	if longtest.Enabled() {
		kills, events = 60, 60_000
	}
	k := &killer{rng: rand.New(rand.NewPCG(seed, 0)), kills: kills, events: events}
	address := serveFunc(t, k.ServeHTTP)
	path := filepath.Join(t.TempDir(), "source.db")
	killed := 0
	for ended := false; !ended; {
		child := exec.Command(os.Args[0], "-test.run=^TestKilledFollower$")
		child.Env = append(os.Environ(), killFile+"="+path, killURL+"="+address)
		var out bytes.Buffer
		child.Stdout, child.Stderr = &out, &out
		k.start(t, child)
		err := child.Wait()
		switch {
		case err == nil:
			ended = true
		case child.ProcessState.ExitCode() == -1:
			killed++
		default:
			t.Fatalf("%v\n%s", err, &out)
		}
	}
	got, gaps := eventsOf(t, openLog(t, path))
	if !slices.Equal(got, numbers(events)) || killed == 0 {
		t.Errorf("%d events after %d kills: %s", len(got), killed, firstDifference(got, numbers(events)))
	}
	for _, gap := range gaps { // before the first event is durable
		if gap != "the server's events have no cursor" {
			t.Errorf("gap %s", gap)
		}
	}
}

// A killer serves events, and kills the process that reads them at some of them or breaks
// its connection.
type killer struct {
	mu     sync.Mutex
	rng    *rand.Rand
	kills  int // that are left
	events int
	child  *exec.Cmd
}

func (k *killer) start(t *testing.T, child *exec.Cmd) {
	k.mu.Lock()
	defer k.mu.Unlock()
	if err := child.Start(); err != nil {
		t.Fatal(err)
	}
	k.child = child
}

func (k *killer) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	k.mu.Lock()
	defer k.mu.Unlock()
	after, _ := strconv.Atoi(r.Header.Get("Last-Event-ID"))
	stop := after + 1 + k.rng.IntN(k.events/2)
	for i := after + 1; i <= k.events; i++ {
		fmt.Fprintf(w, "id: %d\ndata: %d\n\n", i, i)
		if i%50 == 0 {
			http.NewResponseController(w).Flush()
		}
		if i == stop && k.kills > 0 {
			k.kills--
			if k.kills%3 > 0 {
				_ = k.child.Process.Kill() // it may have ended
			}
			panic(http.ErrAbortHandler)
		}
	}
	fmt.Fprint(w, endBlock)
}
