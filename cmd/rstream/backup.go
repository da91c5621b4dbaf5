package main

import (
	"context"

	"github.com/spf13/cobra"
)

type backupOptions struct{ db string }

func newBackupCommand(a *app) *cobra.Command {
	var o backupOptions
	cmd := &cobra.Command{
		Use:     "backup FILE",
		GroupID: groupServe,
		Short:   "Write a consistent copy of a server's log",
		Long: `Write a consistent, checked copy of the log in --db to FILE, which must not exist.
The server may be running.

Serving the backup starts a new log that continues the old one from the point of the
backup; later events of the old log are not in it. Clients detect this, report it, and
keep the events that both logs share.`,
		Example: `  rstream backup rstream-monday.db
  rstream serve --db rstream-monday.db`,
		Annotations: map[string]string{silentAnnotation: silentAlways},

		Args: argCount(1, 1, "one FILE to write"),
		RunE: func(cmd *cobra.Command, args []string) error { return runBackup(cmd.Context(), a, o, args[0]) },
	}
	addProgress(a, cmd)
	cmd.Flags().StringVar(&o.db, "db", "rstream.db", "`FILE` of the log")
	return cmd
}

func runBackup(ctx context.Context, a *app, o backupOptions, to string) error {
	db, err := a.openFile(ctx, o.db, noLog)
	if err != nil {
		return err
	}
	defer db.Close()
	err = db.BackupTo(ctx, to)
	a.progress.end()
	if err != nil {
		return err
	}
	a.note("log %s backed up to %s", db.Log(), to)
	return nil
}
