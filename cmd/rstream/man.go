package main

import (
	"bytes"
	"os"
	"path/filepath"
	"strings"

	"github.com/spf13/cobra"
	"github.com/spf13/cobra/doc"
)

type manOptions struct{ dir string }

func newManCommand(a *app) *cobra.Command {
	var o manOptions
	cmd := &cobra.Command{
		Use:     "man [COMMAND]",
		GroupID: groupTools,
		Short:   "Print the manual page of a command",
		Long: `Print the manual page of the program or of a command, or write the pages of all commands
into a directory. SOURCE_DATE_EPOCH sets their date.`,
		Example: `  rstream man tail | man -l -
  rstream man --dir ~/.local/share/man/man1`,
		// A broken config file must not keep anyone from reading this.
		PersistentPreRunE: unconfigured,
		ValidArgsFunction: completeCommands,
		RunE: func(cmd *cobra.Command, args []string) error {
			about, rest, err := cmd.Root().Find(args)
			if err != nil || len(rest) > 0 {
				return knownCommand(cmd.Root(), args)
			}
			if o.dir == "" {
				return printManual(a.out, about)
			}
			if len(args) > 0 {
				return usagef("--dir writes the pages of all commands and cannot be combined with a command")
			}
			return writeManuals(o.dir, about)
		},
	}
	cmd.Flags().StringVar(&o.dir, "dir", "", "write the pages of all commands into `DIR`")
	return cmd
}

func printManual(out *output, about *cobra.Command) error {
	page, err := manual(about)
	if err != nil {
		return err
	}
	return out.printf("%s", page)
}

// writeManuals writes the manual pages of a command and of all its subcommands.
func writeManuals(dir string, about *cobra.Command) error {
	if err := os.MkdirAll(dir, 0o755); err != nil {
		return err
	}
	page, err := manual(about)
	if err != nil {
		return err
	}
	name := strings.ReplaceAll(about.CommandPath(), " ", "-") + ".1"
	if err := os.WriteFile(filepath.Join(dir, name), page, 0o644); err != nil {
		return err
	}
	for _, c := range about.Commands() {
		if c.IsAvailableCommand() {
			if err := writeManuals(dir, c); err != nil {
				return err
			}
		}
	}
	return nil
}

// manual returns the manual page of a command in roff.
func manual(about *cobra.Command) ([]byte, error) {
	about.InitDefaultHelpFlag()
	about.InitDefaultVersionFlag()
	page := *about
	page.Long = literalColumns(page.Long)
	page.DisableAutoGenTag = true
	var b bytes.Buffer
	err := doc.GenMan(&page, &doc.GenManHeader{Section: "1", Source: "rstream " + version(), Manual: "rstream"}, &b)
	if err != nil {
		return nil, err
	}
	b.WriteString(manualEnd)
	if more := about.Annotations[exitAnnotation]; more != "" {
		b.WriteString("  " + more + "\n")
	}
	b.WriteString(".fi\n")
	return b.Bytes(), nil
}

const manualEnd = `
.SH EXIT STATUS
.nf
` + exitStatuses

// literalColumns marks the indented lines of a help text as not to be filled.
func literalColumns(text string) string {
	var b strings.Builder
	within := false
	for line := range strings.Lines(text) {
		indented := strings.HasPrefix(line, "  ")
		if indented != within {
			b.WriteByte('\n')
		}
		if within = indented; within {
			b.WriteString("    ")
		}
		b.WriteString(line)
	}
	return b.String()
}
