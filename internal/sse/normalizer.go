package sse

import (
	"bytes"
	"fmt"
	"io"
	"math"
	"sync/atomic"
	"time"
)

const (
	// rawSize is how many bytes of the body one read may return.
	rawSize = 16 << 10

	// sticky comes before the id in the id line if the block has no id of its own, so
	// that the id in force, if any, is that of an earlier block. No id from the wire
	// begins with it, because an id that contains NUL is ignored.
	sticky = "\x00"

	// maxEmptyReads is how many reads in a row may return neither bytes nor an
	// error before the body counts as broken.
	maxEmptyReads = 100
)

var byteOrderMark = []byte("\xEF\xBB\xBF")

// A TooLargeError ends a stream in which one event is larger than Limit bytes.
// Reconnecting does not help: the same event would come again.
type TooLargeError struct{ Limit int }

func (e *TooLargeError) Error() string {
	return fmt.Sprintf("read event: larger than %d bytes", e.Limit)
}

// A normalizer reads the raw body of an event stream and returns its complete
// blocks in one canonical form, so that even a lenient parser reads them correctly:
// LF only, no BOM, no comments, no retry, and in this order
//
//	id: ID         always; the id in force, after sticky if another block has set it
//	event: TYPE    unless the type is empty
//	data: LINE     for each line of data; none if the block only moved the id
//
// and a blank line. A block is returned once its blank line has arrived, without
// waiting for another byte. A block that the end of the body cuts off is dropped,
// including its id. Text is passed on unchanged, valid UTF-8 or not.
//
// The limit applies to the lines of one block; a line end counts as one byte. Comments
// do not count, so that heartbeats cannot add up to an error, but no single line may
// be longer than the limit, comments included.
//
// One call of Read returns bytes of one block only: the library's parser searches its
// whole buffer again for each block, so the buffer must not hold more than one.
type normalizer struct {
	src   io.Reader
	limit int

	raw    []byte // raw[r:w] is read and not yet parsed
	r, w   int
	lf     int    // the next LF in raw, w if there is none; less than r: not known
	begun  bool   // the position where a BOM is allowed is past
	skipLF bool   // the last line ended in CR: an LF that follows belongs to it
	line   []byte // the start of a line whose end has not been read

	size  int // bytes of the block that count towards the limit
	moved bool
	kind  []byte
	data  []byte // canonical data lines
	id    []byte // outlives the block

	out []byte // the last complete block; out[pos:] has not been returned yet
	pos int

	delay atomic.Pointer[time.Duration] // of the last retry, if any
	err   error                         // why src ended
}

func newNormalizer(src io.Reader, limit int) *normalizer {
	return &normalizer{src: src, limit: limit, raw: make([]byte, rawSize), lf: -1}
}

// Read returns canonical bytes. It ends with io.EOF at the end of a block, however
// the body ended; endCause returns the reason.
func (n *normalizer) Read(p []byte) (int, error) {
	for n.pos == len(n.out) {
		switch {
		case n.r < n.w:
			n.parseRawLine()
		case n.err != nil:
			return 0, io.EOF
		default:
			n.readMore()
		}
	}
	given := copy(p, n.out[n.pos:])
	n.pos += given
	return given, nil
}

// endCause returns why the body ended: io.EOF if the other side ended it cleanly, a
// *TooLargeError, or the error of the read. It returns nil while more may come.
func (n *normalizer) endCause() error { return n.err }

// retryDelay returns the reconnection delay that the stream last asked for. ok is false if
// it has not. It may be called while another goroutine reads.
func (n *normalizer) retryDelay() (d time.Duration, ok bool) {
	if asked := n.delay.Load(); asked != nil {
		return *asked, true
	}
	return 0, false
}

// readMore reads more once all of raw is parsed. At the start it waits for as many
// bytes as a BOM has, which delays nothing: every block is longer.
func (n *normalizer) readMore() {
	n.r, n.w, n.lf = 0, 0, -1
	n.readOnce()
	if n.begun {
		return
	}
	for n.w < len(byteOrderMark) && n.err == nil {
		n.readOnce()
	}
	if bytes.HasPrefix(n.raw[:n.w], byteOrderMark) {
		n.r = len(byteOrderMark)
	}
	n.begun = true
}

