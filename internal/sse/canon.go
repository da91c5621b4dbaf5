package sse

import (
	"bytes"
	"fmt"
	"io"
	"math"
	"time"
)

const (
	// rawSize is how much of the body one read may bring.
	rawSize = 16 << 10

	// noID stands in an id line while no id is in force. No id from the wire
	// can equal it, because an id that holds NUL is ignored.
	noID = "\x00"

	// maxEmptyReads is how many reads in a row may bring neither bytes nor an
	// error before the body counts as broken.
	maxEmptyReads = 100
)

var byteOrderMark = []byte("\xEF\xBB\xBF")

// A TooLargeError ends a stream in which one event is larger than Limit bytes.
// Reconnecting would only meet the same event again.
type TooLargeError struct{ Limit int }

func (e *TooLargeError) Error() string {
	return fmt.Sprintf("read event: larger than %d bytes", e.Limit)
}

// A canonReader reads the raw body of an event stream and gives its complete
// blocks in one canonical form, so that a lenient parser behind it cannot go
// wrong: LF only, no BOM, no comments, no retry, and in this order
//
//	id: ID         always; the id in force, or noID while there is none
//	event: TYPE    unless the type is empty
//	data: LINE     for each line of data; none if the block only moved the id
//
// and a blank line. A block is given once its blank line has arrived, without
// waiting for another byte; what the end of the body cuts off is dropped, id
// included. Text is passed on as it came, valid UTF-8 or not.
//
// The limit is on the lines of one block, an end counted as one byte. Comments
// are left out, so that heartbeats cannot add up to an error, but no line may
// be longer than the limit, comments included.
//
// One call of Read gives bytes of one block only: the parser searches all that
// it has buffered again for each block, and so has nothing else to search.
type canonReader struct {
	src   io.Reader
	limit int

	raw    []byte // raw[r:w] is read and not yet parsed
	r, w   int
	lf     int    // the next LF in raw, w if there is none; behind r: not known
	begun  bool   // the place where a BOM may stand is past
	skipLF bool   // the last line ended in CR: an LF that follows is part of that
	line   []byte // the start of a line whose end has not been read

	size  int // what the block counts for the limit
	moved bool
	kind  []byte
	data  []byte // canonical data lines
	id    []byte // outlives the block

	out []byte // the last complete block; out[pos:] is still to be given
	pos int

	delay   time.Duration // of the last retry
	delayed bool
	err     error // why src ended
}

func newCanonReader(src io.Reader, limit int) *canonReader {
	return &canonReader{src: src, limit: limit, raw: make([]byte, rawSize), lf: -1}
}

// Read gives canonical bytes. It ends with io.EOF at the end of a block,
// whatever ended the body; cause tells them apart.
func (c *canonReader) Read(p []byte) (int, error) {
	for c.pos == len(c.out) {
		switch {
		case c.r < c.w:
			c.parse()
		case c.err != nil:
			return 0, io.EOF
		default:
			c.fill()
		}
	}
	n := copy(p, c.out[c.pos:])
	c.pos += n
	return n, nil
}

// cause is why the body ended: io.EOF if the other side ended it cleanly, a
// *TooLargeError, or the error of the read. It is nil while more may come.
func (c *canonReader) cause() error { return c.err }

// retry is the reconnection delay last asked for, if any was.
func (c *canonReader) retry() (time.Duration, bool) { return c.delay, c.delayed }

// fill reads on once all of raw is parsed. At the start it waits for as many
// bytes as a BOM has, which delays nothing: no block is so short.
func (c *canonReader) fill() {
	c.r, c.w, c.lf = 0, 0, -1
	c.read()
	if c.begun {
		return
	}
	for c.w < len(byteOrderMark) && c.err == nil {
		c.read()
	}
	if bytes.HasPrefix(c.raw[:c.w], byteOrderMark) {
		c.r = len(byteOrderMark)
	}
	c.begun = true
}

func (c *canonReader) read() {
	for range maxEmptyReads {
		n, err := c.src.Read(c.raw[c.w:])
		c.w += n
		c.err = err
		if n > 0 || err != nil {
			return
		}
	}
	c.err = io.ErrNoProgress
}

