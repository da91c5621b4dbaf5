package main

import (
	"context"
	"slices"
	"strings"
	"time"

	"github.com/spf13/cobra"
	"github.com/spf13/pflag"

	"github.com/rstream-dev/rstream/cache"
	"github.com/rstream-dev/rstream/event"
)

// completeFlag lets a shell complete a flag with values.
func completeFlag(cmd *cobra.Command, flag string, values ...string) {
	// It fails only for a flag that does not exist.
	_ = cmd.RegisterFlagCompletionFunc(flag, cobra.FixedCompletions(values, cobra.ShellCompDirectiveNoFileComp))
}

// completeServers completes the names that --server takes.
func (a *app) completeServers(cmd *cobra.Command, _ []string, _ string) ([]cobra.Completion, cobra.ShellCompDirective) {
	return append(namedServers.names(a, cmd), namedSources.names(a, cmd)...), cobra.ShellCompDirectiveNoFileComp
}

// completeTopics completes topics that are followed, and below a user also folders and storages.
func (a *app) completeTopics(cmd *cobra.Command, args []string, word string) (names []cobra.Completion, _ cobra.ShellCompDirective) {
	if strings.Contains(word, "/") {
		return a.completeNames(cmd, nil, word)
	}
	a.completeFrom(cmd, func(db *cache.DB) error {
		topics, err := db.Followed(cmd.Context())
		for _, t := range topics {
			if name := t.String(); !slices.Contains(args, name) {
				names = append(names, name)
			}
		}
		return err
	})
	return names, cobra.ShellCompDirectiveNoFileComp
}

// completeCursors completes the names of cursors.
func (a *app) completeCursors(cmd *cobra.Command, _ []string, _ string) (names []cobra.Completion, _ cobra.ShellCompDirective) {
	a.completeFrom(cmd, func(db *cache.DB) error {
		cursors, err := db.Cursors(cmd.Context())
		for _, c := range cursors {
			names = append(names, c.Name)
		}
		return err
	})
	return names, cobra.ShellCompDirectiveNoFileComp
}

// completeNames completes users, folders and storages that the local copy holds, one level at
// a time.
func (a *app) completeNames(cmd *cobra.Command, args []string, word string) (names []cobra.Completion, _ cobra.ShellCompDirective) {
	topic := event.All
	if strings.Contains(word, "/") {
		var err error
		if topic, err = event.ParseTopic(word + "*"); err != nil {
			return nil, cobra.ShellCompDirectiveNoFileComp
		}
	}
	if len(args) > 0 {
		return nil, cobra.ShellCompDirectiveNoFileComp
	}
	a.completeFrom(cmd, func(db *cache.DB) error {
		ctx, cancel := context.WithTimeout(cmd.Context(), completionTime)
		defer cancel()
		for u, err := range fileUsage(ctx, db, topic, true) {
			if err != nil {
				return err
			}
			if strings.HasPrefix(u.Name(), word) {
				names = append(names, u.Name())
			}
		}
		return nil
	})
	return names, cobra.ShellCompDirectiveNoFileComp | cobra.ShellCompDirectiveNoSpace
}

// completeStorage completes the first argument as the name of a storage. Later ones may be files.
func (a *app) completeStorage(cmd *cobra.Command, args []string, word string) ([]cobra.Completion, cobra.ShellCompDirective) {
	if len(args) > 0 {
		return nil, cobra.ShellCompDirectiveDefault
	}
	return a.completeNames(cmd, args, word)
}

// plainUsages removes the backquotes around the names of values from the usages of flags:
// shells show them as they are.
func plainUsages(cmd *cobra.Command) {
	for _, flags := range []*pflag.FlagSet{cmd.Flags(), cmd.PersistentFlags()} {
		flags.VisitAll(func(f *pflag.Flag) { _, f.Usage = pflag.UnquoteUsage(f) })
	}
	for _, c := range cmd.Commands() {
		plainUsages(c)
	}
}

// completionTime bounds how long a shell waits for names.
const completionTime = time.Second

// completeFrom reads completions from the local copy, if there is one. Errors are
// dropped: a shell cannot show them.
func (a *app) completeFrom(cmd *cobra.Command, read func(*cache.DB) error) {
	if a.configure(cmd, nil) != nil {
		return
	}
	db, err := a.openOffline(cmd.Context())
	if err != nil {
		return
	}
	defer db.Close()
	_ = read(db)
}

// describeCompletion adapts cobra's completion command to our help.
func describeCompletion(cmd *cobra.Command) {
	cmd.Use = "completion SHELL"
	cmd.DisableFlagsInUseLine = true
	cmd.Short = "Print what a shell needs to complete commands and flags"
	cmd.Example = `  source <(rstream completion bash)
  rstream completion zsh > "${fpath[1]}/_rstream"
  rstream completion fish > ~/.config/fish/completions/rstream.fish`
	// A broken config file must not break the start of a shell.
	cmd.PersistentPreRunE = checkUnconfigured
	cmd.Args = func(_ *cobra.Command, args []string) error {
		if len(args) == 0 {
			return usagef("want a shell: bash, zsh, fish or powershell")
		}
		return usagef("shell %q: want bash, zsh, fish or powershell", args[0])
	}
	for _, shell := range cmd.Commands() {
		shell.Args = noArgs
	}
	// cobra checks the arguments of runnable commands only.
	cmd.RunE = func(*cobra.Command, []string) error { return nil }
}
