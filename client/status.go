package client

import (
	"net/http"
	"time"

	"github.com/rstream-dev/rstream/event"
	"github.com/rstream-dev/rstream/internal/wire"
)

// A StatusError is an answer that refuses what was asked for: Status tells why, 401 from
// 413, for example. Its texts can be shown on a terminal.
type StatusError struct {
	Status int    // of HTTP
	Title  string // what kind of thing was wrong
	Detail string // what was wrong, and what would be right; may be empty

	// FromLog is true if the answer names its log, so no proxy has written it.
	FromLog bool
	// Lines are the bad drafts of a batch, counted from 1.
	Lines []int
	// RetryAfter is how long the server asks to wait, zero if it does not.
	RetryAfter time.Duration

	log    string    // of a 409: the server's log
	reason string    // of a 409: one of the reasons in package wire
	oldest *event.ID // of a 410: the oldest position that is still served
}

// readStatus makes a StatusError of an answer. The body is left to the caller to close.
func readStatus(resp *http.Response) *StatusError {
	e := wire.ReadError(resp)
	return &StatusError{Status: e.Status, Title: e.Title, Detail: e.Detail, FromLog: e.FromLog, Lines: e.Lines,
		RetryAfter: e.RetryAfter, log: e.Log, reason: e.Reason, oldest: e.Oldest}
}

func (e *StatusError) wire() *wire.Error {
	return &wire.Error{Status: e.Status, Title: e.Title, Detail: e.Detail}
}

func (e *StatusError) Error() string { return e.wire().Error() }

// permanent reports whether asking again cannot help.
func (e *StatusError) permanent() bool { return e.wire().Final() }

// notAppended reports whether the answer to an append says that nothing was appended.
func (e *StatusError) notAppended() bool { return e.FromLog && e.wire().NotAppended() }
