package main

import (
	"context"
	"errors"
	"strings"

	"github.com/spf13/cobra"

	"github.com/rstream-dev/rstream/internal/demo"
)

func newDemoCommand(a *app) *cobra.Command {
	return &cobra.Command{
		Use:     "demo",
		GroupID: groupTools,
		Short:   "Show what rstream does, in a few seconds",
		Long: `Start a server on a free port, append a real week of earthquakes, sync some of them,
tail all of them over a connection that is cut again and again, stop the server and read
the copy offline. Everything happens in a temporary folder, which is removed at the end.`,
		Example: `  rstream demo`,
		Args:    noArgs,
		RunE:    func(cmd *cobra.Command, _ []string) error { return runDemo(cmd.Context(), a) },
	}
}

// afterDemo is what a person may type next.
const afterDemo = `Next, with a log of your own:
  rstream serve &
  rstream put alice/posts/1 '{"n":1}'
  rstream tail alice
  rstream --help
`

func runDemo(ctx context.Context, a *app) error {
	err := demo.Run(ctx, func(s demo.Step) error {
		var err error
		if a.out.isForPerson() {
			err = a.out.printf("$ %s\n  %s\n\n", s.Command, strings.ReplaceAll(s.Text, "\n", "\n  "))
		} else {
			err = a.out.writeJSON(map[string]string{"type": "step", "command": s.Command, "text": s.Text})
		}
		return errors.Join(err, a.out.flush())
	})
	if err != nil || !a.out.isForPerson() {
		return err
	}
	return a.out.printf("%s", afterDemo)
}
