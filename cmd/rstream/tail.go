package main

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"slices"
	"time"

	"github.com/spf13/cobra"

	"github.com/rstream-dev/rstream/cache"
	"github.com/rstream-dev/rstream/client"
	"github.com/rstream-dev/rstream/event"
	"github.com/rstream-dev/rstream/internal/wire"
)

type tailOptions struct {
	topicFlags
	consumeOptions
	n         int
	since     string
	until     string
	name      string
	untilLive bool
	count     int
	wait      bool
	skipGap   bool
	fromState bool
}

func newTailCommand(a *app) *cobra.Command {
	var o tailOptions
	cmd := &cobra.Command{
		Use:     "tail TOPIC...",
		GroupID: groupRead,
		Short:   "Print the last events, then new ones as they happen",
		Long: `Print the last events of the topics, then each new event as it happens, once and in
order, across any number of reconnects.

With --name, resume after the last line that the reader of the pipe took; the first run
starts at the beginning. No line is lost, however the tail ends, but some may be
repeated:
  after SIGKILL                  lines still in the pipe, and lines that the
                                 reader took in the last 200 ms
  if the reader exits first      up to 64 KiB of lines that the reader took,
                                 since it may not have used them
  after SIGTERM, SIGINT, SIGHUP  no line that the reader took
A line written to a file or a terminal counts as taken. With --until-live or --count,
tail exits once the reader has taken every line. If the copy differs from the server
further on, tail stops before that range with status 3.

With --name and one of these, tail does something for each event instead, and the cursor
moves when that succeeds:
  --exec     run a command for each event: a program with arguments, or a line
             for the shell. Status 0 is success. It reads the event's line and
             finds RSTREAM_EVENT_ID, _TIME, _USER, _PATH, _TYPE, _KEY and _HASH,
             and RSTREAM_TRY, in its environment
  --pipe     start a command once for each worker. It reads a line and answers
             with the event's id, or the id, a space and a reason if it failed.
             Any other answer ends it, and the event has failed
  --webhook  post each event to a URL, with an Idempotency-Key and signed as in
             Standard Webhooks. 2xx is success; 429 and Retry-After let all
             events wait; 410 ends tail. Redirects are not followed
Each event is done at least once, always with the same id and hash. The events of a
storage are tried in order. A failed event is tried again after 200 ms, then after longer
pauses of up to a minute; later events of its storage wait, other storages go on. With
--tries, an event that has failed that often becomes a dead letter (see "rstream dead"),
and its storage goes on; with --until or --until-live, the status is 1 in the end. --jq
changes the line; an event that --where leaves out is done, one for which EXPR fails is
not left out. At the end, tail waits up to 10 seconds for the events that are under way.
SIGKILL ends commands on Linux; elsewhere the next tail waits for them. It repeats their
events and those of the last 50 ms. See docs/consumers.md.

If the server refuses one of several topics, tail reports that, continues with the others
and exits with status 4 in the end. With --name it exits at once.

--from-state starts with the state of the topics: the events that set the current
values, each marked "snapshot":true, then a line of type "live". With --name, only the
first run does so.`,
		Example: `  rstream tail alice/posts
  rstream tail '*/quakes' --since beginning --until-live | jq .value.mag
  rstream tail alice --name indexer | while read -r line; do …; done
  rstream tail alice --name mailer --exec ./mail.sh --workers 4 --tries 10
  rstream tail alice --name indexer --pipe 'python3 index.py' --workers 4
  rstream tail alice --name hook --webhook https://example.com/hook --batch 100`,
		ValidArgsFunction: a.completeTopics,
		RunE: func(cmd *cobra.Command, args []string) error {
			args, err := a.chooseURL(cmd, args)
			if err != nil {
				return err
			}
			topics, err := o.needTopics(args)
			if err != nil {
				return err
			}
			if err := o.checkConsumer(a, cmd); err != nil {
				return err
			}
			if a.source != nil {
				return o.tailSource(cmd.Context(), a, topics)
			}
			return runTail(cmd.Context(), a, o, topics)
		},
	}
	f := cmd.Flags()
	f.SortFlags = false
	o.n = 10
	f.VarP(counter{&o.n, 0, 10_000}, "lines", "n", "start with the last `N` events")
	addMoment(cmd, &o.since, "since", "start at `MOMENT` instead")
	addMoment(cmd, &o.until, "until", "end at `MOMENT`; follow until then if it is in the future")
	f.BoolVar(&o.untilLive, "until-live", false, "end at the newest event as of the start")
	f.Var(counter{&o.count, 1, 0}, "count", "end after `N` events")
	f.StringVar(&o.name, "name", "", "resume where the reader of the last tail with this `CURSOR` stopped")
	f.BoolVar(&o.fromState, "from-state", false, "start with the current state instead")
	f.BoolVar(&o.skipGap, "skip-gap", false, "if history is gone, print the state at its start and continue")
	f.BoolVar(&o.wait, "wait", false, "keep trying if the server cannot be reached at first")
	addFull(a, cmd)
	addFilter(a, cmd)
	o.topicFlags.addTopicFlags(cmd)
	o.addConsumeFlags(cmd)
	excludeFlags(cmd, "since", "lines", "name", "from-state")
	excludeFlags(cmd, "lines", "name", "from-state")
	excludeFlags(cmd, "until", "until-live")
	_ = cmd.RegisterFlagCompletionFunc("name", a.completeCursors) // fails only for an unknown flag
	return cmd
}

