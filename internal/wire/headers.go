package wire

import (
	"fmt"
	"net/http"
	"strconv"
	"strings"

	"github.com/rstream-dev/rstream/event"
)

// Headers of every response (Log, Head), and of responses to /events and /get.
const (
	HeaderLog  = "Rstream-Log"  // the id of the log
	HeaderHead = "Rstream-Head" // the head at the start of the request, or after its append
	HeaderFrom = "Rstream-From" // the resolved position of since, last or Last-Event-ID
	HeaderTo   = "Rstream-To"   // the resolved position of until, by default the head
	HeaderNext = "Rstream-Next" // pages: where the next page begins
	HeaderLive = "Rstream-Live" // pages: "true" if Next is the end of the requested range

	// HeaderEvents is the number of events in the body: in pages, and in other responses
	// that are complete before the server begins to send them.
	HeaderEvents = "Rstream-Events"

	// Responses to a request with a filter or hashes: the number of events in the range,
	// and SHA-256 over their hashes in ascending order.
	HeaderCount  = "Rstream-Count"
	HeaderDigest = "Rstream-Digest"

	// HeaderBehind, of responses to appends, is by how many ids the server is behind the
	// append: a mirror that has passed it on and has not received it in time.
	HeaderBehind = "Rstream-Behind"

	HeaderLastEventID = "Last-Event-ID"
	HeaderAcceptQuery = "Accept-Query" // RFC 10008: the media types that QUERY accepts

	// HeaderHeld, of requests, is the newest position whose mark the reader knows. The
	// server checks it like any cursor, in every request.
	HeaderHeld = "Rstream-Held"

	// HeaderAsk, of requests for rooms between servers, says whom the server may ask in turn
	// if its log does not have the topic: AskNodes or AskNobody.
	HeaderAsk = "Rstream-Ask"

	// HeaderVia names mirrors, newest first, with commas between them: those that have passed
	// on the append of the request, or those between the server of the response to GET / and
	// the server that assigns ids. A mirror that finds its own name would follow itself.
	HeaderVia = "Rstream-Via"
)

// Values of HeaderAsk.
const (
	AskNodes  = "nodes" // the nodes of its board
	AskNobody = "nobody"
)

// IsOwnHeader reports whether a client sets a header of its requests itself, or net/http
// does: no other value can take its place. name is in canonical form.
func IsOwnHeader(name string) bool {
	switch name {
	case "Host", "Accept", "Accept-Encoding", "Cache-Control", "Connection", "Content-Encoding", "Content-Length", "Content-Type",
		"Expect", "Keep-Alive", "Last-Event-Id", "Proxy-Connection", "Range", "Te", "Trailer", "Transfer-Encoding", "Upgrade":
		return true
	}
	return strings.HasPrefix(name, "Rstream-") || strings.HasPrefix(name, "If-")
}

// MethodQuery is GET with a body (RFC 10008).
const MethodQuery = "QUERY"

// LogOf returns the id of the log that sent a response, or "".
func LogOf(h http.Header) string { return h.Get(HeaderLog) }

// CursorIn parses a cursor from a header. ok is false if it is missing or invalid.
func CursorIn(h http.Header, name string) (event.Cursor, bool) {
	c, err := event.ParseCursor(h.Get(name))
	return c, err == nil
}

// PositionIn is like CursorIn, but returns only the position.
func PositionIn(h http.Header, name string) (event.ID, bool) {
	c, ok := CursorIn(h, name)
	return c.ID, ok
}

// EventsIn parses the number of events in a body. told is false if the header is missing.
func EventsIn(h http.Header) (n int, told bool, err error) {
	text := h.Get(HeaderEvents)
	if text == "" {
		return 0, false, nil
	}
	count, err := strconv.ParseUint(text, 10, 31)
	if err != nil || len(h.Values(HeaderEvents)) > 1 {
		return 0, true, fmt.Errorf("%s: %.60q is not a number of events", HeaderEvents, h.Values(HeaderEvents))
	}
	return int(count), true, nil
}

// SetEvents sets the number of events in the body.
func SetEvents(h http.Header, n int) { h.Set(HeaderEvents, strconv.Itoa(n)) }

// Limits of a server. GET / returns them.
const (
	DefaultLimit = 1000             // events of a page without a limit parameter
	MaxLimit     = 10_000           // events of a page
	MaxValue     = 1 << 20          // bytes of one value
	MaxBatch     = 64 << 20         // bytes of one batch's body
	MaxLine      = MaxValue + 8<<10 // bytes of one event's line
	MaxTopics    = 1000             // topics or storages of one request
	MaxBatchLen  = 100_000          // lines of one batch that are not empty
	MaxForm      = 2 << 20          // bytes of topics and other parameters in a body
)

// Info describes a server, as GET / returns it.
type Info struct {
	Name    string       `json:"name"`
	Version string       `json:"version"`
	Log     string       `json:"log"`
	Head    event.Cursor `json:"head"`
	Horizon event.Cursor `json:"horizon"`
	Parent  *Parent      `json:"parent,omitempty"`
	// Topics are those that a mirror has; none if it has all.
	Topics []event.Topic `json:"topics,omitempty"`
	Limits Limits        `json:"limits"`
	Rates  *Rates        `json:"rates,omitempty"`
	Salt   string        `json:"salt"` // 16 random bytes in hex, new with each start
}

// Rates limit what each client may do: each subject of a token, and each address for
// requests without one. A rate that is 0 does not limit.
type Rates struct {
	Requests float64 `json:"requests,omitempty"` // per second
	Events   float64 `json:"events,omitempty"`   // appended per second
	Bytes    float64 `json:"bytes,omitempty"`    // of values appended per second
	Streams  int     `json:"streams,omitempty"`  // at a time
}

// A Parent is the log from which a server's log was made. The two are equal up to Head; if
// Head is nil, it is not known where they diverged.
type Parent struct {
	Log  string    `json:"log"`
	Head *event.ID `json:"head,omitempty"`
}

// Limits are the limits that a server enforces.
type Limits struct {
	Value  int `json:"value"`  // bytes of one value
	Batch  int `json:"batch"`  // bytes of one batch
	Page   int `json:"page"`   // events of one page
	Topics int `json:"topics"` // topics of one request
}
