package bench

import (
	"bytes"
	"context"
	"io"
	"net/http"
	"net/http/httptest"
	"os/exec"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"
)

func TestLineCounter(t *testing.T) {
	stream := "id: 1\ndata: {}\n\n: data:\ndata\ndat: x\n\ndata:data:\n"
	for cut := range len(stream) + 1 {
		c := lineCounter{prefix: "data:"}
		c.countSeen([]byte(stream[:cut]))
		c.countSeen([]byte(stream[cut:]))
		if c.n != 2 {
			t.Errorf("cut at %d: %d lines, want 2", cut, c.n)
		}
	}
}

func TestLoadAgainstNothing(t *testing.T) {
	srv := httptest.NewServer(Nothing())
	defer srv.Close()
	in := Input{User: "bench", Run: "x"}
	load := Load{Publishers: 4, Events: 3, Body: func(i int) (string, []byte) { return "/set", in.Line(i) }}
	r, err := load.Run(context.Background(), srv.URL, time.Hour, 10, 35)
	if err != nil || r.Events != 75 || len(r.Waits) != 25 || r.Wait(0.99) < r.Wait(0.5) {
		t.Errorf("Run: %d events, %d waits, %v", r.Events, len(r.Waits), err)
	}
	_, size, err := Replay(context.Background(), srv.URL+"/?events=2500", 2500)
	if err != nil || size < 2500*200 {
		t.Errorf("Replay: %d bytes, %v", size, err)
	}
	if _, _, err := Replay(context.Background(), srv.URL+"/?events=5", 6); err == nil {
		t.Error("Replay of a stream that ends too early: no error")
	}
}

// appending returns a load that Nothing broadcasts.
func appending(in Input) Load {
	return Load{Publishers: 4, Body: func(i int) (string, []byte) { return "/set/x/" + in.Draft(i).Path, in.Body(i) }}
}

func TestFanOutFromTheBroadcaster(t *testing.T) {
	srv := httptest.NewServer(Nothing())
	defer srv.Close()
	r, err := FanOut(t.Context(), srv.URL+"/broadcast", "/events", 70, appending(Input{User: "bench"}), time.Hour, 300)
	if err != nil || r.Events != 70*300 || len(r.Waits) != r.Events || r.Waits[0] <= 0 || r.Elapsed < r.Waits[0] {
		t.Errorf("FanOut: %d events, %d waits in %s, %v", r.Events, len(r.Waits), r.Elapsed, err)
	}
}

// A server that duplicates, invents or truncates an event fails the benchmark.
func TestFanOutRefusesWrongStreams(t *testing.T) {
	for _, c := range []struct {
		name, want string
		send       func(n int, frame string) string // what is sent for event n
	}{
		{"right", "", func(_ int, frame string) string { return frame }},
		{"twice", "twice", func(n int, frame string) string { return strings.Repeat(frame, 1+n/9) }},
		{"made up", "that was not posted", func(n int, frame string) string {
			return strings.Repeat("data: {\"n\":11}\n\n", n/9) + frame
		}},
		{"cut", "EOF", func(n int, frame string) string {
			if n == 9 {
				return ""
			}
			return frame
		}},
	} {
		t.Run(c.name, func(t *testing.T) {
			srv := httptest.NewServer(distort(c.send))
			defer srv.Close()
			load := appending(Input{User: "bench"})
			load.Publishers = 1
			_, err := FanOut(t.Context(), srv.URL, "/events", 2, load, time.Hour, 10)
			if c.want == "" && err != nil || c.want != "" && (err == nil || !strings.Contains(err.Error(), c.want)) {
				t.Errorf("FanOut: %v, want %q", err, c.want)
			}
		})
	}
}

// distort returns a server that sends posted events through send. An empty frame ends a
// stream.
func distort(send func(n int, frame string) string) http.Handler {
	var mu sync.Mutex
	var streams []chan string
	n := 0
	mux := http.NewServeMux()
	mux.HandleFunc("POST /", func(w http.ResponseWriter, r *http.Request) {
		body, _ := io.ReadAll(r.Body)
		mu.Lock()
		defer mu.Unlock()
		for _, s := range streams {
			s <- send(n, "data: "+string(body)+"\n\n")
		}
		n++
	})
	mux.HandleFunc("GET /events", func(w http.ResponseWriter, r *http.Request) {
		frames := make(chan string, 100)
		mu.Lock()
		streams = append(streams, frames)
		mu.Unlock()
		for frame := liveLine + "\n\n"; frame != ""; {
			_, _ = io.WriteString(w, frame)
			_ = http.NewResponseController(w).Flush()
			select {
			case frame = <-frames:
			case <-r.Context().Done():
				return
			}
		}
	})
	return mux
}

