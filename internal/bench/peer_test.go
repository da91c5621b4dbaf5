package bench

import (
	"bufio"
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"
)

// peerLines returns distinct lines of some length.
func peerLines(n int) [][]byte {
	lines := make([][]byte, n)
	for i, ev := range (Input{User: "bench"}).Events(n) {
		lines[i] = ev.Line()
	}
	return lines
}

// fakePeer serves connections with talk, which reads from in and writes to out until it
// returns an error. What it writes is sent when it has read all that has arrived.
func fakePeer(t *testing.T, talk func(in *bufio.Reader, out *bufio.Writer) error) (address string) {
	t.Helper()
	listener, err := (&net.ListenConfig{}).Listen(t.Context(), "tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	var all sync.WaitGroup
	t.Cleanup(func() {
		listener.Close()
		all.Wait()
	})
	all.Go(func() {
		for {
			conn, err := listener.Accept()
			if err != nil {
				return
			}
			all.Go(func() {
				defer conn.Close()
				in, out := bufio.NewReader(conn), bufio.NewWriter(conn)
				for talk(in, out) == nil {
					if in.Buffered() == 0 && out.Flush() != nil {
						return
					}
				}
				_ = out.Flush()
			})
		}
	})
	return listener.Addr().String()
}

// A fakeRedis keeps streams in memory.
type fakeRedis struct {
	mu      sync.Mutex
	streams map[string][]string
	answer  func(command []string) string // if it returns an answer, that is sent
}

func (f *fakeRedis) talk(in *bufio.Reader, out *bufio.Writer) error {
	var n int
	if _, err := fmt.Fscanf(in, "*%d\r\n", &n); err != nil {
		return err
	}
	args := make([]string, n)
	for i := range args {
		var size int
		if _, err := fmt.Fscanf(in, "$%d\r\n", &size); err != nil {
			return err
		}
		b := make([]byte, size+2)
		if _, err := io.ReadFull(in, b); err != nil {
			return err
		}
		if !bytes.HasSuffix(b, []byte("\r\n")) {
			return errors.New("an argument of another length")
		}
		args[i] = string(b[:size])
	}
	if f.answer != nil {
		if answer := f.answer(args); answer != "" {
			_, err := out.WriteString(answer)
			return err
		}
	}
	f.mu.Lock()
	defer f.mu.Unlock()
	bulk := func(s string) string { return fmt.Sprintf("$%d\r\n%s\r\n", len(s), s) }
	var err error
	switch args[0] {
	case "INFO":
		_, err = out.WriteString(bulk("# Server\r\nredis_version:1.2.3\r\nredis_mode:standalone\r\n"))
	case "XADD":
		f.streams[args[1]] = append(f.streams[args[1]], args[4])
		_, err = out.WriteString(bulk(fmt.Sprintf("%d-0", len(f.streams[args[1]]))))
	case "XREAD":
		most, _ := strconv.Atoi(args[2])
		last, _, _ := strings.Cut(args[5], "-")
		from, _ := strconv.Atoi(last)
		entries := f.streams[args[4]][from:]
		entries = entries[:min(most, len(entries))]
		if len(entries) == 0 {
			_, err = out.WriteString("*-1\r\n")
			break
		}
		fmt.Fprintf(out, "*1\r\n*2\r\n%s*%d\r\n", bulk(args[4]), len(entries))
		for i, e := range entries {
			_, err = fmt.Fprintf(out, "*2\r\n%s*2\r\n%s%s", bulk(fmt.Sprintf("%d-0", from+i+1)), bulk("line"), bulk(e))
		}
	}
	return err
}

// connectTo connects to a fake Redis.
func (f *fakeRedis) connect(t *testing.T) *redisConn {
	t.Helper()
	conn, err := dialPeer(t.Context(), fakePeer(t, f.talk))
	if err != nil {
		t.Fatal(err)
	}
	c := newRedisConn(conn)
	t.Cleanup(func() { c.close() })
	return c
}

func TestRedisConn(t *testing.T) {
	f := &fakeRedis{streams: map[string][]string{}}
	c := f.connect(t)
	if v, err := c.readVersion(); v != "1.2.3" || err != nil {
		t.Errorf("version: %q, %v", v, err)
	}
	lines := peerLines(2*peerPage + 1)
	if err := c.publishLines("s", lines); err != nil {
		t.Fatal(err)
	}
	for i, got := range f.streams["s"] {
		if got != string(lines[i]) {
			t.Fatalf("line %d arrives as %q, want %q", i, got, lines[i])
		}
	}
	if err := c.replayStream("s", len(lines)); err != nil || len(f.streams["s"]) != len(lines) {
		t.Errorf("replay of %d of %d events: %v", len(f.streams["s"]), len(lines), err)
	}
	if err := c.replayStream("s", len(lines)+1); err == nil || !strings.Contains(err.Error(), "1 events are missing") {
		t.Errorf("replay of more than there is: %v", err)
	}
}

// Answers that are errors, of another kind, or cut end the comparison.
func TestRedisConnErrors(t *testing.T) {
	for _, c := range []struct{ answer, publish, replay string }{
		{"-ERR the disk is full\r\n", "the disk is full", "the disk is full"},
		{":1\r\n", `kind ':', want '$'`, `kind ':', want '*'`},
		{"$-1\r\n", "a string is missing", `kind '$', want '*'`},
		{"*2\r\n", `kind '*', want '$'`, "entries of 2 streams"},
		{"*1\r\n*2\r\n$1\r\ns\r\n*0\r\n", `kind '*', want '$'`, "5 events are missing"},
		{"*1\r\n*2\r\n$1\r\ns\r\n*-7\r\n", `kind '*', want '$'`, "5 events are missing"},
		{"*1\r\n*2\r\n$1\r\ns\r\n*1\r\n*3\r\n", `kind '*', want '$'`, "an array of length 3, want 2"},
		{"*one\r\n", "length", "length"},
		{"\r\n", "an empty line", "an empty line"},
		{"what\r\n", `kind 'w'`, `kind 'w'`},
	} {
		f := &fakeRedis{answer: func([]string) string { return c.answer }}
		if err := f.connect(t).publishLines("s", peerLines(1)); err == nil || !strings.Contains(err.Error(), c.publish) {
			t.Errorf("publish, answered with %q: %v, want %q", c.answer, err, c.publish)
		}
		if err := f.connect(t).replayStream("s", 5); err == nil || !strings.Contains(err.Error(), c.replay) {
			t.Errorf("replay, answered with %q: %v, want %q", c.answer, err, c.replay)
		}
	}
}

func FuzzRedisReplies(f *testing.F) {
	f.Add([]byte("*1\r\n*2\r\n$1\r\ns\r\n*1\r\n*2\r\n$3\r\n1-0\r\n*2\r\n$4\r\nline\r\n$2\r\n{}\r\n"))
	f.Add([]byte("$9223372036854775807\r\n"))
	f.Fuzz(func(t *testing.T, replies []byte) {
		for read, name := range []string{"entries", "text", "skip"} {
			c := &redisConn{in: bufio.NewReader(bytes.NewReader(replies))}
			last := ""
			var n int
			var err error
			switch read {
			case 0:
				n, err = c.readEntries(&last)
			case 1:
				last, err = c.readText()
			case 2:
				err = c.skipText()
			}
			if err == nil && (n > len(replies) || len(last) > len(replies)) {
				t.Errorf("%s: %d entries, the last %q, of %d bytes", name, n, last, len(replies))
			}
		}
	})
}

// A fakeNATS keeps streams in memory and has one consumer.
type fakeNATS struct {
	mu      sync.Mutex
	hello   string
	streams map[string][]string
	read    int                                // messages that the consumer has received
	answer  func(subject, reply string) string // if it returns an answer, that is sent
}

func (f *fakeNATS) talk(in *bufio.Reader, out *bufio.Writer) error {
	line, err := in.ReadString('\n')
	if err != nil {
		return err
	}
	args := strings.Fields(line)
	if args[0] == "PING" {
		// A server also pings, and says that all is well.
		_, err = out.WriteString("PING\r\n+OK\r\nINFO {}\r\nPONG\r\n")
		return err
	}
	if args[0] != "PUB" {
		return nil
	}
	subject, reply := args[1], args[2]
	size, _ := strconv.Atoi(args[3])
	b := make([]byte, size+2)
	if _, err := io.ReadFull(in, b); err != nil {
		return err
	}
	if f.answer != nil {
		if answer := f.answer(subject, reply); answer != "" {
			_, err := out.WriteString(answer)
			return err
		}
	}
	f.mu.Lock()
	defer f.mu.Unlock()
	message := func(body string) error {
		_, err := fmt.Fprintf(out, "MSG %s 1 %d\r\n%s\r\n", reply, len(body), body)
		return err
	}
	kind, rest, _ := strings.Cut(strings.TrimPrefix(subject, natsAPI), ".")
	_, stream, _ := strings.Cut(rest, ".")
	switch {
	case kind == "STREAM":
		f.streams[stream] = nil
		return message(`{"type":"io.nats.jetstream.api.v1.stream_create_response"}`)
	case kind == "CONSUMER" && strings.HasPrefix(rest, "CREATE."):
		f.read = 0
		return message(`{"type":"io.nats.jetstream.api.v1.consumer_create_response","stream_name":"s","name":"c"}`)
	case kind == "CONSUMER":
		var batch int
		_, err := fmt.Sscanf(string(b), `{"batch":%d}`, &batch)
		for ; err == nil && batch > 0 && f.read < len(f.streams["s"]); batch-- {
			e := f.streams["s"][f.read]
			f.read++
			_, err = fmt.Fprintf(out, "MSG s 1 $JS.ACK.s.c.1.%d.%d.1700000000000000000.0 %d\r\n%s\r\n", f.read, f.read, len(e), e)
		}
		return err
	}
	f.streams[subject] = append(f.streams[subject], string(b[:size]))
	return message(fmt.Sprintf(`{"stream":%q,"seq":%d}`, subject, len(f.streams[subject])))
}

func (f *fakeNATS) connect(t *testing.T) (*natsConn, error) {
	t.Helper()
	if f.hello == "" {
		f.hello = `INFO {"server_id":"X","version":"2.3.4","jetstream":true}`
	}
	greeted := map[*bufio.Writer]bool{}
	talk := func(in *bufio.Reader, out *bufio.Writer) error {
		f.mu.Lock()
		first := !greeted[out]
		greeted[out] = true
		f.mu.Unlock()
		if first {
			_, err := out.WriteString(f.hello + "\r\n")
			return err
		}
		return f.talk(in, out)
	}
	c, err := connectNATS(t.Context(), fakePeer(t, talk))
	if err == nil {
		t.Cleanup(func() { c.close() })
	}
	return c, err
}

func TestNATSConn(t *testing.T) {
	f := &fakeNATS{streams: map[string][]string{}}
	c, err := f.connect(t)
	if err != nil || c.version != "2.3.4" {
		t.Fatalf("connect: %v", err)
	}
	if err := c.createStream("s"); err != nil {
		t.Fatal(err)
	}
	lines := peerLines(2*peerPage + 1)
	if err := c.publishLines("s", lines); err != nil {
		t.Fatal(err)
	}
	for i, got := range f.streams["s"] {
		if got != string(lines[i]) {
			t.Fatalf("line %d arrives as %q, want %q", i, got, lines[i])
		}
	}
	if err := c.replayStream("s", len(lines)); err != nil || f.read != len(lines) {
		t.Errorf("replay of %d of %d events: %v", f.read, len(lines), err)
	}
}

// Answers that are errors or malformed end the comparison, and so does an event that is
// left out.
func TestNATSConnErrors(t *testing.T) {
	const consumer = `{"name":"c"}`
	for _, c := range []struct{ answer, publish, replay string }{
		{"-ERR 'Authorization Violation'\r\n", "Authorization Violation", "Authorization Violation"},
		{`{"error":{"code":503,"description":"no space"}}`, "no space", "no space"},
		{"HMSG x 1 16 16\r\nNATS/1.0 503\r\n\r\n\r\n", "503", "503"},
		{"MSG s 1 $JS.ACK.s.c.1.2.2.3.4 2\r\n{}\r\n", "{}", "delivery 2 instead of 1"},
		{"MSG s 1 9999999999\r\n", "size", "size"},
		{"MSG s 1 -1\r\n", "size", "size"},
		{"MSG\r\n", "the line", "the line"},
		{"HMSG s 1 9 5\r\nhello\r\n", "size", "size"},
		{"MSG 1 2 3 4 5 6 7\r\n", "the line", "the line"},
		{"MSG s 1 r nan\r\n", "size", "size"},
		{"\r\n", "the line", "the line"},
	} {
		f := &fakeNATS{answer: func(subject, reply string) string {
			if strings.Contains(subject, "CONSUMER.CREATE") && strings.Contains(c.answer, "$JS") {
				return fmt.Sprintf("MSG %s 1 %d\r\n%s\r\n", reply, len(consumer), consumer)
			}
			if strings.HasPrefix(c.answer, "{") {
				return fmt.Sprintf("MSG %s 1 %d\r\n%s\r\n", reply, len(c.answer), c.answer)
			}
			return c.answer
		}}
		conn, err := f.connect(t)
		if err != nil {
			t.Fatal(err)
		}
		if err := conn.publishLines("s", peerLines(1)); err == nil || !strings.Contains(err.Error(), c.publish) {
			t.Errorf("publish, answered with %q: %v, want %q", c.answer, err, c.publish)
		}
		if conn, err = f.connect(t); err != nil {
			t.Fatal(err)
		}
		if err := conn.replayStream("s", 5); err == nil || !strings.Contains(err.Error(), c.replay) {
			t.Errorf("replay, answered with %q: %v, want %q", c.answer, err, c.replay)
		}
	}
	f := &fakeNATS{hello: "220 mail"}
	if _, err := f.connect(t); err == nil || !strings.Contains(err.Error(), "220 mail") {
		t.Errorf("a server of another protocol: %v", err)
	}
}

func TestDeliveryNumber(t *testing.T) {
	for reply, want := range map[string]int{
		"$JS.ACK.s.c.1.22.333.1700000000000000000.0":         333,
		"$JS.ACK.domain.hash.s.c.1.22.333.17000000.0":        333,
		"$JS.ACK.domain.hash.s.c.1.22.333.17000000.0.random": 333,
		"$JS.ACK.s.c.1.22.x.17.0":                            -1,
		"$JS.ACK.s.c":                                        -1,
		"":                                                   -1,
	} {
		if got := deliveryNumber([]byte(reply)); got != want {
			t.Errorf("deliveryNumber(%q) = %d, want %d", reply, got, want)
		}
	}
}

func FuzzNATSMessage(f *testing.F) {
	f.Add([]byte("MSG s 1 reply 2\r\n{}\r\n"))
	f.Add([]byte("HMSG s 1 12 14\r\nNATS/1.0\r\n\r\n{}\r\n"))
	f.Fuzz(func(t *testing.T, b []byte) {
		c := &natsConn{conn: closedConn{}, in: bufio.NewReader(bytes.NewReader(b)), out: bufio.NewWriter(io.Discard)}
		for {
			m, err := c.readMessage()
			if err != nil {
				return
			}
			if n := len(m.header) + len(m.body) + len(m.reply); n > len(b) {
				t.Fatalf("a message of %d bytes from %d", n, len(b))
			}
		}
	})
}

// A closedConn has no other end.
type closedConn struct{ net.Conn }

func (closedConn) SetDeadline(time.Time) error { return nil }

// The peers that are installed store what they are given and stream it in order.
func TestInstalledPeers(t *testing.T) {
	for name, start := range map[string]func(context.Context, string) (*peer, error){
		"redis": startRedis, "nats": startNATS, "nats sync always": startNATSSynced,
	} {
		t.Run(name, func(t *testing.T) {
			p, err := start(t.Context(), t.TempDir())
			var missing *missingError
			if errors.As(err, &missing) || err != nil && strings.Contains(err.Error(), "sync_interval") {
				t.Log(err) // not installed, or too old
				return
			}
			if err != nil {
				t.Fatal(err)
			}
			defer p.stop()
			const publishers, size, most = 3, 7, 10
			lines := peerLines(size * most)
			r, err := p.publishAll(t.Context(), publishers, time.Hour, most, func(conn peerConn, i int) error {
				return conn.publishLines(batchStream, lines[i*size:(i+1)*size])
			})
			if err != nil || r.Events != most {
				t.Fatalf("publish: %d pipelines, %v", r.Events, err)
			}
			if took, err := p.readAll(t.Context(), len(lines)); err != nil || took <= 0 {
				t.Errorf("read: %s, %v", took, err)
			}
			t.Logf("%s", p.kind)
		})
	}
}

func TestMissingPeer(t *testing.T) {
	t.Setenv("PATH", t.TempDir())
	for _, start := range []func(context.Context, string) (*peer, error){startRedis, startNATS} {
		_, err := start(t.Context(), t.TempDir())
		var missing *missingError
		if !errors.As(err, &missing) || !strings.Contains(err.Error(), "is not installed") {
			t.Errorf("start of what is not installed: %v", err)
		}
	}
}
