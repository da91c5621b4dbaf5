package main

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"

	"github.com/spf13/cobra"

	"github.com/rstream-dev/rstream/cache"
	"github.com/rstream-dev/rstream/internal/natslog"
)

type adoptOptions struct {
	streamFlags
	db       string
	replicas int
}

func newClusterAdoptCommand(a *app) *cobra.Command {
	var o adoptOptions
	cmd := &cobra.Command{
		Use:   "adopt FILE",
		Short: "Continue the log of a file in a new stream",
		Long: `Write FILE, a copy of the log in --db that is a new log, and create the stream of --nats
for it. The new log continues the old one from its last event in --db. Start the first
node with FILE, and the others with copies of it, which "rstream backup --seed" writes.

It is for a log whose stream was lost or restored from a backup, since the files of nodes
have more: take that of the node with the newest event. It is also for a log that one
server has served. The file in --db stays as it is. Clients detect the new log, report
it, and keep the events that both logs share.`,
		Example: `  rstream cluster adopt a.db --db old.db --nats nats://n1:4222 --stream log2
  rstream serve --db a.db --nats nats://n1:4222 --stream log2`,
		Annotations: map[string]string{silentAnnotation: silentAlways},

		Args: newFileName,
		RunE: func(cmd *cobra.Command, args []string) error { return runClusterAdopt(cmd.Context(), a, o, args[0]) },
	}
	f := cmd.Flags()
	f.SortFlags = false
	addProgress(a, cmd)
	f.StringVar(&o.db, "db", "rstream.db", "`FILE` of the log")
	o.addStreamFlags(f, "`URL` of the NATS servers")
	f.IntVar(&o.replicas, "replicas", 3, "create the stream with `N` replicas")
	return cmd
}

func runClusterAdopt(ctx context.Context, a *app, o adoptOptions, to string) (err error) {
	if err := o.checkStreamFlags(); err != nil {
		return err
	}
	if !mayReplicate(o.replicas) {
		return replicasError(o.replicas)
	}
	cfg := o.streamConfig(a)
	cfg.Replicas = o.replicas
	l, err := natslog.Connect(ctx, cfg)
	if err != nil {
		return streamError(err)
	}
	defer l.Close()
	creation, err := a.continueLog(ctx, o.db, to)
	if err != nil {
		return err
	}
	_, created, err := l.Create(ctx, creation)
	if err := o.settleAdoption(created, err, to); err != nil {
		return err
	}
	a.note("log %s continues %s from %s in the stream %s; start a node with %s", creation.Log, creation.Parent, creation.ParentHead, o.stream, to)
	return nil
}

// settleAdoption returns the error after an attempt to create the stream for a file. It removes the
// file, but not if there may be a stream for it: no other file has the beginning of that log.
func (o *adoptOptions) settleAdoption(created bool, err error, file string) error {
	switch {
	case err == nil && created:
		return nil
	case err == nil:
		return errors.Join(&exitError{exitFailed, "stream " + o.stream + ": exists already", "name another one with --stream"}, os.Remove(file))
	case !created && !errors.Is(err, natslog.ErrMaybeCreated):
		return errors.Join(streamError(err), os.Remove(file))
	}
	err = streamError(err)
	var exit *exitError
	if errors.As(err, &exit) {
		serve := fmt.Sprintf(`"rstream serve --db %s --nats URL --stream %s"`, shellWord(file), shellWord(o.stream))
		exit.hint = "keep " + file + ": the stream may need it. Start a node with it, " + serve + "; if that says that the stream does not exist, remove the file and repeat"
	}
	return err
}

// openAdopted opens the file of a log that is to continue in a cluster. Nobody may serve it
// meanwhile, since what a server of its own appends after the copy would be in no stream. Nodes and
// mirrors append nothing of their own.
func (a *app) openAdopted(ctx context.Context, path string) (*cache.DB, error) {
	db, err := a.openFile(ctx, path, noLog)
	if err != nil || db.Role() != cache.Server || db.IsMirror() {
		return db, err
	}
	if err := db.Close(); err != nil {
		return nil, err
	}
	return a.openDB(ctx, path, cache.Config{Role: cache.Server})
}

// continueLog writes the file of a node of a new log that continues the one in a file.
func (a *app) continueLog(ctx context.Context, from, to string) (c natslog.Creation, err error) {
	if _, err := os.Lstat(to); err == nil {
		return c, fmt.Errorf("%s: %w", to, fs.ErrExist)
	}
	db, err := a.openAdopted(ctx, from)
	if err != nil {
		return c, err
	}
	defer db.Close()
	dir, err := os.MkdirTemp(filepath.Dir(to), ".adopt-*") // a copy, which becomes the new log
	if err != nil {
		return c, err
	}
	defer os.RemoveAll(dir)
	defer a.progress.end()
	path := filepath.Join(dir, "log.db")
	if err := db.BackupTo(ctx, path); err != nil {
		return c, err
	}
	made, err := a.openDB(ctx, path, cache.Config{Role: cache.Server})
	if err != nil {
		return c, err
	}
	defer func() { err = errors.Join(err, made.Close()) }()
	if c.Parent, c.ParentHead, err = made.Parent(ctx); err != nil {
		return c, err
	}
	c.Log, c.Begin = made.Log(), made.HeadPoint()
	return c, made.SeedTo(ctx, to)
}
