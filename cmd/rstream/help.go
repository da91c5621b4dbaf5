package main

import (
	"github.com/spf13/cobra"
)

// usageTemplate follows the description in each help. It is cobra's, plus the exit
// statuses: they are part of a command's contract.
const usageTemplate = `Usage:
  {{if and .HasAvailableSubCommands (not (and .HasParent .Runnable))}}{{.CommandPath}} COMMAND{{else}}{{.UseLine}}{{end}}{{if .HasExample}}

Examples:
{{.Example}}{{end}}{{$cmds := .Commands}}{{range $group := .Groups}}

{{.Title}}{{range $cmds}}{{if (and (eq .GroupID $group.ID) .IsAvailableCommand)}}
  {{rpad .Name .NamePadding}} {{.Short}}{{end}}{{end}}{{end}}{{if (and .HasAvailableSubCommands (not .Groups))}}

Commands:{{range $cmds}}{{if .IsAvailableCommand}}
  {{rpad .Name .NamePadding}} {{.Short}}{{end}}{{end}}{{end}}{{if .HasAvailableLocalFlags}}

Flags:
{{.LocalFlags.FlagUsages | trimTrailingWhitespaces}}{{end}}{{if .HasAvailableInheritedFlags}}

Global flags:
{{.InheritedFlags.FlagUsages | trimTrailingWhitespaces}}{{end}}{{if .HasAvailableSubCommands}}

Run "{{.CommandPath}} COMMAND --help" for details.{{end}}{{if not .HasParent}}
Every flag can also be set in the environment, as RSTREAM_SERVER, or in the config file.{{end}}

Exit status:
` + exitStatuses + `{{with index .Annotations "` + exitAnnotation + `"}}  {{.}}
{{end}}`

// exitAnnotation annotates a command with further meanings of its exit statuses.
const exitAnnotation = "exit"

// exitStatuses describes every exit status.
const exitStatuses = `  0 done   1 failed   2 usage   3 gap: history is missing or differs
  4 not allowed   5 server unreachable   129 hung up   130 interrupted
`

func newHelpCommand() *cobra.Command {
	return &cobra.Command{
		Use:     "help [COMMAND]",
		GroupID: groupTools,
		Short:   "Print the help of a command",
		Long:    `Print the help of a command, like COMMAND --help.`,
		Example: `  rstream help tail`,
		// A broken config file must not keep anyone from reading this.
		PersistentPreRunE: checkUnconfigured,
		ValidArgsFunction: completeCommands,
		RunE: func(cmd *cobra.Command, args []string) error {
			about, rest, err := cmd.Root().Find(args)
			if err != nil || len(rest) > 0 {
				return knownCommand(cmd.Root(), args)
			}
			about.InitDefaultHelpFlag()
			about.InitDefaultVersionFlag()
			return about.Help()
		},
	}
}

func completeCommands(cmd *cobra.Command, args []string, _ string) (names []cobra.Completion, _ cobra.ShellCompDirective) {
	about, _, err := cmd.Root().Find(args)
	if err != nil {
		return nil, cobra.ShellCompDirectiveNoFileComp
	}
	for _, c := range about.Commands() {
		if c.IsAvailableCommand() {
			names = append(names, cobra.CompletionWithDesc(c.Name(), c.Short))
		}
	}
	return names, cobra.ShellCompDirectiveNoFileComp
}
