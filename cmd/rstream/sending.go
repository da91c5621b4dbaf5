package main

import (
	"cmp"
	"context"
	"errors"
	"time"

	"github.com/rstream-dev/rstream/client"
)

// A sending sends an outbox beside a sync, which fetches while a server that answers takes no appends,
// such as a mirror without its upstream. All attempts are of one Send: only that knows that the outcome
// of an earlier attempt is unknown. A nil sending has nothing to send.
type sending struct {
	cancel context.CancelFunc
	waits  chan struct{} // has an element once the server has answered that it takes no appends now
	done   chan struct{} // closed when sent and err are set
	sent   client.Sent
	err    error
}

// startSending begins to send what waits in the outbox of a session, nil if nothing does. The caller
// stops it before the session is closed.
func (a *app) startSending(ctx context.Context, s *session) (*sending, error) {
	if waits, err := a.outboxWaits(ctx, s); err != nil || !waits {
		return nil, err
	}
	b := &sending{waits: make(chan struct{}, 1), done: make(chan struct{})}
	cfg := a.clientConfig()
	cfg.OnRetry = func(err error, pause time.Duration) {
		a.onRetry(err, pause)
		if takesNone(err) {
			select {
			case b.waits <- struct{}{}:
			default:
			}
		}
	}
	c, err := client.New(s.db, cfg)
	if err != nil {
		return nil, &usageError{err}
	}
	ctx, b.cancel = context.WithCancel(ctx)
	go func() {
		defer close(b.done)
		defer c.Close()
		b.sent, b.err = c.Send(ctx, nil)
	}()
	return b, nil
}

// takesNone reports whether err is the answer of a log that takes no appends now.
func takesNone(err error) bool {
	var answer *client.StatusError
	return errors.As(err, &answer) && answer.FromLog
}

// isLater waits until everything is sent, and reports whether the server takes no appends now.
func (b *sending) isLater() bool {
	if b == nil {
		return false
	}
	select {
	case <-b.waits:
		return true
	case <-b.done:
		var timeout *client.TimeoutError // shorter than the pause before the next attempt
		return errors.As(b.err, &timeout) && takesNone(timeout.Err)
	}
}

// A sendOutcome is the result of a sending.
type sendOutcome struct {
	client.Sent
	heldUp error // a proxy refuses an append: that is no reason to fetch nothing
}

// err returns the error for appends that were refused, nil if there are none.
func (o *sendOutcome) err() error { return errors.Join(refusedError(o.Sent), o.heldUp) }

func isHeldUp(err error) bool { return errors.As(err, new(*client.HeldUpError)) }

// end waits until everything is sent, and reports it as reportSent does.
func (b *sending) end(a *app, summary bool) (o sendOutcome, err error) {
	if b == nil {
		return o, nil
	}
	<-b.done
	o.Sent = b.sent
	if isHeldUp(b.err) {
		o.heldUp = b.err
	} else if b.err != nil {
		return o, b.err
	}
	return o, a.reportSent(o.Sent, summary)
}

// endBeside is end beside a command that follows, until ctx ends.
func (b *sending) endBeside(ctx context.Context, a *app) error {
	if b == nil {
		return nil
	}
	select {
	case <-b.done:
	case <-ctx.Done():
		return nil
	}
	o, err := b.end(a, false)
	return cmp.Or(err, o.heldUp)
}

// stop ends the sending.
func (b *sending) stop() {
	if b != nil {
		b.cancel()
		<-b.done
	}
}

// A heldOutbox is the outbox of sync --follow while a proxy refuses an append.
type heldOutbox struct {
	noted string // what was said
	pause time.Duration
	until time.Time // then it is sent again
}

// take takes the result of sending, and returns an error that is to end the command. That the outbox is
// held up is said once.
func (h *heldOutbox) take(a *app, err error) error {
	if !isHeldUp(err) {
		h.pause, h.until = 0, time.Time{}
		return err
	}
	if text := err.Error(); text != h.noted {
		h.noted = text
		a.note("%s; it waits, and so do those after it; %s", text, hintFor(nil, err))
	}
	h.pause = min(max(2*h.pause, 2*sendPause), time.Minute)
	h.until = time.Now().Add(h.pause)
	return nil
}
