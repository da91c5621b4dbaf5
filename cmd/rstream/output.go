package main

import (
	"bufio"
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"syscall"

	"github.com/mattn/go-isatty"
	"golang.org/x/term"

	"github.com/rstream-dev/rstream/event"
)

// A form is a format of output.
type form string

const (
	formText form = "text"
	formJSON form = "json"
)

// String, Set and Type implement pflag.Value.
func (f *form) String() string { return string(*f) }

// Set rejects unknown forms.
func (f *form) Set(s string) error {
	if s != string(formText) && s != string(formJSON) {
		return fmt.Errorf("want text or json")
	}
	*f = form(s)
	return nil
}

// Type names the flag's value.
func (f *form) Type() string { return "form" }

// errClosedStdout means that the reader of the output has closed it, as head does when
// it has enough. That is a normal end.
var errClosedStdout = errors.New("standard output is closed")

// An output is standard output, or a file in its place. It carries data, and nothing
// else.
type output struct {
	name     string // of the file; "" is standard output
	file     *os.File
	pipe     *pipeWriter
	w        *bufio.Writer
	terminal bool
	form     form // "" means text on a terminal, else JSON
	colouring
	full   bool         // lines are not cut to the width of the terminal
	line   []byte       // room for one
	filter *eventFilter // nil prints all events as they are
}

func newOutput(ctx context.Context, f *os.File) *output {
	p := &pipeWriter{to: &interruptible{ctx: ctx, file: f}}
	return &output{file: f, pipe: p, w: bufio.NewWriterSize(p, 64<<10), terminal: isatty.IsTerminal(f.Fd()) || isatty.IsCygwinTerminal(f.Fd())}
}

// outlive lets the command continue when the reader of its output has left: the reader
// loses only the report of the work.
func (o *output) outlive() { o.pipe.outlives = true }

// A pipeWriter writes to standard output, whose reader may leave.
type pipeWriter struct {
	to       io.Writer
	outlives bool // writes succeed after the reader has left
	left     bool
	around   func(b []byte, write func()) // if set, calls write, which writes b
}

func (p *pipeWriter) Write(b []byte) (int, error) {
	if p.left {
		return len(b), nil
	}
	n, err := p.write(b)
	if p.outlives && errors.Is(err, syscall.EPIPE) {
		p.left = true
		return len(b), nil
	}
	return n, err
}

func (p *pipeWriter) write(b []byte) (n int, err error) {
	if p.around == nil {
		return p.to.Write(b)
	}
	p.around(b, func() { n, err = p.to.Write(b) })
	return n, err
}

// divert redirects output to w, or back to the file if w is nil. Unflushed output is
// dropped.
func (o *output) divert(w *keeper) {
	if w == nil {
		o.w.Reset(o.pipe)
		return
	}
	o.w.Reset(w)
}

// isForPerson reports whether the output is for a person.
func (o *output) isForPerson() bool {
	if o.form == "" {
		return o.terminal
	}
	return o.form == formText
}

// columns returns the width of the terminal, 80 if it is not known.
func (o *output) columns() int {
	if n, _, err := term.GetSize(int(o.file.Fd())); err == nil && n > 0 {
		return n
	}
	return 80
}

// writeLine writes b and a line feed.
func (o *output) writeLine(b []byte) error {
	o.w.Write(o.terminalSafe(b)) // bufio.Writer keeps its first error
	return o.nameOutput(o.w.WriteByte('\n'))
}

func (o *output) printf(format string, args ...any) error {
	_, err := o.w.WriteString(visibleLines(fmt.Sprintf(format, args...)))
	return o.nameOutput(err)
}

// writeJSON writes v as one line.
func (o *output) writeJSON(v any) error {
	var b bytes.Buffer
	enc := json.NewEncoder(&b)
	enc.SetEscapeHTML(false)
	if err := enc.Encode(v); err != nil {
		return err
	}
	_, err := o.w.Write(o.terminalSafe(b.Bytes()))
	return o.nameOutput(err)
}

// writeEvent writes one event: its line or, for a person, its text form. A filter leaves it out
// or writes something else.
func (o *output) writeEvent(ev *event.Event) error {
	out, err := o.filter.leavesOut(ev)
	switch {
	case out || err != nil:
		return err
	case o.filter != nil && o.filter.selection != nil:
		return o.filter.write(o, ev)
	}
	if !o.isForPerson() {
		o.line = ev.AppendLine(o.line[:0])
		return o.writeLine(o.line)
	}
	_, err = o.w.WriteString(o.eventLine(ev) + "\n")
	return o.nameOutput(err)
}

// writeReceipt writes the result of an append: the event or, if the log took it before and
// has dropped it since, the members that are still known.
func (o *output) writeReceipt(r *event.Receipt) error {
	switch {
	case !r.Dropped:
		return o.writeEvent(&r.Event)
	case o.isForPerson():
		return o.printf("%s  %s  was appended before, and its history is gone\n", r.ID, visible(r.Storage().String()))
	}
	return o.writeJSON(struct {
		Type string     `json:"type"`
		ID   event.ID   `json:"id"`
		User string     `json:"user"`
		Path string     `json:"path"`
		Key  string     `json:"key"`
		Hash event.Hash `json:"hash"`
	}{"dropped", r.ID, r.User, r.Path, r.Key, r.Hash})
}

func (o *output) flush() error { return o.nameOutput(o.w.Flush()) }

// untilClosed runs fn until it ends or the reader closes the output. Then it returns
// errClosedStdout.
func (o *output) untilClosed(ctx context.Context, fn func(context.Context) error) error {
	ctx, cancel := context.WithCancelCause(ctx)
	defer cancel(nil)
	stop := watchClosed(o.file, func() { cancel(errClosedStdout) })
	defer stop()
	err := fn(ctx)
	if cause := context.Cause(ctx); errors.Is(cause, errClosedStdout) {
		return cause
	}
	return err
}

// nameOutput adds the name of the output to an error.
func (o *output) nameOutput(err error) error {
	if o.name == "" && errors.Is(err, syscall.EPIPE) {
		return errClosedStdout
	}
	var file *fs.PathError
	if errors.As(err, &file) {
		err = file.Err
	}
	switch {
	case err == nil:
		return nil
	case o.name != "":
		return fmt.Errorf("write %s: %w", o.name, err)
	}
	return &stdoutError{err}
}

// A stdoutError is an error of writing to standard output.
type stdoutError struct{ err error }

func (e *stdoutError) Error() string { return "write standard output: " + e.err.Error() }
func (e *stdoutError) Unwrap() error { return e.err }

// nothingYet is the text of an empty list. In JSON, it has no lines.
const nothingYet = "nothing yet\n"

// formatSize formats a number of bytes for a person.
func formatSize(n int64) string {
	switch {
	case n < 1000:
		return fmt.Sprintf("%d B", n)
	case n < 1000*1000:
		return fmt.Sprintf("%.1f kB", float64(n)/1e3)
	case n < 1000*1000*1000:
		return fmt.Sprintf("%.1f MB", float64(n)/1e6)
	}
	return fmt.Sprintf("%.1f GB", float64(n)/1e9)
}

// count formats a number and its noun.
func count[T int | int64 | uint64](n T, noun string) string {
	if n == 1 {
		return fmt.Sprintf("%d %s", n, noun)
	}
	return fmt.Sprintf("%d %ss", n, noun)
}
