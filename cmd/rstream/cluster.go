package main

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"github.com/rstream-dev/rstream/event"
	"github.com/rstream-dev/rstream/internal/mirror"
	"github.com/rstream-dev/rstream/internal/natslog"
)

func newClusterCommand(a *app) *cobra.Command {
	cmd := &cobra.Command{
		Use:     "cluster COMMAND",
		GroupID: groupServe,
		Short:   "Inspect a log in a JetStream stream, or move one there",
		Long: `Inspect the log of a cluster, which is in a JetStream stream and served by nodes, or move
a log to a new stream. "rstream serve --nats" starts a node.`,
		Example: `  rstream cluster status --nats nats://n1:4222 --stream log
  rstream cluster adopt a.db --db old.db --nats nats://n1:4222 --stream log2`,
		Args:                  knownCommand,
		DisableFlagsInUseLine: true,
		RunE:                  func(cmd *cobra.Command, _ []string) error { return cmd.Help() },
	}
	cmd.AddCommand(newClusterStatusCommand(a), newClusterAdoptCommand(a))
	return cmd
}

func newClusterStatusCommand(a *app) *cobra.Command {
	var o streamFlags
	cmd := &cobra.Command{
		Use:   "status",
		Short: "Print how the log, its nodes and its stream are",
		Long: `Print the log that a stream has, the node that assigns its ids, all nodes, how the stream
and its replicas are, and when an append is durable. Nodes answer for themselves. One that
does not answer is printed if it has read the stream within half a minute, or was the last
to assign ids; nodes that are gone for longer are not known. The NATS servers tell only a
user of the system account when they sync: name one with --nats-system or
--nats-system-creds. Nodes and servers have some seconds to answer, or as long as --timeout says
if that is shorter.

The exit status is 1 if no node assigns ids, if a node does not answer, or if a replica is
offline.`,
		Example: `  rstream cluster status --nats nats://n1:4222 --stream log
  rstream cluster status --nats nats://n1:4222 --stream log -o json`,
		Args: noArgs,
		RunE: func(cmd *cobra.Command, _ []string) error { return runClusterStatus(cmd.Context(), a, &o) },
	}
	f := cmd.Flags()
	f.SortFlags = false
	o.addStreamFlags(f, "`URL` of the NATS servers")
	return cmd
}

// A clusterStatus is the output of cluster status.
type clusterStatus struct {
	Type       string          `json:"type"`
	Stream     string          `json:"stream"`
	Servers    string          `json:"servers"`
	Log        string          `json:"log"`
	Head       event.ID        `json:"head"`
	Begin      event.ID        `json:"begin"` // of the stream
	Parent     string          `json:"parent,omitempty"`
	ParentHead *event.ID       `json:"parent_head,omitempty"`
	Committer  string          `json:"committer,omitempty"`
	Nodes      []memberStatus  `json:"nodes"`
	Incomplete string          `json:"nodes_incomplete,omitempty"` // why nodes that do not answer may be missing
	Created    time.Time       `json:"created"`
	Messages   uint64          `json:"messages"`
	Bytes      uint64          `json:"bytes"`
	Replicas   []replicaStatus `json:"replicas,omitempty"`
	Synced     []serverSync    `json:"synced,omitempty"`
	Unknown    string          `json:"synced_unknown,omitempty"` // why Synced is not there
}

// A memberStatus is how a node is. Of one that does not answer, only its name is known.
type memberStatus struct {
	Node      string    `json:"node"`
	Answers   bool      `json:"answers"`
	Committer bool      `json:"committer"`
	Ready     bool      `json:"ready"`
	URL       string    `json:"url,omitempty"`
	Version   string    `json:"version,omitempty"`
	Log       string    `json:"log,omitempty"` // if it is another one
	Head      *event.ID `json:"head,omitempty"`
	Behind    *int64    `json:"behind,omitempty"` // events
	Ahead     int64     `json:"ahead,omitempty"`  // events that the stream does not have
	Trouble   string    `json:"trouble,omitempty"`
	Shared    bool      `json:"name_shared,omitempty"`    // another node that answers has this name, too
	Last      bool      `json:"last_committer,omitempty"` // it does not answer, and was the last one to assign ids
}

