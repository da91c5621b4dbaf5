package main

import (
	"context"

	"github.com/spf13/cobra"

	"github.com/rstream-dev/rstream/cache"
)

type compactOptions struct {
	db     string
	retain retainOptions
}

func newCompactCommand(a *app) *cobra.Command {
	var o compactOptions
	cmd := &cobra.Command{
		Annotations: map[string]string{silentAnnotation: silentIfQuiet},

		Use:     "compact",
		GroupID: groupServe,
		Short:   "Rewrite a server's file without free space",
		Long: `Rewrite the log in --db without free space, while no server uses it. A running server
also returns free space as it drops history, but keeps some for new events.

With the retention flags of "rstream serve", compact first drops and expires events as
they say, at once and by the clock of this machine: check that the clock is right.`,
		Example: `  rstream compact
  rstream compact --db events.db --history 30d --ttl sensors=1d`,
		Args: noArgs,
		RunE: func(cmd *cobra.Command, _ []string) error { return runCompact(cmd.Context(), a, o) },
	}
	f := cmd.Flags()
	f.SortFlags = false
	f.StringVar(&o.db, "db", "rstream.db", "`FILE` of the log")
	addProgress(a, cmd)
	o.retain.addRetainFlags(f)
	return cmd
}

func runCompact(ctx context.Context, a *app, o compactOptions) error {
	if err := mustExist(o.db, noLog); err != nil {
		return err
	}
	a.out.outlive()
	c, err := cache.Compact(ctx, o.db, cache.Config{Progress: a.fileProgress(o.db)}, o.retain.retention())
	a.progress.end()
	if err != nil || a.quiet {
		return err
	}
	a.recordDone(o.db + " was compacted")
	if a.out.isForPerson() {
		err = a.out.printf("%s: %s, was %s\n", o.db, formatSize(c.After), formatSize(c.Before))
	} else {
		err = a.out.writeJSON(struct {
			Type   string `json:"type"`
			DB     string `json:"db"`
			Before int64  `json:"before"`
			After  int64  `json:"after"`
		}{"compacted", o.db, c.Before, c.After})
	}
	if err != nil {
		return err
	}
	return a.out.flush()
}