func runTail(ctx context.Context, a *app, o tailOptions, topics []event.Topic) error {
	opts, err := o.clientOptions(a)
	if err != nil {
		return err
	}
	s, err := a.openSession(ctx, o.wait)
	if err != nil {
		return fmt.Errorf("tail %s: %w", topicList(topics), err)
	}
	defer s.Close()
	switch {
	case o.target() != "":
		err = o.consume(ctx, &consumption{a: a, db: s.db, topics: topics, batches: consumerBatches(s, topics, opts), follows: isFollowing(opts.Until, opts.UntilLive)})
	case o.name == "":
		err = o.printTail(ctx, s, topics, opts, nil)
	default:
		err = o.followNamed(ctx, s, topics, opts)
	}
	return a.gapLine(s.explainOtherLog(ctx, err))
}

// followNamed is follow with a cursor that moves with the reader of the output.
func (o *tailOptions) followNamed(ctx context.Context, s *session, topics []event.Topic, opts client.TailOptions) error {
	cursor, err := holdCursor(ctx, s.db, o.name, topics)
	if err != nil {
		return err
	}
	keep, keeping, err := s.app.startKeeper(ctx, cursor)
	if err != nil {
		return err
	}
	opts.Since = event.At(event.CursorOf(keep.resumePosition(), s.db.Log()))
	return keep.endOutput(ctx, o.printTail(keeping, s, topics, opts, keep))
}

// holdCursor acquires a cursor.
func holdCursor(ctx context.Context, db *cache.DB, name string, topics []event.Topic) (*cache.Cursor, error) {
	return retryHeld(ctx, func() (*cache.Cursor, error) { return db.HoldCursor(ctx, name, topics) })
}

// retryHeld calls hold. It retries for a moment, since a holder that was just killed may not
// have ended yet.
func retryHeld[C any](ctx context.Context, hold func() (C, error)) (C, error) {
	for begun := time.Now(); ; {
		cursor, err := hold()
		if !errors.Is(err, cache.ErrHeld) || time.Since(begun) > holdTime {
			return cursor, err
		}
		select {
		case <-time.After(drainPoll):
		case <-ctx.Done():
			return cursor, context.Cause(ctx)
		}
	}
}

// holdTime is how long a tail waits for a cursor held by another process.
const holdTime = time.Second

// printTail prints until there is nothing more to print.
func (o *tailOptions) printTail(ctx context.Context, s *session, topics []event.Topic, opts client.TailOptions, keep *keeper) error {
	a := s.app
	p := tailPrinter{a: a, s: s, topics: topics, allowed: allowedTopics{a: a, verb: "tail", left: topics}, most: o.count, follows: isFollowing(opts.Until, opts.UntilLive), keep: keep}
	err := a.out.untilClosed(ctx, func(ctx context.Context) error {
		err := p.printBeginning(ctx, o.fromState, &opts)
		if err == nil {
			err = p.printAll(ctx, opts)
		}
		for gap := (*client.GapError)(nil); o.skipGap && errors.As(err, &gap); {
			if err = a.skipGap(ctx, s, p.allowed.left, gap, keep); err == nil {
				opts.Since, opts.Last = event.At(event.CursorOf(gap.Oldest, s.db.Log())), nil
				err = p.printAll(ctx, opts)
			}
		}
		return err
	})
	return cmp.Or(err, p.allowed.status(), p.doubt)
}

