package server

import (
	"bufio"
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"runtime"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/rstream-dev/rstream/event"
	"github.com/rstream-dev/rstream/internal/wire"
)

// bubble runs a test in synctest's time against a server of log.
func bubble(t *testing.T, cfg Config, test func(t *testing.T, s *served, log *memLog)) {
	t.Helper()
	synctest.Test(t, func(t *testing.T) {
		log := newLog()
		s, stop := serve(t, log, cfg)
		defer stop()
		test(t, s, log)
	})
}

// end reads a stream's clean end.
func (fs *frames) end(t *testing.T) {
	t.Helper()
	if f, err := fs.next(); err != io.EOF {
		t.Fatalf("next frame is %q, %v, want the end", f, err)
	}
}

func TestStreamBeats(t *testing.T) {
	bubble(t, Config{}, func(t *testing.T, s *served, log *memLog) {
		log.put(t, "a", "p", 2)
		fs, body := s.stream("/events?topic=a")
		defer body.Close()
		fs.want(t, "PUT", 1)
		fs.want(t, "PUT", 2)
		fs.want(t, "live", 2)
		start := time.Now()
		fs.want(t, "", 2)
		if d := time.Since(start); d != 15*time.Second {
			t.Errorf("the first heartbeat came after %s", d)
		}
		log.put(t, "b", "p", 5) // not asked for, but the cursor moves on
		fs.want(t, "", 7)
		log.put(t, "a", "p", 1)
		fs.want(t, "PUT", 8)
		if d := time.Since(start); d != 30*time.Second {
			t.Errorf("the event came after %s", d)
		}
		fs.want(t, "", 8)
		if d := time.Since(start); d != 45*time.Second {
			t.Errorf("the next heartbeat came after %s", d)
		}
	})
}

// A stream also sends heartbeats while many events happen that it leaves out.
func TestStreamBeatsWhileLeavingOut(t *testing.T) {
	bubble(t, Config{Heartbeat: 10 * time.Millisecond}, func(t *testing.T, s *served, log *memLog) {
		log.put(t, "a", "p", 1)
		fs, body := s.stream("/events?topic=a&except=a/x")
		defer body.Close()
		fs.want(t, "PUT", 1)
		fs.want(t, "live", 1)
		start := time.Now()
		for i := range 60 {
			time.AfterFunc(time.Duration(i)*500*time.Microsecond+time.Microsecond, func() { log.put(t, "a", "x", 1) })
		}
		for i, at := range []event.ID{21, 41} {
			fs.want(t, "", at)
			if d := time.Since(start).Truncate(time.Millisecond); d != time.Duration(i+1)*10*time.Millisecond {
				t.Errorf("a heartbeat came after %s", d)
			}
		}
	})
}

// While a stream searches history, it sends heartbeats with its position, even if the log is far
// ahead and each read takes longer than the time to the next heartbeat.
func TestStreamBeatsWhileReading(t *testing.T) {
	for _, until := range []string{"", "&until=0000000000010"} {
		bubble(t, Config{Heartbeat: 3 * time.Second}, func(t *testing.T, s *served, log *memLog) {
			log.put(t, "b", "p", 31)
			log.put(t, "a", "p", 1)
			log.look, log.pause = 10, 4*time.Second
			log.put(t, "b", "p", 10)
			fs, body := s.stream("/events?topic=a" + until)
			defer body.Close()
			fs.want(t, "", 10)
			fs.want(t, "", 20)
			fs.want(t, "", 30)
			fs.want(t, "PUT", 32)
			if until != "" {
				fs.want(t, "live", 32)
				fs.end(t)
			}
		})
	}
}

