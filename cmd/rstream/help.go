package main

import (
	"strings"
	"unicode/utf8"

	"github.com/spf13/cobra"
	"github.com/spf13/pflag"
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
{{.LocalFlags.FlagUsagesWrapped 80 | trimTrailingWhitespaces}}{{end}}{{if .HasAvailableInheritedFlags}}

Global flags, described by "rstream --help":
{{listFlags .InheritedFlags}}{{end}}{{if .HasAvailableSubCommands}}

Run "{{.CommandPath}} COMMAND --help" for details.{{end}}{{if not .HasParent}}
Most flags can also be set in the environment, as RSTREAM_SERVER, or in the
config file.{{end}}

Exit status:
` + exitStatuses + `{{with index .Annotations "` + exitAnnotation + `"}}  {{.}}
{{end}}`

// helpTemplate is cobra's, with lines of at most 80 columns.
const helpTemplate = `{{with (or .Long .Short)}}{{wrapText .}}

{{end}}{{if or .Runnable .HasSubCommands}}{{.UsageString}}{{end}}`

func init() {
	cobra.AddTemplateFunc("listFlags", listFlags)
	cobra.AddTemplateFunc("wrapText", wrapText)
}

// helpWidth is how many columns help takes.
const helpWidth = 80

// wrapText breaks the paragraphs of a text into lines of at most helpWidth columns. It
// leaves indented lines alone, such as tables.
func wrapText(text string) string {
	var b strings.Builder
	column := 0 // 0 at the start of a line
	for line := range strings.Lines(text) {
		line = strings.TrimRight(line, " \n")
		if line == "" || line[0] == ' ' {
			if column > 0 {
				b.WriteByte('\n')
			}
			b.WriteString(line + "\n")
			column = 0
			continue
		}
		for word := range strings.FieldsSeq(line) {
			n := utf8.RuneCountInString(word)
			switch {
			case column > 0 && column+1+n > helpWidth:
				b.WriteByte('\n')
				column = 0
			case column > 0:
				b.WriteByte(' ')
				column++
			}
			b.WriteString(word)
			column += n
		}
	}
	return strings.TrimRight(b.String(), "\n")
}

// listFlags returns the names of flags, in lines of less than 80 columns.
func listFlags(flags *pflag.FlagSet) string {
	var b strings.Builder
	column := helpWidth
	flags.VisitAll(func(f *pflag.Flag) {
		if f.Hidden {
			return
		}
		name := "--" + f.Name
		if f.Shorthand != "" {
			name = "-" + f.Shorthand + ", " + name
		}
		if column += len(name) + 2; column > helpWidth-2 {
			if b.Len() > 0 {
				b.WriteByte('\n')
			}
			column = len(name)
		}
		b.WriteString("  " + name)
	})
	return b.String()
}

// exitAnnotation annotates a command with further meanings of its exit statuses.
const exitAnnotation = "exit"

// exitStatuses describes every exit status.
const exitStatuses = `  0 done   1 failed   2 usage   3 gap: history is missing or differs
  4 not allowed   5 server unreachable
  129 hung up   130 interrupted   143 terminated
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
