package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"time"

	"github.com/spf13/cobra"

	"github.com/rstream-dev/rstream/cache"
	"github.com/rstream-dev/rstream/client"
	"github.com/rstream-dev/rstream/event"
	"github.com/rstream-dev/rstream/internal/wire"
)

// A delivery says how put and del send drafts to the log.
type delivery struct {
	offline bool // put into the outbox, without contacting a server
	queue   bool // put into the outbox if no server can be reached
}

func (d *delivery) addDeliveryFlags(cmd *cobra.Command) {
	f := cmd.Flags()
	f.BoolVar(&d.offline, "offline", false, "store the append in the local copy until the next sync")
	f.BoolVar(&d.queue, "queue", false, "like --offline, but only if no server can be reached")
	excludeFlags(cmd, "offline", "queue")
}

// A queuedLine is a draft in the outbox, in JSON. A line without a value is a DEL.
type queuedLine struct {
	Type    string          `json:"type"`
	Number  int64           `json:"number"`
	At      event.Time      `json:"at"`
	User    string          `json:"user"`
	Path    string          `json:"path"`
	Key     string          `json:"key"`
	Hash    event.Hash      `json:"hash"`
	Refused string          `json:"refused,omitempty"`
	Value   json.RawMessage `json:"value,omitempty"`
}

// writeQueued writes a draft of the outbox.
func (o *output) writeQueued(q *cache.Queued) error {
	if !o.isForPerson() {
		return o.writeJSON(queuedLine{"queued", q.Number, q.Time, q.User, q.Path, q.Key, q.Hash, q.Refused, q.Value})
	}
	what, why := "queued", ""
	if q.Refused != "" {
		what, why = "refused", "("+visible(q.Refused)+")"
	}
	_, err := o.w.WriteString(o.screenLine(
		column{text: fmt.Sprintf("%-7s  %3d  %s", what, q.Number, localTime(q.Time))},
		column{text: why},
		column{text: visible(q.Storage().String())},
		column{text: string(q.Type)},
		column{text: visible(string(q.Value))}) + "\n")
	return o.nameOutput(err)
}

func (a *app) printQueued(queued []cache.Queued) error {
	for i := range queued {
		if a.quiet {
			break
		}
		if err := a.out.writeQueued(&queued[i]); err != nil {
			return err
		}
	}
	return a.out.flush()
}

// deliverOne appends one draft.
func (a *app) deliverOne(ctx context.Context, d delivery, draft event.Draft) error {
	if err := checkSizes([]event.Draft{draft}); err != nil {
		return d.claimOne(err, untaken, &draft)
	}
	return a.deliver(ctx, d, func(send sendFunc) error {
		f, show, err := send([]event.Draft{draft})
		if show != nil {
			err = show()
		}
		if err != nil {
			err = d.claimOne(err, f, &draft)
		}
		return err
	})
}

// deliver calls fn with a function that appends as d says.
func (a *app) deliver(ctx context.Context, d delivery, fn func(sendFunc) error) error {
	a.out.outlive()
	switch {
	case d.offline:
		return a.appendOffline(ctx, fn)
	case d.queue:
		return a.appendOrQueue(ctx, fn)
	}
	if err := a.sendBefore(ctx); err != nil {
		return fn(refuseAll(err))
	}
	return a.appendOnline(ctx, fn)
}

// refuseAll returns a function that appends nothing, because of err.
func refuseAll(err error) sendFunc {
	return func([]event.Draft) (fate, showFunc, error) { return untaken, nil, err }
}

// checkSizes refuses values that no server takes, before they wait in the outbox.
func checkSizes(drafts []event.Draft) error {
	for i := range drafts {
		if n := len(drafts[i].Value); n > wire.MaxValue {
			return fmt.Errorf("%s: value must be at most %d bytes long, not %d", drafts[i].Storage(), wire.MaxValue, n)
		}
	}
	return nil
}

// appendOffline calls fn with a function that appends to the outbox.
func (a *app) appendOffline(ctx context.Context, fn func(sendFunc) error) error {
	db, err := a.openOutbox(ctx)
	if err != nil {
		return err
	}
	defer db.Close()
	return fn(func(drafts []event.Draft) (fate, showFunc, error) {
		if err := checkSizes(drafts); err != nil {
			return untaken, nil, err
		}
		queued, err := db.Outbox().Queue(ctx, drafts)
		if err != nil {
			return queuedFate(err), nil, err
		}
		return taken, func() error { return a.printQueued(queued) }, nil
	})
}

