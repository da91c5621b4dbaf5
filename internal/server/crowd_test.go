package server

import (
	"bufio"
	"bytes"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"runtime"
	"slices"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/rstream-dev/rstream/cache"
	"github.com/rstream-dev/rstream/event"
	"github.com/rstream-dev/rstream/internal/longtest"
	"github.com/rstream-dev/rstream/internal/wire"
)

// A listened is a server of a log on disk, behind real sockets.
type listened struct {
	*Server
	t    *testing.T
	db   *cache.DB
	file string
	addr string
}

func listenOnDisk(t *testing.T, cfg Config) *listened {
	t.Helper()
	s := &listened{t: t, file: filepath.Join(t.TempDir(), "server.db")}
	var err error
	if err = newFile.WriteNew(s.file, ""); err != nil {
		t.Fatal(err)
	}
	if s.db, err = cache.Open(t.Context(), s.file, cache.Config{Role: cache.Server}); err != nil {
		t.Fatal(err)
	}
	s.Server = New(s.db, cfg)
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	s.addr = l.Addr().String()
	hs := &http.Server{Handler: s.Server, ErrorLog: quiet}
	var serving sync.WaitGroup
	serving.Go(func() { _ = hs.Serve(s.Patient(l)) })
	t.Cleanup(func() {
		s.Stop()
		_ = hs.Close()
		serving.Wait()
		if err := s.db.Close(); err != nil {
			t.Error(err)
		}
	})
	return s
}

// put appends n events with values of the given size, a megabyte at a time.
func (s *listened) put(user string, n, bytes int) {
	s.t.Helper()
	for n > 0 {
		k := min(n, max(1, 1<<20/bytes))
		drafts := make([]event.Draft, k)
		for i := range drafts {
			value := fmt.Appendf(nil, `"%0*d"`, bytes-2, n-i)
			drafts[i] = event.Draft{User: user, Path: "p", Type: event.Put, Key: s.db.Head().String() + strconv.Itoa(i), Value: value}
		}
		if _, err := s.db.Append(s.t.Context(), drafts); err != nil {
			s.t.Fatal(err)
		}
		n -= k
	}
}

// A tap is one stream, read by hand.
type tap struct {
	conn net.Conn
	br   *bufio.Reader
	last event.ID
	all  bool // it asks for everything: no id may be left out
}

// tap opens a stream and reads its head and preamble.
func (s *listened) tap(query string, headers ...string) *tap {
	s.t.Helper()
	tp, err := s.tryTap(query, headers...)
	if err != nil {
		s.t.Fatal(err)
	}
	return tp
}

func (s *listened) tryTap(query string, headers ...string) (*tap, error) {
	conn, err := net.Dial("tcp", s.addr)
	if err != nil {
		return nil, err
	}
	if _, err := fmt.Fprintf(conn, "GET /events?%s HTTP/1.0\r\nHost: localhost\r\nAccept: %s\r\n%s\r\n", query, wire.SSE, strings.Join(slices.Concat(headers, []string{""}), "\r\n")); err != nil {
		return nil, err
	}
	tp := &tap{conn: conn, br: bufio.NewReaderSize(conn, 4<<10), all: strings.HasPrefix(query, "topic=*")}
	for {
		line, err := tp.br.ReadSlice('\n')
		if err != nil {
			return nil, err
		}
		if string(line) == ": rstream\n" {
			return tp, nil
		}
	}
}

var idField = []byte("id: ")

// next reads up to and including the next event or position.
func (tp *tap) next() error {
	for id := event.ID(0); ; {
		line, err := tp.br.ReadSlice('\n')
		for err == bufio.ErrBufferFull { // the rest of a long line is of no interest
			line = nil
			_, err = tp.br.ReadSlice('\n')
		}
		if err != nil {
			return err
		}
		if text, ok := bytes.CutPrefix(line, idField); ok {
			c, err := event.ParseCursor(string(bytes.TrimSpace(text)))
			if err != nil || c.ID < tp.last || tp.all && c.ID > tp.last+1 {
				return fmt.Errorf("%s follows %s: %v", text, tp.last, err)
			}
			id = c.ID
		}
		if len(line) == 1 && id > 0 {
			tp.last = id
			return nil
		}
	}
}