// isFollowing reports whether a tail waits for events to come.
func isFollowing(until *event.Moment, untilLive bool) bool {
	if until == nil || untilLive {
		return !untilLive
	}
	_, ok := until.FutureTime(time.Now())
	return ok
}

// clientOptions turns the flags into client options.
func (o *tailOptions) clientOptions(a *app) (opts client.TailOptions, err error) {
	opts.UntilLive = o.untilLive
	given, err := a.readRange(o.since, o.until)
	opts.Until = given.until
	switch {
	case given.since != nil:
		opts.Since = *given.since
	case o.name == "":
		opts.Last = &o.n
	}
	return opts, err
}

// A tailPrinter prints events as they arrive.
type tailPrinter struct {
	a       *app
	s       *session
	topics  []event.Topic
	allowed allowedTopics
	most    int // 0 means no limit
	written int
	follows bool    // it waits for events to come
	keep    *keeper // nil without a name

	doubt error // set if the copy differs from the server somewhere
}

// printBeginning prints the state if the tail starts with it, and sets opts to continue from
// there.
func (p *tailPrinter) printBeginning(ctx context.Context, fromState bool, opts *client.TailOptions) error {
	if !fromState || p.keep != nil && p.keep.resumePosition() != event.Beginning {
		return nil
	}
	at, when := event.Beginning, event.Now
	for i, t := range p.topics {
		// Read all states at one position.
		id, err := p.s.StateAt(ctx, t, when)
		if err != nil && p.keep == nil && p.allowed.refuseTopic(t, err) {
			continue
		}
		if err != nil {
			return err
		}
		at, when = id, event.At(event.CursorOf(id, p.s.db.Log()))
		err = p.s.db.State(ctx, t, at, func(ev *event.Event) error {
			if slices.ContainsFunc(p.topics[:i], func(t event.Topic) bool { return t.Matches(ev.User, ev.Path) }) {
				return nil
			}
			return p.a.out.writeEvent(markSnapshot(ev))
		})
		if err != nil {
			return err
		}
	}
	opts.Since, opts.Last = when, nil
	err := p.a.printLive()
	p.keep.recordPrinted(at)
	return errors.Join(err, p.a.out.flush())
}

func (p *tailPrinter) printAll(ctx context.Context, opts client.TailOptions) error {
	p.showWaiting() // nothing may come for long
	batches := p.allowed.batches(ctx, p.s, opts)
	if p.keep != nil { // the cursor must not pass events of a refused topic
		batches = p.s.Batches(ctx, p.topics, opts)
	}
	for b, err := range batches {
		if err != nil {
			return err
		}
		if err := p.printBatch(ctx, b); err != nil {
			return err
		}
		if p.most > 0 && p.written >= p.most {
			return nil
		}
	}
	return nil
}

func (p *tailPrinter) printBatch(ctx context.Context, b client.Batch) error {
	if err := p.passDoubt(ctx, &b); err != nil {
		return err
	}
	at := b.Position
	for _, ev := range b.Events {
		out, err := p.a.out.filter.leavesOut(ev)
		if err != nil {
			return errors.Join(err, p.a.out.flush())
		}
		if out {
			continue
		}
		if err := p.a.out.writeEvent(ev); err != nil {
			return err
		}
		p.keep.recordPrinted(ev.ID)
		if p.written++; p.written == p.most {
			at = ev.ID
			break
		}
	}
	p.keep.recordReached(at)
	err := p.a.out.flush()
	if err == nil && b.Live {
		p.showWaiting()
	}
	return err
}

// showWaiting says that the tail waits, unless it is about to end.
func (p *tailPrinter) showWaiting() {
	if p.follows && (p.most == 0 || p.written < p.most) {
		p.a.showWaiting(p.allowed.left)
	}
}

// showWaiting says, on a terminal, what the program follows and that it waits.
func (a *app) showWaiting(topics []event.Topic) {
	if !a.quiet {
		a.footer.showWaiting(a.waitingText(topics))
	}
}

func (a *app) waitingText(topics []event.Topic) string {
	if a.source != nil {
		return fmt.Sprintf("following %s of %s; waiting for events, ^C ends", visible(topicList(topics)), visible(a.source.name))
	}
	return fmt.Sprintf("following %s on %s; waiting for events, ^C ends", visible(topicList(topics)), wire.RedactURL(a.servers[0]))
}