type replicaStatus struct {
	Server  string `json:"server"`
	Leader  bool   `json:"leader"`
	Current bool   `json:"current"`
	Offline bool   `json:"offline"`
	Lag     uint64 `json:"lag"`
}

type serverSync struct {
	Server   string  `json:"server"`
	Always   bool    `json:"always"`
	Interval float64 `json:"interval,omitempty"` // seconds
}

func runClusterStatus(ctx context.Context, a *app, o *streamFlags) error {
	if err := o.checkStreamFlags(); err != nil {
		return err
	}
	cfg := o.streamConfig(a)
	cfg.Wait = a.timeout
	l, err := natslog.Connect(ctx, cfg)
	if err != nil {
		return streamError(err)
	}
	defer l.Close()
	s := clusterStatus{Type: "cluster", Stream: o.stream, Servers: l.String()}
	if err := s.ask(ctx, l); err != nil {
		return streamError(err)
	}
	print := func() error { return a.out.writeJSON(&s) }
	if a.out.isForPerson() {
		print = func() error { return s.print(a.out) }
	}
	if a.quiet {
		print = func() error { return nil }
	}
	return errors.Join(print(), s.problem())
}

// streamError returns the error of a stream that a command cannot use.
func streamError(err error) error {
	err = nodeError(err)
	var exit *exitError
	if errors.As(err, &exit) && exit.hint == firstStartHint {
		exit.hint = "check the address in --nats, and that a NATS server runs there"
	}
	return err
}

// ask asks the servers, the committer and the nodes.
func (s *clusterStatus) ask(ctx context.Context, l *natslog.Log) error {
	d, err := l.Describe(ctx, mirror.Position{})
	if err != nil {
		return err
	}
	s.Log, s.Head = d.Log, d.Head.ID
	if s.Parent = d.Parent; d.Parent != "" && d.ParentHead != event.MaxID {
		s.ParentHead = &d.ParentHead
	}
	stream, err := l.Stream(ctx)
	if err != nil {
		return err
	}
	s.Begin, s.Created, s.Messages, s.Bytes = stream.Begin, stream.Created, stream.Messages, stream.Bytes
	for _, r := range stream.Replicas {
		s.Replicas = append(s.Replicas, replicaStatus(r))
	}
	if s.Committer, err = l.Committer(ctx); err != nil {
		return err
	}
	if err := s.askNodes(ctx, l); err != nil {
		return err
	}
	synced, err := l.CheckDurable(ctx, expectedServers(stream.Replicas))
	if err != nil {
		s.Unknown = err.Error()
		return nil
	}
	for _, one := range synced {
		s.Synced = append(s.Synced, serverSync{one.Server, one.Always, one.Interval.Seconds()})
	}
	return nil
}

// askNodes asks the nodes.
func (s *clusterStatus) askNodes(ctx context.Context, l *natslog.Log) error {
	nodes, incomplete, err := l.Nodes(ctx)
	if err != nil {
		return err
	}
	if incomplete != nil {
		s.Incomplete = incomplete.Error()
	}
	grown := s.Head
	isAfter := func(n natslog.NodeStatus) bool { return n.Log == s.Log && n.Head > s.Head }
	if slices.ContainsFunc(nodes, isAfter) { // events may have come since the head was read
		d, err := l.Describe(ctx, mirror.Position{})
		if err != nil {
			return err
		}
		grown = d.Head.ID
	}
	named := map[string]int{}
	for i := range nodes {
		named[nodes[i].Node]++
	}
	s.Nodes = []memberStatus{}
	for i := range nodes {
		n := &nodes[i]
		m := memberStatus{Node: n.Node, Answers: n.Answers, Committer: n.Committer, URL: n.URL, Version: n.Version, Trouble: n.Trouble, Last: n.Claimed && !n.Answers,
			Shared: named[n.Node] > 1}
		if n.Answers {
			m.Ready, m.Head = n.Trouble == "", &n.Head
		}
		if n.Answers && n.Log == s.Log {
			behind := max(int64(s.Head)-int64(n.Head), 0)
			m.Behind = &behind
			m.Ahead = max(int64(n.Head)-int64(grown), 0)
		} else {
			m.Log = n.Log
		}
		s.Nodes = append(s.Nodes, m)
	}
	return nil
}