// until reads up to position at, and checks that no event is missing. It reconnects if the
// stream was cut.
func (s *listened) until(tp *tap, at event.ID) {
	s.t.Helper()
	for tp.last < at {
		err := tp.next()
		if err == nil {
			continue
		}
		again := s.tap("topic=*&since=" + tp.last.String())
		if err != io.EOF && err != io.ErrUnexpectedEOF {
			s.t.Fatalf("after %s of %s: %v", tp.last, at, err)
		}
		_ = tp.conn.Close()
		tp.conn, tp.br = again.conn, again.br
	}
}

// A crowd are readers who keep up, and how long each event took to get to each.
type crowd struct {
	s       *listened
	taps    []*tap
	got     sync.WaitGroup // of the event under way
	reading sync.WaitGroup

	mu   sync.Mutex
	sent time.Time
	took []time.Duration
}

func (s *listened) gather(n int) *crowd {
	c := &crowd{s: s}
	for range n {
		tp := s.tap("topic=a&since=now")
		tp.last = s.db.Head()
		c.taps = append(c.taps, tp)
	}
	for _, tp := range c.taps {
		if err := tp.next(); err != nil { // it is live
			s.t.Fatal(err)
		}
		c.reading.Go(func() {
			for tp.next() == nil {
				c.note(time.Now())
			}
		})
	}
	return c
}

func (c *crowd) note(at time.Time) {
	c.mu.Lock()
	c.took = append(c.took, at.Sub(c.sent))
	c.mu.Unlock()
	c.got.Done()
}

// p99 publishes n events, each after all readers have the previous one, and returns the 99th
// percentile of the delivery times.
func (c *crowd) p99(n int) time.Duration {
	c.took = c.took[:0]
	for range n {
		c.got.Add(len(c.taps))
		c.mu.Lock()
		c.sent = time.Now()
		c.mu.Unlock()
		c.s.put("a", 1, 200)
		c.got.Wait()
	}
	slices.Sort(c.took)
	return c.took[len(c.took)*99/100]
}

func (c *crowd) leave() {
	for _, tp := range c.taps {
		_ = tp.conn.Close()
	}
	c.reading.Wait()
}

// One reader that never reads and one that reads a byte a second do not slow down a thousand
// others. The server keeps only a bounded queue for those two, and in the end they have all
// events.
func TestCrowd(t *testing.T) {
	s := listenOnDisk(t, Config{Heartbeat: time.Hour})
	s.put("b", 32, 1<<19) // more than all buffers of a socket take
	c := s.gather(longtest.Size(100, 1000))
	defer c.leave()
	rounds := longtest.Size(20, 50)
	c.p99(rounds) // all is warm
	best := 0.0
	for try := range longtest.Size(1, 8) {
		alone := c.p99(rounds)
		never, slow := s.tap("topic=*"), s.tap("topic=*")
		before := heapInUse()
		stop := make(chan struct{})
		var slowly sync.WaitGroup
		slowly.Go(func() {
			if err := slow.sip(stop); err != nil {
				t.Error(err)
			}
		})
		together := c.p99(rounds)
		s.put("b", longtest.Size(8, 64), 1<<19)
		if grown := heapInUse() - before; grown > 16<<20 {
			t.Errorf("two slow readers take %d bytes", grown)
		}
		ratio := together.Seconds() / alone.Seconds()
		t.Logf("p99 of %d readers: %s alone, %s with two slow ones: %.2f", len(c.taps), alone, together, ratio)
		if best = min(best, ratio); try == 0 {
			best = ratio
		}
		close(stop)
		slowly.Wait()
		for _, tp := range []*tap{never, slow} {
			s.until(tp, s.db.Head())
			_ = tp.conn.Close()
		}
		if best <= 1.3 {
			break
		}
	}
	if longtest.Enabled() && best > 1.3 {
		t.Errorf("with two slow readers the p99 is at best %.2f of what it is alone", best)
	}
}

