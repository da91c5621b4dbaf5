package main

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"github.com/rstream-dev/rstream/client"
	"github.com/rstream-dev/rstream/event"
	"github.com/rstream-dev/rstream/internal/wire"
	"github.com/rstream-dev/rstream/window"
)

type syncOptions struct {
	topicFlags
	since  string
	until  string
	at     string
	print  bool
	follow bool
	wait   bool

	skipGap  bool
	strategy string
	explain  bool
	idle     time.Duration
}

func newSyncCommand(a *app) *cobra.Command {
	var o syncOptions
	cmd := &cobra.Command{
		Annotations: map[string]string{silentAnnotation: silentIfQuiet},

		Use:     "sync [TOPIC...]",
		GroupID: groupRead,
		Short:   "Fetch missing events into the local copy",
		Long: `Fetch the missing events of the topics into the local copy, then exit. Held events are
not fetched again. Without TOPIC, sync every topic that was synced or followed before, or
everything if there is none. Sync sends the outbox of "put --offline" first, and if it
fetched anything, checks the head once more before exiting.

A held block that differs from the server is fetched once more; if it still differs, the
status is 1 until "rstream verify --repair" replaces it.

Imported events that the server also has are reused, and only the others are fetched;
--strategy and --explain control and show this.

--at fetches the window around a moment, and the state at the start of that window unless
the copy already has it. Then "rstream state --at" answers offline for every moment in
the window.

If the server refuses one of several topics, sync reports that, continues with the others
and exits with status 4 in the end.

Sync prints one line per topic: events fetched, events held, windows pulled, values
fetched for the state at the start of the window, and bytes received.`,
		Example: `  rstream sync alice --since 24h
  rstream sync --all
  rstream sync alice --at 14:05 && rstream state alice --at 14:05
  rstream sync alice --print | jq .value`,
		ValidArgsFunction: a.completeTopics,
		RunE: func(cmd *cobra.Command, args []string) error {
			args, err := a.chooseURL(cmd, args)
			if err != nil {
				return err
			}
			topics, err := o.parseTopicArgs(args)
			if err != nil {
				return err
			}
			if a.source != nil {
				return o.syncSource(cmd.Context(), a, topics)
			}
			return runSync(cmd.Context(), a, o, topics)
		},
	}
	f := cmd.Flags()
	f.SortFlags = false
	addMoment(cmd, &o.since, "since", "fetch events after `MOMENT` (default: beginning, or as \"forget --before\" left it)")
	addMoment(cmd, &o.until, "until", "fetch events up to `MOMENT` (default: now)")
	addMoment(cmd, &o.at, "at", "fetch only the window around `MOMENT`, and the state at its start")
	f.BoolVar(&o.print, "print", false, "print fetched events, and the summary on standard error")
	f.BoolVar(&o.follow, "follow", false, "keep running and stay up to date")
	f.BoolVar(&o.skipGap, "skip-gap", false, "if history is gone, fetch the rest, and start there from then on")
	f.BoolVar(&o.wait, "wait", false, "keep trying if the server cannot be reached at first")
	f.StringVar(&o.strategy, "strategy", "auto", "`METHOD` of finding imported events that the server has: "+strategyNames)
	f.BoolVar(&o.explain, "explain", false, "print how missing events were found, and at what cost")
	o.idle = sourceIdle
	f.Var((*waitLimit)(&o.idle), "idle", "of a source that does not mark the end of its history: end after `DURATION` without an event")
	addProgress(a, cmd)
	o.topicFlags.addTopicFlags(cmd)
	excludeFlags(cmd, "at", "since", "until", "follow", "skip-gap")
	excludeFlags(cmd, "follow", "until")
	_ = cmd.RegisterFlagCompletionFunc("strategy", cobra.FixedCompletions(strings.Split(strategyNames, ", "), cobra.ShellCompDirectiveNoFileComp))
	return cmd
}

// parseSyncRange turns the flags into a syncRange.
func (o *syncOptions) parseSyncRange(a *app) (r syncRange, err error) {
	if r.at, err = a.readMoment("--at", o.at); err != nil {
		return r, err
	}
	given, err := a.readRange(o.since, o.until)
	if given.since != nil {
		r.Since = *given.since
	}
	r.Until = given.until
	return r, err
}

