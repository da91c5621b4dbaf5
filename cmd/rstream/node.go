package main

import (
	"cmp"
	"context"
	"errors"
	"strings"
	"sync"
	"time"

	"github.com/spf13/cobra"
	"github.com/spf13/pflag"

	"github.com/rstream-dev/rstream/cache"
	"github.com/rstream-dev/rstream/event"
	"github.com/rstream-dev/rstream/internal/mirror"
	"github.com/rstream-dev/rstream/internal/natslog"
	"github.com/rstream-dev/rstream/internal/wire"
)

// streamFlags are the flags that name a stream of NATS servers.
type streamFlags struct {
	nats   string
	stream string
	creds  string
	nkey   string

	systemURL   string
	systemCreds string
}

func (o *streamFlags) addStreamFlags(f *pflag.FlagSet, usage string) {
	f.StringVar(&o.nats, "nats", "", usage)
	f.StringVar(&o.stream, "stream", "", "`NAME` of the stream of --nats")
	f.StringVar(&o.creds, "nats-creds", "", "`FILE` with the credentials of a NATS user: a JWT and a seed")
	f.StringVar(&o.nkey, "nats-nkey", "", "`FILE` with the seed of a NATS user")
	f.StringVar(&o.systemURL, "nats-system", "", "`URL` with a user of the system account, which may ask the NATS servers when they sync")
	f.StringVar(&o.systemCreds, "nats-system-creds", "", "`FILE` with the credentials of that user")
}

// streamConfig returns the configuration of a connection to the stream.
func (o *streamFlags) streamConfig(a *app) natslog.Config {
	c := a.credentials
	for _, file := range []string{o.creds, o.nkey, o.systemCreds, c.clientKey} {
		if file != "" {
			a.warnIfExposed(file)
		}
	}
	return natslog.Config{URL: o.nats, Stream: o.stream, Credentials: o.creds, NKey: o.nkey, SystemURL: o.systemURL, SystemCredentials: o.systemCreds,
		CA: c.ca, Cert: c.clientCert, Key: c.clientKey}
}

// checkStreamFlags refuses flags that name no stream.
func (o *streamFlags) checkStreamFlags() error {
	switch {
	case o.nats == "":
		return usagef("--nats: name the NATS servers, such as nats://127.0.0.1:4222")
	case o.stream == "":
		return usagef("--nats: wants --stream, the name of the stream")
	}
	for _, f := range []struct{ name, addresses string }{{"nats", o.nats}, {"nats-system", o.systemURL}} {
		if f.addresses == "" {
			continue
		}
		if _, err := natslog.ParseAddresses(f.addresses); err != nil {
			return usagef("--%s: %w", f.name, err)
		}
	}
	return nil
}

// clusterFlags are the flags of a server that is a node of a cluster.
type clusterFlags struct {
	streamFlags
	create   bool
	replicas int
	durable  string
}

func (o *clusterFlags) addClusterFlags(cmd *cobra.Command) {
	f := cmd.Flags()
	o.addStreamFlags(f, "be a node of the log in a JetStream stream of the NATS servers at `URL`")
	f.BoolVar(&o.create, "init", false, "create the stream, if neither it nor the file exists")
	f.IntVar(&o.replicas, "replicas", 0, "the stream must have `N` replicas (default: any number; with --init, 3)")
	f.StringVar(&o.durable, "durable", "", "with `WHEN` always, refuse NATS servers that acknowledge an append before it is synced to disk; with interval, take any (default: interval)")
	completeFlag(cmd, "durable", "always", "interval")
	excludeFlags(cmd, "nats", "mirror", "source", "as-new-log")
	// What a config file says of a stream is no matter for a server that is no node.
	for _, name := range []string{"stream", "nats-creds", "nats-nkey", "nats-system", "nats-system-creds", "init", "replicas", "durable"} {
		excludeFlags(cmd, name, "mirror", "source", "as-new-log")
	}
}

