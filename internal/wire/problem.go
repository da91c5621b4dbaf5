package wire

import (
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"math"
	"mime"
	"net/http"
	"strconv"
	"strings"
	"time"
	"unicode"
	"unicode/utf8"

	"github.com/rstream-dev/rstream/event"
)

// An Error is an error response in the form of RFC 9457, problem+json. Both ends use
// it: the server sends it, and the client returns it.
type Error struct {
	Status int    `json:"status"`
	Title  string `json:"title"`            // the kind of error
	Detail string `json:"detail,omitempty"` // the error, and how to fix the request

	Oldest *event.ID     `json:"oldest,omitempty"` // 410: the oldest position still served
	Head   *event.Cursor `json:"head,omitempty"`   // 409: the log's head
	Log    string        `json:"log,omitempty"`    // 409: the log's id
	Reason string        `json:"reason,omitempty"` // 409: one of the Reason constants
	Lines  []int         `json:"lines,omitempty"`  // 400 of a batch: numbers of the bad lines, from 1

	Topic *event.Topic `json:"topic,omitempty"` // 401, 403: the first topic that is not covered

	RetryAfter time.Duration `json:"-"` // 429, 503: how long to wait, if not zero
	FromLog    bool          `json:"-"` // read: the response has a log id, so no proxy wrote it
}

// Reasons for which a cursor, or a log id in a request, is refused with 409.
const (
	ReasonLog     = "log"     // it belongs to another log
	ReasonAhead   = "ahead"   // it is above the head
	ReasonMark    = "mark"    // the log has another event at its position
	ReasonLoop    = "loop"    // no cursor: of a mirror that would follow itself
	ReasonVersion = "version" // no cursor: of a node, when a newer version has written to the stream
)

func (e *Error) Error() string {
	if e.Detail == "" {
		return fmt.Sprintf("%d %s", e.Status, e.Title)
	}
	return fmt.Sprintf("%s (%d)", e.Detail, e.Status)
}

// HTTPStatus returns e.Status.
func (e *Error) HTTPStatus() int { return e.Status }

// Errorf returns an Error with the status, its text as the title, and a formatted detail.
func Errorf(status int, format string, args ...any) *Error {
	return &Error{Status: status, Title: strings.ToLower(http.StatusText(status)), Detail: fmt.Sprintf(format, args...)}
}

// Write sends e as the response to a request.
func (e *Error) Write(w http.ResponseWriter) {
	h := w.Header()
	h.Set("Content-Type", Problem)
	h.Set("Cache-Control", "no-store")
	if e.RetryAfter > 0 {
		h.Set("Retry-After", strconv.Itoa(int((e.RetryAfter+time.Second-1)/time.Second)))
	}
	w.WriteHeader(e.Status)
	b, err := json.Marshal(e)
	if err != nil { // cannot happen: every field can be marshaled
		panic(err)
	}
	_, _ = w.Write(append(b, '\n')) // fails only if the client is gone
}

// maxProblem is how many bytes of an error's body are read. The numbers of MaxBatchLen
// bad lines must fit.
const maxProblem = 1 << 20

// ReadError returns the Error in a response. If the body is not problem+json, the Error
// has the status and the first line of the body. Its texts are safe to print on a
// terminal. The caller must close the body.
func ReadError(resp *http.Response) *Error {
	e := &Error{}
	body, _ := io.ReadAll(io.LimitReader(resp.Body, maxProblem))
	mediaType, _, _ := mime.ParseMediaType(resp.Header.Get("Content-Type"))
	if mediaType != Problem || json.Unmarshal(body, e) != nil {
		*e = Error{Detail: firstLine(body)}
	}
	e.Status = resp.StatusCode
	e.Title, e.Detail = dropControls(e.Title, 200), dropControls(e.Detail, 4000)
	if e.Title == "" {
		e.Title = strings.ToLower(http.StatusText(resp.StatusCode))
	}
	if !event.ValidLogID(e.Log) {
		e.Log = ""
	}
	e.RetryAfter = RetryAfter(resp.Header)
	e.FromLog = LogOf(resp.Header) != ""
	return e
}

// firstLine returns the first line of a plain text, or "" for HTML.
func firstLine(body []byte) string {
	s, _, _ := strings.Cut(strings.TrimSpace(string(body)), "\n")
	if strings.HasPrefix(s, "<") {
		return ""
	}
	return dropControls(s, 200)
}

// dropControls returns at most the first most bytes of s, without characters that control a
// terminal.
func dropControls(s string, most int) string {
	s = strings.Map(func(r rune) rune {
		if !unicode.IsPrint(r) || r == utf8.RuneError {
			return -1
		}
		return r
	}, s)
	return strings.ToValidUTF8(s[:min(len(s), most)], "")
}

// maxRetryAfter keeps a server's mistake from stopping a client for ever.
const maxRetryAfter = 5 * time.Minute

// RetryAfter returns the pause that Retry-After asks for, at most five minutes, or 0.
func RetryAfter(h http.Header) time.Duration {
	after, _ := ReadRetryAfter(h, time.Now())
	return min(after, maxRetryAfter)
}

// ReadRetryAfter returns the pause that Retry-After asks for, in either form, however long; ok is
// false if it asks for none. A date is relative to the server's Date header, or to now if it has
// none.
func ReadRetryAfter(h http.Header, now time.Time) (after time.Duration, ok bool) {
	s := h.Get("Retry-After")
	if n, err := strconv.ParseUint(s, 10, 64); err == nil || errors.Is(err, strconv.ErrRange) {
		return time.Duration(min(n, math.MaxInt32)) * time.Second, true
	}
	at, err := http.ParseTime(s)
	if err != nil {
		return 0, false
	}
	if date, err := http.ParseTime(h.Get("Date")); err == nil {
		now = date
	}
	return max(at.Sub(now), 0), true
}

// Final reports whether a retry cannot help. Not final are 408, 425, 429, and the 5xx of
// servers that are overloaded, starting or unreachable.
func (e *Error) Final() bool {
	switch e.Status {
	case http.StatusRequestTimeout, http.StatusTooEarly, http.StatusTooManyRequests,
		http.StatusInternalServerError, http.StatusBadGateway, http.StatusServiceUnavailable, http.StatusGatewayTimeout:
		return false
	}
	return true
}

// NothingAppended is part of the detail of a failed append, before or after the reason.
const NothingAppended = "nothing was appended"

// NotAppended reports whether e, the response of a log to an append, means that nothing
// was appended. After 408, and 5xx other than 507, the outcome is unknown.
func (e *Error) NotAppended() bool {
	return e.Status >= 400 && e.Status < 500 && e.Status != http.StatusRequestTimeout || e.Status == http.StatusInsufficientStorage
}