// problem returns an error if appends cannot be taken, or if a part of the cluster is away.
func (s *clusterStatus) problem() error {
	if s.Committer == "" {
		e := &exitError{exitFailed, "cluster status: no node assigns ids", "start nodes with \"rstream serve --nats\""}
		if slices.ContainsFunc(s.Nodes, func(n memberStatus) bool { return n.Answers }) {
			e.hint = "the nodes run; the output says why they are not ready"
		}
		return e
	}
	for i := range s.Nodes {
		if n := &s.Nodes[i]; !n.Answers {
			return &exitError{exitFailed, "cluster status: the node " + n.Node + " does not answer", ""}
		}
	}
	for _, r := range s.Replicas {
		if r.Offline {
			return &exitError{exitFailed, "cluster status: the replica " + r.Server + " is offline", ""}
		}
	}
	return nil
}

// print prints s for a person.
func (s *clusterStatus) print(out *output) error {
	var b strings.Builder
	line := func(name, format string, args ...any) {
		fmt.Fprintf(&b, "%-10s%s\n", name, visible(fmt.Sprintf(format, args...)))
	}
	line("log", "%s, head %s", s.Log, s.Head)
	if s.Parent != "" && s.ParentHead != nil {
		line("", "continues %s from %s", s.Parent, *s.ParentHead)
	}
	if s.Committer == "" {
		line("committer", "none")
	} else {
		line("committer", "%s", s.Committer)
	}
	for i := range s.Nodes {
		line("node", "%s", &s.Nodes[i])
	}
	if s.Incomplete != "" {
		line("", "nodes that do not answer may be missing: %s", s.Incomplete)
	}
	line("stream", "%s, %s, %s", s.Servers, count(int(s.Messages), "message"), formatSize(int64(s.Bytes)))
	for _, r := range s.Replicas {
		line("replica", "%s", r)
	}
	if s.Unknown != "" {
		line("synced", "not known: %s", s.Unknown)
	}
	for _, one := range s.Synced {
		line("synced", "%s", one)
	}
	return out.printf("%s", b.String())
}

func (m *memberStatus) String() string {
	if !m.Answers {
		if m.Last {
			return m.Node + ": no answer; it was the last to assign ids"
		}
		return m.Node + ": no answer"
	}
	var text strings.Builder
	text.WriteString(m.Node)
	if m.URL != "" {
		text.WriteString(" at " + m.URL)
	}
	if m.Version != "" {
		text.WriteString(", version " + m.Version)
	}
	switch {
	case m.Behind == nil:
		text.WriteString(": has the log " + m.Log)
	case m.Ahead > 0:
		text.WriteString(": at " + m.Head.String() + ", " + count(int(m.Ahead), "event") + " ahead of the stream")
	case *m.Behind == 0:
		text.WriteString(": has everything")
	default:
		text.WriteString(": at " + m.Head.String() + ", " + count(int(*m.Behind), "event") + " behind")
	}
	if m.Committer {
		text.WriteString(", commits")
	}
	if m.Shared {
		text.WriteString(", another node has this name")
	}
	if !m.Ready {
		text.WriteString(", not ready: " + m.Trouble)
	}
	return text.String()
}

func (r replicaStatus) String() string {
	switch {
	case r.Leader:
		return r.Server + ", leader"
	case r.Offline:
		return r.Server + ", offline"
	case r.Current:
		return r.Server + ", current"
	}
	return fmt.Sprintf("%s, lacks %d operations", r.Server, r.Lag)
}

func (s serverSync) String() string {
	if s.Always {
		return s.Server + ": before an append is acknowledged"
	}
	return fmt.Sprintf("%s: within %s of an append", s.Server, time.Duration(s.Interval*float64(time.Second)))
}