func runSync(ctx context.Context, a *app, o syncOptions, topics []event.Topic) error {
	r, err := o.parseSyncRange(a)
	if err != nil {
		return err
	}
	strategy, err := parseStrategy(o.strategy)
	if err != nil {
		return err
	}
	if !o.print {
		a.out.outlive()
	}
	cfg := a.clientConfig()
	cfg.Wait, cfg.Reconcile.Strategy = o.wait, strategy
	shown := syncPicture{a: a}
	cfg.OnProgress = shown.reportFetched
	s, err := a.openSessionWith(ctx, cfg)
	if err != nil {
		return fmt.Errorf("%s: %w", strings.TrimSpace("sync "+topicList(topics)), err)
	}
	defer s.Close()
	shown.db = s.db
	defer a.progress.end() // before s.Close
	if s.made {
		s.suggestImport(ctx)
	}
	topics, added, err := s.rememberTopics(ctx, topics)
	if err != nil {
		return err
	}
	sending, err := a.startSending(ctx, s)
	if err != nil {
		return err
	}
	defer sending.stop()
	var sent sendOutcome
	later := sending.isLater()
	if !later {
		sent, err = sending.end(a, !o.print)
		sending = nil
	}
	if err != nil {
		return s.explainOtherLog(ctx, err)
	}
	allowed := allowedTopics{a: a, verb: "sync", left: topics, added: added}
	end, err := a.syncTopics(ctx, s, &allowed, r, o)
	if err == nil && later && !o.follow {
		if sent, err = sending.end(a, !o.print); err == nil && sent.Sent.Sent > 0 {
			end, err = a.syncTopics(ctx, s, &allowed, r, o)
		}
	}
	if err != nil && sent.heldUp != nil { // sync ends with the other error
		a.note("%v", sent.heldUp)
	}
	if err == nil && o.follow {
		err = a.followTopics(ctx, s, sending, &allowed, end, o.print)
	}
	if err != nil {
		err = s.explainOtherLog(ctx, err)
		if a.quiet && !o.print {
			return err
		}
		return a.gapLine(err)
	}
	return cmp.Or(sent.err(), allowed.status())
}

// rememberTopics marks topics as followed, and returns them and those of them that were not
// followed before. If there are none, it returns the topics that are followed already or, without
// those, event.All.
func (s *session) rememberTopics(ctx context.Context, topics []event.Topic) (all, added []event.Topic, err error) {
	followed, err := s.db.Followed(ctx)
	if err != nil {
		return nil, nil, err
	}
	if len(topics) == 0 {
		topics = followed
	}
	if len(topics) == 0 {
		topics = []event.Topic{event.All}
	}
	for _, t := range topics {
		if !slices.Contains(followed, t) {
			added = append(added, t)
		}
	}
	return topics, added, s.db.Remember(ctx, topics, wire.WithoutUser(s.app.servers[0]))
}

// syncTopics syncs each topic and returns the position where the last one ends. It leaves
// out topics that the server refuses, and does not follow them if this sync is the first.
func (a *app) syncTopics(ctx context.Context, s *session, allowed *allowedTopics, r syncRange, o syncOptions) (end event.ID, err error) {
	topics := allowed.left
	if len(topics) > 1 && !o.print && r.at == nil {
		whole, err := s.wholeTopics(ctx, topics)
		if err != nil {
			return end, err
		}
		r.group = client.NewTopicGroup(whole)
	}
	defer a.progress.end()
	for _, t := range topics {
		own, err := s.rangeOf(ctx, t, r, o)
		var synced client.Synced
		if err == nil {
			synced, err = a.syncOver(ctx, s, t, own, o)
		}
		if isBarred(err) && slices.Contains(allowed.added, t) { // it was never allowed
			err = errors.Join(err, s.db.Unfollow(ctx, t))
		}
		if err != nil && allowed.refuseTopic(t, err) {
			continue
		}
		if err != nil {
			return end, err
		}
		if meant := dottedTopic(t); meant != "" && synced.Held == 0 && o.since+o.until+o.at == "" {
			a.note("%s has no events; did you mean %s?", t, shellWord(meant))
		}
		if end = synced.Span.To; o.follow && r.Until == nil {
			// End all at one position, from which they are followed together.
			until := event.At(event.CursorOf(end, s.db.Log()))
			r.Until = &until
		}
	}
	return end, nil
}

