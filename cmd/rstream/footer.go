package main

import (
	"context"
	"fmt"
	"io"
	"io/fs"
	"os"
	"slices"
	"sync"

	"github.com/mattn/go-isatty"
	"github.com/mattn/go-runewidth"
	"golang.org/x/term"
)

// A footer is the last lines of a terminal. It shows how far the program is and what it
// waits for, changes in place, and leaves nothing on the screen. Everything that is
// written to the terminal meanwhile goes through it. There is none if standard error is no
// terminal, or if standard output is a pipe: then another program may be writing to the
// terminal. All methods of a nil footer do nothing.
type footer struct {
	out *output
	err *os.File
	to  io.Writer // err, as long as it does not keep the program from ending

	mu      sync.Mutex // held while anything is written to the terminal
	shown   []int      // widths of the lines on the screen
	midLine bool       // the last line that was written to the terminal is not complete
	picture []string   // of how far the program is, with colours
	failure string     // why it tries again, until output comes
	waiting string     // shown when there is nothing else to show; "" is nothing
	stop    func()     // ends what watches the terminal; nil before the first line is shown
}

func newFooter(ctx context.Context, out *output, err io.Writer) *footer {
	f, ok := err.(*os.File)
	if !ok || !isatty.IsTerminal(f.Fd()) || os.Getenv("TERM") == "dumb" || out.isPipe() {
		return nil
	}
	s := &footer{out: out, err: f, to: &interruptible{ctx: ctx, file: f}}
	if out.terminal {
		out.pipe.around = s.clearAround
	}
	return s
}

// isPipe reports whether another program reads the output.
func (o *output) isPipe() bool {
	info, err := o.file.Stat()
	return err == nil && info.Mode()&(fs.ModeNamedPipe|fs.ModeSocket) != 0
}

const (
	eraseLine  = "\r\x1b[K"
	eraseBelow = "\x1b[J" // from the cursor on
)

// show shows why the program tries again, until output comes. It shows nothing while
// output is written, which may take as long as the terminal is stopped.
func (s *footer) show(format string, args ...any) {
	if s == nil || !s.mu.TryLock() {
		return
	}
	defer s.mu.Unlock()
	s.failure = fmt.Sprintf(format, args...)
	s.draw()
}

