package main

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"iter"
	"slices"
	"strings"

	"github.com/spf13/cobra"

	"github.com/rstream-dev/rstream/cache"
	"github.com/rstream-dev/rstream/client"
	"github.com/rstream-dev/rstream/event"
)

type lsOptions struct {
	topicFlags
	recursive bool
	offline   bool
	sort      usageOrder
}

func newLsCommand(a *app) *cobra.Command {
	o := lsOptions{sort: orderName}
	cmd := &cobra.Command{
		Use:     "ls [TOPIC]",
		GroupID: groupInspect,
		Short:   "List users, folders and storages, with their sizes",
		Long: `List the users of a log, or the folders and storages of a topic one level deep: for each
the number of events, the bytes of their lines and the time of the last one. A topic
with a *, or -R, lists all storages.

The server is asked; nothing is fetched or stored. --offline lists what the local copy
holds, and so does ls if no server can be reached. Below its horizon, a server still has
the last value of each storage, and counts that event alone.`,
		Example: `  rstream ls
  rstream ls alice/posts/
  rstream ls -R --sort bytes
  rstream ls '*/quakes' -o json | jq .events`,
		Args:              afterURL(oneTopic),
		ValidArgsFunction: a.completeNames,
		RunE: func(cmd *cobra.Command, args []string) error {
			args, err := a.chooseURL(cmd, args)
			if err != nil {
				return err
			}
			topics, err := o.parseTopicArgs(args)
			if err != nil {
				return err
			}
			topic := event.All
			if len(topics) > 0 {
				topic = topics[0]
			}
			o.recursive = o.recursive || o.all || len(args) > 0 && strings.Contains(args[0], "*")
			return runLs(cmd.Context(), a, o, topic)
		},
	}
	f := cmd.Flags()
	f.SortFlags = false
	f.BoolVarP(&o.recursive, "recursive", "R", false, "list all storages, not only one level")
	f.Var(&o.sort, "sort", "sort by `KEY`: name, or bytes, count or time, the largest or newest first")
	f.BoolVar(&o.offline, "offline", false, "list what the local copy holds, without a server")
	forLineOnly(f, "offline") // in verify, it checks a file
	addFull(a, cmd)
	o.topicFlags.addTopicFlags(cmd)
	completeFlag(cmd, "sort", string(orderName), string(orderBytes), string(orderCount), string(orderTime))
	return cmd
}

// A usageOrder is the order of a list of usages.
type usageOrder string

const (
	orderName  usageOrder = "name"
	orderBytes usageOrder = "bytes"
	orderCount usageOrder = "count"
	orderTime  usageOrder = "time"
)

// String, Set and Type implement pflag.Value.
func (o *usageOrder) String() string { return string(*o) }

// Set rejects unknown words.
func (o *usageOrder) Set(s string) error {
	switch usageOrder(s) {
	case orderName, orderBytes, orderCount, orderTime:
		*o = usageOrder(s)
		return nil
	}
	return errors.New("want name, bytes, count or time")
}

// Type names the flag's value.
func (o *usageOrder) Type() string { return "key" }

// compareIn compares two usages in an order.
func compareIn(order usageOrder, x, y *event.Usage) int {
	switch order {
	case orderBytes:
		return cmp.Compare(y.Bytes, x.Bytes)
	case orderCount:
		return cmp.Compare(y.Count, x.Count)
	case orderTime:
		return cmp.Or(cmp.Compare(y.Time, x.Time), cmp.Compare(y.Last, x.Last))
	}
	return 0
}

func runLs(ctx context.Context, a *app, o lsOptions, topic event.Topic) error {
	l := usageList{a: a, o: o, topic: topic}
	return a.out.untilClosed(ctx, func(ctx context.Context) error {
		log, err := a.openLog(ctx)
		switch {
		case err != nil:
			return err
		case log != nil:
			defer log.Close()
			return l.print(fileUsage(ctx, log, topic, !o.recursive))
		case o.offline, a.source != nil:
			return l.printCopy(ctx)
		}
		return l.printServer(ctx)
	})
}

// A usageList is one call of ls.
type usageList struct {
	a       *app
	o       lsOptions
	topic   event.Topic
	printed int
}