// The position of a heartbeat must not be after an event that waits to be sent.
func TestStreamNeverAhead(t *testing.T) {
	bubble(t, Config{Queue: 1, Heartbeat: time.Second}, func(t *testing.T, s *served, log *memLog) {
		fs, body := s.stream("/events?topic=a")
		defer body.Close()
		fs.want(t, "live", 0)
		log.put(t, "b", "p", 3)
		for range 3 {
			time.Sleep(10 * time.Second) // not a byte is taken meanwhile
			synctest.Wait()
			log.put(t, "a", "p", 40)
		}
		given := event.Beginning
		for n := 0; n < 120; {
			f, err := fs.next()
			if err != nil {
				t.Fatal(err)
			}
			at := f.position(t)
			switch {
			case f.event == "PUT" && at > given:
				n++
			case f.event == "PUT", at < given, at > given && len(log.filter(topicsOf(t, "a"), given, at)) > 0:
				t.Fatalf("frame %q after %s", f, given)
			}
			given = at
		}
		if given != log.Head() {
			t.Errorf("120 events end at %s, not %s", given, log.Head())
		}
	})
}

func TestStreamUntil(t *testing.T) {
	bubble(t, Config{}, func(t *testing.T, s *served, log *memLog) {
		log.put(t, "a", "p", 2)
		log.put(t, "b", "p", 2)
		for _, until := range []string{"0000000000003", "0000000000003." + logName[:5]} {
			fs, _ := s.stream("/events?topic=a&until=" + until)
			fs.want(t, "PUT", 1)
			fs.want(t, "PUT", 2)
			fs.want(t, "live", 3)
			fs.end(t)
			// From within it goes on; at its end, and beyond, there is nothing to come back for.
			fs, _ = s.stream("/events?topic=a&until="+until, wire.HeaderLastEventID, "0000000000001.K7Q2M")
			fs.want(t, "PUT", 2)
			fs.want(t, "live", 3)
			fs.end(t)
			for _, last := range []string{"0000000000003", "0000000000004.K7Q2M"} {
				resp := s.get("/events?topic=a&until="+until, "Accept", wire.SSE, wire.HeaderLastEventID, last)
				if resp.StatusCode != http.StatusNoContent {
					t.Errorf("after %s: %s %s", last, resp.Status, body(t, resp))
				}
			}
		}
		// Without a cursor, an empty range is reported as one.
		fs, _ := s.stream("/events?topic=a&since=0000000000003&until=0000000000003")
		fs.want(t, "live", 3)
		fs.end(t)
	})
}

func TestStreamResumes(t *testing.T) {
	bubble(t, Config{}, func(t *testing.T, s *served, log *memLog) {
		log.put(t, "a", "p", 5)
		for _, query := range []string{"", "&since=beginning", "&since=now", "&last=5", "&since=0000000000001.ZZZZZ"} {
			for _, suffix := range []string{"", ".K7Q2M"} {
				fs, body := s.stream("/events?topic=a"+query, wire.HeaderLastEventID, "0000000000003"+suffix)
				fs.want(t, "PUT", 4)
				fs.want(t, "PUT", 5)
				fs.want(t, "live", 5)
				body.Close()
			}
		}
		for query, first := range map[string]event.ID{"&last=2": 4, "&last=0": 0, "&last=9": 1, "&since=now": 0, "": 1} {
			fs, body := s.stream("/events?topic=a" + query)
			for id := first; id > 0 && id <= 5; id++ {
				fs.want(t, "PUT", id)
			}
			fs.want(t, "live", 5)
			body.Close()
		}
	})
}

// Two ranges that meet at a time have the same events as one range of both.
func TestTimes(t *testing.T) {
	bubble(t, Config{}, func(t *testing.T, s *served, log *memLog) {
		for range 4 {
			log.put(t, "a", "p", 2)
			time.Sleep(time.Minute)
		}
		now := time.Now()
		for query, want := range map[string][2]event.ID{
			"since=1h":               {0, 8},
			"since=4m":               {2, 8},
			"since=239s":             {2, 8},
			"since=241s":             {0, 8},
			"since=4m&until=2m":      {2, 6},
			"since=2m&until=0s":      {6, 8},
			"since=now":              {8, 8},
			"since=1d&until=2w":      {0, 0},
			"until=" + stamp(now, 0): {0, 8},
			"since=" + stamp(now, 0): {8, 8},
			"since=" + stamp(now, -3*time.Minute) + "&until=" + stamp(now, time.Hour): {4, 8},
			"last=3&until=2m": {3, 6},
		} {
			resp := s.get("/events?limit=0&topic=a&" + query)
			from, ok := wire.PositionIn(resp.Header, wire.HeaderFrom)
			to, ok2 := wire.PositionIn(resp.Header, wire.HeaderTo)
			if got := body(t, resp); !ok || !ok2 || from != want[0] || to != want[1] {
				t.Errorf("%s: %s-%s, want %v: %s", query, from, to, want, got)
			}
		}
	})
}