// openOutbox opens the copy of the server's log, which must be known.
func (a *app) openOutbox(ctx context.Context) (*cache.DB, error) {
	path, log, err := a.cacheFile(ctx)
	if err != nil {
		return nil, err
	}
	if log == "" {
		return nil, &exitError{exitFailed, fmt.Sprintf("cannot find out which log %s serves", wire.RedactURL(a.servers[0])),
			"run \"rstream sync\" once while it can be reached; or name the file of a copy with --cache FILE"}
	}
	return a.openDB(ctx, path, cache.Config{Role: cache.Client, Log: log})
}

// sendBefore sends the drafts that wait in the outbox, so that later appends do not
// overtake them. If the copy does not exist or cannot be read, nothing waits.
func (a *app) sendBefore(ctx context.Context) error {
	path, log, err := a.copyPath()
	if err != nil || path == "" {
		return nil
	}
	s, waiting, err := a.openWaiting(ctx, path, log)
	switch {
	case errors.Is(err, fs.ErrNotExist), errors.Is(err, cache.ErrRole), err == nil && waiting == 0:
		return nil
	case err != nil && ctx.Err() != nil:
		return nil // nothing is appended either
	case err != nil:
		a.note("the outbox was not sent: %v", err)
		return nil
	}
	defer s.Close()
	return s.explainOtherLog(ctx, a.sendOutbox(ctx, s))
}

// openWaiting opens an existing copy of a log, or of any if that is empty, if drafts wait in its
// outbox.
func (a *app) openWaiting(ctx context.Context, path, log string) (s *session, waiting int64, err error) {
	db, err := a.openIfCreated(ctx, path, "")
	if err != nil || db == nil {
		return nil, 0, err
	}
	defer func() {
		if s == nil {
			db.Close()
		}
	}()
	aside, err := db.Aside(ctx)
	if err != nil || aside.Queued == 0 || db.Role() != cache.Client || log != "" && db.Log() != log {
		return nil, 0, err
	}
	c, err := client.New(db, a.clientConfig())
	if err != nil {
		return nil, 0, &usageError{err}
	}
	return &session{Client: c, db: db, app: a}, aside.Queued, nil
}

// appendOrQueue calls fn with a function that appends through the outbox. Drafts are
// durable before a server is contacted, earlier drafts are sent first, and drafts that
// cannot be sent stay.
func (a *app) appendOrQueue(ctx context.Context, fn func(sendFunc) error) error {
	s, err := a.openSession(ctx, false)
	if err != nil { // such as that there is no copy yet, and no server
		return fn(refuseAll(err))
	}
	defer s.Close()
	q := queueing{a: a, s: s}
	return fn(func(drafts []event.Draft) (fate, showFunc, error) {
		f, err := q.queueAndSend(ctx, drafts)
		return f, nil, s.explainOtherLog(ctx, err)
	})
}

// A queueing appends for --queue.
type queueing struct {
	a    *app
	s    *session
	down bool        // no server could be reached
	sent client.Sent // by the last attempt
}

func (q *queueing) queueAndSend(ctx context.Context, drafts []event.Draft) (fate, error) {
	if err := checkSizes(drafts); err != nil {
		return untaken, err
	}
	queued, err := q.s.db.Outbox().Queue(ctx, drafts)
	if err != nil {
		return queuedFate(err), err
	}
	ours := map[int64]*event.Receipt{}
	for i := range queued {
		ours[queued[i].Number] = nil
	}
	if q.down {
		return taken, q.a.printQueued(queued)
	}
	err = q.trySend(ctx, queued, ours)
	refused, failed := q.withdraw(ctx, ours)
	gone, lost := q.findGone(context.WithoutCancel(ctx), queued, ours)
	if len(gone) > 0 {
		q.a.note("%s left the outbox: another process has sent or dropped %s", count(len(gone), "append"), itOrThem(len(gone)))
	}
	for i := range gone {
		delete(ours, gone[i].Number)
	}
	for i := range queued {
		failed = errors.Join(failed, q.printSent(&queued[i], ours))
	}
	f := taken
	switch {
	case len(gone) > 0:
		f = unknown
	case refused != nil:
		f = butRefused
	}
	return f, errors.Join(err, refused, failed, lost, q.a.out.flush())
}