// checkClusterFlags refuses flags that contradict each other.
func (o *clusterFlags) checkClusterFlags() error {
	if o.nats == "" {
		for _, f := range []struct {
			name string
			set  bool
		}{{"--stream", o.stream != ""}, {"--nats-creds", o.creds != ""}, {"--nats-nkey", o.nkey != ""},
			{"--nats-system", o.systemURL != ""}, {"--nats-system-creds", o.systemCreds != ""}, {"--init", o.create}, {"--replicas", o.replicas != 0}, {"--durable", o.durable != ""}} {
			if f.set {
				return usagef("%s: wants --nats", f.name)
			}
		}
		return nil
	}
	if err := o.checkStreamFlags(); err != nil {
		return err
	}
	switch {
	case o.replicas != 0 && !mayReplicate(o.replicas):
		return replicasError(o.replicas)
	case o.durable != "" && o.durable != "always" && o.durable != "interval":
		return usagef("--durable %q: want always or interval", o.durable)
	}
	return nil
}

// mayReplicate reports whether a stream may have n replicas: NATS servers keep at most five, and an
// even number has no majority more often than one less.
func mayReplicate(n int) bool { return n == 1 || n == 3 || n == 5 }

func replicasError(n int) error { return usagef("--replicas %d: want 1, 3 or 5", n) }

// A node is the stream of a cluster, as one of its nodes sees it.
type node struct {
	*natslog.Log
	create bool
	wait   time.Duration // for NATS servers at the first start

	disks *diskCheck // of --durable always; nil: none
}

var nodeWords = followedWords{"a node of", "the stream", "stream"}

// newNode returns the log in the stream of --nats.
func (a *app) newNode(ctx context.Context, o *serveOptions) (*followed, error) {
	cfg := o.streamConfig(a)
	cfg.Node, cfg.Replicas, cfg.Later = o.node, o.replicas, exists(o.db)
	cfg.OnNews = func(text string) { a.note("%s", text) }
	wait := cmp.Or(a.timeout, firstWait)
	var l *natslog.Log
	err := untilReached(ctx, wait, func() (err error) {
		l, err = natslog.Connect(ctx, cfg)
		return err
	})
	if err != nil && ctx.Err() != nil {
		return nil, context.Cause(ctx)
	}
	if err != nil {
		return nil, nodeError(err)
	}
	n := &node{Log: l, create: o.create, wait: wait}
	if o.durable == "always" {
		n.disks = &diskCheck{ask: n.askWhenSynced}
	}
	return &followed{upstream: n, words: nodeWords, node: n, name: l.String(), close: l.Close}, nil
}

// firstWait is how long the first start of a node waits for NATS servers, which may be starting,
// too. --timeout sets another time.
const firstWait = 5 * time.Second

// untilReached calls try until it reaches the NATS servers, for a while.
func untilReached(ctx context.Context, wait time.Duration, try func() error) error {
	for limit := time.Now().Add(wait); ; {
		err := try()
		var away *mirror.UnreachableError
		if !errors.As(err, &away) || time.Now().After(limit) {
			return err
		}
		select {
		case <-time.After(100 * time.Millisecond):
		case <-ctx.Done():
			return err
		}
	}
}

// Describe implements mirror.Upstream.
func (n *node) Describe(ctx context.Context, held mirror.Position) (d mirror.Description, err error) {
	if d, err = n.Log.Describe(ctx, held); err == nil && n.disks != nil {
		err = n.disks.prove(ctx, syncAge)
	}
	return d, err
}

// Append implements mirror.Upstream. The server of the node has checked the rights of the caller:
// its credentials are for no one else.
func (n *node) Append(ctx context.Context, held mirror.Position, _ wire.Caller, drafts []event.Draft) ([]event.Receipt, error) {
	if n.disks != nil {
		if err := n.disks.problem(); err != nil {
			return nil, &mirror.UnreachableError{URL: n.String(), Unsent: true, Err: err}
		}
	}
	return n.Log.Append(ctx, held, wire.Caller{}, drafts)
}