// wholeTopics returns those of topics that start at the beginning.
func (s *session) wholeTopics(ctx context.Context, topics []event.Topic) (whole []event.Topic, err error) {
	for _, t := range topics {
		start, err := s.db.FollowedSince(ctx, t)
		if err != nil {
			return nil, err
		}
		if start == event.Beginning {
			whole = append(whole, t)
		}
	}
	return whole, nil
}

// rangeOf returns the range of a topic. Without --since, one that "forget --before" has shortened
// starts where that has ended. An earlier --since moves this back, even if the sync is interrupted, and
// so do imported events.
func (s *session) rangeOf(ctx context.Context, t event.Topic, r syncRange, o syncOptions) (syncRange, error) {
	start, err := s.db.FollowedSince(ctx, t)
	if err != nil || start == event.Beginning || r.at != nil {
		return r, err
	}
	if o.since != "" {
		span, err := s.Resolve(ctx, t, client.Range{Since: r.Since})
		if errors.As(err, new(*client.GapError)) {
			return r, nil // which sync finds, too
		}
		if err != nil {
			return r, err
		}
		return r, s.db.FollowSince(ctx, t, span.From)
	}
	imported, err := s.db.Imports().CandidateSpan(ctx, t, window.Span{From: event.Beginning, To: start})
	if err != nil {
		return r, err
	}
	if !imported.Empty() {
		start = imported.From
		if err := s.db.FollowSince(ctx, t, start); err != nil {
			return r, err
		}
	}
	if r.Until != nil {
		span, err := s.Resolve(ctx, t, client.Range{Since: *r.Until, Until: r.Until})
		if err != nil {
			return r, err
		}
		start = min(start, span.To) // then there is nothing to fetch
	}
	r.Since, r.group = event.At(event.CursorOf(start, s.db.Log())), nil
	return r, nil
}

// followTopics keeps topics up to date and sends the outbox, until ctx ends or, if
// events are printed, the reader of the output leaves.
func (a *app) followTopics(ctx context.Context, s *session, first *sending, topics *allowedTopics, from event.ID, print bool) error {
	follow := func(ctx context.Context) error {
		return a.whileSending(ctx, s, first, func(ctx context.Context) error { return a.syncFollow(ctx, s, topics, from, print) })
	}
	if print {
		return a.out.untilClosed(ctx, follow)
	}
	return follow(ctx)
}

// A syncRange is what sync fetches: a range, or the window around a moment.
type syncRange struct {
	client.Range
	at    *event.Moment
	group *client.TopicGroup // of the topics that are synced, or nil
}

// syncTopic fetches the range of one topic. If it ends at the head and events were missing, the
// fetch took time, so sync checks the head once more.
func (r *syncRange) syncTopic(ctx context.Context, s *session, t event.Topic, fresh func([]event.Event) error) (client.Synced, error) {
	synced, err := s.Sync(ctx, t, client.SyncOptions{Range: r.Range, At: r.at, OnNew: fresh, Group: r.group})
	if err != nil || r.at != nil || r.Until != nil || synced.Added == 0 && synced.Windows == 0 {
		return synced, err
	}
	end := client.Range{Since: event.At(event.CursorOf(synced.Span.To, s.db.Log()))}
	more, err := s.Sync(ctx, t, client.SyncOptions{Range: end, OnNew: fresh})
	synced.Span.To = max(synced.Span.To, more.Span.To)
	synced.Windows += more.Windows
	synced.Added += more.Added
	synced.Held += more.Held
	synced.Imported += more.Imported
	return synced, err
}

// A summary is the result of syncing one topic.
type summary struct {
	Type    string      `json:"type"`
	Topic   event.Topic `json:"topic"`
	From    event.ID    `json:"from"`
	To      event.ID    `json:"to"`
	Fetched int         `json:"fetched"` // events received
	Held    uint64      `json:"held"`    // events of the range that are now held
	Windows int         `json:"windows"` // windows pulled
	Bytes   int64       `json:"bytes"`   // received
	Saved   int64       `json:"saved"`   // events that did not have to be fetched

	Imported int `json:"imported,omitempty"` // of those held, events that came from an import
	Members  int `json:"members,omitempty"`  // of those fetched, events of the state where the window begins
}

