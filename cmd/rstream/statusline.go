package main

import (
	"fmt"
	"io"
	"os"
	"sync"

	"github.com/mattn/go-isatty"
	"github.com/mattn/go-runewidth"
)

// A statusLine is the last line of a terminal. It says what the program waits for,
// changes in place, and leaves nothing on the screen. There is none unless standard
// output and standard error are both terminals: in a pipe, another program may be writing
// to the terminal. All methods of a nil statusLine do nothing.
type statusLine struct {
	out *output
	err *os.File

	mu      sync.Mutex // held while anything is written to the terminal
	shown   bool
	waiting string // shown when there is nothing else to show; "" is nothing
}

func newStatusLine(out *output, err io.Writer) *statusLine {
	f, ok := err.(*os.File)
	if !ok || !out.terminal || !isatty.IsTerminal(f.Fd()) || os.Getenv("TERM") == "dumb" {
		return nil
	}
	s := &statusLine{out: out, err: f}
	out.pipe.around = s.clearAround
	return s
}

const eraseLine = "\r\x1b[K"

// show replaces the line. It shows nothing while output is written, which may take as
// long as the terminal is stopped.
func (s *statusLine) show(format string, args ...any) {
	if s == nil || !s.mu.TryLock() {
		return
	}
	defer s.mu.Unlock()
	s.draw(fmt.Sprintf(format, args...))
}

// showWaiting replaces the line with what the program waits for. The line returns after
// each note.
func (s *statusLine) showWaiting(text string) {
	if s == nil {
		return
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	s.waiting = text
	s.draw(text)
}

func (s *statusLine) draw(text string) {
	if !hasRoom(s.err, 0) {
		return
	}
	text = runewidth.Truncate(visibleLines(text), s.out.columns()-1, "…") // the last column would start a new line
	fmt.Fprint(s.err, eraseLine+s.out.paint(styleDim, text))
	s.shown = true
}

// note writes a line that stays.
func (s *statusLine) note(text string) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.erase()
	fmt.Fprintf(s.err, "rstream: %s\n", text)
	if s.waiting != "" {
		s.draw(s.waiting)
	}
}

// end erases the line for good.
func (s *statusLine) end() {
	if s == nil {
		return
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	s.waiting = ""
	s.erase()
}

// clearAround erases the line and calls write, which writes to the terminal.
func (s *statusLine) clearAround(write func()) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.erase()
	write()
}

// erase erases the line. A stopped terminal must not keep the program from ending.
func (s *statusLine) erase() {
	if s.shown && hasRoom(s.err, 0) {
		fmt.Fprint(s.err, eraseLine)
		s.shown = false
	}
}
