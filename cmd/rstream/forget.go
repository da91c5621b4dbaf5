package main

import (
	"context"
	"slices"

	"github.com/spf13/cobra"

	"github.com/rstream-dev/rstream/cache"
	"github.com/rstream-dev/rstream/event"
)

type forgetOptions struct {
	topicFlags
	before string
}

func newForgetCommand(a *app) *cobra.Command {
	var o forgetOptions
	cmd := &cobra.Command{
		Annotations: map[string]string{silentAnnotation: silentIfQuiet},

		Use:     "forget TOPIC...",
		GroupID: groupInspect,
		Short:   "Remove held events of a topic from the local copy",
		Long: `Remove the events of the topics from the local copy and stop following the topics.
Events that other topics also hold are kept, and so is the outbox. The server is not
changed.

With --before, the topics are still followed, and syncs start at MOMENT from then on.
"sync --since" with an earlier moment fetches older events again.`,
		Example: `  rstream forget alice/drafts
  rstream forget nc --before 30d`,
		ValidArgsFunction: a.completeTopics,
		RunE: func(cmd *cobra.Command, args []string) error {
			topics, err := o.needTopics(args)
			if err != nil {
				return err
			}
			return runForget(cmd.Context(), a, o, topics)
		},
	}
	addMoment(cmd, &o.before, "before", "remove only events up to `MOMENT`, and keep following the topics")
	addProgress(a, cmd)
	o.topicFlags.addTopicFlags(cmd)
	forLineOnly(cmd.Flags(), "all") // --all set for readers must not make forget remove everything
	return cmd
}

func runForget(ctx context.Context, a *app, o forgetOptions, topics []event.Topic) error {
	before, err := a.readMoment("--before", o.before)
	if err != nil {
		return err
	}
	a.out.outlive()
	db, err := a.openOffline(ctx)
	if err != nil {
		return err
	}
	defer db.Close()
	at := event.MaxID
	if before != nil {
		if at, err = offlinePosition(ctx, db, *before, event.MaxID-1); err != nil {
			return err
		}
	}
	defer a.progress.end() // before db.Close
	for _, t := range topics {
		n, err := db.Forget(ctx, t, at)
		if err != nil {
			return err
		}
		if err := a.printForgotten(t, n); err != nil {
			return err
		}
	}
	a.recordDone("the events were forgotten")
	return a.noteQueued(ctx, db, topics)
}

// noteQueued notes appends that stay in the outbox: they exist nowhere else.
func (a *app) noteQueued(ctx context.Context, db *cache.DB, topics []event.Topic) error {
	n := 0
	err := eachQueued(ctx, db, func(q *cache.Queued) error {
		if slices.ContainsFunc(topics, func(t event.Topic) bool { return t.Matches(q.User, q.Path) }) {
			n++
		}
		return nil
	})
	if n > 0 {
		a.note("%s of them stay in the outbox; \"rstream outbox drop\" removes them", count(n, "append"))
	}
	return err
}

func (a *app) printForgotten(t event.Topic, n int) error {
	switch {
	case a.quiet:
		return nil
	case a.out.isForPerson():
		return a.out.printf("%s: %s forgotten\n", t, count(n, "event"))
	}
	return a.out.writeJSON(struct {
		Type    string      `json:"type"`
		Topic   event.Topic `json:"topic"`
		Removed int         `json:"removed"`
	}{"forgotten", t, n})
}
