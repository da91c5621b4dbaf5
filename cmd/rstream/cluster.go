package main

import (
	"context"
	"errors"
	"fmt"
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
		Short: "Print how the log and its stream are",
		Long: `Print the log that a stream has, the node that assigns its ids, how the stream and its
replicas are, and when an append is durable. The NATS servers tell only a user of the
system account when they sync: name one with --nats-system or --nats-system-creds.

The exit status is 1 if no node assigns ids, or if a replica is offline.`,
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
	Created    time.Time       `json:"created"`
	Messages   uint64          `json:"messages"`
	Bytes      uint64          `json:"bytes"`
	Replicas   []replicaStatus `json:"replicas,omitempty"`
	Synced     []serverSync    `json:"synced,omitempty"`
	Unknown    string          `json:"synced_unknown,omitempty"` // why Synced is not there
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
	l, err := natslog.Connect(ctx, o.streamConfig(a))
	if err != nil {
		return nodeError(err)
	}
	defer l.Close()
	s := clusterStatus{Type: "cluster", Stream: o.stream, Servers: l.String()}
	if err := s.ask(ctx, l); err != nil {
		return nodeError(err)
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

// ask asks the servers and the committer.
func (s *clusterStatus) ask(ctx context.Context, l *natslog.Log) error {
	d, err := l.Describe(ctx, mirror.Position{})
	if err != nil {
		return err
	}
	s.Log, s.Head, s.Begin = d.Log, d.Head.ID, d.Horizon.ID
	if s.Parent = d.Parent; d.Parent != "" && d.ParentHead != event.MaxID {
		s.ParentHead = &d.ParentHead
	}
	stream, err := l.Stream(ctx)
	if err != nil {
		return err
	}
	s.Created, s.Messages, s.Bytes = stream.Created, stream.Messages, stream.Bytes
	for _, r := range stream.Replicas {
		s.Replicas = append(s.Replicas, replicaStatus(r))
	}
	if s.Committer, err = l.Committer(ctx); err != nil {
		return err
	}
	synced, err := l.CheckDurable(ctx)
	if err != nil {
		s.Unknown = err.Error()
		return nil
	}
	for _, one := range synced {
		s.Synced = append(s.Synced, serverSync{one.Server, one.Always, one.Interval.Seconds()})
	}
	return nil
}

// problem returns an error if appends cannot be taken, or would not be with one server less.
func (s *clusterStatus) problem() error {
	if s.Committer == "" {
		return &exitError{exitFailed, "cluster status: no node assigns ids", "start nodes with \"rstream serve --nats\""}
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
