package wire

import (
	"bytes"
	"strconv"
	"time"

	"github.com/rstream-dev/rstream/event"
	"github.com/rstream-dev/rstream/window"
)

// LiveEvent is the type of the SSE control event that ends the history of a stream.
const LiveEvent = "live"

// AppendEvent appends ev to b as an SSE event. Its id is a cursor of log, a whole log id.
func AppendEvent(b []byte, ev *event.Event, log string) []byte {
	return AppendEventLine(b, event.Point{ID: ev.ID, Mark: ev.Mark()}, ev.Type, ev.Line(), log)
}

// AppendEventLine is like AppendEvent for an event of which only the line, the position
// and the type are known.
func AppendEventLine(b []byte, at event.Point, typ event.Type, line []byte, log string) []byte {
	b = appendEventHead(b, at, typ, log)
	b = append(b, line...)
	return append(b, "\n\n"...)
}

// AppendNoticeEvent appends the notice of ev to b as an SSE event.
func AppendNoticeEvent(b []byte, ev *event.Event, log string) []byte {
	b = appendEventHead(b, event.Point{ID: ev.ID, Mark: ev.Mark()}, ev.Type, log)
	return append(ev.AppendNotice(b), "\n\n"...)
}

// StateEvent is the type of the SSE control event with which a state begins.
const StateEvent = "state"

// AppendStateBegin appends the control event to b after which the state at a position
// follows. Its empty id makes the reader forget its cursor, since it has neither the old nor the new
// state before the end.
func AppendStateBegin(b []byte, at event.Point, log string) []byte {
	b = append(b, "id:\nevent: "+StateEvent+"\ndata: {\"type\":\"state\",\"at\":\""...)
	b = at.Cursor(log).AppendTo(b)
	return append(b, "\"}\n\n"...)
}

// AppendStateEvent appends an event of a state to b. It has no id, since its position is not
// the reader's.
func AppendStateEvent(b []byte, ev *event.Event) []byte {
	b = append(b, "event: "...)
	b = append(b, ev.Type...)
	b = append(b, "\ndata: "...)
	b = append(b, ev.Line()...)
	return append(b, "\n\n"...)
}

func appendEventHead(b []byte, at event.Point, typ event.Type, log string) []byte {
	b = appendID(b, at, log)
	b = append(b, "event: "...)
	b = append(b, typ...)
	return append(b, "\ndata: "...)
}

// AppendPosition appends a block to b that only moves the reader's cursor to at.
func AppendPosition(b []byte, at event.Point, log string) []byte {
	return append(appendID(b, at, log), '\n')
}

// AppendLive appends the control event to b that tells a reader at position at that it has
// all requested history of a log whose head is head. sum, if not nil, covers all events up
// to at, including those that the reader had before.
func AppendLive(b []byte, at, head event.Point, log string, sum *Sum) []byte {
	b = appendID(b, at, log)
	b = append(b, "event: "+LiveEvent+"\ndata: {\"type\":\"live\",\"head\":\""...)
	b = append(head.Cursor(log).AppendTo(b), '"')
	b = sum.appendTo(b)
	return append(b, "}\n\n"...)
}

// appendID appends the line that sets a reader's cursor to at. log is a whole log id.
func appendID(b []byte, at event.Point, log string) []byte {
	b = append(b, "id: "...)
	b = at.Cursor(log).AppendTo(b)
	return append(b, '\n')
}

// AppendPreamble appends the first block of an SSE stream to b: the delay before a
// reconnection, and a comment.
func AppendPreamble(b []byte, retry time.Duration) []byte {
	b = append(b, "retry: "...)
	b = strconv.AppendInt(b, retry.Milliseconds(), 10)
	return append(b, "\n: rstream\n\n"...)
}

// A Sum is the number of events of some storages in a range, and their digest as a set.
type Sum struct {
	Count  uint64
	Digest window.Digest
}

// appendTo appends the members of s to an object that already has members. A nil Sum has
// none.
func (s *Sum) appendTo(b []byte) []byte {
	if s == nil {
		return b
	}
	b = append(b, `,"count":`...)
	b = strconv.AppendUint(b, s.Count, 10)
	b = append(b, `,"digest":"`...)
	return append(append(b, s.Digest.String()...), '"')
}

// A PageEnd holds the members of a page after its events.
type PageEnd struct {
	Next event.Cursor
	Live bool
	Sum  *Sum // if the request has a filter or hashes
}

// AppendPage appends a JSON page to b. lines are its events as NDJSON.
func AppendPage(b, lines []byte, end PageEnd) []byte {
	b = append(b, `{"events":[`...)
	at := len(b)
	b = append(b, bytes.TrimSuffix(lines, []byte("\n"))...)
	for i := bytes.IndexByte(b[at:], '\n'); i >= 0; i = bytes.IndexByte(b[at:], '\n') {
		at += i
		b[at] = ','
	}
	b = append(b, `],"next":"`...)
	b = end.Next.AppendTo(b)
	b = append(b, `","live":`...)
	b = strconv.AppendBool(b, end.Live)
	b = end.Sum.appendTo(b)
	return append(b, "}\n"...)
}
