package bench

import (
	"bufio"
	"bytes"
	"errors"
	"fmt"
	"net"
	"strconv"
	"strings"
	"time"
)

// A redisConn is a connection to Redis. It knows the few commands that a comparison needs,
// in version 2 of the protocol.
type redisConn struct {
	conn net.Conn
	in   *bufio.Reader
	out  *bufio.Writer
}

func newRedisConn(conn net.Conn) *redisConn {
	return &redisConn{conn: conn, in: bufio.NewReaderSize(conn, 64<<10), out: bufio.NewWriterSize(conn, 64<<10)}
}

// A redisError is an error that Redis answered with.
type redisError string

// Error implements error.
func (e redisError) Error() string { return "redis: " + string(e) }

// sendCommand buffers a command.
func (c *redisConn) sendCommand(args ...string) {
	fmt.Fprintf(c.out, "*%d\r\n", len(args))
	for _, arg := range args {
		c.writeArgument([]byte(arg))
	}
}

func (c *redisConn) writeArgument(arg []byte) {
	b := append(c.out.AvailableBuffer(), '$')
	_, _ = c.out.Write(append(strconv.AppendInt(b, int64(len(arg)), 10), '\r', '\n')) // flush returns the error
	_, _ = c.out.Write(arg)
	_, _ = c.out.WriteString("\r\n")
}

// flush sends the buffered commands. Their answers must arrive in time.
func (c *redisConn) flush() error {
	return errors.Join(c.conn.SetDeadline(time.Now().Add(peerTimeout)), c.out.Flush())
}

// readHead reads the first line of a reply: its kind and, for numbers, strings and arrays, the
// number or length. The line is valid until the next read.
func (c *redisConn) readHead() (kind byte, n int, line []byte, err error) {
	line, err = c.in.ReadSlice('\n')
	if err != nil {
		return 0, 0, nil, fmt.Errorf("redis: %w", err)
	}
	line = bytes.TrimSuffix(line, []byte("\r\n"))
	if len(line) == 0 {
		return 0, 0, nil, errors.New("redis: an empty line")
	}
	kind, line = line[0], line[1:]
	switch kind {
	case '-':
		return kind, 0, nil, redisError(line)
	case '+':
		return kind, 0, line, nil
	case ':', '$', '*':
		if n, err = strconv.Atoi(string(line)); err != nil {
			return kind, 0, nil, fmt.Errorf("redis: a reply of length %.40q", line)
		}
		return kind, n, line, nil
	}
	return kind, 0, nil, fmt.Errorf("redis: a reply of kind %q", kind)
}

// readKind reads the first line of a reply of a certain kind.
func (c *redisConn) readKind(want byte) (n int, err error) {
	kind, n, _, err := c.readHead()
	if err == nil && kind != want {
		err = fmt.Errorf("redis: a reply of kind %q, want %q", kind, want)
	}
	return n, err
}

// readText reads a string of at most 64 KiB.
func (c *redisConn) readText() (string, error) {
	n, err := c.readKind('$')
	if err != nil {
		return "", err
	}
	if n < 0 {
		return "", errors.New("redis: a string is missing")
	}
	b, err := c.in.Peek(n + 2)
	if err != nil {
		return "", fmt.Errorf("redis: a string of %d bytes: %w", n, err)
	}
	s := string(b[:n])
	_, err = c.in.Discard(len(b))
	return s, err
}

// skipText reads a string without keeping it.
func (c *redisConn) skipText() error {
	n, err := c.readKind('$')
	if err != nil {
		return err
	}
	if n < 0 {
		return errors.New("redis: a string is missing")
	}
	if _, err = c.in.Discard(n + 2); err != nil {
		return fmt.Errorf("redis: a string of %d bytes: %w", n, err)
	}
	return nil
}

// readVersion returns the version of the server. It answers once its data is loaded.
func (c *redisConn) readVersion() (string, error) {
	c.sendCommand("INFO", "server")
	if err := c.flush(); err != nil {
		return "", err
	}
	info, err := c.readText()
	_, rest, _ := strings.Cut(info, "redis_version:")
	version, _, _ := strings.Cut(rest, "\r\n")
	return version, err
}

// publishLines implements peerConn.
func (c *redisConn) publishLines(stream string, lines [][]byte) error {
	head := fmt.Appendf(nil, "*5\r\n$4\r\nXADD\r\n$%d\r\n%s\r\n$1\r\n*\r\n$4\r\nline\r\n", len(stream), stream)
	for _, line := range lines {
		_, _ = c.out.Write(head) // flush returns the error
		c.writeArgument(line)
	}
	if err := c.flush(); err != nil {
		return err
	}
	for range lines {
		if err := c.skipText(); err != nil {
			return err
		}
	}
	return nil
}

// replayStream implements peerConn.
func (c *redisConn) replayStream(stream string, n int) error {
	last := "0"
	for n > 0 {
		c.sendCommand("XREAD", "COUNT", strconv.Itoa(peerPage), "STREAMS", stream, last)
		if err := c.flush(); err != nil {
			return err
		}
		read, err := c.readEntries(&last)
		if err != nil {
			return err
		}
		if read <= 0 {
			return fmt.Errorf("redis: %d events are missing", n)
		}
		n -= read
	}
	return nil
}

// readEntries reads the answer to XREAD of one stream: how many entries it has, and the id of
// the last one.
func (c *redisConn) readEntries(last *string) (n int, err error) {
	streams, err := c.readKind('*')
	if err != nil || streams <= 0 { // an array of length -1 is an answer without entries
		return 0, err
	}
	if streams != 1 {
		return 0, fmt.Errorf("redis: entries of %d streams", streams)
	}
	if err := c.readArray(2); err != nil {
		return 0, err
	}
	if err := c.skipText(); err != nil { // the name of the stream
		return 0, err
	}
	if n, err = c.readKind('*'); err != nil {
		return 0, err
	}
	for i := range n {
		if i == n-1 {
			err = c.readEntry(last)
		} else {
			err = c.readEntry(nil)
		}
		if err != nil {
			return i, err
		}
	}
	return n, nil
}

// readEntry reads an entry with one field, and its id if wanted.
func (c *redisConn) readEntry(id *string) (err error) {
	if err = c.readArray(2); err != nil {
		return err
	}
	if id == nil {
		err = c.skipText()
	} else {
		*id, err = c.readText()
	}
	if err != nil {
		return err
	}
	if err = c.readArray(2); err != nil {
		return err
	}
	for range 2 {
		if err = c.skipText(); err != nil {
			return err
		}
	}
	return nil
}

// readArray reads the first line of an array of length n.
func (c *redisConn) readArray(n int) error {
	got, err := c.readKind('*')
	if err == nil && got != n {
		err = fmt.Errorf("redis: an array of length %d, want %d", got, n)
	}
	return err
}

func (c *redisConn) close() error { return c.conn.Close() }
