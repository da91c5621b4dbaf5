package wire

import (
	"encoding/json"
	"fmt"
	"io"
	"mime"
	"net/http"
	"strconv"
	"strings"
	"time"
	"unicode"
	"unicode/utf8"

	"github.com/rstream-dev/rstream/event"
)

// An Error is a response that is not what was asked for, as RFC 9457
// problem+json. Both ends use it: the server writes it, the client returns it.
type Error struct {
	Status int    `json:"status"`
	Title  string `json:"title"`            // what kind of thing was wrong
	Detail string `json:"detail,omitempty"` // what was wrong, and what would be right

	Oldest *event.ID     `json:"oldest,omitempty"` // 410: the oldest position that is still served
	Head   *event.Cursor `json:"head,omitempty"`   // 409: the log's head
	Log    string        `json:"log,omitempty"`    // 409: the log's name
	Reason string        `json:"reason,omitempty"` // 409: one of the reasons below
	Lines  []int         `json:"lines,omitempty"`  // 400 of a batch: the bad lines, from 1

	RetryAfter time.Duration `json:"-"` // 429, 503: how long to wait, if told
	FromLog    bool          `json:"-"` // read: the answer names its log, so no proxy has written it
}

// Why a cursor, or what a request says of the log, is refused with 409.
const (
	ReasonLog   = "log"   // it is of another log
	ReasonAhead = "ahead" // it lies above the head
	ReasonMark  = "mark"  // the log has another event at its position
)

func (e *Error) Error() string {
	if e.Detail == "" {
		return fmt.Sprintf("%d %s", e.Status, e.Title)
	}
	return fmt.Sprintf("%s (%d)", e.Detail, e.Status)
}

// Errorf returns an Error with a detail.
func Errorf(status int, format string, args ...any) *Error {
	return &Error{Status: status, Title: strings.ToLower(http.StatusText(status)), Detail: fmt.Sprintf(format, args...)}
}

// Write answers a request with e.
func (e *Error) Write(w http.ResponseWriter) {
	h := w.Header()
	h.Set("Content-Type", Problem)
	h.Set("Cache-Control", "no-store")
	if e.RetryAfter > 0 {
		h.Set("Retry-After", strconv.Itoa(int((e.RetryAfter+time.Second-1)/time.Second)))
	}
	w.WriteHeader(e.Status)
	b, err := json.Marshal(e)
	if err != nil { // no field of it can fail
		panic(err)
	}
	_, _ = w.Write(append(b, '\n')) // the client may have gone
}

// maxProblem bounds what is read of an error's body: the numbers of MaxBatchLen
// bad lines must fit.
const maxProblem = 1 << 20

// ReadError makes an Error of a response that is not what was asked for. What does
// not speak problem+json is still told by its status and the beginning of its
// body. What it returns can be shown on a terminal. The body is left to the caller
// to close.
func ReadError(resp *http.Response) *Error {
	e := &Error{}
	body, _ := io.ReadAll(io.LimitReader(resp.Body, maxProblem))
	mediaType, _, _ := mime.ParseMediaType(resp.Header.Get("Content-Type"))
	if mediaType != Problem || json.Unmarshal(body, e) != nil {
		*e = Error{Detail: firstLine(body)}
	}
	e.Status = resp.StatusCode
	e.Title, e.Detail = printable(e.Title, 200), printable(e.Detail, 4000)
	if e.Title == "" {
		e.Title = strings.ToLower(http.StatusText(resp.StatusCode))
	}
	if !event.ValidLogID(e.Log) {
		e.Log = ""
	}
	e.RetryAfter = retryAfter(resp.Header)
	e.FromLog = LogOf(resp.Header) != ""
	return e
}

// firstLine returns the beginning of a plain text.
func firstLine(body []byte) string {
	s, _, _ := strings.Cut(strings.TrimSpace(string(body)), "\n")
	if strings.HasPrefix(s, "<") {
		return ""
	}
	return printable(s, 200)
}

// printable returns the beginning of s, at most most bytes, without what would do
// something to a terminal.
func printable(s string, most int) string {
	s = strings.Map(func(r rune) rune {
		if !unicode.IsPrint(r) || r == utf8.RuneError {
			return -1
		}
		return r
	}, s)
	return strings.ToValidUTF8(s[:min(len(s), most)], "")
}

// maxRetryAfter keeps a server's mistake from putting a client to sleep for ever.
const maxRetryAfter = 5 * time.Minute

// retryAfter reads either form of Retry-After. A date is measured against the server's
// own clock, if it tells what that says.
func retryAfter(h http.Header) time.Duration {
	s := h.Get("Retry-After")
	if n, err := strconv.ParseUint(s, 10, 31); err == nil {
		return min(time.Duration(n)*time.Second, maxRetryAfter)
	}
	at, err := http.ParseTime(s)
	if err != nil {
		return 0
	}
	now, err := http.ParseTime(h.Get("Date"))
	if err != nil {
		now = time.Now()
	}
	return min(max(at.Sub(now), 0), maxRetryAfter)
}

// Final reports whether asking again cannot help. 408, 425, 429 and the 5xx of
// servers that are overloaded, starting or unreachable may be asked again.
func (e *Error) Final() bool {
	switch e.Status {
	case http.StatusRequestTimeout, http.StatusTooEarly, http.StatusTooManyRequests,
		http.StatusInternalServerError, http.StatusBadGateway, http.StatusServiceUnavailable, http.StatusGatewayTimeout:
		return false
	}
	return true
}

// NothingAppended is what a detail says of an append, before or after the reason.
const NothingAppended = "nothing was appended"

// NotAppended reports whether e, of a log, says of an append that nothing was appended.
// 408 and the other 5xx leave it open.
func (e *Error) NotAppended() bool {
	return e.Status >= 400 && e.Status < 500 && e.Status != http.StatusRequestTimeout || e.Status == http.StatusInsufficientStorage
}
