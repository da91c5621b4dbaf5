package main

import (
	"encoding/json"
	"sort"

	"github.com/rstream-dev/rstream/event"
)

// A ledger knows which bytes of the output are which lines, so that a number of bytes
// that a reader has taken becomes a position. Offsets count all bytes since some moment.
//
// Every number of taken bytes is a lower bound, so a position may be too low and lines
// come again, but none is too high: no line is lost.
type ledger struct {
	back    int64    // how many taken bytes stay known, as lines
	start   event.ID // the position before the first of lines
	from    int64    // the offset where the first of lines begins
	lines   []line   // in order
	written int64    // handed to the system
	taken   int64    // of these, taken by the reader
}

// A line ends at an offset. When all before that is taken, the position is at.
type line struct {
	end int64
	at  event.ID
}

// addWritten notes a line, which begins where the one before ended.
func (l *ledger) addWritten(end int64, at event.ID) { l.lines = append(l.lines, line{end, at}) }

// raise notes that the position has moved on without a line: what comes next lies
// behind at.
func (l *ledger) raise(at event.ID) {
	last := &l.start
	if n := len(l.lines); n > 0 {
		last = &l.lines[n-1].at
	}
	*last = max(*last, at)
}

// position returns the position when all bytes before offset are done with.
func (l *ledger) position(offset int64) event.ID {
	if n := l.countBefore(offset); n > 0 {
		return l.lines[n-1].at
	}
	return l.start
}

// countBefore returns how many of the lines end at or before offset.
func (l *ledger) countBefore(offset int64) int {
	return sort.Search(len(l.lines), func(i int) bool { return l.lines[i].end > offset })
}

// takeWritten notes that the bytes before offset are taken, and forgets the lines that need not
// stay known.
func (l *ledger) takeWritten(offset int64) {
	l.taken = max(l.taken, offset)
	if n := l.countBefore(l.taken - l.back); n > 0 {
		l.start, l.from = l.lines[n-1].at, l.lines[n-1].end
		l.lines = l.lines[n:]
	}
}

// endsWithinLine reports whether what was written ends within a line.
func (l *ledger) endsWithinLine() bool {
	n := l.countBefore(l.written)
	return l.written > l.from && (n == 0 || l.lines[n-1].end < l.written)
}

// A cursorState is what is stored with the position of a named cursor.
type cursorState struct {
	Output string `json:"output"`         // which, see outlet.id
	Cut    bool   `json:"cut,omitempty"`  // a line may have been written in part
	Pipe   *pipe  `json:"pipe,omitempty"` // what stands in the output, if only its reader can take it away
}

// A pipe is what is known of a ledger's lines that were written, counted from the first.
type pipe struct {
	Start uint64  `json:"start"`
	Lines []int64 `json:"lines"` // of each, its length and how far it moves the position
	Taken int64   `json:"taken"`
}

// pipe returns what is written.
func (l *ledger) pipe() *pipe {
	p := &pipe{Start: uint64(l.start), Taken: max(l.taken-l.from, 0)}
	end, at := l.from, l.start
	for _, line := range l.lines[:l.countBefore(l.written)] {
		p.Lines = append(p.Lines, line.end-end, int64(line.at-at))
		end, at = line.end, line.at
	}
	if l.written > end {
		p.Lines = append(p.Lines, l.written-end, 0) // of half a line the bytes count, too
	}
	return p
}

// ledger returns what a process knows that goes on with the same pipe. Lines that were
// written after p was stored may stand in it, too: they only make taken bytes fewer than
// they are.
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

func (s *cursorState) encode() []byte {
	b, err := json.Marshal(s)
	if err != nil {
		return nil // numbers and texts: it does not happen
	}
	return b
}

// decodeState reads the state of a cursor; what it cannot read is no state.
func decodeState(b []byte) (s cursorState) {
	if json.Unmarshal(b, &s) != nil {
		return cursorState{}
	}
	return s
}