// printServer lists what the server has, or what the copy holds if no server can be reached.
func (l *usageList) printServer(ctx context.Context) error {
	db, err := l.a.openKnownCopy(ctx)
	if err != nil {
		return err
	}
	if db != nil {
		defer db.Close()
	}
	c, err := client.New(db, l.a.clientConfig())
	if err != nil {
		return &usageError{err}
	}
	defer c.Close()
	err = l.print(c.Usage(ctx, l.topic, !l.o.recursive))
	if errors.As(err, new(*client.UnreachableError)) && db != nil && l.printed == 0 {
		l.a.note("no server can be reached; this is what %s holds", db.Path())
		return l.printHeld(ctx, db)
	}
	return err
}

// openKnownCopy opens the copy, or returns nil if there is none yet.
func (a *app) openKnownCopy(ctx context.Context) (*cache.DB, error) {
	path, _, err := a.copyPath()
	if err != nil || path == "" {
		return nil, err
	}
	return a.openIfCreated(ctx, path, "")
}

func (l *usageList) printCopy(ctx context.Context) error {
	db, err := l.a.openOffline(ctx)
	if err != nil {
		return err
	}
	defer db.Close()
	return l.printHeld(ctx, db)
}

// printHeld lists what a copy holds, and says where that differs from the server.
func (l *usageList) printHeld(ctx context.Context, db *cache.DB) error {
	topics, err := heldTopics(ctx, db)
	if err != nil {
		return err
	}
	all := len(topics)
	topics = slices.DeleteFunc(topics, func(t event.Topic) bool { return !t.Overlaps(l.topic) })
	if all > 0 && len(topics) == 0 {
		return notHeld(ctx, db, []event.Topic{l.topic})
	}
	var notes []error
	for _, t := range topics {
		doubted, err := db.Doubted(ctx, t)
		if err != nil {
			return err
		}
		notes = append(notes, l.a.noteDoubted([]event.Topic{t}, doubted))
	}
	return cmp.Or(append([]error{l.print(fileUsage(ctx, db, l.topic, !l.o.recursive))}, notes...)...)
}

// fileUsage returns how much a file holds of the storages of a topic. With folders, those
// below a folder come as one.
func fileUsage(ctx context.Context, db *cache.DB, topic event.Topic, folders bool) iter.Seq2[event.Usage, error] {
	return func(yield func(event.Usage, error) bool) {
		var last []event.Usage // a folder may continue
		var after event.Storage
		damaged := false
		for first := true; first || after != (event.Storage{}); first = false {
			list, err := db.Usage(ctx, topic, after, event.MaxID, usagesAtOnce)
			if err != nil {
				yield(event.Usage{}, err)
				return
			}
			damaged = damaged || list.Damaged
			for _, u := range list.Usages {
				damaged = damaged || u.Damaged
				if folders {
					u = u.Folder(topic)
				}
				if last = event.AppendUsage(last, u); len(last) < 2 {
					continue
				}
				if !yield(last[0], nil) {
					return
				}
				last = last[1:]
			}
			after = list.Next
		}
		if len(last) > 0 && !yield(last[0], nil) {
			return
		}
		if damaged {
			yield(event.Usage{}, fmt.Errorf("%s: %w", db.Path(), errUncounted))
		}
	}
}

// usagesAtOnce is how many storages of a file are read at a time.
const usagesAtOnce = 1000

// errUncounted is the error of a list of a damaged file.
var errUncounted = fmt.Errorf("%w: some events are not counted", cache.ErrCorrupt)

// print prints usages, in the order that was asked for.
func (l *usageList) print(usages iter.Seq2[event.Usage, error]) error {
	var sorted []event.Usage
	var damage error
	for u, err := range usages {
		switch {
		case errors.Is(err, client.ErrDamagedLog), errors.Is(err, errUncounted):
			damage = err // and the last one
		case err != nil:
			return err
		case l.o.sort != orderName:
			sorted = append(sorted, u)
		default:
			err = l.printUsage(&u)
		}
		if err != nil && damage == nil {
			return err
		}
	}
	slices.SortStableFunc(sorted, func(x, y event.Usage) int { return compareIn(l.o.sort, &x, &y) })
	for i := range sorted {
		if err := l.printUsage(&sorted[i]); err != nil {
			return err
		}
	}
	if l.printed == 0 && l.a.out.isForPerson() && damage == nil {
		l.a.out.printf(nothingYet) // flush returns the error
	}
	return cmp.Or(l.a.out.flush(), damage)
}
