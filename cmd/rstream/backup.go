package main

import (
	"context"

	"github.com/spf13/cobra"
)

type backupOptions struct {
	db   string
	seed bool
}

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
keep the events that both logs share.

With --seed, FILE is for "rstream serve --mirror": it keeps the id of the log, and the
mirror fetches only later events instead of the whole log. The server that is mirrored
must have the last event of FILE, or the mirror takes nothing from it and says why.`,
		Example: `  rstream backup rstream-monday.db
  rstream serve --db rstream-monday.db
  rstream backup --seed mirror.db
  rstream serve --mirror https://log.example.com --db mirror.db`,
		Annotations: map[string]string{silentAnnotation: silentAlways},

		Args: newFileName,
		RunE: func(cmd *cobra.Command, args []string) error { return runBackup(cmd.Context(), a, o, args[0]) },
	}
	addProgress(a, cmd)
	cmd.Flags().StringVar(&o.db, "db", "rstream.db", "`FILE` of the log")
	cmd.Flags().BoolVar(&o.seed, "seed", false, "write the file of a mirror of the log")
	return cmd
}

func runBackup(ctx context.Context, a *app, o backupOptions, to string) error {
	db, err := a.openFile(ctx, o.db, noLog)
	if err != nil {
		return err
	}
	defer db.Close()
	write, done := db.BackupTo, "log %s backed up to %s"
	if o.seed {
		write, done = db.SeedTo, "log %s copied to %s, the file of a mirror"
	}
	err = write(ctx, to)
	a.progress.end()
	if err != nil {
		return err
	}
	a.note(done, db.Log(), to)
	return nil
}
