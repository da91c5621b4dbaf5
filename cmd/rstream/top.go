package main

import (
	"bytes"
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/mattn/go-runewidth"
	"github.com/spf13/cobra"
	"golang.org/x/term"

	"github.com/rstream-dev/rstream/client"
	"github.com/rstream-dev/rstream/event"
)

func newTopCommand(a *app) *cobra.Command {
	var o topOptions
	cmd := &cobra.Command{
		Use:     "top",
		GroupID: groupInspect,
		Short:   "Show who reads what",
		Long: `Show the open streams of a server: which topics they are of, how many readers each topic
has, and how far each reader is behind. A reader of a wider topic counts for all topics
in it. The board of a server also has the readers of the servers that report to it:
"rstream serve --board".

The board is read every 2 seconds until ctrl-C, or once with --once. A terminal shows the
latest picture. In a pipe, or with -o json, each picture that differs from the last one
is a line of JSON with all servers, topics and connections.

A server that asks for tokens shows its board to a token with --board read, and only the
readers of topics that the token may read as well.`,
		Example: `  rstream top
  rstream top --once
  rstream top -s https://board.example.com
  rstream top --once -o json | jq '.topics[]'
  rstream top -o json | jq --unbuffered '.connections | length'`,
		Args: noArgs,
		RunE: func(cmd *cobra.Command, _ []string) error { return runTop(cmd.Context(), a, o) },
	}
	f := cmd.Flags()
	f.SortFlags = false
	f.BoolVar(&o.once, "once", false, "print once and end")
	forLineOnly(f, "once")
	return cmd
}

type topOptions struct{ once bool }

// rereadEvery is how often top reads the board.
const rereadEvery = 2 * time.Second

// silence is how long top waits for the board before it says that what it shows is old.
const silence = 5 * time.Second

func runTop(ctx context.Context, a *app, o topOptions) error {
	return a.out.untilClosed(ctx, func(ctx context.Context) error {
		c, err := client.New(nil, a.clientConfig())
		if err != nil {
			return &usageError{err}
		}
		defer c.Close()
		var last []byte // the last picture
		for {
			asked := time.Now()
			silent := time.AfterFunc(silence, func() { a.note("no answer since %s", asked.Format(time.TimeOnly)) })
			b, err := c.Board(ctx)
			silent.Stop()
			if err != nil {
				return err
			}
			if last, err = a.showBoard(&b, last, o.once); err != nil || o.once {
				return err
			}
			select {
			case <-time.After(rereadEvery):
			case <-ctx.Done():
				return ctx.Err()
			}
		}
	})
}

// showBoard prints the board, unless it is the last one again, and returns it as JSON.
func (a *app) showBoard(b *client.Board, last []byte, once bool) (shown []byte, err error) {
	if shown, err = json.Marshal(b); err != nil {
		return nil, err
	}
	isNew := !bytes.Equal(shown, last)
	switch {
	case a.out.isForPerson() && a.out.terminal && !once:
		err = a.drawBoard(b) // over all that was written meanwhile
	case !isNew:
		return shown, nil
	case !a.out.isForPerson():
		err = a.out.writeJSON(struct {
			Time event.Time `json:"time"`
			*client.Board
		}{event.TimeOf(time.Now()), b})
	case last == nil:
		err = a.out.printf("%s", boardText(b, 0))
	default:
		err = a.out.printf("\n%s", boardText(b, 0))
	}
	return shown, errors.Join(err, a.out.flush())
}

// drawBoard draws the board over the screen, as much of it as fits.
func (a *app) drawBoard(b *client.Board) error {
	columns, rows, err := term.GetSize(int(a.out.file.Fd()))
	if err != nil || columns < 1 || rows < 2 {
		columns, rows = 80, 24
	}
	a.out.w.WriteString("\x1b[H\x1b[2J") // the errors of the writer stay until it is flushed
	for line := range strings.Lines(boardText(b, rows-1)) {
		if err := a.out.printf("%s\n", runewidth.Truncate(strings.TrimSuffix(line, "\n"), columns-1, "…")); err != nil {
			return err
		}
	}
	return nil
}