// newSummary returns the summary of syncing topic t. before and after are the client's
// statistics around the sync. shared is what the syncs of other topics fetched for t.
func newSummary(t event.Topic, synced *client.Synced, before, after client.Stats, shared client.Share) summary {
	fetched := int(after.Events-before.Events) + shared.Events
	return summary{
		Type: "summary", Topic: t, From: synced.Span.From, To: synced.Span.To,
		Fetched: fetched, Held: synced.Held, Windows: synced.Windows + shared.Windows, Bytes: after.Bytes - before.Bytes + shared.Bytes,
		Saved:    max(int64(synced.Held)-int64(fetched-synced.Members), 0),
		Imported: synced.Imported, Members: synced.Members,
	}
}

func (s *summary) summaryText() string {
	text := fmt.Sprintf("%s: %s fetched, %d held", s.Topic, count(s.Fetched, "event"), s.Held)
	if s.Windows > 0 {
		text += ", " + count(s.Windows, "window")
	}
	if s.Members > 0 {
		text += ", " + count(s.Members, "value") + " of the state before"
	}
	text += ", " + formatSize(s.Bytes) + " received"
	if s.Imported > 0 {
		text += fmt.Sprintf(", %d imported", s.Imported)
	}
	return text
}

// syncOver syncs a topic. With --skip-gap, it starts where history begins, if it has
// to.
func (a *app) syncOver(ctx context.Context, s *session, t event.Topic, r syncRange, o syncOptions) (client.Synced, error) {
	synced, err := a.syncOne(ctx, s, t, r, o)
	var gap *client.GapError
	if !o.skipGap || !errors.As(err, &gap) {
		return synced, err
	}
	if o.print {
		err = a.skipGap(ctx, s, []event.Topic{t}, gap, nil)
	} else {
		err = a.noteGap(t, gap)
	}
	if err != nil {
		return synced, err
	}
	r.Since = event.At(event.CursorOf(gap.Oldest, s.db.Log()))
	synced, err = a.syncOne(ctx, s, t, r, o)
	if err == nil { // later syncs need not skip it again
		err = s.db.FollowAfter(ctx, t, gap.Oldest)
	}
	return synced, err
}

// reportComparing begins the progress of a topic, of which nothing is known yet.
func (a *app) reportComparing(t event.Topic) {
	a.progress.report(stage{verb: "comparing", object: t.String(), unit: inParts}, 0, 0)
}

func (a *app) syncOne(ctx context.Context, s *session, t event.Topic, r syncRange, o syncOptions) (client.Synced, error) {
	a.reportComparing(t)
	before := s.Stats()
	var fresh func([]event.Event) error
	if o.print {
		fresh = a.printNew
	}
	synced, err := r.syncTopic(ctx, s, t, fresh)
	if err != nil {
		return synced, err
	}
	if err := a.out.flush(); err != nil {
		return synced, err
	}
	if o.explain {
		if err := a.printComparison(t, &synced.Compared, o.print); err != nil {
			return synced, err
		}
	}
	sum := newSummary(t, &synced, before, s.Stats(), r.group.TakeShare(t))
	switch {
	case o.print:
		a.note("%s", sum.summaryText())
	case a.quiet:
	case a.out.isForPerson():
		return synced, a.out.printf("%s\n", sum.summaryText())
	default:
		return synced, a.out.writeJSON(sum)
	}
	return synced, nil
}

func (a *app) printNew(evs []event.Event) error {
	for i := range evs {
		if err := a.out.writeEvent(&evs[i]); err != nil {
			return err
		}
	}
	return a.out.flush()
}

// syncFollow keeps topics up to date until ctx ends.
func (a *app) syncFollow(ctx context.Context, s *session, topics *allowedTopics, from event.ID, print bool) error {
	if err := a.out.flush(); err != nil {
		return err
	}
	opts := client.TailOptions{Range: client.Range{Since: event.At(event.CursorOf(from, s.db.Log()))}}
	for b, err := range topics.batches(ctx, s, opts) {
		if err != nil {
			return err
		}
		for _, ev := range b.Events {
			if print {
				if err := a.out.writeEvent(ev); err != nil {
					return err
				}
			}
		}
		if err := a.out.flush(); err != nil {
			return err
		}
	}
	return nil
}
