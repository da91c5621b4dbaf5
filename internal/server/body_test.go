package server

import (
	"bufio"
	"fmt"
	"io"
	"net"
	"net/http"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/rstream-dev/rstream/internal/wire"
)

// batchOf returns the lines of a batch, so many bytes together.
func batchOf(key string, size int) string {
	line := fmt.Sprintf(`{"user":"a","path":"p","key":%q,"value":"`, key)
	return line + strings.Repeat("x", size-len(line)-3) + "\"}\n"
}

// begin sends the head and a part of a body.
func (s *served) begin(head, part string) net.Conn {
	conn := s.dial()
	_, err := io.WriteString(conn, "POST /set HTTP/1.1\r\nHost: localhost\r\n"+head+"\r\n\r\n"+part)
	if err != nil {
		s.t.Fatal(err)
	}
	synctest.Wait() // all of it has been read
	return conn
}

// status reads the status of a response, and its Retry-After.
func (s *served) status(conn net.Conn) (status int, after string) {
	s.t.Helper()
	resp, err := http.ReadResponse(bufio.NewReader(conn), nil)
	if err != nil {
		s.t.Fatal(err)
	}
	_ = conn.Close()
	return resp.StatusCode, resp.Header.Get("Retry-After")
}

// While large bodies arrive, further ones are refused for a while, and small ones are
// accepted. The refused ones are accepted later, and all memory is released.
func TestTooMuchAtOnce(t *testing.T) {
	defer func(most int64) { maxHolding = most }(maxHolding)
	maxHolding = 256 << 10
	bubble(t, Config{}, func(t *testing.T, s *served, log *memLog) {
		const size = 300 << 10
		head := fmt.Sprintf("Content-Length: %d", size)
		first, second := batchOf("1", size), batchOf("2", size)
		slow := s.begin(head, first[:200<<10])
		refused := func(conn net.Conn) {
			t.Helper()
			if status, after := s.status(conn); status != http.StatusTooManyRequests || after != "1" {
				t.Errorf("%d, Retry-After %q", status, after)
			}
		}
		refused(s.begin(head, ""))
		chunked := s.begin("Transfer-Encoding: chunked", "")
		go func() {
			// The answer may come before it has taken everything.
			_, _ = fmt.Fprintf(chunked, "%x\r\n%s\r\n0\r\n\r\n", size, second)
		}()
		refused(chunked)
		small := batchOf("3", 60<<10)
		if status, _ := s.status(s.begin(fmt.Sprintf("Content-Length: %d", len(small)), small)); status != http.StatusOK {
			t.Errorf("a small append: %d", status)
		}
		go func() { _, _ = io.WriteString(slow, first[200<<10:]) }()
		if status, _ := s.status(slow); status != http.StatusOK {
			t.Errorf("the first append: %d", status)
		}
		again := s.begin(head, "")
		go func() { _, _ = io.WriteString(again, second) }()
		if status, _ := s.status(again); status != http.StatusOK {
			t.Errorf("the second append: %d", status)
		}
		// One that breaks off gives back what it held, too.
		cut := s.begin(head, first[:200<<10])
		if s.holding.Load() == 0 {
			t.Error("nothing is held of a body under way")
		}
		_ = cut.Close()
		time.Sleep(time.Second)
		synctest.Wait()
		if n := s.holding.Load(); n != 0 || log.Head() != 3 {
			t.Errorf("%d bytes are held, and the log ends at %s", n, log.Head())
		}
		s.wantMetric(t, `rstream_problems_total{kind="too many requests"} 2`)
	})
}

// A client that does not read the response holds no memory, nor does one that stops sending,
// after BodyTimeout.
func TestNothingIsHeldForEver(t *testing.T) {
	bubble(t, Config{BodyTimeout: time.Minute}, func(t *testing.T, s *served, log *memLog) {
		var batch strings.Builder
		for i := range 300 { // answered with more than the system buffers
			batch.WriteString(batchOf(fmt.Sprint(i), 1<<10))
		}
		head := fmt.Sprintf("Content-Length: %d", batch.Len())
		deaf := s.begin(head, batch.String())
		if n := s.holding.Load(); n != 0 || log.Head() != 300 {
			t.Errorf("%d bytes are held for an answer that nobody reads; the log ends at %s", n, log.Head())
		}
		if status, _ := s.status(deaf); status != http.StatusOK {
			t.Errorf("an answer that is read late: %d", status)
		}
		mute := s.begin(head, batch.String()[:200<<10])
		if s.holding.Load() == 0 {
			t.Error("nothing is held of a body under way")
		}
		time.Sleep(time.Minute)
		synctest.Wait()
		if n := s.holding.Load(); n != 0 {
			t.Errorf("%d bytes are held for a body that does not arrive", n)
		}
		if status, _ := s.status(mute); status != http.StatusRequestTimeout {
			t.Errorf("a body that does not arrive: %d", status)
		}
	})
}

// A body of the maximum size is accepted if no other is being received.
func TestOneLargestBody(t *testing.T) {
	if maxHolding < wire.MaxBatch {
		t.Errorf("a batch may have %d bytes, but only %d are held", wire.MaxBatch, maxHolding)
	}
}
