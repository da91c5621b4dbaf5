package main

import (
	"cmp"
	"context"
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/mattn/go-runewidth"
	"github.com/spf13/cobra"
	"golang.org/x/term"

	"github.com/rstream-dev/rstream/client"
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

On a terminal the picture is drawn again every 2 seconds, until ctrl-C or --once. In a
pipe, or with -o json, it is printed once: a line for each server, topic and connection.

A server that asks for tokens shows its board to a token with --board read, and only the
readers of topics that the token may read as well.`,
		Example: `  rstream top
  rstream top --once
  rstream top -s https://board.example.com
  rstream top -o json | jq 'select(.type == "topic")'`,
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

// redrawEvery is how often the picture of top is drawn again.
const redrawEvery = 2 * time.Second

func runTop(ctx context.Context, a *app, o topOptions) error {
	return a.out.untilClosed(ctx, func(ctx context.Context) error {
		c, err := client.New(nil, a.clientConfig())
		if err != nil {
			return &usageError{err}
		}
		defer c.Close()
		for live := a.out.terminal && a.out.isForPerson() && !o.once; ; {
			b, err := c.Board(ctx)
			if err != nil {
				return err
			}
			if !a.out.isForPerson() {
				return a.printBoardLines(&b)
			}
			if !live {
				return a.out.printf("%s", boardText(&b))
			}
			if err := a.drawBoard(&b); err != nil {
				return err
			}
			select {
			case <-time.After(redrawEvery):
			case <-ctx.Done():
				return ctx.Err()
			}
		}
	})
}

// printBoardLines prints the board as lines of JSON.
func (a *app) printBoardLines(b *client.Board) error {
	for i := range b.Nodes {
		if err := a.out.writeJSON(struct {
			Type string `json:"type"`
			client.BoardNode
		}{"node", b.Nodes[i]}); err != nil {
			return err
		}
	}
	for _, t := range b.Topics {
		if err := a.out.writeJSON(struct {
			Type string `json:"type"`
			client.BoardTopic
		}{"topic", t}); err != nil {
			return err
		}
	}
	for i := range b.Connections {
		if err := a.out.writeJSON(struct {
			Type string `json:"type"`
			client.BoardConnection
		}{"connection", b.Connections[i]}); err != nil {
			return err
		}
	}
	return nil
}

// drawBoard draws the board over the screen, as much of it as fits.
func (a *app) drawBoard(b *client.Board) error {
	columns, rows, err := term.GetSize(int(a.out.file.Fd()))
	if err != nil || columns < 1 || rows < 2 {
		columns, rows = 80, 24
	}
	lines := strings.Split(strings.TrimSuffix(boardText(b), "\n"), "\n")
	if len(lines) > rows-1 {
		lines = append(lines[:rows-2], fmt.Sprintf("… and %d more lines", len(lines)-(rows-2)))
	}
	a.out.w.WriteString("\x1b[H\x1b[2J") // the errors of the writer stay until it is flushed
	for _, line := range lines {
		if err := a.out.printf("%s\n", runewidth.Truncate(line, columns-1, "…")); err != nil {
			return err
		}
	}
	return a.out.flush()
}

// boardText returns the board as text: the servers, the topics with the most readers
// first, and the connections with those first that are furthest behind.
func boardText(b *client.Board) string {
	var w strings.Builder
	for i := range b.Nodes {
		n := &b.Nodes[i]
		connections := 0
		for j := range b.Connections {
			if b.Connections[j].Node == n.Name {
				connections++
			}
		}
		if n.Name != n.Log {
			fmt.Fprintf(&w, "%s: ", visible(n.Name))
		}
		fmt.Fprintf(&w, "log %s at %s, %s, started %s\n", visible(n.Log), n.Head.ID, count(connections, "reader"), localTime(n.Since))
	}
	if len(b.Connections) == 0 {
		return w.String()
	}
	topics := slices.Clone(b.Topics)
	slices.SortStableFunc(topics, func(x, y client.BoardTopic) int { return cmp.Compare(y.Readers, x.Readers) })
	fmt.Fprintf(&w, "\n%11s  %7s  %s\n", "connections", "readers", "topic")
	for _, t := range topics {
		fmt.Fprintf(&w, "%11d  %7d  %s\n", t.Connections, t.Readers, visible(t.Topic.String()))
	}
	conns := slices.Clone(b.Connections)
	slices.SortStableFunc(conns, func(x, y client.BoardConnection) int { return cmp.Compare(y.Lag, x.Lag) })
	fmt.Fprintf(&w, "\n%11s  %-19s  %s\n", "behind", "since", "reader")
	for i := range conns {
		c := &conns[i]
		who := c.Address
		if c.Subject != "" {
			who = c.Subject + " at " + who
		}
		if len(b.Nodes) > 1 {
			who += " on " + c.Node
		}
		fmt.Fprintf(&w, "%11d  %-19s  %s: %s\n", c.Lag, localTime(c.Since), visible(who), strings.Join(topicNames(c.Topics), ", "))
	}
	return w.String()
}
