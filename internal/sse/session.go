package sse

import (
	"context"
	"errors"
	"fmt"
	"math"
	"mime"
	"net/http"
	"strings"
	"sync"
	"time"

	"github.com/r3labs/sse/v2"
	"gopkg.in/cenkalti/backoff.v1"
)

const (
	defaultMaxEvent = 4 << 20
	defaultIdle     = 45 * time.Second
)

// ErrClosed is returned by Next after Close.
var ErrClosed = errors.New("closed on this side")

// A Frame is one complete block of an event stream.
type Frame struct {
	Cursor string // the last id in force, "" if none yet
	OwnID  bool   // this block has set Cursor; otherwise an earlier one has
	Type   string // the event's type; "" means message

	// Data is the data lines joined by LF, or nil when the block only moved
	// the cursor.
	Data []byte
}

// Config configures a connection. Only URL is required.
type Config struct {
	// URL is the address of the stream.
	URL string

	// Form is sent as the body of a POST, for parameters that are too long for a
	// URL. If empty, the request is a GET.
	Form string

	// HTTP makes the connection, with its policy for redirects and cookies. If nil,
	// http.DefaultClient.
	HTTP *http.Client

	// Header is added to the request. Open sets Accept, Cache-Control and Last-Event-ID.
	Header http.Header

	// Cursor is the last event id in force when the connection begins. It is sent as
	// Last-Event-ID, and is the Cursor of the frames before the first id. If empty, the
	// server chooses where the stream begins.
	Cursor string

	// Check inspects the response, whose body has not been read, and refuses it by
	// returning an error. If nil, anything but a 200 text/event-stream is refused.
	// If Check returns nil it must not have read the body, because the body is then
	// read as an event stream.
	Check func(*http.Response) error

	// MaxEvent is the largest event, in bytes on the wire without comments. If zero,
	// 4 MiB.
	MaxEvent int

	// Idle is how long the connection may bring no byte at all before it counts as
	// dead. If zero, 45 seconds.
	Idle time.Duration
}

// A Session is one connection that carries an event stream. It does not reconnect
// and keeps no state beyond the connection: the caller's loop decides how to go on,
// and Next returns the true reason for the end.
//
// The Client of r3labs/sse makes, reads and dispatches the connection. On a raw
// stream it would deliver a truncated event as a whole one, mistake comments for
// events, reconnect forever at an event over its limit, and advance a cursor that
// nobody has stored. So each of its Clients makes only one connection and reads it
// through a normalizer.
type Session struct {
	conn   *connection
	cancel context.CancelFunc
	frames chan Frame // closed when the connection has ended

	closing sync.Once
	closed  chan struct{}

	err error // why the connection ended; valid once frames is closed
}

// Open makes one connection and returns once the response has begun and Check has
// accepted it. The error is that of Check or of the HTTP client. The connection lasts
// until ctx ends, Close is called or the connection is lost.
func Open(ctx context.Context, cfg Config) (*Session, error) {
	if strings.ContainsFunc(cfg.Cursor, isControl) {
		return nil, fmt.Errorf("open event stream: cursor %.80q has control characters", cfg.Cursor)
	}
	if cfg.MaxEvent == 0 {
		cfg.MaxEvent = defaultMaxEvent
	}
	if cfg.Idle == 0 {
		cfg.Idle = defaultIdle
	}
	if cfg.Check == nil {
		cfg.Check = checkStream
	}
	ctx, cancel := context.WithCancel(ctx)
	s := &Session{conn: newConnection(&cfg), cancel: cancel, frames: make(chan Frame), closed: make(chan struct{})}
	opened := make(chan error, 1)
	go s.runConnection(ctx, &cfg, opened)
	if err := <-opened; err != nil {
		cancel()
		return nil, err
	}
	return s, nil
}

func isControl(r rune) bool { return r < ' ' || r == '\x7f' }