func (n *normalizer) readOnce() {
	for range maxEmptyReads {
		got, err := n.src.Read(n.raw[n.w:])
		n.w += got
		n.err = err
		if got > 0 || err != nil {
			return
		}
	}
	n.err = io.ErrNoProgress
}

// parseRawLine takes one line off raw, or all of raw if the line does not end there.
func (n *normalizer) parseRawLine() {
	if n.skipLF {
		n.skipLF = false
		if n.raw[n.r] == '\n' {
			n.r++
			return
		}
	}
	end, ended := n.lineEnd()
	part := n.raw[n.r:end]
	if !n.fitsLimit(part) {
		n.err = &TooLargeError{Limit: n.limit}
		n.r = n.w
		return
	}
	if !ended {
		n.line = append(n.line, part...)
		n.r = n.w
		return
	}
	n.skipLF = n.raw[end] == '\r'
	n.r = end + 1
	if len(n.line) > 0 {
		part = append(n.line, part...)
		n.line = part[:0]
	}
	n.applyLine(part)
}

// lineEnd finds the CR or LF that ends the line at r. The position of the next LF
// is kept, or a body without any would be searched to its end for every CR.
func (n *normalizer) lineEnd() (end int, ended bool) {
	if n.lf < n.r {
		n.lf = n.w
		if i := bytes.IndexByte(n.raw[n.r:n.w], '\n'); i >= 0 {
			n.lf = n.r + i
		}
	}
	if i := bytes.IndexByte(n.raw[n.r:n.lf], '\r'); i >= 0 {
		return n.r + i, true
	}
	return n.lf, n.lf < n.w
}

// fitsLimit reports whether the line that part continues is within the limit. An
// unfinished line counts too, or one without an end would fill the memory.
func (n *normalizer) fitsLimit(part []byte) bool {
	size := len(n.line) + len(part) + 1
	if size > 1 && !n.isComment(part) {
		size += n.size
	}
	return size <= n.limit
}

func (n *normalizer) isComment(part []byte) bool {
	if len(n.line) > 0 {
		return n.line[0] == ':'
	}
	return part[0] == ':'
}

// applyLine applies one whole line, given without its line end.
func (n *normalizer) applyLine(line []byte) {
	if len(line) == 0 {
		n.endBlock()
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
	n.size += len(line) + 1
	n.setField(name, value)
}

func (n *normalizer) setField(name, value []byte) {
	switch string(name) {
	case "data":
		n.data = appendField(n.data, "data: ", value)
	case "event":
		n.kind = append(n.kind[:0], value...)
	case "id":
		if bytes.IndexByte(value, 0) < 0 {
			n.id = append(n.id[:0], value...)
			n.moved = len(value) > 0
		}
	case "retry":
		if d, ok := parseRetry(value); ok {
			n.delay.Store(&d)
		}
	}
}

// endBlock completes the block. A block with data is an event. A block without data
// is returned only if it moved the reader's position.
func (n *normalizer) endBlock() {
	if len(n.data) > 0 || n.moved {
		n.emitBlock()
	}
	n.size, n.moved = 0, false
	n.kind, n.data = n.kind[:0], n.data[:0]
}

func (n *normalizer) emitBlock() {
	n.out, n.pos = n.out[:0], 0
	if n.moved {
		n.out = appendField(n.out, "id: ", n.id)
	} else {
		n.out = appendField(n.out, "id: "+sticky, n.id)
	}
	if len(n.kind) > 0 && len(n.data) > 0 {
		n.out = appendField(n.out, "event: ", n.kind)
	}
	n.out = append(n.out, n.data...)
	n.out = append(n.out, '\n')
}

func appendField(b []byte, name string, value []byte) []byte {
	b = append(b, name...)
	b = append(b, value...)
	return append(b, '\n')
}

// parseRetry parses milliseconds: ASCII digits and nothing else. A value that does not
// fit a Duration becomes the longest Duration.
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
