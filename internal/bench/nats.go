package bench

import (
	"bufio"
	"bytes"
	"crypto/rand"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"strconv"
	"time"
)

// A natsConn is a connection to NATS with JetStream. It knows as much of the protocol as a
// comparison needs.
type natsConn struct {
	conn    net.Conn
	in      *bufio.Reader
	out     *bufio.Writer
	inbox   string // prefix of the subjects that answers are sent to
	version string // of the server
	line    []byte
	payload []byte
}

const (
	natsMaxPayload = 1 << 20
	natsAPI        = "$JS.API."
)

// newNATSConn says hello to the server at the other end of conn.
func newNATSConn(conn net.Conn) (*natsConn, error) {
	c := &natsConn{
		conn: conn, in: bufio.NewReaderSize(conn, 64<<10), out: bufio.NewWriterSize(conn, 64<<10),
		inbox: "_INBOX." + rand.Text() + ".",
	}
	if err := c.conn.SetDeadline(time.Now().Add(peerTimeout)); err != nil {
		return nil, err
	}
	hello, err := c.in.ReadSlice('\n')
	if err != nil {
		return nil, fmt.Errorf("nats: %w", err)
	}
	var info struct{ Version string }
	body, ok := bytes.CutPrefix(hello, []byte("INFO "))
	if !ok || json.Unmarshal(body, &info) != nil {
		return nil, fmt.Errorf("nats: the server begins with %.80q", hello)
	}
	c.version = info.Version
	fmt.Fprintf(c.out, "CONNECT {\"verbose\":false,\"pedantic\":false,\"headers\":true,\"no_responders\":true,\"lang\":\"go\",\"version\":\"1\",\"protocol\":1}\r\n"+
		"SUB %s* 1\r\nPING\r\n", c.inbox)
	if err := c.flush(); err != nil {
		return nil, err
	}
	for {
		line, err := c.readOperation()
		if err != nil {
			return nil, err
		}
		if string(line) == "PONG" {
			return c, nil
		}
	}
}

// flush sends the buffered requests. The answers must arrive in time.
func (c *natsConn) flush() error {
	return errors.Join(c.conn.SetDeadline(time.Now().Add(peerTimeout)), c.out.Flush())
}

// readOperation reads the next line, which is valid until the next read, and answers pings.
func (c *natsConn) readOperation() ([]byte, error) {
	for {
		line, err := c.in.ReadSlice('\n')
		if err != nil {
			return nil, fmt.Errorf("nats: %w", err)
		}
		line = bytes.TrimSuffix(line, []byte("\r\n"))
		switch {
		case string(line) == "PING":
			_, _ = c.out.WriteString("PONG\r\n") // flush returns the error
			if err := c.flush(); err != nil {
				return nil, err
			}
		case bytes.HasPrefix(line, []byte("-ERR")):
			return nil, fmt.Errorf("nats: %s", bytes.TrimPrefix(line, []byte("-ERR ")))
		case string(line) == "+OK" || bytes.HasPrefix(line, []byte("INFO ")):
		default:
			return line, nil
		}
	}
}

// A natsMessage is valid until the next one is read.
type natsMessage struct {
	reply  []byte // the subject for an answer, if there is one
	header []byte
	body   []byte
}

// readMessage reads the next message.
func (c *natsConn) readMessage() (m natsMessage, err error) {
	line, err := c.readOperation()
	if err != nil {
		return m, err
	}
	c.line = append(c.line[:0], line...)
	var fields [6][]byte
	n := 0
	for f := range bytes.FieldsSeq(c.line) {
		if n == len(fields) {
			return m, fmt.Errorf("nats: the line %.80q", c.line)
		}
		fields[n] = f
		n++
	}
	header := n > 0 && string(fields[0]) == "HMSG"
	// MSG subject sid [reply] size, and HMSG subject sid [reply] header size.
	need := 4
	if header {
		need = 5
	}
	if n < need || n > need+1 || !header && string(fields[0]) != "MSG" {
		return m, fmt.Errorf("nats: the line %.80q", c.line)
	}
	if n == need+1 {
		m.reply = fields[3]
	}
	size, err := strconv.Atoi(string(fields[n-1]))
	head := 0
	if header && err == nil {
		head, err = strconv.Atoi(string(fields[n-2]))
	}
	if err != nil || size < 0 || size > natsMaxPayload || head < 0 || head > size {
		return m, fmt.Errorf("nats: a message of size %.80q", c.line)
	}
	if cap(c.payload) < size+2 {
		c.payload = make([]byte, size+2)
	}
	c.payload = c.payload[:size+2]
	if _, err := io.ReadFull(c.in, c.payload); err != nil {
		return m, fmt.Errorf("nats: a message of %d bytes: %w", size, err)
	}
	m.header, m.body = c.payload[:head], c.payload[head:size]
	return m, nil
}

