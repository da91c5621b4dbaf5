package main

import (
	"encoding/json"
	"sort"

	"github.com/rstream-dev/rstream/event"
)

// A ledger maps bytes of the output to lines, and so turns a number of bytes that a
// reader has taken into a position. Offsets count all bytes since an arbitrary start.
//
// Every number of taken bytes is a lower bound. So a position may be too low, and lines
// are printed again; it is never too high, and no line is lost.
type ledger struct {
	back    int64    // how many taken bytes are still kept as lines
	start   event.ID // the position before the first line
	from    int64    // the offset of the first line
	lines   []line   // in order
	written int64    // bytes handed to the system
	taken   int64    // of these, taken by the reader
}

// A line ends at an offset. Once all bytes before it are taken, the position is at.
type line struct {
	end int64
	at  event.ID
}

// addWritten adds a line, which begins where the last one ended. An empty one, of an event
// that a filter left out, takes no room: there may be millions of them between two lines.
func (l *ledger) addWritten(end int64, at event.ID) {
	if lastEnd, _ := l.last(); end == lastEnd {
		l.raisePosition(at)
		return
	}
	l.lines = append(l.lines, line{end, at})
}

// raisePosition moves the position to at without a line: all later events follow at.
func (l *ledger) raisePosition(at event.ID) {
	_, last := l.last()
	*last = max(*last, at)
}

// last returns where the last line ends, and the position after it.
func (l *ledger) last() (end int64, at *event.ID) {
	if n := len(l.lines); n > 0 {
		return l.lines[n-1].end, &l.lines[n-1].at
	}
	return l.from, &l.start
}

// positionAt returns the position once all bytes before offset are processed.
func (l *ledger) positionAt(offset int64) event.ID {
	if n := l.countBefore(offset); n > 0 {
		return l.lines[n-1].at
	}
	return l.start
}

// countBefore returns how many of the lines end at or before offset.
func (l *ledger) countBefore(offset int64) int {
	return sort.Search(len(l.lines), func(i int) bool { return l.lines[i].end > offset })
}

// takeWritten records that the bytes before offset are taken, and drops lines that are
// no longer needed.
func (l *ledger) takeWritten(offset int64) {
	l.taken = max(l.taken, offset)
	if n := l.countBefore(l.taken - l.back); n > 0 {
		l.start, l.from = l.lines[n-1].at, l.lines[n-1].end
		l.lines = l.lines[n:]
	}
}

// endsWithinLine reports whether the last byte written is within a line.
func (l *ledger) endsWithinLine() bool {
	n := l.countBefore(l.written)
	return l.written > l.from && (n == 0 || l.lines[n-1].end < l.written)
}

// A cursorState is stored with the position of a named cursor.
type cursorState struct {
	Output string `json:"output"`         // see outlet.id
	Cut    bool   `json:"cut,omitempty"`  // a line may have been written in part
	Pipe   *pipe  `json:"pipe,omitempty"` // bytes left in the output, if only its reader can remove them
}

// A pipe records the written lines of a ledger, counted from its first.
type pipe struct {
	Start uint64  `json:"start"`
	Lines []int64 `json:"lines"` // of each, its length and how far it moves the position
	Taken int64   `json:"taken"`
}

// pipe returns the written lines.
func (l *ledger) pipe() *pipe {
	p := &pipe{Start: uint64(l.start), Taken: max(l.taken-l.from, 0)}
	end, at := l.from, l.start
	for _, line := range l.lines[:l.countBefore(l.written)] {
		p.Lines = append(p.Lines, line.end-end, int64(line.at-at))
		end, at = line.end, line.at
	}
	if l.written > end {
		p.Lines = append(p.Lines, l.written-end, 0) // the bytes of half a line count, too
	}
	return p
}

// ledger returns the ledger of a process that continues with the same pipe. The pipe
// may also hold lines written after p was stored: they only make the number of taken
// bytes too low.
func (p *pipe) ledger(back int64) ledger {
	l := ledger{back: back, start: event.ID(p.Start)}
	at := l.start
	for i := 0; i+1 < len(p.Lines); i += 2 {
		l.written += p.Lines[i]
		at += event.ID(p.Lines[i+1])
		l.addWritten(l.written, at)
	}
	l.takeWritten(min(p.Taken, l.written))
	return l
}

func (s *cursorState) encodeState() []byte {
	b, err := json.Marshal(s)
	if err != nil {
		return nil // numbers and texts: it does not happen
	}
	return b
}

// decodeState decodes the state of a cursor. Invalid bytes count as no state.
func decodeState(b []byte) (s cursorState) {
	if json.Unmarshal(b, &s) != nil {
		return cursorState{}
	}
	return s
}
