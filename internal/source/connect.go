package source

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"maps"
	"mime"
	"net/http"
	"net/url"
	"os"
	"strings"
	"time"

	"github.com/rstream-dev/rstream/internal/sse"
	"github.com/rstream-dev/rstream/internal/wire"
)

// Config configures a source. URL is required.
type Config struct {
	// URL is the address of the stream, which ParseURL accepts.
	URL string
	// Knobs say how the stream carries its cursor.
	Knobs Knobs
	// TLS says how to check the server's certificate, and which one to send. If nil, as the
	// system does.
	TLS *tls.Config
	// Token returns the token to send, "" for none. It is called before each request.
	// Redirects to another host do not get it. If nil, none is sent.
	Token func(ctx context.Context) (string, error)
	// Header has more headers to send. Redirects to another host do not get them.
	Header http.Header
	// MaxEvent is the largest event in bytes. If zero, 1 MiB.
	MaxEvent int
	// Idle is how long a connection may be silent. If zero, 90 seconds: some servers send
	// a heartbeat only every 45.
	Idle time.Duration

	own string // the id of the log to which events are appended
}

const (
	defaultMaxEvent = 1 << 20
	defaultIdle     = 90 * time.Second
)

// A StatusError means that a server has refused to send the stream.
type StatusError struct {
	URL        string // without secrets
	Status     int
	RetryAfter time.Duration

	problem *wire.Error // of an rstream server
}

func (e *StatusError) Error() string {
	if e.problem != nil && e.problem.FromLog && e.problem.Detail != "" {
		return fmt.Sprintf("%s answers %d: %s", e.URL, e.Status, e.problem.Detail)
	}
	return fmt.Sprintf("%s answers %d %s", e.URL, e.Status, http.StatusText(e.Status))
}

// IsFinal reports whether the same request would be refused again.
func (e *StatusError) IsFinal() bool {
	switch e.Status {
	case http.StatusRequestTimeout, http.StatusTooEarly, http.StatusTooManyRequests:
		return false
	}
	return e.Status < 500 || e.Status == http.StatusNotImplemented || e.Status == http.StatusHTTPVersionNotSupported
}

// A StreamError means that a URL does not answer with an event stream.
type StreamError struct {
	URL       string // without secrets
	Text      string
	IsRstream bool // an rstream server answers there
}

func (e *StreamError) Error() string { return e.URL + " " + e.Text }

// An UnreachableError means that no server answered.
type UnreachableError struct {
	URL string // without secrets
	Err error
}

func (e *UnreachableError) Error() string { return fmt.Sprintf("connect %s: %v", e.URL, e.Err) }

// Unwrap returns the cause.
func (e *UnreachableError) Unwrap() error { return e.Err }

// A connection is one connection to a source.
type connection struct {
	*sse.Session
	reader    *frameReader
	upstream  *upstreamReader // of an rstream server, in place of reader
	confirmed string          // the cursor that the server says it sends on from, if it says one
	release   func()          // of the transport
}

// connect connects with a cursor, or for a batch.
func (c *Config) connect(ctx context.Context, cursor string, batch bool) (*connection, error) {
	header, err := c.header(ctx)
	if err != nil {
		return nil, err
	}
	conn := &connection{}
	cfg := sse.Config{Header: header, Idle: c.idle(), MaxEvent: c.MaxEvent}
	if c.Knobs.Rstream {
		err = c.askUpstream(&cfg, conn, cursor)
	} else {
		err = c.askForeign(&cfg, conn, cursor, batch)
	}
	if err != nil {
		return nil, err
	}
	cfg.HTTP, conn.release = c.httpClient()
	conn.Session, err = sse.Open(ctx, cfg)
	if err != nil {
		conn.release()
		return nil, c.nameError(err)
	}
	return conn, nil
}

// askForeign sets the request to a server of another kind, and how its answer is read.
func (c *Config) askForeign(cfg *sse.Config, conn *connection, cursor string, batch bool) (err error) {
	if cfg.URL, err = c.request(cursor, batch); err != nil {
		return err
	}
	if cfg.MaxEvent == 0 {
		cfg.MaxEvent = defaultMaxEvent
	}
	if c.Knobs.Resume.Query == "" {
		cfg.Cursor = c.cursorToSend(cursor)
	}
	asked, err := c.askedUsers()
	if err != nil {
		return err
	}
	conn.reader = newFrameReader(&c.Knobs, cursor, asked)
	cfg.Check = func(resp *http.Response) error { return c.checkResponse(conn, resp) }
	return nil
}

// header returns the headers of a request, with the token.
func (c *Config) header(ctx context.Context) (http.Header, error) {
	header := http.Header{"User-Agent": {"rstream"}}
	maps.Copy(header, c.Header)
	if c.Token == nil {
		return header, nil
	}
	token, err := c.Token(ctx)
	if err == nil && token != "" {
		header.Set("Authorization", "Bearer "+token)
	}
	return header, err
}

