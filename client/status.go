package client

import (
	"net/http"
	"time"

	"github.com/rstream-dev/rstream/event"
	"github.com/rstream-dev/rstream/internal/wire"
)

// A StatusError is a response that refuses a request. Status gives the reason, for example
// 401 or 413. The texts are safe to show on a terminal.
type StatusError struct {
	Status int    // the HTTP status
	Title  string // the kind of problem
	Detail string // the problem and how to correct it; may be empty

	// FromLog is true if the response names its log, so a proxy has not written it.
	FromLog bool
	// Lines are the numbers of the bad drafts of a batch, counted from 1.
	Lines []int
	// Topic is the first topic that the token does not cover, if Status is 401 or 403 and
	// the log has refused one.
	Topic *event.Topic
	// RetryAfter is how long the server asks to wait. Zero if it does not ask.
	RetryAfter time.Duration

	late   bool      // of a 401: the next token may be accepted
	log    string    // of a 409: the server's log
	reason string    // of a 409: one of the reasons in package wire
	oldest *event.ID // of a 410: the oldest position that is still served
}

// readStatus returns a response as a StatusError. The caller closes the body.
func readStatus(resp *http.Response) *StatusError {
	e := wire.ReadError(resp)
	return &StatusError{Status: e.Status, Title: e.Title, Detail: e.Detail, FromLog: e.FromLog, Lines: e.Lines,
		Topic: e.Topic, RetryAfter: e.RetryAfter, log: e.Log, reason: e.Reason, oldest: e.Oldest}
}

func (e *StatusError) wire() *wire.Error {
	return &wire.Error{Status: e.Status, Title: e.Title, Detail: e.Detail}
}

func (e *StatusError) Error() string { return e.wire().Error() }

// isFinal reports whether retrying cannot help.
func (e *StatusError) isFinal() bool { return !e.late && e.wire().Final() }

// isForbidden reports whether e finally refuses what the request names, or its token.
func (e *StatusError) isForbidden() bool {
	return e.isFinal() && (e.Status == http.StatusUnauthorized || e.Status == http.StatusForbidden)
}

// isOfTopic reports whether e finally refuses the topic of a request, and not its token: this
// client may not read it, with its token or without one, or the server, a mirror, does not have it.
func (e *StatusError) isOfTopic() bool {
	switch {
	case !e.isFinal():
		return false
	case e.Status == http.StatusUnauthorized: // of a token that is not valid, there is no topic
		return e.FromLog && e.Topic != nil
	}
	return e.Status == http.StatusForbidden || e.FromLog && e.Status == http.StatusMisdirectedRequest
}

// notAppended reports whether the response to an append guarantees that nothing was
// appended.
func (e *StatusError) notAppended() bool { return e.FromLog && e.wire().NotAppended() }