// A sipper is a connection that is read a byte a second until stop.
type sipper struct {
	net.Conn
	stop <-chan struct{}
}

func (c sipper) Read(b []byte) (int, error) {
	select {
	case <-time.After(time.Second):
		return c.Conn.Read(b[:1])
	case <-c.stop:
		return c.Conn.Read(b)
	}
}

// sip reads until stop.
func (tp *tap) sip(stop <-chan struct{}) error {
	tp.br.Reset(io.MultiReader(bytes.NewReader(bytes.Clone(tp.buffered())), sipper{tp.conn, stop}))
	for {
		select {
		case <-stop:
			return nil
		default:
			if err := tp.next(); err != nil {
				return err
			}
		}
	}
}

func (tp *tap) buffered() []byte {
	b, _ := tp.br.Peek(tp.br.Buffered()) // all that is there cannot fail
	return b
}

func heapInUse() int64 {
	runtime.GC()
	var m runtime.MemStats
	runtime.ReadMemStats(&m)
	return int64(m.HeapAlloc)
}

// The write-ahead log stays small, no matter how much is appended while a reader stalls in the
// middle of its replay.
func TestStalledReplayHoldsNoTransaction(t *testing.T) {
	s := listenOnDisk(t, Config{})
	s.put("a", 64, 1<<18)
	stalled := s.tap("topic=*")
	defer stalled.conn.Close()
	s.until(stalled, 2)
	const limit = 24 << 20 // a checkpoint comes each 16 MiB
	var most int64
	for range longtest.Size(30, 128) {
		s.put("a", 4, 1<<18)
		info, err := os.Stat(s.file + "-wal")
		if err != nil {
			t.Fatal(err)
		}
		most = max(most, info.Size())
	}
	t.Logf("the write-ahead log has %d bytes at most", most)
	if most > limit {
		t.Errorf("the write-ahead log grows to %d bytes, of %d appended", most, longtest.Size(30, 128)<<20)
	}
	s.until(stalled, s.db.Head())
}

// Readers that come and go leak nothing.
func TestConnectAndLeave(t *testing.T) {
	s := listenOnDisk(t, Config{})
	s.put("a", 3, 100)
	come := func(n int) {
		var coming sync.WaitGroup
		for w := range 20 {
			coming.Go(func() {
				for i := range n / 20 {
					tp, err := s.tryTap([]string{"topic=a", "topic=*&since=now", "topic=a/p&except=a/q"}[(w+i)%3])
					if err != nil {
						t.Error(err)
						return
					}
					if i%2 == 0 {
						_, _ = tp.br.ReadByte()
					}
					_ = tp.conn.Close()
				}
			})
		}
		coming.Wait()
		s.wantReaders(0)
	}
	const pooled = 32 // files that connections of the log may still open
	come(200)         // pools and connections of the log are there
	goroutines, files, heap := runtime.NumGoroutine(), openFiles(), heapInUse()
	n := longtest.Size(500, 10_000)
	come(n)
	s.eventually("goroutines", func() bool { return runtime.NumGoroutine() <= goroutines })
	s.eventually("open files", func() bool { return openFiles() <= files+pooled })
	if grown := heapInUse() - heap; grown > 1<<20 {
		t.Errorf("%d readers that have left take %d bytes", n, grown)
	}
}

// openFiles returns the number of open files and sockets of this process, or 0 if the system
// does not report it.
func openFiles() int {
	entries, _ := os.ReadDir("/proc/self/fd")
	return len(entries)
}

func (s *listened) wantReaders(n int) {
	s.t.Helper()
	s.eventually(fmt.Sprint(n, " readers"), func() bool { return s.hub.Stats().Readers == n })
}

// eventually waits until a condition is true, not for a fixed time.
func (s *listened) eventually(what string, done func() bool) {
	s.t.Helper()
	for deadline := time.Now().Add(30 * time.Second); !done(); time.Sleep(time.Millisecond) {
		if time.Now().After(deadline) {
			s.t.Fatalf("waited in vain for %s", what)
		}
	}
}