// checkStream refuses a response that is not an event stream.
func checkStream(resp *http.Response) error {
	if resp.StatusCode != http.StatusOK {
		return fmt.Errorf("open event stream: the server answered %s", resp.Status)
	}
	kind := resp.Header.Get("Content-Type")
	if media, _, err := mime.ParseMediaType(kind); err != nil || media != "text/event-stream" {
		return fmt.Errorf("open event stream: the content type is %.60q, want text/event-stream", kind)
	}
	return nil
}

// runConnection makes the connection and dispatches its events until it ends. It sends
// one value on opened: nil, or the reason why there is no stream.
func (s *Session) runConnection(ctx context.Context, cfg *Config, opened chan<- error) {
	defer close(s.frames)
	lib := sse.NewClient(cfg.URL, sse.ClientMaxBufferSize(maxNormalized(cfg.MaxEvent)))
	lib.Connection = s.conn.clientOver(cfg.HTTP)
	lib.ReconnectStrategy = &backoff.StopBackOff{}
	for name, values := range cfg.Header {
		lib.Headers[name] = strings.Join(values, ", ")
	}
	if cfg.Cursor != "" {
		lib.LastEventID.Store([]byte(cfg.Cursor))
	}
	accepted := false
	lib.ResponseValidator = func(_ *sse.Client, resp *http.Response) error {
		checked := *resp // Check may replace the body
		if err := cfg.Check(&checked); err != nil {
			_ = resp.Body.Close() // the library does not close it
			return err
		}
		s.conn.normalizeBody(resp)
		accepted = true
		opened <- nil
		return nil
	}
	err := lib.SubscribeRawWithContext(ctx, s.passEvent)
	switch {
	case !accepted:
		opened <- err
	case err != nil:
		s.err = fmt.Errorf("split event stream: %w", err)
	default:
		s.err = s.conn.stream.endCause()
	}
	if s.isClosed() {
		s.err = ErrClosed // blocks that had arrived may have been dropped
	}
}

func (s *Session) isClosed() bool {
	select {
	case <-s.closed:
		return true
	default:
		return false
	}
}

// passEvent passes one event of the library to Next. After Close it drops all of them:
// Next must not return a block that follows a dropped one.
func (s *Session) passEvent(ev *sse.Event) {
	id, inherited := strings.CutPrefix(string(ev.ID), sticky)
	f := Frame{Cursor: id, OwnID: !inherited, Type: string(ev.Event), Data: ev.Data}
	if s.isClosed() {
		return
	}
	select {
	case s.frames <- f:
	case <-s.closed:
	}
}

// maxNormalized bounds the normalized form of a block of limit bytes, so that the
// normalizer always reaches its limit first, since only it reports a clear error. A
// "data" line of five bytes may grow by two, and an id as long as an earlier block may
// precede it.
func maxNormalized(limit int) int {
	const overhead = 64
	if limit > (math.MaxInt-overhead)/3 {
		return math.MaxInt
	}
	return 3*limit + overhead
}

// Next returns the next complete block as soon as it has arrived. When the stream has
// ended it returns the same error each time: io.EOF if the server ended the stream
// cleanly, even within a block, ErrIdle, ErrClosed, a *TooLargeError, or the error of
// the read. A truncated event is never returned.
func (s *Session) Next() (Frame, error) {
	if f, ok := <-s.frames; ok {
		return f, nil
	}
	return Frame{}, s.err
}

// Retry returns the reconnection delay that the server last asked for. ok is false if
// it has not.
func (s *Session) Retry() (d time.Duration, ok bool) { return s.conn.stream.retryDelay() }

// Close ends the connection and waits for all goroutines of the session. It may be
// called from any goroutine, more than once. It unblocks Next, which may still return
// a block that had arrived before, but none after one that was dropped.
func (s *Session) Close() error {
	s.closing.Do(func() { close(s.closed) })
	err := s.conn.body.Close()
	s.cancel()
	for range s.frames { // until it is closed
	}
	return err
}