// parse takes one line off raw, or all of raw if the line does not end there.
func (c *canonReader) parse() {
	if c.skipLF {
		c.skipLF = false
		if c.raw[c.r] == '\n' {
			c.r++
			return
		}
	}
	end, ended := c.lineEnd()
	part := c.raw[c.r:end]
	if !c.grow(part) {
		c.err = &TooLargeError{Limit: c.limit}
		c.r = c.w
		return
	}
	if !ended {
		c.line = append(c.line, part...)
		c.r = c.w
		return
	}
	c.skipLF = c.raw[end] == '\r'
	c.r = end + 1
	if len(c.line) > 0 {
		part = append(c.line, part...)
		c.line = part[:0]
	}
	c.take(part)
}

// lineEnd finds the CR or LF that ends the line at r. The place of the next LF
// is kept, or a body with none would be searched to its end for every CR.
func (c *canonReader) lineEnd() (end int, ended bool) {
	if c.lf < c.r {
		c.lf = c.w
		if i := bytes.IndexByte(c.raw[c.r:c.w], '\n'); i >= 0 {
			c.lf = c.r + i
		}
	}
	if i := bytes.IndexByte(c.raw[c.r:c.lf], '\r'); i >= 0 {
		return c.r + i, true
	}
	return c.lf, c.lf < c.w
}

// grow reports whether the line that part continues is within the limit. An
// unfinished line is judged too, or one without end would fill the memory.
func (c *canonReader) grow(part []byte) bool {
	size := len(c.line) + len(part) + 1
	if size > 1 && !c.isComment(part) {
		size += c.size
	}
	return size <= c.limit
}

func (c *canonReader) isComment(part []byte) bool {
	if len(c.line) > 0 {
		return c.line[0] == ':'
	}
	return part[0] == ':'
}

// take applies one whole line, without its end.
func (c *canonReader) take(line []byte) {
	if len(line) == 0 {
		c.endBlock()
		return
	}
	name, value := line, []byte(nil)
	if i := bytes.IndexByte(line, ':'); i >= 0 {
		name, value = line[:i], line[i+1:]
	}
	if len(value) > 0 && value[0] == ' ' {
		value = value[1:]
	}
	if len(name) == 0 && line[0] == ':' {
		return
	}
	c.size += len(line) + 1
	c.setField(name, value)
}

func (c *canonReader) setField(name, value []byte) {
	switch string(name) {
	case "data":
		c.data = appendField(c.data, "data: ", value)
	case "event":
		c.kind = append(c.kind[:0], value...)
	case "id":
		if bytes.IndexByte(value, 0) < 0 {
			c.id = append(c.id[:0], value...)
			c.moved = len(value) > 0
		}
	case "retry":
		if d, ok := parseRetry(value); ok {
			c.delay, c.delayed = d, true
		}
	}
}

// endBlock completes the block: it is an event if it has data, and is worth
// giving without data if it moved the reader's position.
func (c *canonReader) endBlock() {
	if len(c.data) > 0 || c.moved {
		c.emit()
	}
	c.size, c.moved = 0, false
	c.kind, c.data = c.kind[:0], c.data[:0]
}

func (c *canonReader) emit() {
	id := c.id
	c.out, c.pos = c.out[:0], 0
	if len(id) == 0 {
		c.out = append(c.out, "id: "+noID+"\n"...)
	} else {
		c.out = appendField(c.out, "id: ", id)
	}
	if len(c.kind) > 0 && len(c.data) > 0 {
		c.out = appendField(c.out, "event: ", c.kind)
	}
	c.out = append(c.out, c.data...)
	c.out = append(c.out, '\n')
}

func appendField(b []byte, name string, value []byte) []byte {
	b = append(b, name...)
	b = append(b, value...)
	return append(b, '\n')
}

// parseRetry reads milliseconds: ASCII digits and nothing else. More than a
// Duration can hold is the longest that it can.
func parseRetry(value []byte) (time.Duration, bool) {
	const most = math.MaxInt64 / int64(time.Millisecond)
	var ms int64
	for _, d := range value {
		if d < '0' || d > '9' {
			return 0, false
		}
		ms = min(ms*10+int64(d-'0'), most)
	}
	return time.Duration(ms) * time.Millisecond, len(value) > 0
}
