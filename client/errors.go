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

// An UnreachableError says that no server answered: there was no connection, it
// ended before an answer came, or a proxy answered for a server that is not there.
type UnreachableError struct {
	URL string
	Err error

	sent bool // the request may have arrived
}

func (e *UnreachableError) Error() string { return fmt.Sprintf("connect %s: %v", host(e.URL), e.Err) }

// Unwrap returns the cause.
func (e *UnreachableError) Unwrap() error { return e.Err }

// A TimeoutError says that a call gave up because it had made no progress for the
// Timeout of its Config. Err is what the last attempt ended with.
type TimeoutError struct {
	After time.Duration
	Err   error
}

func (e *TimeoutError) Error() string {
	return fmt.Sprintf("no progress for %s: %v", e.After, e.Err)
}

// Unwrap returns the cause.
func (e *TimeoutError) Unwrap() error { return e.Err }

// A GapError says that the server no longer has the history that follows After:
// the oldest position that it serves is Oldest.
type GapError struct{ After, Oldest event.ID }

func (e *GapError) Error() string {
	return fmt.Sprintf("history from %s to %s is gone from the server", e.After, e.Oldest)
}

// An UnknownOutcomeError says that drafts may or may not have been appended: they may
// have arrived, and no answer of the log says what became of them. Putting the same
// drafts again, keys and all, is safe.
type UnknownOutcomeError struct{ Err error }

func (e *UnknownOutcomeError) Error() string { return e.Err.Error() }

// Unwrap returns the cause.
func (e *UnknownOutcomeError) Unwrap() error { return e.Err }

// An OtherLogError says that a server serves another log than the cache holds.
type OtherLogError struct {
	URL, Got, Want string

	refused bool // the server did nothing: the request named the log that it is for
}

func (e *OtherLogError) Error() string {
	return fmt.Sprintf("%s serves the log %s, the cache holds %s", public(e.URL), e.Got, e.Want)
}

// A PutBackError says that a server's log was put back to an older state: it ends
// before what is held, or has another event at a position up to which it is held.
type PutBackError struct {
	URL  string
	Held event.ID // the position
	Head event.ID // of the server's log, which may have gone on since

	refused bool // by a server that looked before it did anything
}

func (e *PutBackError) Error() string {
	if e.Head < e.Held {
		return fmt.Sprintf("%s: the log was put back to an older state: it ends at %s, but this copy holds it up to %s", host(e.URL), e.Head, e.Held)
	}
	return fmt.Sprintf("%s: the log was put back to an older state and has grown since: its events differ from those held up to %s", host(e.URL), e.Held)
}

// A ProtocolError says that a server answered what it must not.
type ProtocolError struct {
	URL    string
	Reason string
}

func (e *ProtocolError) Error() string { return fmt.Sprintf("%s: %s", public(e.URL), e.Reason) }

// public is a server's URL as it may be shown.
func public(base string) string { return wire.RedactURL(base) }

// host is how errors name the other end of a connection.
func host(base string) string {
	u, err := url.Parse(base)
	if err != nil || u.Host == "" {
		return public(base)
	}
	return u.Host + u.Path
}

// ErrClosed ends the tails of a client that was closed.
var ErrClosed = errors.New("client is closed")

// permanent reports whether trying again cannot mend err. What comes from the network
// can be mended; what a server has decided, or the store, or the caller, cannot.
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
		return status.permanent()
	}
	var (
		gap      *GapError
		log      *OtherLogError
		back     *PutBackError
		protocol *ProtocolError
		conflict *cache.ConflictError
		here     *finalError
		imported *imports.StoreError
		large    *sse.TooLargeError
	)
	return errors.As(err, &gap) || errors.As(err, &log) || errors.As(err, &back) || errors.As(err, &protocol) ||
		errors.As(err, &conflict) || errors.As(err, &here) || errors.As(err, &imported) || errors.As(err, &large)
}

// A finalError is an error of the cache or of the caller, as against one of the
// network.
type finalError struct{ err error }

func (e *finalError) Error() string { return e.err.Error() }
func (e *finalError) Unwrap() error { return e.err }

func storeError(err error) error {
	if err == nil {
		return nil
	}
	return &finalError{err}
}

// joinErrors is errors.Join on one line.
func joinErrors(err, more error) error {
	switch {
	case err == nil:
		return more
	case more == nil:
		return err
	}
	return fmt.Errorf("%w; %w", err, more)
}

// dropped says whose answer ended before its end.
func dropped(base string, err error) error {
	return fmt.Errorf("read %s: %w", host(base), trimNetError(err))
}

// refusal turns a server's refusal of a position into the error that says what it
// means.
func refusal(e *StatusError, after event.ID) error {
	if e.Status == http.StatusGone && e.oldest != nil {
		return &GapError{After: after, Oldest: *e.oldest}
	}
	return e
}