// boardText returns the board as text: the servers, the topics with the most readers
// first, and the connections with those first that are furthest behind. If rows is positive,
// it has at most that many lines, and at least the servers'.
func boardText(b *client.Board, rows int) string {
	var w strings.Builder
	fmt.Fprintf(&w, "%s, slowest %d behind\n", count(len(b.Connections), "reader"), slowestLag(b))
	for i := range b.Nodes {
		n := &b.Nodes[i]
		if n.Name != n.Log {
			fmt.Fprintf(&w, "%s: ", visible(n.Name))
		}
		fmt.Fprintf(&w, "log %s at %s", visible(n.Log), n.Head.ID)
		if len(b.Nodes) > 1 {
			fmt.Fprintf(&w, ", %s", count(readersOf(b, n.Name), "reader"))
		}
		fmt.Fprintf(&w, ", started %s\n", localTime(n.Since))
	}
	if len(b.Connections) == 0 {
		return w.String()
	}
	topics := slices.Clone(b.Topics)
	slices.SortStableFunc(topics, func(x, y client.BoardTopic) int { return cmp.Compare(y.Readers, x.Readers) })
	conns := slices.Clone(b.Connections)
	slices.SortStableFunc(conns, func(x, y client.BoardConnection) int { return cmp.Compare(y.Lag, x.Lag) })
	forTopics, forConns := len(topics), len(conns)
	if rows > 0 {
		left := max(rows-1-len(b.Nodes)-4, 2) // a blank line and the names of columns come before each list
		forTopics = min(forTopics, max(left/2, left-len(conns)))
		forConns = min(forConns, left-forTopics)
	}

	fmt.Fprintf(&w, "\n%7s  %11s  %s\n", "readers", "connections", "topic")
	for _, t := range topics[:shownOf(len(topics), forTopics)] {
		fmt.Fprintf(&w, "%7d  %11d  %s\n", t.Readers, t.Connections, visible(t.Topic.String()))
	}
	writeMore(&w, len(topics), forTopics, "topic")
	fmt.Fprintf(&w, "\n%7s  %-10s  %s\n", "behind", "since", "reader")
	for i := range conns[:shownOf(len(conns), forConns)] {
		c := &conns[i]
		who := c.Address
		if c.Subject != "" {
			who = c.Subject + " at " + who
		}
		if len(b.Nodes) > 1 {
			who += " on " + c.Node
		}
		fmt.Fprintf(&w, "%7d  %-10s  %s: %s\n", c.Lag, timeOrDate(c.Since), visible(who), strings.Join(topicNames(c.Topics), ", "))
	}
	writeMore(&w, len(conns), forConns, "reader")
	return w.String()
}

// readersOf returns the number of connections of a node.
func readersOf(b *client.Board, node string) (n int) {
	for i := range b.Connections {
		if b.Connections[i].Node == node {
			n++
		}
	}
	return n
}

func slowestLag(b *client.Board) (lag uint64) {
	for i := range b.Connections {
		lag = max(lag, b.Connections[i].Lag)
	}
	return lag
}

// shownOf returns how many of n lines are shown if there is room for some of them: the last line
// then counts the others.
func shownOf(n, room int) int {
	if n <= room {
		return n
	}
	return max(room-1, 0)
}

// writeMore writes how many of n lines are not shown, if there are any.
func writeMore(w *strings.Builder, n, room int, noun string) {
	if left := n - shownOf(n, room); left > 0 {
		fmt.Fprintf(w, "%7s  and %d more %ss\n", "…", left, noun)
	}
}

// timeOrDate returns the time of a moment of today, and else its date.
func timeOrDate(t event.Time) string {
	at, now := t.Time().Local(), time.Now()
	if at.Format(time.DateOnly) == now.Format(time.DateOnly) {
		return at.Format(time.TimeOnly)
	}
	return at.Format(time.DateOnly)
}