func stamp(t time.Time, d time.Duration) string { return event.TimeOf(t.Add(d)).String() }

func TestStopEndsStreams(t *testing.T) {
	bubble(t, Config{}, func(t *testing.T, s *served, log *memLog) {
		log.put(t, "a", "p", 3)
		live, _ := s.stream("/events?topic=a")
		for id := event.ID(1); id <= 3; id++ {
			live.want(t, "PUT", id)
		}
		live.want(t, "live", 3)
		log.look, log.pause = 1, time.Second
		replaying, _ := s.stream("/events?topic=a&until=0000000000003")
		replaying.want(t, "PUT", 1)
		time.Sleep(time.Second / 2)
		s.Stop()
		s.Stop()
		live.end(t)
		replaying.want(t, "PUT", 2)
		replaying.end(t)
		late, _ := s.stream("/events?topic=a&since=0000000000001")
		late.end(t)
		if resp := s.get("/readyz"); resp.StatusCode != http.StatusServiceUnavailable {
			t.Errorf("GET /readyz: %s", resp.Status)
		}
		if resp := s.get("/events?topic=a&limit=1"); resp.StatusCode != http.StatusOK {
			t.Errorf("GET /events: %s", resp.Status)
		}
	})
}

// A horizon that overtakes a reader ends its stream between two events, and its next request gets
// 410.
func TestHorizonOvertakes(t *testing.T) {
	bubble(t, Config{}, func(t *testing.T, s *served, log *memLog) {
		log.put(t, "a", "p", 9)
		log.look, log.pause = 2, time.Second
		for _, until := range []string{"", "&until=0000000000009"} {
			log.set(func() { log.horizon = 0 })
			fs, _ := s.stream("/events?topic=a" + until)
			fs.want(t, "PUT", 1)
			log.set(func() { log.horizon = 6 })
			fs.want(t, "PUT", 2)
			fs.end(t)
			resp := s.get("/events?topic=a"+until, "Accept", wire.SSE, wire.HeaderLastEventID, "0000000000002.K7Q2M")
			if e := wire.ReadError(resp); e.Status != http.StatusGone || e.Oldest == nil || *e.Oldest != 6 {
				t.Errorf("the reader that comes back gets %v", e)
			}
		}
	})
}

// A response of lines that cannot be completed is aborted, so that no client takes it for
// complete.
func TestLinesAreCut(t *testing.T) {
	bubble(t, Config{}, func(t *testing.T, s *served, log *memLog) {
		log.put(t, "a", "p", 9)
		log.look, log.pause = 2, time.Second
		time.AfterFunc(2500*time.Millisecond, func() { log.set(func() { log.err = errors.New("broken") }) })
		resp, err := s.tryGet(t.Context(), "/events?topic=a", "Accept", wire.NDJSON)
		if err != nil {
			return // cut before the first bytes were sent
		}
		if b, err := io.ReadAll(resp.Body); err == nil {
			t.Errorf("the lines end cleanly after %d bytes", len(b))
		}
	})
}

// stall opens a connection, sends a request and does not read the response.
func (s *served) stall(target, accept string) net.Conn {
	conn := s.dial()
	_, _ = io.WriteString(conn, "GET "+target+" HTTP/1.1\r\nHost: localhost\r\nAccept: "+accept+"\r\n\r\n")
	return conn
}

