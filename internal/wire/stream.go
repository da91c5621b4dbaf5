package wire

import (
	"bytes"
	"strconv"
	"time"

	"github.com/rstream-dev/rstream/event"
	"github.com/rstream-dev/rstream/window"
)

// LiveEvent is the type of the SSE control event that says that history is done.
const LiveEvent = "live"

// AppendEvent appends ev as one SSE event. Its id is a cursor of the log named log.
func AppendEvent(b []byte, ev *event.Event, log string) []byte {
	return AppendEventLine(b, event.Point{ID: ev.ID, Mark: ev.Mark()}, ev.Type, ev.Line(), log)
}

// AppendEventLine is AppendEvent for who has no more than an event's line, and what it
// begins with.
func AppendEventLine(b []byte, at event.Point, typ event.Type, line []byte, log string) []byte {
	b = appendEventHead(b, at, typ, log)
	b = append(b, line...)
	return append(b, "\n\n"...)
}

// AppendNotice appends ev's notice as one SSE event.
func AppendNotice(b []byte, ev *event.Event, log string) []byte {
	b = appendEventHead(b, event.Point{ID: ev.ID, Mark: ev.Mark()}, ev.Type, log)
	return append(ev.AppendNotice(b), "\n\n"...)
}

func appendEventHead(b []byte, at event.Point, typ event.Type, log string) []byte {
	b = appendID(b, at, log)
	b = append(b, "event: "...)
	b = append(b, typ...)
	return append(b, "\ndata: "...)
}

// AppendPosition appends a block that only moves the reader's cursor to at.
func AppendPosition(b []byte, at event.Point, log string) []byte {
	return append(appendID(b, at, log), '\n')
}

// AppendLive appends the control event that says that a reader at position at has
// been sent all that it asked for, of a log that ends at head. sum, if not nil, is of all
// that lies up to there, what the reader had included.
func AppendLive(b []byte, at, head event.Point, log string, sum *Sum) []byte {
	b = appendID(b, at, log)
	b = append(b, "event: "+LiveEvent+"\ndata: {\"type\":\"live\",\"head\":\""...)
	b = append(head.Cursor(log).AppendTo(b), '"')
	b = sum.appendTo(b)
	return append(b, "}\n\n"...)
}

// appendID appends the line that makes at a reader's cursor. log is the whole name
// of a log.
func appendID(b []byte, at event.Point, log string) []byte {
	b = append(b, "id: "...)
	b = at.Cursor(log).AppendTo(b)
	return append(b, '\n')
}

// AppendPreamble appends what an SSE stream begins with: the delay before the
// first reconnection and a comment.
func AppendPreamble(b []byte, retry time.Duration) []byte {
	b = append(b, "retry: "...)
	b = strconv.AppendInt(b, retry.Milliseconds(), 10)
	return append(b, "\n: rstream\n\n"...)
}

// A Sum says how many events storages have in a stretch, and their digest as a set.
type Sum struct {
	Count  uint64
	Digest window.Digest
}

// appendTo appends the members of s, if there are any, to an object that has some.
func (s *Sum) appendTo(b []byte) []byte {
	if s == nil {
		return b
	}
	b = append(b, `,"count":`...)
	b = strconv.AppendUint(b, s.Count, 10)
	b = append(b, `,"digest":"`...)
	return append(append(b, s.Digest.String()...), '"')
}

// A Tail is what stands in a page behind its events.
type Tail struct {
	Next event.Cursor
	Live bool
	Sum  *Sum // of what has a filter
}

// AppendPage appends a JSON page of events that are given as NDJSON.
func AppendPage(b, lines []byte, tail Tail) []byte {
	b = append(b, `{"events":[`...)
	at := len(b)
	b = append(b, bytes.TrimSuffix(lines, []byte("\n"))...)
	for i := bytes.IndexByte(b[at:], '\n'); i >= 0; i = bytes.IndexByte(b[at:], '\n') {
		at += i
		b[at] = ','
	}
	b = append(b, `],"next":"`...)
	b = tail.Next.AppendTo(b)
	b = append(b, `","live":`...)
	b = strconv.AppendBool(b, tail.Live)
	b = tail.Sum.appendTo(b)
	return append(b, "}\n"...)
}
