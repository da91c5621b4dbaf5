package main

import (
	"bytes"
	"cmp"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/spf13/cobra"
	"github.com/spf13/pflag"
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
		PersistentPreRunE: checkUnconfigured,
		ValidArgsFunction: completeCommands,
		RunE: func(cmd *cobra.Command, args []string) error {
			about, rest, err := cmd.Root().Find(args)
			if err != nil {
				return knownCommand(cmd.Root(), args)
			}
			if len(rest) > 0 {
				return knownCommand(about, rest)
			}
			if o.dir == "" {
				return printManual(a.out, about)
			}
			if len(args) > 0 {
				return usagef("--dir cannot be combined with a command")
			}
			return writeManuals(o.dir, about)
		},
	}
	cmd.Flags().StringVar(&o.dir, "dir", "", "write the pages of all commands into `DIR`")
	return cmd
}

func printManual(out *output, about *cobra.Command) error {
	page, err := renderManual(about)
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
	page, err := renderManual(about)
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

// renderManual returns the manual page of a command in roff.
func renderManual(about *cobra.Command) ([]byte, error) {
	about.InitDefaultHelpCmd()
	about.InitDefaultHelpFlag()
	about.InitDefaultVersionFlag()
	date, err := manualDate()
	if err != nil {
		return nil, err
	}
	var p manualPage
	fmt.Fprintf(&p, ".nh\n.TH %q \"1\" %q %q \"rstream\"", strings.ToUpper(manualName(about)), date.Format("Jan 2006"), "rstream "+programVersion())
	p.addSection("NAME", roffLines(manualName(about)+" - "+about.Short)+"\n")
	p.addSection("SYNOPSIS", bold(about.UseLine())+"\n")
	p.addSection("DESCRIPTION", roffText(cmp.Or(about.Long, about.Short)))
	p.addFlagSection("OPTIONS", about.NonInheritedFlags())
	p.addFlagSection("OPTIONS INHERITED FROM PARENT COMMANDS", about.InheritedFlags())
	if about.Example != "" {
		p.addSection("EXAMPLE", roffColumns(about.Example))
	}
	p.addSection("SEE ALSO", strings.Join(seeAlso(about), ", ")+"\n")
	p.WriteString("\n.SH EXIT STATUS\n.nf\n" + exitStatuses)
	if more := about.Annotations[exitAnnotation]; more != "" {
		p.WriteString("  " + more + "\n")
	}
	p.WriteString(".fi\n")
	return p.Bytes(), nil
}

// manualDate returns the date of manual pages.
func manualDate() (time.Time, error) {
	text := os.Getenv("SOURCE_DATE_EPOCH")
	if text == "" {
		return time.Now(), nil
	}
	seconds, err := strconv.ParseInt(text, 10, 64)
	date := time.Unix(seconds, 0)
	if err != nil || seconds < 0 || date.Year() > 9999 {
		return time.Time{}, fmt.Errorf("SOURCE_DATE_EPOCH %.40q: want seconds since 1970", text)
	}
	return date, nil
}

func manualName(about *cobra.Command) string {
	return strings.ReplaceAll(about.CommandPath(), " ", "-")
}

// seeAlso returns the pages of a command's parent and subcommands, in alphabetical order.
func seeAlso(about *cobra.Command) (pages []string) {
	for _, c := range about.Commands() {
		if c.IsAvailableCommand() {
			pages = append(pages, bold(manualName(c)+"(1)"))
		}
	}
	slices.Sort(pages)
	if about.HasParent() {
		pages = slices.Insert(pages, 0, bold(manualName(about.Parent())+"(1)"))
	}
	return pages
}

// A manualPage is a page while it is written. Cobra has a generator of its own, which
// parses Markdown; its tables would make every start of the program slower.
type manualPage struct{ bytes.Buffer }

func (p *manualPage) addSection(title, text string) {
	p.WriteString("\n\n.SH " + title + "\n" + text)
}

func (p *manualPage) addFlagSection(title string, flags *pflag.FlagSet) {
	if !flags.HasAvailableFlags() {
		return
	}
	var texts []string
	flags.VisitAll(func(f *pflag.Flag) {
		if f.Hidden || f.Deprecated != "" {
			return
		}
		name, value := bold("--"+f.Name), f.DefValue
		if f.Shorthand != "" {
			name = bold("-"+f.Shorthand) + ", " + name
		}
		if f.Value.Type() == "string" {
			value = strconv.Quote(value)
		}
		switch {
		case f.Value.Type() == "bool":
			value = ""
		case f.NoOptDefVal != "":
			value = "[=" + value + "]"
		default:
			value = "=" + value
		}
		texts = append(texts, name+roffLines(value)+"\n\t"+roffUsage(f.Usage)+"\n")
	})
	p.addSection(title, strings.Join(texts, "\n.PP\n"))
}

func bold(text string) string { return `\fB` + roffLines(text) + `\fP` }

// roffUsage formats the usage of a flag, in which backquotes enclose the name of the value.
func roffUsage(text string) string {
	parts := strings.Split(roffLines(text), "`")
	for i := 1; i < len(parts)-1; i += 2 {
		parts[i] = `\fB` + parts[i] + `\fR`
	}
	return strings.Join(parts, "")
}

// roffText formats a help text. Its indented lines are not filled, and lines with #### are
// headings, as in the texts of completion, which are cobra's.
func roffText(text string) string {
	var blocks []string
	for _, block := range textBlocks(text) {
		heading, isHeading := strings.CutPrefix(block, "#### ")
		switch {
		case isIndented(block):
			blocks = append(blocks, roffColumns(strings.ReplaceAll(block, "\t", "")))
		case isHeading:
			blocks = append(blocks, ".SS "+roffLines(heading))
		case len(blocks) == 0 || strings.HasPrefix(blocks[len(blocks)-1], ".SS"):
			blocks = append(blocks, roffLines(block))
		default:
			blocks = append(blocks, ".PP\n"+roffLines(block))
		}
	}
	return strings.Join(blocks, "\n")
}

// textBlocks splits a text into blocks of lines that are all indented or all not. Empty
// lines end a block, too.
func textBlocks(text string) (blocks []string) {
	within := false
	for line := range strings.Lines(text + "\n") {
		switch {
		case line == "\n":
			within = false
		case within && isIndented(line) == isIndented(blocks[len(blocks)-1]):
			blocks[len(blocks)-1] += line
		default:
			blocks, within = append(blocks, line), true
		}
	}
	return blocks
}

func isIndented(line string) bool {
	return strings.HasPrefix(line, "  ") || strings.HasPrefix(line, "\t")
}

// roffColumns formats lines that are not to be filled.
func roffColumns(text string) string {
	return ".EX\n" + roffLines(strings.TrimSuffix(text, "\n")) + "\n.EE\n"
}

// roffLines escapes text that roff would take for its own.
func roffLines(text string) string {
	lines := strings.Split(strings.ReplaceAll(text, `\`, `\\`), "\n")
	for i, line := range lines {
		if strings.HasPrefix(line, ".") || strings.HasPrefix(line, "'") {
			lines[i] = `\&` + line
		}
	}
	return strings.Join(lines, "\n")
}