// readTo reads up to the first end, byte by byte.
func readTo(t *testing.T, r io.Reader, end string) {
	t.Helper()
	var got []byte
	for b := make([]byte, 1); !bytes.HasSuffix(got, []byte(end)); got = append(got, b...) {
		if _, err := r.Read(b); err != nil {
			t.Fatalf("after %q: %v", got, err)
		}
	}
}

// A stalled reader is disconnected by the write timeout, keeps no read of the log open meanwhile,
// and does not slow down others.
func TestStalledReaders(t *testing.T) {
	bubble(t, Config{}, func(t *testing.T, s *served, log *memLog) {
		log.put(t, "a", "p", 500)
		for _, accept := range []string{wire.SSE, wire.NDJSON, wire.JSON} {
			defer s.stall("/events?topic=a", accept).Close()
		}
		synctest.Wait()
		if n := log.reading.Load(); n != 0 {
			t.Errorf("%d reads of the log are open", n)
		}
		started := time.Now()
		fs, body := s.stream("/events?topic=a&since=now")
		defer body.Close()
		fs.want(t, "live", 500)
		for id := event.ID(501); id <= 510; id++ {
			log.put(t, "a", "p", 1)
			fs.want(t, "PUT", id)
		}
		if d := time.Since(started); d != 0 {
			t.Errorf("the others took %s", d)
		}
		s.wantConns(t, 4)
		fs.want(t, "", 510)
		fs.want(t, "", 510)
		s.wantConns(t, 1)
	})
}

// wantConns checks the number of open connections when all are idle.
func (s *served) wantConns(t *testing.T, want int32) {
	t.Helper()
	synctest.Wait()
	if n := s.conns.Load(); n != want {
		t.Errorf("%d connections are open, want %d", n, want)
	}
}

// A slow reader that makes progress now and then is not disconnected.
func TestSlowReader(t *testing.T) {
	bubble(t, Config{}, func(t *testing.T, s *served, log *memLog) {
		d := event.Draft{User: "a", Path: "p", Type: event.Put, Value: []byte(`"` + strings.Repeat("x", wire.MaxValue-2) + `"`)}
		if _, err := log.Append(t.Context(), []event.Draft{d}); err != nil {
			t.Fatal(err)
		}
		for _, accept := range []string{wire.SSE, wire.NDJSON, wire.JSON} {
			resp := s.get("/events?topic=a&until=0000000000001", "Accept", accept)
			n, err := io.CopyBuffer(struct{ io.Writer }{io.Discard}, slow{resp.Body}, make([]byte, 16<<10))
			if err != nil || n < wire.MaxValue {
				t.Errorf("%s: %d bytes, %v", accept, n, err)
			}
			resp.Body.Close()
		}
	})
}

// A slow reader reads one piece every 14 seconds.
type slow struct{ r io.Reader }

func (s slow) Read(b []byte) (n int, err error) {
	time.Sleep(14 * time.Second)
	for n < len(b) && err == nil {
		var k int
		k, err = s.r.Read(b[n:])
		n += k
	}
	return n, err
}

// A reader of one byte a second is not disconnected, whatever it reads, and not in the middle of
// an event when the stream reaches its age.
func TestByteASecond(t *testing.T) {
	bubble(t, Config{MaxStreamAge: time.Minute}, func(t *testing.T, s *served, log *memLog) {
		log.put(t, "a", "p", 3)
		for accept, end := range map[string]string{wire.SSE: "\n\n", wire.NDJSON: "}\n", wire.JSON: "}\n"} {
			conn := s.stall("/events?topic=a&until=0000000000003", accept+"\r\nConnection: close")
			start, got := time.Now(), []byte(nil)
			for b := make([]byte, 1); ; got = append(got, b...) {
				time.Sleep(time.Second)
				if _, err := conn.Read(b); err == io.EOF {
					break
				} else if err != nil {
					t.Fatalf("%s: after %d bytes and %s: %v", accept, len(got), time.Since(start), err)
				}
			}
			_ = conn.Close()
			resp, err := http.ReadResponse(bufio.NewReader(bytes.NewReader(got)), nil)
			if err != nil {
				t.Fatalf("%s: %v: %s", accept, err, got)
			}
			if text := body(t, resp); strings.Count(text, `"user":"a"`) != 3 || !strings.HasSuffix(text, end) {
				t.Errorf("%s: got %s", accept, text)
			}
		}
	})
}