// showWaiting replaces the line with what the program waits for. The line returns after
// each note.
func (s *footer) showWaiting(text string) {
	if s == nil {
		return
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	s.waiting, s.failure = text, ""
	s.draw()
}

// showPicture replaces the picture of how far the program is. If it is farther than
// before, it has stopped trying again. Like show, it shows nothing while output is written.
func (s *footer) showPicture(lines []string, farther bool) {
	if !s.mu.TryLock() {
		return
	}
	defer s.mu.Unlock()
	s.picture = lines
	if farther {
		s.failure = ""
	}
	s.draw()
}

// endPicture erases the picture.
func (s *footer) endPicture() {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.picture = nil
	s.erase()
}

// size returns the size of the terminal, 80 by 24 if it is not known.
func (s *footer) size() (columns, rows int) {
	columns, rows, err := term.GetSize(int(s.err.Fd()))
	if err != nil || columns <= 0 || rows <= 0 {
		return 80, 24
	}
	return columns, rows
}

func (s *footer) columns() int {
	columns, _ := s.size()
	return columns
}

func (s *footer) rows() int {
	_, rows := s.size()
	return rows
}

// lines returns the lines to show.
func (s *footer) lines(columns int) []string {
	lines := slices.Clone(s.picture)
	if slices.ContainsFunc(lines, func(line string) bool { return lineWidthOf(line) >= columns }) {
		lines = nil // it was drawn for a wider terminal
	}
	text := s.failure
	if text == "" && len(lines) == 0 {
		text = s.waiting
	}
	if text != "" {
		text = runewidth.Truncate(visibleLines(text), columns-1, "…") // the last column would start a new line
		lines = append(lines, s.paint(styleDim, text))
	}
	return lines
}

// lineWidthOf returns the width of a line with colours.
func lineWidthOf(line string) int { return runewidth.StringWidth(colours().ReplaceAllString(line, "")) }

// hasColour reports whether the footer has colours.
func (s *footer) hasColour() bool { return s.out.colouring.isOn(true) }

func (s *footer) paint(style, text string) string {
	if !s.hasColour() {
		return text
	}
	return "\x1b[" + style + "m" + text + "\x1b[0m"
}

// draw shows the lines, in place of those that are shown. The cursor rests at the
// beginning of the last one: typed characters, such as ^C, do not begin a line of its own.
func (s *footer) draw() {
	if s.midLine || !hasRoom(s.err, 0) || inBackground(s.err) {
		return
	}
	columns := s.columns()
	lines := s.lines(columns)
	if len(lines) == 0 {
		s.erase()
		return
	}
	if s.stop == nil {
		s.stop = s.watchTerminal()
	}
	text := s.toFirst(columns)
	below := len(s.shown) > len(lines) || slices.ContainsFunc(s.shown, func(width int) bool { return width >= columns })
	s.shown = nil
	for i, line := range lines {
		if i > 0 {
			text += "\n"
		}
		text += eraseLine + line
		s.shown = append(s.shown, lineWidthOf(line))
	}
	if below {
		text += eraseBelow
	}
	fmt.Fprint(s.to, text+"\r")
}

// toFirst moves the cursor from the last of the shown lines to the first. A terminal that
// has become narrower since shows each in several rows.
func (s *footer) toFirst(columns int) string {
	up := 0
	for _, width := range s.shown[:max(len(s.shown)-1, 0)] {
		up += max(1, (width+columns-1)/columns)
	}
	if up == 0 {
		return ""
	}
	return fmt.Sprintf("\x1b[%dA", up)
}

// erase erases the lines. A stopped terminal must not keep the program from ending.
func (s *footer) erase() {
	if len(s.shown) == 0 || !hasRoom(s.err, 0) || inBackground(s.err) {
		return
	}
	columns := s.columns()
	text := s.toFirst(columns) + eraseLine
	if len(s.shown) > 1 || s.shown[0] >= columns {
		text += eraseBelow
	}
	fmt.Fprint(s.to, text)
	s.shown = nil
}

// note writes a line that stays.
func (s *footer) note(text string) { s.write("rstream: " + text + "\n") }

// write writes lines that stay.
func (s *footer) write(text string) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.erase()
	s.failure = ""
	fmt.Fprint(s.err, text)
	s.draw()
}

// end erases the lines for good.
func (s *footer) end() {
	if s == nil {
		return
	}
	s.mu.Lock()
	s.waiting, s.failure, s.picture = "", "", nil
	s.erase()
	stop := s.stop
	s.stop = nil
	s.mu.Unlock()
	if stop != nil {
		stop()
	}
}

// clearAround erases the lines and calls write, which writes b to the terminal. The picture
// returns, since more output may come at any time, and then what the program waits for is
// not to be seen.
func (s *footer) clearAround(b []byte, write func()) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.erase()
	s.failure = ""
	write()
	s.midLine = len(b) > 0 && b[len(b)-1] != '\n'
	if len(s.picture) > 0 {
		s.draw()
	}
}

// suspend calls stop, which stops the program as ^Z does, and leaves nothing on the screen
// meanwhile.
func (s *footer) suspend(stop func()) {
	if s.mu.TryLock() { // a terminal that is stopped keeps the lock, and not the program
		defer s.mu.Unlock()
		s.erase()
		defer s.draw()
	}
	stop()
}

// resume shows the lines again, after something else was written to the terminal.
func (s *footer) resume() {
	if s.mu.TryLock() {
		defer s.mu.Unlock()
		s.shown = nil
		s.draw()
	}
}

// resize adapts the lines to the width of the terminal.
func (s *footer) resize() {
	if s.mu.TryLock() {
		defer s.mu.Unlock()
		s.draw()
	}
}
