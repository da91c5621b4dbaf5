package source

import (
	"fmt"
	"math/rand/v2"
	"regexp"
	"slices"
	"strconv"
	"sync"
	"testing"
	"time"

	"github.com/rstream-dev/rstream/cache"
	"github.com/rstream-dev/rstream/internal/sourcetest"
)

// kindConfig returns how to follow a stream of sourcetest.
func kindConfig(t testing.TB, address, kind string, log Log) FollowConfig {
	t.Helper()
	if kind != "durable" {
		cfg := followConfig(t, address+sourcetest.Query(kind), kind, log)
		cfg.Knobs.EndClose = false // each batch would be the end
		return cfg
	}
	cfg := followConfig(t, address+sourcetest.Query(kind), "sse", log)
	cfg.Knobs.Cursor = Place{In: InEvent, Type: "control", Name: "streamNextOffset"}
	cfg.Knobs.ID = Place{In: Nowhere}
	cfg.Knobs.Resume = Resume{Query: "offset"}
	return cfg
}

var numberPattern = regexp.MustCompile(`"n":(\d+)|/x/(\d+)`)

// checkKind checks that a log has each event of a stream once. Only ntfy may send them in
// another order.
func checkKind(t *testing.T, db *cache.DB, kind string, n int) {
	t.Helper()
	events, gaps := eventsOf(t, db)
	var got []int
	for _, value := range events {
		m := numberPattern.FindStringSubmatch(value)
		if m == nil {
			t.Fatalf("event %s has no number", value)
		}
		number, _ := strconv.Atoi(m[1] + m[2])
		got = append(got, number)
	}
	if kind == "ntfy" || kind == "wikimedia" {
		slices.Sort(got)
	}
	var want []int
	for i := range n {
		if kind != "wikimedia" || !sourcetest.IsCanary(i+1) {
			want = append(want, i+1)
		}
	}
	// Without a place in a topic, its events may be lost, and it is said.
	if mayLose := slices.Contains(gaps, noPlace); mayLose && kind == "wikimedia" {
		want = slices.DeleteFunc(want, func(n int) bool { return sourcetest.WikimediaTopic(n) == 1 && !slices.Contains(got, n) })
	}
	if !slices.Equal(got, want) {
		t.Errorf("%d events, want %d: %v", len(got), len(want), differences(got, want))
	}
	for _, gap := range gaps { // before a first event with a cursor is durable
		if gap != "the server's events have no cursor" && (gap != noPlace || kind != "wikimedia") {
			t.Errorf("gap %q", gap)
		}
	}
	t.Logf("%s: %d of %d events, %d gaps", kind, len(got), len(want), len(gaps))
}

const noPlace = "the cursor has no place in a topic without events"

// differences returns the numbers that are missing or doubled.
func differences(got, want []int) (list []string) {
	times := map[int]int{}
	for _, n := range got {
		times[n]++
	}
	for _, n := range want {
		if times[n] != 1 {
			list = append(list, fmt.Sprintf("%d: %d times", n, times[n]))
		}
	}
	return list
}

// Through connections that end after 25 events or in the middle of one, while new events
// come, each event of each kind is stored once.
func TestKindsCut(t *testing.T) {
	seed := rand.Uint64()
	t.Logf("seed %d", seed)
	const n = 240
	for _, kind := range sourcetest.Kinds {
		for _, every := range []time.Duration{0, 100 * time.Microsecond} {
			t.Run(fmt.Sprint(kind, "/", every), func(t *testing.T) {
				s := &sourcetest.Stream{Kind: kind, N: n, Begun: time.Now(), Every: every, Cut: cutter(seed)}
				db := newLog(t)
				if _, err := Follow(t.Context(), kindConfig(t, serveFunc(t, s.ServeHTTP), kind, db)); err != nil {
					t.Fatal(err)
				}
				checkKind(t, db, kind, n)
			})
		}
	}
}

// cutter cuts each second connection in the middle of an event, but none before both topics
// of Wikimedia have a place.
func cutter(seed uint64) func() (int, bool) {
	rng := rand.New(rand.NewPCG(seed, 0))
	var mu sync.Mutex
	return func() (int, bool) {
		mu.Lock()
		defer mu.Unlock()
		if rng.IntN(2) == 0 {
			return 25, false
		}
		return 5 + rng.IntN(40), true
	}
}