// findGone returns the drafts that have no receipt and are no longer in the outbox: another
// process has sent them, or dropped them.
func (q *queueing) findGone(ctx context.Context, queued []cache.Queued, ours map[int64]*event.Receipt) (gone []cache.Queued, err error) {
	open := map[int64]bool{}
	for number, r := range ours {
		if r == nil {
			open[number] = true
		}
	}
	if len(open) == 0 {
		return nil, nil
	}
	err = eachQueued(ctx, q.s.db, func(now *cache.Queued) error {
		delete(open, now.Number)
		return nil
	})
	if err != nil {
		return nil, err
	}
	for i := range queued {
		if number := queued[i].Number; open[number] {
			delete(open, number)
			gone = append(gone, queued[i])
		}
	}
	return gone, nil
}

// receiveGone appends the drafts that are gone once more, which are duplicates if another
// process has sent them, and records the answers to ours.
func (q *queueing) receiveGone(ctx context.Context, c *client.Client, queued []cache.Queued, ours map[int64]*event.Receipt) error {
	gone, err := q.findGone(ctx, queued, ours)
	if err != nil || len(gone) == 0 {
		return err
	}
	drafts := make([]event.Draft, len(gone))
	for i := range gone {
		drafts[i] = gone[i].Draft
	}
	receipts, err := c.Put(ctx, drafts)
	for i := range receipts {
		ours[gone[i].Number] = &receipts[i]
	}
	return err
}

// printSent prints the result of a draft, unless it was refused.
func (q *queueing) printSent(draft *cache.Queued, ours map[int64]*event.Receipt) error {
	r, still := ours[draft.Number]
	switch {
	case q.a.quiet, !still:
		return nil
	case r != nil:
		return q.a.out.writeReceipt(r)
	}
	return q.a.out.writeQueued(draft)
}

// trySend sends the outbox and records the log's answers to ours. That no server can be
// reached is not an error.
func (q *queueing) trySend(ctx context.Context, queued []cache.Queued, ours map[int64]*event.Receipt) error {
	ctx, cancel := context.WithCancelCause(ctx)
	defer cancel(nil)
	var lost error
	cfg := q.a.clientConfig()
	cfg.OnRetry = func(err error, _ time.Duration) {
		lost = err
		cancel(err)
	}
	c, err := client.New(q.s.db, cfg)
	if err != nil {
		return &usageError{err}
	}
	defer c.Close()
	q.sent, err = c.Send(ctx, func(sent *cache.Queued, r *event.Receipt) {
		if _, ok := ours[sent.Number]; ok {
			ours[sent.Number] = r
		}
	})
	if err == nil {
		err = q.receiveGone(ctx, c, queued, ours)
	}
	var unreachable *client.UnreachableError
	if lost == nil && errors.As(err, &unreachable) {
		lost = unreachable
	}
	if err == nil || lost == nil {
		return err
	}
	q.down = true
	q.a.note("%v; kept until the next sync", lost)
	return nil
}

// withdraw removes drafts that the server has just refused from the outbox and from ours:
// put is still running and reports them.
func (q *queueing) withdraw(ctx context.Context, ours map[int64]*event.Receipt) (refused, err error) {
	var numbers []int64
	err = eachQueued(ctx, q.s.db, func(now *cache.Queued) error {
		if _, ok := ours[now.Number]; ok && now.Refused != "" {
			delete(ours, now.Number)
			numbers = append(numbers, now.Number)
			refused = errors.Join(refused, fmt.Errorf("put %s: %s", now.Storage(), now.Refused))
		}
		return nil
	})
	if refused != nil && q.sent.Refused > 0 && q.sent.Forbidden == q.sent.Refused {
		refused = &forbiddenError{refused}
	}
	if err == nil && len(numbers) > 0 {
		_, err = q.s.db.Outbox().Discard(ctx, numbers)
	}
	return refused, err
}

// A forbiddenError is the error of appends to storages that the token does not cover.
type forbiddenError struct{ error }

