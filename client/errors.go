package client

import (
	"errors"
	"fmt"
	"net/http"
	"net/url"
	"time"

	"github.com/rstream-dev/rstream/cache"
	"github.com/rstream-dev/rstream/client/internal/imports"
	"github.com/rstream-dev/rstream/event"
	"github.com/rstream-dev/rstream/internal/sse"
	"github.com/rstream-dev/rstream/internal/wire"
)

// An UnreachableError reports that no server answered: there was no connection, it
// ended before a response came, or a proxy answered because the server is down.
type UnreachableError struct {
	URL string
	Err error

	sent   bool // the request may have arrived
	unread bool // the server has refused the handshake, and read no request
}

func (e *UnreachableError) Error() string { return fmt.Sprintf("connect %s: %v", hostOf(e.URL), e.Err) }

// Unwrap returns the cause.
func (e *UnreachableError) Unwrap() error { return e.Err }

// A ProxyError is the cause of an UnreachableError if the request failed at the proxy
// that the environment sets, and not at the server.
type ProxyError struct {
	Proxy string // its URL without secrets; "of the client" if Config.HTTP has its own, "" if the setting is invalid
	Err   error
}

func (e *ProxyError) Error() string {
	return (&wire.ProxyError{Proxy: e.Proxy, Err: e.Err}).Error()
}

// Unwrap returns the cause.
func (e *ProxyError) Unwrap() error { return e.Err }

// ErrIdle is the cause of errors of a connection that was silent for Config.Idle. Calls
// try again: it is passed to Config.OnRetry, and is the Err of a TimeoutError.
var ErrIdle = sse.ErrIdle

// A TimeoutError reports that a call made no progress for Config.Timeout and gave up.
// Err is the error of the last attempt.
type TimeoutError struct {
	After time.Duration
	Err   error
}

func (e *TimeoutError) Error() string {
	return fmt.Sprintf("no progress for %s: %v", e.After, e.Err)
}

// Unwrap returns the cause.
func (e *TimeoutError) Unwrap() error { return e.Err }

// A GapError reports that the server no longer has the history after After. Oldest is
// the oldest position that it still serves.
type GapError struct{ After, Oldest event.ID }

func (e *GapError) Error() string {
	return fmt.Sprintf("history from %s to %s is gone from the server", e.After, e.Oldest)
}

// An UnknownOutcomeError reports that drafts may or may not have been appended: the
// request may have arrived, and the log has not answered it. It is safe to put the same
// drafts again, with the same keys.
type UnknownOutcomeError struct{ Err error }

func (e *UnknownOutcomeError) Error() string { return e.Err.Error() }

// Unwrap returns the cause.
func (e *UnknownOutcomeError) Unwrap() error { return e.Err }

// An OtherLogError reports that the server at URL serves log Got, but the copy holds log
// Want.
type OtherLogError struct {
	URL, Got, Want string

	refused bool // the server did nothing, because the request named its log
}

func (e *OtherLogError) Error() string {
	return fmt.Sprintf("%s serves the log %s, the cache holds %s", publicURL(e.URL), e.Got, e.Want)
}

// A RolledBackError reports that a server's log was rolled back to an older state: it ends
// before a held position, or has another event there.
type RolledBackError struct {
	URL  string
	Held event.ID // the held position
	Head event.ID // of the server's log, which may have grown since

	refused bool // the server checked this first and did nothing
}

func (e *RolledBackError) Error() string {
	if e.Head < e.Held {
		return fmt.Sprintf("%s: the log was rolled back to an older state: it ends at %s, but this copy holds it up to %s", hostOf(e.URL), e.Head, e.Held)
	}
	return fmt.Sprintf("%s: the log was rolled back to an older state and has grown since: its events differ from those held up to %s", hostOf(e.URL), e.Held)
}

// A ProtocolError reports an invalid response of a server.
type ProtocolError struct {
	URL    string
	Reason string
}

func (e *ProtocolError) Error() string { return fmt.Sprintf("%s: %s", publicURL(e.URL), e.Reason) }

// publicURL returns a server's URL without its secrets, to be shown.
func publicURL(base string) string { return wire.RedactURL(base) }

// hostOf returns the name that errors use for the server of a URL.
func hostOf(base string) string {
	u, err := url.Parse(base)
	if err != nil || u.Host == "" {
		return publicURL(base)
	}
	return u.Host + u.Path
}

// ErrClosed ends the tails of a client that was closed.
var ErrClosed = errors.New("client is closed")

// permanent reports whether retrying cannot help. An error of the network may go away;
// a decision of a server, and an error of the store or of the caller, does not.
func permanent(err error) bool {
	if err == nil {
		return false
	}
	var timeout *TimeoutError
	if errors.As(err, &timeout) {
		return true
	}
	var status *StatusError
	if errors.As(err, &status) {
		return status.isFinal()
	}
	var (
		gap      *GapError
		log      *OtherLogError
		back     *RolledBackError
		protocol *ProtocolError
		conflict *cache.ConflictError
		here     *imports.StoreError
	)
	return errors.As(err, &gap) || errors.As(err, &log) || errors.As(err, &back) || errors.As(err, &protocol) ||
		errors.As(err, &conflict) || errors.As(err, &here)
}

// storeError marks an error of the cache or of the caller, not of the network. It
// returns nil if err is nil.
func storeError(err error) error { return imports.NewStoreError(err) }

// joinErrors is like errors.Join, but the text is one line.
func joinErrors(err, more error) error {
	switch {
	case err == nil:
		return more
	case more == nil:
		return err
	}
	return fmt.Errorf("%w; %w", err, more)
}

// droppedError returns the error of a response that was cut off, naming the server.
func droppedError(base string, err error) error {
	return fmt.Errorf("read %s: %w", hostOf(base), trimNetError(err))
}

// refusalError turns a server's refusal of a position into a *GapError if its history is
// gone. It leaves that of a range whose end only is gone, and lies before its beginning.
func refusalError(e *StatusError, after event.ID) error {
	if e.Status == http.StatusGone && e.oldest != nil && after < *e.oldest {
		return &GapError{After: after, Oldest: *e.oldest}
	}
	return e
}
