package wire

import (
	"strconv"
	"time"

	"github.com/rstream-dev/rstream/event"
)

// LiveEvent is the type of the SSE control event that says that history is done.
const LiveEvent = "live"

// AppendEvent appends ev as one SSE event. Its id is a cursor of the log named log.
func AppendEvent(b []byte, ev *event.Event, log string) []byte {
	b = appendID(b, ev.ID, log)
	b = append(b, "event: "...)
	b = append(b, ev.Type...)
	b = append(b, "\ndata: "...)
	b = append(b, ev.Line()...)
	return append(b, "\n\n"...)
}

// AppendPosition appends a block that only moves the reader's cursor to id.
func AppendPosition(b []byte, id event.ID, log string) []byte {
	return append(appendID(b, id, log), '\n')
}

// AppendLive appends the control event that says that a reader at position at has
// been sent all that it asked for, of a log that ends at head.
func AppendLive(b []byte, at, head event.ID, log string) []byte {
	b = appendID(b, at, log)
	b = append(b, "event: "+LiveEvent+"\ndata: {\"type\":\"live\",\"head\":\""...)
	b = head.AppendTo(b)
	return append(b, "\"}\n\n"...)
}

// appendID appends the line that makes id a reader's cursor. log is the whole name
// of a log.
func appendID(b []byte, id event.ID, log string) []byte {
	b = append(b, "id: "...)
	b = id.AppendTo(b)
	b = append(b, '.')
	b = append(b, log[:event.LogSuffixLen]...)
	return append(b, '\n')
}

// AppendPreamble appends what an SSE stream begins with: the delay before the
// first reconnection and a comment.
func AppendPreamble(b []byte, retry time.Duration) []byte {
	b = append(b, "retry: "...)
	b = strconv.AppendInt(b, retry.Milliseconds(), 10)
	return append(b, "\n: rstream\n\n"...)
}

// AppendPage appends a JSON page.
func AppendPage(b []byte, evs []event.Event, next event.ID, live bool) []byte {
	b = append(b, `{"events":[`...)
	for i := range evs {
		if i > 0 {
			b = append(b, ',')
		}
		b = append(b, evs[i].Line()...)
	}
	b = append(b, `],"next":"`...)
	b = next.AppendTo(b)
	b = append(b, `","live":`...)
	b = strconv.AppendBool(b, live)
	return append(b, "}\n"...)
}