// The error for a missing event names the subscriber that lacks it.
func TestCrowdMissesAnEvent(t *testing.T) {
	srv := httptest.NewServer(Nothing())
	defer srv.Close()
	c, err := Gather(t.Context(), srv.URL+"/broadcast/events", 3, 10)
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	load := appending(Input{User: "bench"})
	if _, err := load.Run(t.Context(), srv.URL+"/broadcast", time.Hour, 0, 9); err != nil {
		t.Fatal(err)
	}
	if _, err := c.waitReceived(t.Context(), 9); err != nil {
		t.Errorf("wait for events that came: %v", err)
	}
	c.silence = time.Nanosecond
	if _, err := c.waitReceived(t.Context(), 10); err == nil || !strings.Contains(err.Error(), "received 9 of 10 events") {
		t.Errorf("wait for what does not come: %v", err)
	}
}

// Gather fails if a subscriber cannot connect.
func TestGatherFails(t *testing.T) {
	var few atomic.Int32
	srv := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
		if few.Add(1) > 3 {
			http.Error(w, "full", http.StatusServiceUnavailable)
			return
		}
		_, _ = io.WriteString(w, liveLine+"\n\n")
		w.(http.Flusher).Flush()
	}))
	defer srv.Close()
	if _, err := Gather(t.Context(), srv.URL, 5, 0); err == nil {
		t.Error("Gather where three are taken: no error")
	}
}

// A reader that never reads and a slow one report what they read.
func TestLag(t *testing.T) {
	srv := httptest.NewServer(Nothing())
	defer srv.Close()
	never, err := Lag(t.Context(), srv.URL+"/broadcast/events", 0)
	if err != nil {
		t.Fatal(err)
	}
	slow, err := Lag(t.Context(), srv.URL+"/broadcast/events", time.Nanosecond)
	if err != nil {
		t.Fatal(err)
	}
	load := appending(Input{User: "bench"})
	if _, err := load.Run(t.Context(), srv.URL+"/broadcast", time.Hour, 0, 100); err != nil {
		t.Fatal(err)
	}
	if n := never.Close(); n != 0 {
		t.Errorf("who never reads has read %d bytes", n)
	}
	if n := slow.Close(); n < 0 || n > 100*1000 {
		t.Errorf("who is slow has read %d bytes", n)
	}
}

// The frames of the limits are as long as those of a log.
func TestLimitsAreAsLong(t *testing.T) {
	in := Input{User: "bench-0123456789", Run: "0123456789"}
	want := len(in.Events(1)[0].Line())
	srv := httptest.NewServer(Nothing())
	defer srv.Close()
	for _, path := range []string{"/", "/broadcast/posts/0"} {
		resp, err := http.Post(srv.URL+path, "application/json", bytes.NewReader(in.Body(0)))
		if err != nil {
			t.Fatal(err)
		}
		b, err := io.ReadAll(resp.Body)
		resp.Body.Close()
		if n := len(b); err != nil || n < want*8/10 || n > want*13/10 {
			t.Errorf("POST %s is answered with %d bytes, %v, want about %d", path, n, err, want)
		}
	}
}

func BenchmarkCount(b *testing.B) {
	frames := streamOf(1000)
	b.SetBytes(int64(len(frames)))
	b.ReportAllocs()
	for b.Loop() {
		c := lineCounter{prefix: "data:"}
		if c.countSeen(frames); c.n != 1000 {
			b.Fatal(c.n)
		}
	}
	b.ReportMetric(float64(b.Elapsed().Nanoseconds())/float64(b.N*1000), "ns/event")
}

// BenchmarkTake measures the cost of an event for a subscriber.
func BenchmarkTake(b *testing.B) {
	frames := streamOf(1000)
	c := &Crowd{began: make([]atomic.Int64, 1000)}
	s := &subscriber{crowd: c, seen: make([]uint64, 16)}
	b.ReportAllocs()
	for b.Loop() {
		clear(s.seen)
		s.waits = s.waits[:0]
		if _, err := s.takeLines(frames); err != nil {
			b.Fatal(err)
		}
	}
	b.ReportMetric(float64(b.Elapsed().Nanoseconds())/float64(b.N*1000), "ns/event")
}

func TestShellWords(t *testing.T) {
	args := []string{"/home/Jane Doe/it's/rstream", "bench", "$worker"}
	out, err := exec.Command("sh", "-c", "printf '%s\\n' "+shellWords(args)).Output()
	if err != nil || string(out) != strings.Join(args, "\n")+"\n" {
		t.Errorf("%q, %v", out, err)
	}
}
