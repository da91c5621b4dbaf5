package wire

import (
	"bufio"
	"bytes"
	"encoding/hex"
	"errors"
	"fmt"
	"io"

	"github.com/rstream-dev/rstream/event"
)

// A Stub identifies an event of one log to a reader that knows its other members.
type Stub struct {
	ID   event.ID   `json:"id"`
	Time event.Time `json:"time"`
	Hash event.Hash `json:"hash"`
}

// AppendStub appends the stub of ev to b, with the members that its hash does not cover.
func AppendStub(ev *event.Event, b []byte) []byte {
	b = append(b, `{"id":"`...)
	b = ev.ID.AppendTo(b)
	b = append(b, `","time":"`...)
	b = ev.Time.AppendTo(b)
	b = append(b, `","hash":"`...)
	b = append(hex.AppendEncode(b, ev.Hash[:]), '"')
	if len(ev.Extra) > 0 {
		b = append(append(b, ','), ev.Extra...)
	}
	return append(b, '}')
}

// ErrLineTooLong reports that a line of NDJSON is longer than allowed.
var ErrLineTooLong = errors.New("line is too long")

// A LineReader reads lines of NDJSON up to a given length. It skips empty lines.
type LineReader struct {
	r      *bufio.Reader
	most   int
	number int
	open   bool   // the last line has no line feed
	long   []byte // a line that is larger than the buffer
	room   []byte // for copies of lines
}

// NewLineReader returns a LineReader of r for lines of at most most bytes.
func NewLineReader(r io.Reader, most int) *LineReader {
	return &LineReader{r: bufio.NewReaderSize(r, 64<<10), most: most}
}

// Next returns a copy of the next line without its line end, or io.EOF after the last line,
// which may lack a line feed. After any other error, the rest of the input is lost.
func (l *LineReader) Next() ([]byte, error) {
	line, err := l.Peek()
	if err != nil || len(line) > roomSize/8 {
		return bytes.Clone(line), err
	}
	if len(line) > len(l.room) {
		l.room = make([]byte, roomSize)
	}
	n := copy(l.room, line)
	line, l.room = l.room[:n:n], l.room[n:]
	return line, nil
}

// roomSize is how many bytes are allocated for copies of short lines, which share them.
const roomSize = 16 << 10

// Peek is like Next, but the line is valid only until the next call of either.
func (l *LineReader) Peek() ([]byte, error) {
	for {
		line, err := l.readLine()
		if err != nil {
			return nil, err
		}
		l.number++
		l.open = !bytes.HasSuffix(line, []byte("\n"))
		line = bytes.TrimSuffix(bytes.TrimSuffix(line, []byte("\n")), []byte("\r"))
		if len(line) > l.most {
			return nil, fmt.Errorf("line %d: %w: over %d bytes", l.number, ErrLineTooLong, l.most)
		}
		if len(bytes.TrimSpace(line)) > 0 {
			return line, nil
		}
	}
}

// readLine returns the next line with its line end, in the buffer or in l.long. It stops
// reading a line at most one buffer beyond the limit.
func (l *LineReader) readLine() ([]byte, error) {
	l.long = l.long[:0]
	for {
		part, err := l.r.ReadSlice('\n')
		if err == nil && len(l.long) == 0 {
			return part, nil
		}
		l.long = append(l.long, part...)
		switch {
		case err == nil, errors.Is(err, io.EOF) && len(l.long) > 0, len(l.long) > l.most+len("\r\n"):
			return l.long, nil
		case !errors.Is(err, bufio.ErrBufferFull):
			return nil, err
		}
	}
}

// Number returns the number of the last line that Next returned, from 1. Empty lines count.
func (l *LineReader) Number() int { return l.number }

// Open reports whether the last line that Next returned had no line feed, so that it may
// have been truncated.
func (l *LineReader) Open() bool { return l.open }
