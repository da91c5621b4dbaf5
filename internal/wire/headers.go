package wire

import (
	"fmt"
	"net/http"
	"strconv"

	"github.com/rstream-dev/rstream/event"
)

// Headers of every response (Log, Head) and of those of /events and /get.
const (
	HeaderLog  = "Rstream-Log"  // the name of the log
	HeaderHead = "Rstream-Head" // the newest position when the request was taken up, after an append that of after it
	HeaderFrom = "Rstream-From" // the position that since, last or Last-Event-ID came to
	HeaderTo   = "Rstream-To"   // the position that until came to: the head if it was not given
	HeaderNext = "Rstream-Next" // pages: the position to go on from
	HeaderLive = "Rstream-Live" // pages: "true" if Next had reached the end that was asked for

	// How many events the body has: of pages, and of other answers that the server knew
	// as a whole before it began to write.
	HeaderEvents = "Rstream-Events"

	// Of what has a filter: how many events there are in the stretch, and SHA-256
	// over their hashes in ascending order.
	HeaderCount  = "Rstream-Count"
	HeaderDigest = "Rstream-Digest"

	HeaderLastEventID = "Last-Event-ID"
	HeaderAcceptQuery = "Accept-Query" // RFC 10008: the types of what QUERY takes

	// Of requests: the newest position that the reader knows the mark of. It is
	// checked as any cursor is, whatever is asked for.
	HeaderHeld = "Rstream-Held"
)

// MethodQuery is GET with a body (RFC 10008).
const MethodQuery = "QUERY"

// LogOf reads the name of the log that a response is of.
func LogOf(h http.Header) string { return h.Get(HeaderLog) }

// CursorOf reads a cursor from a header; ok is false if it is not there or is none.
func CursorOf(h http.Header, name string) (event.Cursor, bool) {
	c, err := event.ParseCursor(h.Get(name))
	return c, err == nil
}

// PositionOf is CursorOf for the position alone.
func PositionOf(h http.Header, name string) (event.ID, bool) {
	c, ok := CursorOf(h, name)
	return c.ID, ok
}

// EventsOf reads how many events a body has; told is false if the answer does not say.
func EventsOf(h http.Header) (n int, told bool, err error) {
	text := h.Get(HeaderEvents)
	if text == "" {
		return 0, false, nil
	}
	count, err := strconv.ParseUint(text, 10, 31)
	if err != nil || len(h.Values(HeaderEvents)) > 1 {
		return 0, true, fmt.Errorf("%s: %.60q is no number of events", HeaderEvents, h.Values(HeaderEvents))
	}
	return int(count), true, nil
}

// SetEvents tells how many events the body has.
func SetEvents(h http.Header, n int) { h.Set(HeaderEvents, strconv.Itoa(n)) }

// Limits of a server. They are told by GET /.
const (
	DefaultLimit = 1000
	MaxLimit     = 10_000
	MaxValue     = 1 << 20          // bytes of one value
	MaxBatch     = 64 << 20         // bytes of one batch's body
	MaxLine      = MaxValue + 8<<10 // bytes of one event's line
	MaxTopics    = 1000             // topics or storages of one request
	MaxBatchLen  = 100_000          // lines of one batch that are not empty
	MaxForm      = 2 << 20          // bytes of topics and other parameters in a body
)

// Info is what GET / tells of a server.
type Info struct {
	Name    string       `json:"name"`
	Version string       `json:"version"`
	Log     string       `json:"log"`
	Head    event.Cursor `json:"head"`
	Horizon event.Cursor `json:"horizon"`
	Parent  *Parent      `json:"parent,omitempty"`
	Limits  Limits       `json:"limits"`
	Salt    string       `json:"salt"` // 16 random bytes in hex, new with each start
}

// A Parent is the log that a server's log goes on from. Up to Head the two are the
// same; if Head is nil, nobody knows where they parted.
type Parent struct {
	Log  string    `json:"log"`
	Head *event.ID `json:"head,omitempty"`
}

// Limits are what a server refuses to go beyond.
type Limits struct {
	Value  int `json:"value"`  // bytes of one value
	Batch  int `json:"batch"`  // bytes of one batch
	Page   int `json:"page"`   // events of one page
	Topics int `json:"topics"` // topics of one request
}