// firstDescription returns what the stream says of the log that a new file is for.
func (n *node) firstDescription(ctx context.Context) (d mirror.Description, err error) {
	err = untilReached(ctx, n.wait, func() error {
		d, err = n.Describe(ctx, mirror.Position{})
		if n.create && errors.Is(err, natslog.ErrNoStream) {
			if _, _, err = n.Create(ctx, natslog.Creation{}); err == nil {
				d, err = n.Describe(ctx, mirror.Position{})
			}
		}
		return err
	})
	if err == nil {
		_, err = n.Describe(ctx, mirror.Position{Log: d.Log}) // does the stream have all of it?
	}
	if err != nil {
		return d, nodeError(err)
	}
	return d, nil
}

// firstStartHint is for servers that cannot be reached.
const firstStartHint = "the first start needs the NATS servers; later ones do not"

// nodeError returns the error of a stream that cannot be used.
func nodeError(err error) error {
	e := &exitError{exitFailed, "--nats: " + err.Error(), "docs/cluster.md says how to set up NATS"}
	var away *mirror.UnreachableError
	var refused *natslog.RefusedError
	var begins *natslog.BeginError
	var conflict *mirror.ConflictError
	switch {
	case errors.As(err, &refused) && refused.System:
		e.text = "--nats-system: " + err.Error()
		e.status, e.hint = exitNotAllowed, "name a user of the system account of the NATS servers with --nats-system or --nats-system-creds"
	case errors.As(err, &refused) && refused.Doing != "":
		e.status, e.hint = exitNotAllowed, "docs/cluster.md lists what the user of a node must be allowed to do"
	case errors.As(err, &refused):
		e.status, e.hint = exitNotAllowed, "name the credentials with --nats-creds or --nats-nkey, or a user and password in RSTREAM_NATS"
	case errors.As(err, &begins):
		e.hint = "start this node with the file of another one: \"rstream backup --seed\" writes a copy"
	case errors.As(err, &conflict) && conflict.Reason == wire.ReasonMark:
		e.hint = "\"rstream cluster adopt\" continues the log in a new stream, with the file of a node"
	case errors.As(err, &conflict) && conflict.Reason == wire.ReasonVersion:
		e.hint = "start this node with the version of rstream that the other nodes have"
	case errors.Is(err, natslog.ErrNoStream):
		e.hint = "start the first node with --init, or correct --stream"
	case strings.Contains(err.Error(), "replicas > 1 not supported"):
		e.hint = "one NATS server alone keeps a stream with --replicas 1"
	case errors.As(err, &away):
		e.status, e.hint = exitUnreachable, cmp.Or(hintOfTLS(err, strings.ReplaceAll(away.URL, "tls://", "https://")), firstStartHint)
	}
	return e
}

// clusterReport returns how the node is, for the metrics of its server.
func (n *node) clusterReport() wire.Cluster {
	s := n.Status()
	c := s.Counters
	return wire.Cluster{Committer: s.IsCommitter, Sequence: s.Seq, Last: max(s.Seq, s.Last), Forwarded: c.Forwarded, Batches: c.Batches, Events: c.Events,
		Conflicts: c.Conflicts, Repeats: c.Repeats, Unknown: c.Unknown,
		ReceivedMessages: c.ReceivedMessages, ReceivedBytes: c.ReceivedBytes, SentBytes: c.SentBytes}
}

// maxNodePause is the longest pause before a node follows the stream again: there are few nodes,
// and appends stop while none of them follows it.
const maxNodePause = 2 * time.Second

// nodePause is how long a node waits before it takes part again after an error.
const nodePause = time.Second

// takePart makes the node one that others forward appends to, until ctx ends.
func (n *node) takePart(ctx context.Context, log *cache.DB, say *serveLog) {
	var asking sync.WaitGroup
	defer asking.Wait()
	if n.disks != nil {
		asking.Go(func() { n.disks.run(ctx, say.Logger) })
	}
	for {
		err := n.Run(ctx, log)
		if ctx.Err() != nil {
			return
		}
		say.Warn("the node can take appends of no others", "stream", n.String(), "error", err.Error())
		select {
		case <-time.After(nodePause):
		case <-ctx.Done():
			return
		}
	}
}