// httpClient returns a client of its own for a connection, and how to release it.
func (c *Config) httpClient() (hc *http.Client, release func()) {
	transport := sse.NewTransport(min(c.idle(), 30*time.Second), c.TLS)
	secrets := func(*url.URL) http.Header { return c.Header }
	return &http.Client{Transport: transport, CheckRedirect: sse.RedirectPolicy(secrets, nil)}, transport.CloseIdleConnections
}

// close ends the connection.
func (c *connection) close() {
	_ = c.Close() // it was ended here: there is nothing to lose
	c.release()
}

// next returns the next frame.
func (c *connection) next() (Frame, error) {
	f, err := c.Next()
	if err != nil {
		return Frame{}, err
	}
	if c.upstream != nil {
		return c.upstream.read(f)
	}
	return c.reader.read(f), nil
}

func (c *Config) idle() time.Duration {
	if c.Idle == 0 {
		return defaultIdle
	}
	return c.Idle
}

// cursorToSend returns what is sent for a cursor, "" for nothing.
func (c *Config) cursorToSend(cursor string) string {
	if cursor == "" {
		return c.Knobs.First
	}
	return asked(cursor, c.Knobs.Overlap)
}

// askedUsers returns the users that the URL asks for, if each has a cursor.
func (c *Config) askedUsers() (users []string, err error) {
	if !c.Knobs.Resume.PerUser {
		return nil, nil
	}
	u, err := ParseURL(c.URL)
	if err != nil {
		return nil, err
	}
	for _, value := range u.Query()[c.Knobs.Resume.Query] {
		user, _, _ := strings.Cut(value, ":")
		users = append(users, user)
	}
	return users, nil
}

// request returns the URL of a request.
func (c *Config) request(cursor string, batch bool) (target string, err error) {
	u, err := ParseURL(c.URL)
	if err != nil {
		return "", err
	}
	query := u.Query()
	send := c.cursorToSend(cursor)
	switch name := c.Knobs.Resume.Query; {
	case c.Knobs.Resume.PerUser:
		users := parseUserCursors(cursor)
		for i, value := range query[name] {
			user, _, _ := strings.Cut(value, ":")
			if at, ok := users[user]; ok {
				query[name][i] = user + ":" + at
			}
		}
	case name != "" && send != "" && (cursor != "" || !query.Has(name)):
		query.Set(name, send)
	}
	more := url.Values{}
	if batch {
		if more, err = url.ParseQuery(c.Knobs.Batch); err != nil {
			return "", err
		}
	}
	if cursor == "" && c.Knobs.Begin != "" {
		from, err := url.ParseQuery(c.Knobs.Begin)
		if err != nil {
			return "", err
		}
		maps.Copy(more, from)
	}
	maps.Copy(query, more)
	if c.Knobs.Resume.Query != "" || len(more) > 0 {
		u.RawQuery = query.Encode()
	}
	return u.String(), nil
}

// checkResponse refuses what is not a stream. It reads nothing of the body.
func (c *Config) checkResponse(conn *connection, resp *http.Response) error {
	shown := c.shownURL()
	isRstream := resp.Header.Get("Rstream-Log") != ""
	if isRstream && (resp.StatusCode == http.StatusOK || resp.StatusCode == http.StatusBadRequest) { // or it lacks a topic
		return &StreamError{shown, "is an rstream server", true}
	}
	if resp.StatusCode != http.StatusOK {
		return &StatusError{URL: shown, Status: resp.StatusCode, RetryAfter: wire.RetryAfter(resp.Header)}
	}
	if media, _, err := mime.ParseMediaType(resp.Header.Get("Content-Type")); err != nil || media != "text/event-stream" {
		return &StreamError{shown, fmt.Sprintf("is not an event stream: its content type is %.60q", resp.Header.Get("Content-Type")), false}
	}
	if coding := resp.Header.Get("Content-Encoding"); coding != "" && coding != "identity" {
		return &StreamError{shown, fmt.Sprintf("is compressed with %.40q, which was not asked for", coding), false}
	}
	for _, name := range c.Knobs.Confirm {
		if conn.confirmed == "" {
			conn.confirmed = resp.Header.Get(name)
		}
	}
	return nil
}

func (c *Config) shownURL() string { return ShownURL(c.URL) }

// ShownURL returns the URL of a source without its user, password and parameters, which may
// be secret.
func ShownURL(address string) string {
	u, err := ParseURL(address)
	if err != nil {
		return "the source"
	}
	u.User, u.RawQuery = nil, ""
	return u.String()
}

// nameError names the source in an error of the network, whose URL may have secrets.
func (c *Config) nameError(err error) error {
	var status *StatusError
	var stream *StreamError
	var wrong *WrongAnswerError
	switch {
	case errors.As(err, &status):
		return status
	case errors.As(err, &stream):
		return stream
	case errors.As(err, &wrong):
		return wrong
	}
	var failed *url.Error
	if errors.As(err, &failed) {
		err = failed.Err
	}
	var call *os.SyscallError
	if errors.As(err, &call) { // the error around it repeats the address
		err = call.Err
	}
	return &UnreachableError{c.shownURL(), err}
}

// nameReadError names the source in the error for which a connection has ended.
func (c *Config) nameReadError(err error) error { return fmt.Errorf("read %s: %w", c.shownURL(), err) }