// inBubble returns the number of goroutines in the bubble when all of them wait. It does not count
// those of the runtime and of earlier tests, which come and go.
func inBubble() int {
	synctest.Wait()
	b := make([]byte, 1<<20)
	return bytes.Count(b[:runtime.Stack(b, true)], []byte("synctest bubble"))
}

// The memory of a stalled reader is released when it is disconnected.
func TestStalledReaderLeavesNothing(t *testing.T) {
	bubble(t, Config{}, func(t *testing.T, s *served, log *memLog) {
		before := inBubble()
		log.put(t, "a", "p", 500)
		conn := s.stall("/events?topic=a", wire.SSE)
		defer conn.Close()
		readTo(t, conn, ": rstream\n\n\r\n")
		synctest.Wait()
		time.Sleep(30*time.Second - time.Nanosecond)
		synctest.Wait()
		if n := s.readerStats(log.Head()).Readers; n != 1 {
			t.Errorf("%d readers just before the write timeout", n)
		}
		time.Sleep(time.Second)
		s.wantConns(t, 0)
		if n, after := s.hub.Stats().Readers, inBubble(); n != 0 || after != before {
			t.Errorf("%d readers and %d goroutines are left, of none and %d", n, after, before)
		}
		s.wantMetric(t, `rstream_streams_ended_total{reason="stalled"} 1`)
	})
}

// Streams end because of their age, each at another time, at the end of an event. Readers that
// reconnect get every event once.
func TestStreamsAge(t *testing.T) {
	const age, readers = time.Hour, 40
	bubble(t, Config{MaxStreamAge: age, Heartbeat: 7 * time.Minute}, func(t *testing.T, s *served, log *memLog) {
		start, ends := time.Now(), map[time.Duration]bool{}
		var mu sync.Mutex
		var reading sync.WaitGroup
		for range readers {
			reading.Go(func() {
				at := readOut(t, s, 0)
				mu.Lock()
				ends[time.Since(start)] = true
				mu.Unlock()
				if at = readOut(t, s, at); time.Since(start) < age {
					t.Errorf("the second stream ends at %s, after %s", at, time.Since(start))
				}
			})
		}
		reading.Go(func() {
			for time.Since(start) < 2*age {
				log.put(t, "a", "p", 1)
				time.Sleep(3 * time.Minute)
			}
		})
		reading.Wait()
		if len(ends) < readers*9/10 {
			t.Errorf("%d streams end at %d times", readers, len(ends))
		}
		for d := range ends {
			if d < age/2 || d > age {
				t.Errorf("a stream ends after %s", d)
			}
		}
	})
}

// A stream that finds nothing in a long log ends after a position, so that its reader makes
// progress even if streams end early.
func TestAgedStreamsGetOn(t *testing.T) {
	bubble(t, Config{MaxStreamAge: time.Minute, Heartbeat: time.Hour}, func(t *testing.T, s *served, log *memLog) {
		log.put(t, "b", "p", 100)
		log.look, log.pause = 1, 10*time.Second
		at := event.Beginning
		for streams := 1; at < log.Head(); streams++ {
			before := at
			at = readPositions(t, s, at, func(f frame, _, _ event.ID) {
				if f.event == string(event.Put) {
					t.Errorf("stream %d has %q", streams, f)
				}
			})
			if at <= before {
				t.Fatalf("stream %d ends at %s, where it began", streams, at)
			}
		}
	})
}

// readOut reads a stream of the whole log from position at to its clean end, and returns the last
// position.
func readOut(t *testing.T, s *served, at event.ID) event.ID {
	return readPositions(t, s, at, func(f frame, at, next event.ID) {
		if f.event == string(event.Put) && next != at+1 || next > at+1 {
			t.Errorf("%q follows %s", f, at)
		}
	})
}

