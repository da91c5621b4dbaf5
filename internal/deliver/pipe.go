package deliver

import (
	"bufio"
	"bytes"
	"context"
	"errors"
	"fmt"
	"os"
	"time"

	"github.com/rstream-dev/rstream/event"
)

// PipeWorker returns a worker that starts the program once, writes the line of an event to
// its input and reads one line of its output: the event's id if the event is done, or the id,
// a space and a reason if it has failed. It writes the next line after that. Any other answer,
// a second answer and no answer in time end the process, and the next event starts another
// one. A dead letter's line has the member "dead":true.
func (p *Program) PipeWorker() Worker { return &pipeWorker{program: p} }

// A pipeWorker has a process, or none before its first event and after a mistake of the last
// one.
type pipeWorker struct {
	program *Program
	starter starter
	process *process
	in      *os.File
	out     *os.File
	answers *bufio.Reader
	line    []byte // of the last event, to use its memory again
}

// maxAnswer is how long an answer may be.
const maxAnswer = 4096

// closeTime is how long a process may take to end after its input has ended.
const closeTime = 5 * time.Second

// Do gives the only event of t to the process.
func (w *pipeWorker) Do(ctx context.Context, t *Try) error {
	if w.process != nil && w.spoiled() {
		w.endProcess()
	}
	if w.process == nil {
		if err := w.startProcess(); err != nil {
			return err
		}
	}
	err := w.ask(ctx, t)
	var failed *answeredError
	if err != nil && !errors.As(err, &failed) {
		w.endProcess() // it must not work on while the event is tried again
	}
	return err
}

// spoiled reports whether a process that has no event to work on has ended, or has said
// something: a second answer to an event that has failed would be taken for that of its next
// try.
func (w *pipeWorker) spoiled() bool {
	select {
	case <-w.process.exited:
		return true
	default:
	}
	return w.answers.Buffered() > 0 || isReadable(w.out)
}

func (w *pipeWorker) startProcess() error {
	in, toIn, err := os.Pipe()
	if err != nil {
		return &AgainError{pauseAfter(3), err} // the system has no room for a process
	}
	fromOut, out, err := os.Pipe()
	if err != nil {
		return &AgainError{pauseAfter(3), errors.Join(err, in.Close(), toIn.Close())}
	}
	w.starter.do(func() { w.process, err = w.program.run(w.program.env, in, out) })
	in.Close()
	out.Close()
	if err != nil {
		return errors.Join(err, toIn.Close(), fromOut.Close())
	}
	w.in, w.out, w.answers = toIn, fromOut, bufio.NewReaderSize(fromOut, maxAnswer)
	go w.process.wait()
	return nil
}

// An answeredError is a failure that the process itself has reported.
type answeredError struct{ reason string }

func (e *answeredError) Error() string { return e.reason }

// ask writes the line of an event and reads the answer.
func (w *pipeWorker) ask(ctx context.Context, t *Try) error {
	defer w.returnAfter(ctx)()
	ev := t.Events[0]
	line := *t
	if t.Dead {
		line.Events = []*event.Event{markDead(ev)}
	}
	var err error
	if w.line, err = line.appendLine(ctx, w.line[:0]); err != nil {
		return &answeredError{err.Error()}
	}
	if _, err := w.in.Write(w.line); err != nil {
		return w.ended(err)
	}
	answer, err := w.answers.ReadSlice('\n')
	switch {
	case errors.Is(err, bufio.ErrBufferFull):
		return fmt.Errorf("its answer is longer than %d bytes: %.40q", maxAnswer, answer)
	case err != nil:
		return w.ended(err)
	}
	return checkAnswer(bytes.TrimRight(answer, "\r\n"), ev.ID)
}

// returnAfter makes reads and writes return once ctx has ended. Call the function that it
// returns after them: the end of ctx does not reach those of the next event.
func (w *pipeWorker) returnAfter(ctx context.Context) (stop func()) {
	past, returned := time.Unix(1, 0), make(chan struct{})
	stopAfter := context.AfterFunc(ctx, func() {
		defer close(returned)
		_ = w.in.SetWriteDeadline(past)
		_ = w.out.SetReadDeadline(past)
	})
	return func() {
		if stopAfter() {
			return
		}
		<-returned
		_ = w.in.SetWriteDeadline(time.Time{})
		_ = w.out.SetReadDeadline(time.Time{})
	}
}

// checkAnswer returns nil if an answer says that the event id is done.
func checkAnswer(answer []byte, id event.ID) error {
	var room [event.IDLen]byte
	reason, ok := bytes.CutPrefix(answer, id.AppendTo(room[:0]))
	switch {
	case !ok:
		return fmt.Errorf("it answered %.60q, want %s", answer, id)
	case len(reason) == 0:
		return nil
	case reason[0] != ' ':
		return fmt.Errorf("it answered %.60q, want %s", answer, id)
	}
	if reason = bytes.TrimSpace(reason); len(reason) == 0 {
		return &answeredError{"it failed without a reason"}
	}
	return &answeredError{string(bytes.ToValidUTF8(reason, []byte("\uFFFD")))}
}

// ended returns the error of a process that does not answer.
func (w *pipeWorker) ended(err error) error {
	if errors.Is(err, os.ErrDeadlineExceeded) {
		return err // the cause is known to the caller
	}
	w.process.end() // it may only have closed a pipe
	<-w.process.exited
	if err := w.process.status(); err != nil {
		return fmt.Errorf("it ended before it answered: %w", err)
	}
	return errors.New("it ended before it answered")
}

// endProcess kills the process and waits until it has ended.
func (w *pipeWorker) endProcess() {
	w.process.end()
	w.closePipes()
	<-w.process.exited
	w.process = nil
}

func (w *pipeWorker) closePipes() {
	w.in.Close()
	w.out.Close()
}

// Close ends the process by the end of its input.
func (w *pipeWorker) Close() {
	defer w.starter.end() // after the process
	if w.process == nil {
		return
	}
	w.in.Close()
	late := time.AfterFunc(closeTime, w.process.end)
	<-w.process.exited
	late.Stop()
	w.closePipes()
}

// markDead returns ev with a member that says that it is a dead letter.
func markDead(ev *event.Event) *event.Event {
	m := event.Event{ID: ev.ID, Time: ev.Time, Draft: ev.Draft, Hash: ev.Hash}
	if len(ev.Extra) > 0 {
		m.Extra = append(append(m.Extra, ev.Extra...), ',')
	}
	m.Extra = append(m.Extra, `"dead":true`...)
	return &m
}
