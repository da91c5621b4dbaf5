package sse

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"math"
	"net/http"
	"slices"
	"time"

	"github.com/r3labs/sse/v2"
)

const (
	defaultMaxEvent = 4 << 20
	defaultIdle     = 45 * time.Second
)

// ErrClosed ends a session that was closed on this side.
var ErrClosed = errors.New("closed on this side")

// A Frame is one complete block of an event stream.
type Frame struct {
	Cursor string // the last id in force, "" if none yet
	Type   string // the event's type; "" means message

	// Data is the data lines joined by LF, or nil when the block only moved
	// the cursor. It is valid until the next call of Next.
	Data []byte
}

type Config struct {
	// MaxEvent is the limit of one event, comments left out, in bytes as they
	// are on the wire. If zero, 4 MiB.
	MaxEvent int

	// Idle is the longest silence, no byte at all, before the connection
	// counts as dead. If zero, 45 seconds.
	Idle time.Duration
}

// A Session is one connection that carries an event stream. It does not
// reconnect, sends nothing and remembers nothing: what to do when it ends is
// for the loop around it, which gets the true reason from Next.
//
// r3labs/sse splits the stream, behind a normalizer. On raw bytes it would
// deliver an event cut short as a whole one and take comments for events.
type Session struct {
	body   *IdleBody
	stream *normalizer
	events *sse.EventStreamReader

	// The last frame's, kept so that a value that repeats is not copied again.
	cursor, kind string
}

// NewSession reads resp, a 200 text/event-stream, and owns its body from now.
func NewSession(resp *http.Response, cfg Config) *Session {
	if cfg.MaxEvent == 0 {
		cfg.MaxEvent = defaultMaxEvent
	}
	if cfg.Idle == 0 {
		cfg.Idle = defaultIdle
	}
	body, ok := resp.Body.(*IdleBody)
	if !ok {
		body = NewIdleBody(resp.Body, cfg.Idle)
	}
	stream := newNormalizer(body, cfg.MaxEvent)
	return &Session{
		body:   body,
		stream: stream,
		events: sse.NewEventStreamReader(stream, maxNormalized(cfg.MaxEvent)),
	}
}

// maxNormalized bounds the canonical form of a block of limit bytes, so that the
// limit is always met in normalizer, which can say so. "data" may grow by two
// in five bytes, and an id as long as an earlier block may stand before it.
func maxNormalized(limit int) int {
	const overhead = 64
	if limit > (math.MaxInt-overhead)/3 {
		return math.MaxInt
	}
	return 3*limit + overhead
}

// Next returns the next complete block as soon as it has arrived. At the end,
// which repeats, the error is io.EOF if the server ended the stream cleanly at
// whatever point, ErrIdle, ErrClosed, a *TooLargeError, or the error of
// the read. An event that the end cut short is never returned.
func (s *Session) Next() (Frame, error) {
	block, err := s.events.ReadEvent()
	if errors.Is(err, io.EOF) {
		return Frame{}, s.stream.cause()
	}
	if err != nil {
		return Frame{}, fmt.Errorf("split event stream: %w", err)
	}
	return s.decode(block), nil
}

// Retry is the reconnection delay that the server last asked for, if it did.
// Like Next it belongs to the goroutine that reads.
func (s *Session) Retry() (d time.Duration, ok bool) { return s.stream.retry() }

// Close ends the connection and waits for all that the session started. It
// may be called from any goroutine, more than once, and unblocks Next, which
// may still return blocks that had arrived.
func (s *Session) Close() error { return s.body.Close() }

// decode reads the form that normalizer writes.
func (s *Session) decode(block []byte) Frame {
	id, rest, _ := cutField(block, "id: ")
	if string(id) == noID {
		id = nil
	}
	kind, rest, _ := cutField(rest, "event: ")
	if string(id) != s.cursor {
		s.cursor = string(id)
	}
	if string(kind) != s.kind {
		s.kind = string(kind)
	}
	return Frame{Cursor: s.cursor, Type: s.kind, Data: joinData(rest)}
}

// cutField takes the first line off block if it begins with name.
func cutField(block []byte, name string) (value, rest []byte, ok bool) {
	line, rest, _ := bytes.Cut(block, []byte("\n"))
	value, ok = bytes.CutPrefix(line, []byte(name))
	if !ok {
		return nil, block, false
	}
	return value, rest, true
}

// joinData joins data lines where they stand: the block lies in the scanner's
// buffer, where nothing reads it again. The result is clipped, so that an
// append to it does not write into that buffer.
func joinData(lines []byte) []byte {
	var data []byte
	for {
		value, rest, ok := cutField(lines, "data: ")
		if !ok {
			return slices.Clip(data)
		}
		if data == nil {
			data = value[:0]
		} else {
			data = append(data, '\n')
		}
		data = append(data, value...)
		lines = rest
	}
}
