package main

import (
	"context"
	"fmt"
	"time"

	"github.com/spf13/cobra"

	"github.com/rstream-dev/rstream/event"
	"github.com/rstream-dev/rstream/internal/jq"
)

// An eventFilter chooses events and prints parts of them.
type eventFilter struct {
	ctx          context.Context // ends a while after the command was stopped
	whereText    string
	selectText   string
	where        *jq.Expression // nil for all events
	selection    *jq.Expression // nil for their lines
	last         *event.Event   // the event that leavesOut was last asked about,
	lastID       event.ID       // with its id, since memory is used again,
	lastOut      bool           // and the answer
	failed       int            // events for which an expression failed
	firstFailure error
}

// addFilter adds the flags of the filter of printed events, or of those that a consumer gets.
func addFilter(a *app, cmd *cobra.Command) {
	f := cmd.Flags()
	f.StringVar(&a.filter.whereText, "where", "", "leave out events for which `EXPR` of jq is false, null or an error")
	f.StringVar(&a.filter.selectText, "jq", "", "print the values of `EXPR` of jq instead of each event")
	forLineOnly(f, "where") // a source has one of its own
	forLineOnly(f, "jq")
}

// prepareFilter compiles the expressions of the command line.
func (a *app) prepareFilter(cmd *cobra.Command) (err error) {
	f := &a.filter
	if f.where, err = parseExpression("where", f.whereText); err != nil {
		return err
	}
	if f.selection, err = parseExpression("jq", f.selectText); err != nil {
		return err
	}
	if f.where != nil || f.selection != nil {
		f.ctx = delayEnd(cmd.Context(), expressionGrace)
		a.out.filter = f
	}
	return nil
}

// expressionGrace is how long the expressions of events that were read may go on after the
// command was stopped: a tail prints these events, and one of them could run forever.
const expressionGrace = 2 * time.Second

// delayEnd returns a context that ends some time after ctx, for the same cause.
func delayEnd(ctx context.Context, delay time.Duration) context.Context {
	delayed, cancel := context.WithCancelCause(context.WithoutCancel(ctx))
	context.AfterFunc(ctx, func() {
		time.AfterFunc(delay, func() { cancel(context.Cause(ctx)) })
	})
	return delayed
}

// parseExpression returns nil for no text.
func parseExpression(flag, text string) (*jq.Expression, error) {
	if text == "" {
		return nil, nil
	}
	e, err := jq.Parse(text)
	if err != nil {
		return nil, usagef("--%s %.200q: %w", flag, text, err)
	}
	return e, nil
}

// leavesOut reports whether an event is not printed. An error means that the command was
// stopped before that was known: the event must not count as printed.
func (f *eventFilter) leavesOut(ev *event.Event) (bool, error) {
	if f == nil || f.where == nil {
		return false, nil
	}
	if f.last == ev && f.lastID == ev.ID {
		return f.lastOut, nil
	}
	holds, err := f.where.Holds(f.ctx, ev.Line())
	if err != nil {
		if f.ctx.Err() != nil {
			return false, context.Cause(f.ctx)
		}
		f.noteFailed(ev, fmt.Errorf("--where: %w", err))
	}
	f.last, f.lastID, f.lastOut = ev, ev.ID, !holds
	return !holds, nil
}

func (f *eventFilter) noteFailed(ev *event.Event, err error) {
	if f.failed++; f.firstFailure == nil {
		f.firstFailure = fmt.Errorf("%s: %w", ev.ID, err)
	}
}

// write writes the values of --jq for an event: text as it is for a person, otherwise JSON.
func (f *eventFilter) write(o *output, ev *event.Event) error {
	var outErr error
	err := f.selection.Values(f.ctx, ev.Line(), func(v jq.Value) error {
		text := v.JSON
		if v.Is && o.isForPerson() {
			text = []byte(v.Text)
		}
		outErr = o.writeLine(text)
		return outErr
	})
	if err != nil && outErr == nil {
		if f.ctx.Err() != nil {
			return context.Cause(f.ctx)
		}
		f.noteFailed(ev, fmt.Errorf("--jq: %w", err))
	}
	return outErr
}

// noteFilter says for how many events an expression failed.
func (a *app) noteFilter() {
	if f := &a.filter; f.failed > 0 {
		a.note("%s left out, since an expression failed, first for %v", count(f.failed, "event"), f.firstFailure)
	}
}

// wants is leavesOut for a consumer, which gets the events for which the expression fails: left
// out, they would be done.
func (f *eventFilter) wants(ev *event.Event) (bool, error) {
	holds, err := f.where.Holds(f.ctx, ev.Line())
	if err != nil && f.ctx.Err() != nil {
		return false, context.Cause(f.ctx)
	}
	return holds || err != nil, nil
}

// appendLine appends what a consumer gets of an event. ctx is that of the try: an expression may
// take as long as it, also after the command was stopped.
func (f *eventFilter) appendLine(ctx context.Context, b []byte, ev *event.Event) ([]byte, error) {
	v, err := f.selection.Only(ctx, ev.Line())
	if err != nil {
		return b, fmt.Errorf("--jq: %w", err)
	}
	return append(b, v...), nil
}
