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

// ErrClosed ends a session that was closed on this side.
var ErrClosed = errors.New("closed on this side")

// A Frame is one complete block of an event stream.
type Frame struct {
	Cursor string // the last id in force, "" if none yet
	Type   string // the event's type; "" means message

	// Data is the data lines joined by LF, or nil when the block only moved
	// the cursor.
	Data []byte
}

// Config says how a connection is made. Only URL is required.
type Config struct {
	// URL is asked for the stream.
	URL string

	// Form is sent as the body of a POST, for parameters that are too long for a
	// URL. If empty, the request is a GET.
	Form string

	// HTTP makes the connection, with its redirects and cookies. If nil,
	// http.DefaultClient.
	HTTP *http.Client

	// Header is sent along. Accept, Cache-Control and Last-Event-ID are set by Open.
	Header http.Header

	// Cursor is the last event id in force when the connection begins: it is sent as
	// Last-Event-ID, and is the Cursor of the frames before the first id. If empty, the
	// stream begins wherever the server likes.
	Cursor string

	// Check looks at the answer, whose body has not been read, and refuses it by
	// returning an error. If nil, anything but a 200 text/event-stream is refused.
	// An answer that is accepted is read as an event stream, so Check must not read
	// its body then.
	Check func(*http.Response) error

	// MaxEvent is the limit of one event, comments left out, in bytes as they
	// are on the wire. If zero, 4 MiB.
	MaxEvent int

	// Idle is the longest silence, no byte at all, before the connection
	// counts as dead. If zero, 45 seconds.
	Idle time.Duration
}

// A Session is one connection that carries an event stream. It does not
// reconnect and remembers nothing: what to do when it ends is for the loop
// around it, which gets the true reason from Next.
//
// The connection is made, read and dispatched by the Client of r3labs/sse. On a
// raw stream it would deliver an event cut short as a whole one, take comments for
// events, reconnect for ever at an event over its limit and move a cursor that
// nobody has stored. So each of its Clients makes one connection, and what it
// reads has been through a normalizer.
type Session struct {
	conn   *connection
	cancel context.CancelFunc
	frames chan Frame // closed when the connection has ended

	closing sync.Once
	closed  chan struct{}

	err error // why the connection ended; valid once frames is closed
}

// Open makes one connection and returns once its answer has begun and been
// accepted. The error is that of Check, or that of the HTTP client. The
// connection lasts until ctx ends, Close is called or it is lost.
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
	go s.run(ctx, &cfg, opened)
	if err := <-opened; err != nil {
		cancel()
		return nil, err
	}
	return s, nil
}

func isControl(r rune) bool { return r < ' ' || r == '\x7f' }

// checkStream refuses an answer that is not an event stream.
func checkStream(resp *http.Response) error {
	if resp.StatusCode != http.StatusOK {
		return fmt.Errorf("open event stream: the answer is %s", resp.Status)
	}
	kind := resp.Header.Get("Content-Type")
	if media, _, err := mime.ParseMediaType(kind); err != nil || media != "text/event-stream" {
		return fmt.Errorf("open event stream: the answer is %.60q", kind)
	}
	return nil
}

// run makes the connection and dispatches what it brings until it ends. It sends
// opened nil, or why there is no stream.
func (s *Session) run(ctx context.Context, cfg *Config, opened chan<- error) {
	defer close(s.frames)
	lib := sse.NewClient(cfg.URL, sse.ClientMaxBufferSize(maxNormalized(cfg.MaxEvent)))
	lib.Connection = s.conn.client(cfg.HTTP)
	lib.ReconnectStrategy = &backoff.StopBackOff{}
	for name, values := range cfg.Header {
		lib.Headers[name] = strings.Join(values, ", ")
	}
	if cfg.Cursor != "" {
		lib.LastEventID.Store([]byte(cfg.Cursor))
	}
	accepted := false
	lib.ResponseValidator = func(_ *sse.Client, resp *http.Response) error {
		if err := cfg.Check(s.conn.raw(resp)); err != nil {
			_ = resp.Body.Close() // the library leaves that to its validator
			return err
		}
		accepted = true
		opened <- nil
		return nil
	}
	err := lib.SubscribeRawWithContext(ctx, s.dispatch)
	switch {
	case !accepted:
		opened <- err
	case err != nil:
		s.err = fmt.Errorf("split event stream: %w", err)
	default:
		s.err = s.conn.stream.cause()
	}
}

// dispatch hands on one event of the library.
func (s *Session) dispatch(ev *sse.Event) {
	f := Frame{Cursor: string(ev.ID), Type: string(ev.Event), Data: ev.Data}
	if f.Cursor == noID {
		f.Cursor = ""
	}
	select {
	case s.frames <- f:
	case <-s.closed:
	}
}

// maxNormalized bounds the normalized form of a block of limit bytes, so that the
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
	if f, ok := <-s.frames; ok {
		return f, nil
	}
	return Frame{}, s.err
}

// Retry is the reconnection delay that the server last asked for, if it did.
func (s *Session) Retry() (d time.Duration, ok bool) { return s.conn.stream.retry() }

// Close ends the connection and waits for all that the session started. It
// may be called from any goroutine, more than once, and unblocks Next, which
// may still return blocks that had arrived.
func (s *Session) Close() error {
	s.closing.Do(func() { close(s.closed) })
	err := s.conn.body.Close()
	s.cancel()
	for range s.frames { // until it is closed
	}
	return err
}
