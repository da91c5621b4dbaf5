package source

import (
	"net/http"
	"net/http/httptest"
	"slices"
	"strconv"
	"sync"
	"testing"
	"time"

	r3labs "github.com/r3labs/sse/v2"
	gosse "github.com/tmaxmax/go-sse"

	"github.com/rstream-dev/rstream/cache"
)

// A publisher is a server that somebody else has written.
type publisher struct {
	http.Handler
	publish func(kind, data string)
}

// newGoSSE returns a server of go-sse. It replays the last events after the one it is asked
// for, and nothing without an id.
func newGoSSE(t *testing.T) publisher {
	replayer, err := gosse.NewFiniteReplayer(1000, true)
	if err != nil {
		t.Fatal(err)
	}
	s := &gosse.Server{Provider: &gosse.Joe{Replayer: replayer}}
	return publisher{s, func(kind, data string) {
		m := &gosse.Message{}
		m.AppendData(data)
		if kind != "" {
			m.Type = gosse.Type(kind)
		}
		if err := s.Publish(m); err != nil {
			t.Error(err)
		}
	}}
}

// newR3labs returns a server of r3labs. It replays all events from the one that it is asked
// for, which comes again.
func newR3labs(*testing.T) publisher {
	s := r3labs.New()
	s.CreateStream("s")
	handler := http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		q := r.URL.Query()
		q.Set("stream", "s")
		r.URL.RawQuery = q.Encode()
		s.ServeHTTP(w, r)
	})
	return publisher{handler, func(kind, data string) { s.Publish("s", &r3labs.Event{Event: []byte(kind), Data: []byte(data)}) }}
}

// Servers that others have written, and that are restarted with no history: each event that
// they send is stored once, and a restart is a gap.
func TestRealServers(t *testing.T) {
	for _, tt := range []struct {
		name string
		make func(*testing.T) publisher
	}{{"go-sse", newGoSSE}, {"r3labs", newR3labs}} {
		t.Run(tt.name, func(t *testing.T) {
			var mu sync.Mutex
			server, requested := tt.make(t), make(chan struct{}, 1)
			srv := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
				mu.Lock()
				s, asked := server, requested
				mu.Unlock()
				select {
				case asked <- struct{}{}:
				default:
				}
				s.ServeHTTP(w, r)
			}))
			defer srv.Close()
			defer srv.CloseClientConnections()
			db := newLog(t)
			ended := make(chan error, 1)
			go func() {
				_, err := Follow(t.Context(), followConfig(t, srv.URL, "sse", db))
				ended <- err
			}()
			n := 0
			publish := func() {
				n++
				server.publish("", strconv.Itoa(n))
			}
			awaitStored := func() { // a server may send only what is new
				for head, tick := db.Head(), time.NewTicker(time.Millisecond); db.Head() == head; <-tick.C {
					publish()
				}
			}
			awaitStored()
			first := firstNumber(t, db)
			for range 100 {
				publish()
				if n%20 == 0 {
					srv.CloseClientConnections()
				}
			}
			awaitNumber(t, db, n)
			before := n
			mu.Lock()
			server, requested = tt.make(t), make(chan struct{}, 1)
			mu.Unlock()
			srv.CloseClientConnections()
			<-requested // or the new server might have as many events as the old one, and its ids
			awaitStored()
			server.publish("end", "x")
			if err := <-ended; err != nil {
				t.Fatal(err)
			}
			checkPublished(t, db, first, before, n)
		})
	}
}

// numbersOf returns the numbers in a log, and its gaps.
func numbersOf(t *testing.T, db *cache.DB) (list []int, gaps []string) {
	t.Helper()
	events, gaps := eventsOf(t, db)
	for _, value := range events {
		n, err := strconv.Atoi(value)
		if err != nil {
			t.Fatal(err)
		}
		list = append(list, n)
	}
	return list, gaps
}

func firstNumber(t *testing.T, db *cache.DB) int {
	for tick := time.NewTicker(time.Millisecond); ; <-tick.C {
		if list, _ := numbersOf(t, db); len(list) > 0 {
			return list[0]
		}
	}
}

func awaitNumber(t *testing.T, db *cache.DB, n int) {
	for tick := time.NewTicker(time.Millisecond); ; <-tick.C {
		if list, _ := numbersOf(t, db); slices.Contains(list, n) {
			return
		}
	}
}

// checkPublished checks that a log has the numbers from first to before, and those after it
// that the server has sent once it was restarted, each once. A server may send older ones,
// too: go-sse sends all that it has if it has nothing newer.
func checkPublished(t *testing.T, db *cache.DB, first, before, last int) {
	t.Helper()
	list, gaps := numbersOf(t, db)
	slices.Sort(list)
	for i := 1; i < len(list); i++ {
		if list[i] == list[i-1] || list[i-1] >= first && list[i] <= before && list[i] != list[i-1]+1 {
			t.Errorf("%d after %d", list[i], list[i-1])
		}
	}
	if list[0] > first || list[len(list)-1] > last || list[len(list)-1] <= before {
		t.Errorf("numbers from %d to %d, want %d to more than %d and at most %d", list[0], list[len(list)-1], first, before, last)
	}
	if !slices.ContainsFunc(gaps, func(gap string) bool { return gap != "the server's events have no cursor" }) {
		t.Error("the restart was no gap")
	}
	t.Logf("%d events, gaps %q", len(list), gaps)
}