// eachQueued calls fn for each draft in the outbox, in order.
func eachQueued(ctx context.Context, db *cache.DB, fn func(*cache.Queued) error) error {
	for after := int64(0); ; {
		queued, err := db.Outbox().List(ctx, after, 1000)
		if err != nil || len(queued) == 0 {
			return err
		}
		for i := range queued {
			if err := fn(&queued[i]); err != nil {
				return err
			}
		}
		after = queued[len(queued)-1].Number
	}
}

// sendOutbox sends the drafts that wait in a session's outbox and reports it on standard error.
func (a *app) sendOutbox(ctx context.Context, s *session) error {
	if waits, err := a.outboxWaits(ctx, s); err != nil || !waits {
		return err
	}
	sent, err := s.Send(ctx, nil)
	if err != nil && (!isHeldUp(err) || sent.Sent+sent.Refused == 0) {
		return err
	}
	return errors.Join(err, a.reportSent(sent, false))
}

// outboxWaits reports whether drafts wait to be sent, and notes those that were refused.
func (a *app) outboxWaits(ctx context.Context, s *session) (waits bool, err error) {
	aside, err := s.db.Aside(ctx)
	if err == nil && aside.Refused > 0 {
		a.note("refused earlier: %s in the outbox; \"rstream outbox\" lists them", count(aside.Refused, "append"))
	}
	return aside.Queued > 0, err
}

// reportSent reports what was sent of an outbox: on standard output if summary is set, else on
// standard error.
func (a *app) reportSent(sent client.Sent, summary bool) (err error) {
	text := fmt.Sprintf("outbox: %d sent, %d refused", sent.Sent, sent.Refused)
	switch {
	case !summary:
		a.note("%s", text)
	case a.quiet:
	case a.out.isForPerson():
		err = a.out.printf("%s\n", text)
	default:
		err = a.out.writeJSON(struct {
			Type    string `json:"type"`
			Sent    int    `json:"sent"`
			Known   int    `json:"known"` // of these, how many the log had already
			Refused int    `json:"refused"`
		}{"sent", sent.Sent, sent.Known, sent.Refused})
	}
	return err
}

// refusedError returns the error for appends that the server refused, nil if there are none.
func refusedError(sent client.Sent) error {
	if sent.Refused == 0 {
		return nil
	}
	e := &exitError{exitFailed, "the server refused " + count(sent.Refused, "append"),
		"\"rstream outbox\" says why; \"rstream outbox drop NUMBER\" drops one; \"rstream outbox retry NUMBER\" sends it with the next sync"}
	if sent.Forbidden == sent.Refused {
		e.status = exitNotAllowed
		e.hint = "\"rstream outbox\" lists them; with a token that covers them, \"rstream outbox retry --refused\" sends them with the next sync"
	}
	return e
}

// sendPause is how often sync --follow checks the outbox.
const sendPause = time.Second

// whileSending runs fn and meanwhile sends drafts that are put into the outbox, after those that
// are being sent already.
func (a *app) whileSending(ctx context.Context, s *session, first *sending, fn func(context.Context) error) error {
	ctx, cancel := context.WithCancelCause(ctx)
	done := make(chan struct{})
	go func() {
		defer close(done)
		var held heldOutbox
		if err := held.take(a, first.endBeside(ctx, a)); err != nil && ctx.Err() == nil {
			cancel(err)
		}
		tick := time.NewTicker(sendPause)
		defer tick.Stop()
		for {
			select {
			case <-tick.C:
			case <-ctx.Done():
				return
			}
			if time.Now().Before(held.until) {
				continue
			}
			if err := held.take(a, a.sendNow(ctx, s)); err != nil && ctx.Err() == nil {
				cancel(err)
			}
		}
	}()
	err := fn(ctx)
	if cause := context.Cause(ctx); cause != nil && errors.Is(err, context.Canceled) {
		err = cause
	}
	cancel(nil)
	<-done
	return err
}

// sendNow is sendOutbox for sync --follow. It reports only new results.
func (a *app) sendNow(ctx context.Context, s *session) error {
	aside, err := s.db.Aside(ctx)
	if err != nil || aside.Queued == 0 {
		return err
	}
	sent, err := s.Send(ctx, nil)
	if err != nil && (!isHeldUp(err) || sent.Sent+sent.Refused == 0) {
		return err
	}
	return errors.Join(err, a.reportSent(sent, false))
}
