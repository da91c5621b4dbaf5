package sse

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"math"
	"net/http"
	"slices"
	"sync"
	"time"

	"github.com/r3labs/sse/v2"
)

const (
	defaultMaxEvent = 4 << 20
	defaultIdle     = 45 * time.Second
)

var (
	// ErrIdle ends a session whose connection brought no byte for too long.
	ErrIdle = errors.New("silent for too long")

	// ErrClosed ends a session that was closed on this side.
	ErrClosed = errors.New("closed on this side")
)

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
// r3labs/sse splits the stream, behind a canonReader. On raw bytes it would
// deliver an event cut short as a whole one and take comments for events.
type Session struct {
	body   *IdleBody
	canon  *canonReader
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
	canon := newCanonReader(body, cfg.MaxEvent)
	return &Session{
		body:   body,
		canon:  canon,
		events: sse.NewEventStreamReader(canon, canonMax(cfg.MaxEvent)),
	}
}

// canonMax bounds the canonical form of a block of limit bytes, so that the
// limit is always met in canonReader, which can say so. "data" may grow by two
// in five bytes, and an id as long as an earlier block may stand before it.
func canonMax(limit int) int {
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
		return Frame{}, s.canon.cause()
	}
	if err != nil {
		return Frame{}, fmt.Errorf("split event stream: %w", err)
	}
	return s.decode(block), nil
}

// Retry is the reconnection delay that the server last asked for, if it did.
// Like Next it belongs to the goroutine that reads.
func (s *Session) Retry() (d time.Duration, ok bool) { return s.canon.retry() }

// Close ends the connection and waits for all that the session started. It
// may be called from any goroutine, more than once, and unblocks Next, which
// may still return blocks that had arrived.
func (s *Session) Close() error { return s.body.Close() }

// decode reads the form that canonReader writes.
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

// An IdleBody is a body whose reads fail once one has waited idle without a
// byte. Time between reads does not count: a reader that is slow to come back
// says nothing about the connection.
type IdleBody struct {
	body io.Reader
	idle time.Duration
	shut func() error // closes body, once

	timers sync.WaitGroup // armed timers that have neither been stopped nor run

	mu    sync.Mutex
	timer *time.Timer
	since time.Time // when the read under way began; zero between reads
	ended error     // why reads fail, once they do
}

func NewIdleBody(body io.ReadCloser, idle time.Duration) *IdleBody {
	return &IdleBody{body: body, idle: idle, shut: sync.OnceValue(body.Close)}
}

func (b *IdleBody) Read(p []byte) (int, error) {
	if err := b.arm(); err != nil {
		return 0, err
	}
	n, err := b.body.Read(p)
	// A body that was closed here may fail in any way, io.EOF among them.
	if ended := b.disarm(); ended != nil && err != nil {
		err = ended
	}
	return n, err
}

// Close closes the body and waits for the timer if it is just running.
func (b *IdleBody) Close() error {
	b.mu.Lock()
	if b.ended == nil {
		b.ended = ErrClosed
	}
	b.stop()
	b.mu.Unlock()
	err := b.shut()
	b.timers.Wait()
	return err
}

func (b *IdleBody) arm() error {
	b.mu.Lock()
	defer b.mu.Unlock()
	if b.ended != nil {
		return b.ended
	}
	b.timers.Add(1)
	b.since = time.Now()
	if b.timer == nil {
		b.timer = time.AfterFunc(b.idle, b.expire)
	} else {
		b.timer.Reset(b.idle)
	}
	return nil
}

func (b *IdleBody) disarm() error {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.since = time.Time{}
	b.stop()
	return b.ended
}

// stop is called with mu held.
func (b *IdleBody) stop() {
	if b.timer != nil && b.timer.Stop() {
		b.timers.Done()
	}
}

// expire runs when the timer fires. It may come too late to be stopped, when
// its read is over and another has begun; that one has an alarm of its own.
func (b *IdleBody) expire() {
	defer b.timers.Done()
	if b.overdue() {
		_ = b.shut()
	}
}

func (b *IdleBody) overdue() bool {
	b.mu.Lock()
	defer b.mu.Unlock()
	if b.ended != nil || b.since.IsZero() || time.Since(b.since) < b.idle {
		return false
	}
	b.ended = ErrIdle
	return true
}