// readPositions reads a stream from position at to its clean end and returns the last position. It
// calls check for each frame with a position, and with the position before it.
func readPositions(t *testing.T, s *served, at event.ID, check func(f frame, at, next event.ID)) event.ID {
	resp, err := s.tryGet(t.Context(), "/events?topic=a", "Accept", wire.SSE, wire.HeaderLastEventID, event.CursorOf(at, logName).String())
	if err != nil {
		t.Error(err)
		return at
	}
	defer resp.Body.Close()
	for fs := newFrames(resp.Body); ; {
		f, err := fs.next()
		if err == io.EOF {
			return at
		} else if err != nil {
			t.Error(err)
			return at
		}
		if f.id == "" {
			continue // the preamble
		}
		next := f.position(t)
		if next < at {
			t.Errorf("%q follows %s", f, at)
		}
		check(f, at, next)
		at = next
	}
}

// The deadlines of a request do not apply to the next one on its connection.
func TestKeptConnection(t *testing.T) {
	bubble(t, Config{}, func(t *testing.T, s *served, log *memLog) {
		log.put(t, "a", "p", 1)
		conn := s.dial()
		defer conn.Close()
		br := bufio.NewReader(conn)
		for _, accept := range []string{wire.NDJSON, wire.JSON, wire.SSE, wire.NDJSON, wire.JSON} {
			_, err := io.WriteString(conn, "GET /events?topic=a&until=0000000000001 HTTP/1.1\r\nHost: localhost\r\nAccept: "+accept+"\r\n\r\n")
			if err != nil {
				t.Fatal(err)
			}
			resp, err := http.ReadResponse(br, nil)
			if err != nil {
				t.Fatalf("%s: %v", accept, err)
			}
			if got := body(t, resp); !strings.Contains(got, `"user":"a"`) {
				t.Errorf("%s: %s %s", accept, resp.Status, got)
			}
			time.Sleep(10 * time.Minute)
		}
	})
}

// A stream requested by POST outlives the deadline of the request's body.
func TestPostedStream(t *testing.T) {
	bubble(t, Config{}, func(t *testing.T, s *served, log *memLog) {
		r, err := http.NewRequestWithContext(t.Context(), http.MethodPost, "http://localhost/get", strings.NewReader(`{"items":"a/p"}`))
		if err != nil {
			t.Fatal(err)
		}
		r.Header.Set("Accept", wire.SSE)
		resp, err := s.http.Do(r)
		if err != nil {
			t.Fatal(err)
		}
		defer resp.Body.Close()
		time.AfterFunc(10*time.Minute-time.Second, func() { log.put(t, "a", "p", 1) })
		fs := newFrames(resp.Body)
		for n := 0; ; n++ {
			f, err := fs.next()
			if err != nil {
				t.Fatalf("after %d blocks: %v", n, err)
			}
			if f.event == "PUT" {
				return
			}
		}
	})
}

// A body that does not arrive ends its request in time, no matter which handler reads it.
func TestSlowBody(t *testing.T) {
	for target, read := range map[string]bool{"/set/a/p": true, "/set": true, "/get": true, "/nothing": false, "/events?topic=a": false} {
		bubble(t, Config{}, func(t *testing.T, s *served, log *memLog) {
			conn := s.dial()
			defer conn.Close()
			start := time.Now()
			_, err := io.WriteString(conn, "POST "+target+" HTTP/1.1\r\nHost: localhost\r\nContent-Length: 100\r\n\r\n{\"value\":")
			if err != nil {
				t.Fatal(err)
			}
			br := bufio.NewReader(conn)
			if resp, err := http.ReadResponse(br, nil); err == nil {
				if e := wire.ReadError(resp); read && e.Status != http.StatusRequestTimeout {
					t.Errorf("POST %s: %v", target, e)
				}
			} else if read {
				t.Errorf("POST %s: %v", target, err)
			}
			if _, err := br.ReadByte(); err == nil {
				t.Error("the connection is still open")
			}
			if d := time.Since(start); d > time.Minute+time.Second || log.calls.Load() != 0 {
				t.Errorf("POST %s ended after %s and called the log %d times", target, d, log.calls.Load())
			}
		})
	}
}