// sendMessage buffers a message.
func (c *natsConn) sendMessage(subject, answer string, body []byte) {
	_, _ = c.out.WriteString("PUB ") // flush returns the error
	_, _ = c.out.WriteString(subject)
	_ = c.out.WriteByte(' ')
	_, _ = c.out.WriteString(c.inbox)
	_, _ = c.out.WriteString(answer)
	_ = c.out.WriteByte(' ')
	_, _ = c.out.Write(strconv.AppendInt(c.out.AvailableBuffer(), int64(len(body)), 10))
	_, _ = c.out.WriteString("\r\n")
	_, _ = c.out.Write(body)
	_, _ = c.out.WriteString("\r\n")
}

// requestAPI sends a request to JetStream's API and returns its answer.
func (c *natsConn) requestAPI(subject string, body any) (answer struct {
	Error *struct{ Description string }
	Name  string
}, err error) {
	b, err := json.Marshal(body)
	if err != nil {
		return answer, err
	}
	c.sendMessage(natsAPI+subject, "api", b)
	if err := c.flush(); err != nil {
		return answer, err
	}
	m, err := c.readMessage()
	if err != nil {
		return answer, err
	}
	if len(m.header) > 0 { // nobody answers requests to an API that is switched off
		return answer, fmt.Errorf("nats: %s: %.80q", subject, m.header)
	}
	if err := json.Unmarshal(m.body, &answer); err != nil {
		return answer, fmt.Errorf("nats: %s: %w", subject, err)
	}
	if answer.Error != nil {
		return answer, fmt.Errorf("nats: %s: %s", subject, answer.Error.Description)
	}
	return answer, nil
}

// createStream creates a stream in files.
func (c *natsConn) createStream(stream string) error {
	_, err := c.requestAPI("STREAM.CREATE."+stream, map[string]any{
		"name": stream, "subjects": []string{stream}, "storage": "file", "retention": "limits", "num_replicas": 1,
	})
	return err
}

// publishLines implements peerConn.
func (c *natsConn) publishLines(stream string, lines [][]byte) error {
	for _, line := range lines {
		c.sendMessage(stream, "ack", line)
	}
	if err := c.flush(); err != nil {
		return err
	}
	for range lines {
		m, err := c.readMessage()
		if err != nil {
			return err
		}
		if len(m.header) > 0 || !bytes.HasPrefix(m.body, []byte(`{"stream":`)) {
			return fmt.Errorf("nats: publish: %.80q", bytes.Join([][]byte{m.header, m.body}, nil))
		}
	}
	return nil
}

// replayStream implements peerConn. Its consumer is what NATS calls an ordered one: in memory,
// without acknowledgements, and numbered. Half of a page is always on the way.
func (c *natsConn) replayStream(stream string, n int) error {
	consumer, err := c.requestAPI("CONSUMER.CREATE."+stream, map[string]any{
		"stream_name": stream,
		"config": map[string]any{
			"deliver_policy": "all", "ack_policy": "none", "replay_policy": "instant", "mem_storage": true, "num_replicas": 1,
			"inactive_threshold": peerTimeout.Nanoseconds(),
		},
	})
	if err != nil {
		return err
	}
	asked := 0
	ask := func() error {
		batch := min(n-asked, peerPage/2)
		if batch == 0 {
			return nil
		}
		asked += batch
		c.sendMessage(natsAPI+"CONSUMER.MSG.NEXT."+stream+"."+consumer.Name, "page", fmt.Appendf(nil, `{"batch":%d}`, batch))
		return c.flush()
	}
	if err := errors.Join(ask(), ask()); err != nil {
		return err
	}
	for i := 1; i <= n; i++ {
		m, err := c.readMessage()
		if err != nil {
			return err
		}
		if got := deliveryNumber(m.reply); got != i {
			return fmt.Errorf("nats: delivery %d instead of %d: %.80q", got, i, m.header)
		}
		if i%(peerPage/2) == 0 {
			if err := ask(); err != nil {
				return err
			}
		}
	}
	return nil
}

// deliveryNumber returns the number that a consumer has given to a message, from the
// subject of its acknowledgement; -1 if there is none. The subject is
// $JS.ACK.stream.consumer.deliveries.place.number.time.pending or has two parts more, before
// the stream.
func deliveryNumber(reply []byte) int {
	const short, number = 8, 6 // dots, and the index of the part
	at := number
	if bytes.Count(reply, []byte{'.'}) > short {
		at += 2
	}
	for range at {
		_, rest, ok := bytes.Cut(reply, []byte{'.'})
		if !ok {
			return -1
		}
		reply = rest
	}
	digits, _, _ := bytes.Cut(reply, []byte{'.'})
	n, err := strconv.Atoi(string(digits))
	if err != nil {
		return -1
	}
	return n
}

func (c *natsConn) close() error { return c.conn.Close() }