// A reader that leaves is removed at once.
func TestReaderGoes(t *testing.T) {
	bubble(t, Config{}, func(t *testing.T, s *served, log *memLog) {
		fs, body := s.stream("/events?topic=a")
		fs.want(t, "live", 0)
		s.wantConns(t, 1)
		body.Close()
		s.wantConns(t, 0)
	})
}

func TestHead(t *testing.T) {
	bubble(t, Config{}, func(t *testing.T, s *served, log *memLog) {
		log.put(t, "a", "p", 5)
		log.look = 1
		for _, accept := range []string{wire.SSE, wire.NDJSON, wire.JSON} {
			before := log.reads.Load()
			resp, text := s.raw("HEAD /events?topic=a HTTP/1.1\nHost: localhost\nAccept: " + accept + "\n\n")
			if resp.StatusCode != http.StatusOK || resp.Header.Get("Content-Type") != accept || resp.Header.Get(wire.HeaderTo) != log.cursor(5).String() || text != "" {
				t.Errorf("HEAD of %s: %s %v %q", accept, resp.Status, resp.Header, text)
			}
			if n := log.reads.Load() - before; n > 1 {
				t.Errorf("HEAD of %s reads %d times", accept, n)
			}
		}
	})
}

// Events committed while the server is created reach its readers.
func TestCommitWhileMade(t *testing.T) {
	bubble(t, Config{}, func(t *testing.T, _ *served, _ *memLog) {
		log := &lateLog{newLog()}
		s, stop := serve(t, log, Config{})
		defer stop()
		fs, body := s.stream("/events?topic=a")
		defer body.Close()
		fs.want(t, "PUT", 1)
		fs.want(t, "live", 1)
		log.put(t, "a", "p", 1)
		fs.want(t, "PUT", 2)
	})
}

// A lateLog commits an append just before OnCommit is set.
type lateLog struct{ *memLog }

func (l *lateLog) OnCommit(f func([]event.Event, event.ID)) {
	_, _, _ = l.add([]event.Draft{{User: "a", Path: "p", Type: event.Put, Key: "late", Value: []byte("1")}})
	l.memLog.OnCommit(f)
}

// Events committed while history is read come after it, each once, be they many or few, and no
// cursor is ahead of the events sent.
func TestHistoryGrows(t *testing.T) {
	for _, more := range []int{1, chunk - 1, chunk, 2*chunk + 1} {
		synctest.Test(t, func(t *testing.T) {
			log := &growingLog{memLog: newLog(), more: more, times: 2}
			log.put(t, "a", "p", 2*chunk)
			s, stop := serve(t, log, Config{Queue: 1})
			defer stop()
			fs, body := s.stream("/events?topic=a&since=beginning")
			defer body.Close()
			last := event.ID(2*chunk + 2*more)
			for id := event.ID(1); id <= last; id++ {
				fs.want(t, "PUT", id)
			}
			fs.want(t, "live", last)
			log.put(t, "a", "p", 1)
			fs.want(t, "PUT", last+1)
		})
	}
}

// A growingLog grows while it is read.
type growingLog struct {
	*memLog
	more, times int
}

func (l *growingLog) AppendLines(ctx context.Context, b []byte, topics []event.Topic, after, until event.ID, limit int) ([]byte, event.ID, error) {
	if l.times > 0 {
		l.times--
		var ds []event.Draft
		for i := range l.more {
			ds = append(ds, event.Draft{User: "a", Path: "p", Type: event.Put, Key: fmt.Sprint(l.times, i), Value: []byte("1")})
		}
		if _, err := l.Append(ctx, ds); err != nil {
			return nil, after, err
		}
	}
	return l.memLog.AppendLines(ctx, b, topics, after, until, limit)
}
