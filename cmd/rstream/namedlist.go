package main

import (
	"math"
	"slices"
	"strings"

	"github.com/spf13/cobra"
	"go.yaml.in/yaml/v3"
)

// A namedList is a list of a config file whose entries have names: servers, or sources.
type namedList[T any] struct {
	one     string                      // "server"
	setting string                      // "servers"
	entries func(*configFile) []T       // those of all config files
	nameOf  func(*T) string             // its name
	header  string                      // of the columns of print
	print   func(*output, *T) error     // without secrets
	check   func(list *yaml.Node) error // reports a mistake in a list
}

// newListCommand returns the command that lists the entries.
func (l *namedList[T]) newListCommand(a *app) *cobra.Command {
	return &cobra.Command{
		Use:     "list",
		Short:   "List named " + l.setting,
		Example: "  rstream " + l.one + " list -o json | jq -r .name",
		Args:    noArgs,
		RunE:    func(*cobra.Command, []string) error { return l.runList(a) },
	}
}

func (l *namedList[T]) runList(a *app) error {
	if a.settings.file == nil || len(l.entries(a.settings.file)) == 0 {
		if a.out.isForPerson() {
			return a.out.printf(nothingYet)
		}
		return nil
	}
	if a.out.isForPerson() {
		if err := a.out.printf("%s\n", l.header); err != nil {
			return err
		}
	}
	for _, entry := range l.entries(a.settings.file) {
		if err := l.print(a.out, &entry); err != nil {
			return err
		}
	}
	return nil
}

// newRmCommand returns the command that removes entries from the user's file.
func (l *namedList[T]) newRmCommand(a *app, long, example string) *cobra.Command {
	return &cobra.Command{
		Use:               "rm NAME...",
		Short:             "Remove named " + l.setting,
		Long:              long,
		Example:           example,
		ValidArgsFunction: l.completeNames(a),
		Args:              argCount(1, math.MaxInt, "the NAME of a "+l.one),
		PersistentPreRunE: checkUnconfigured,
		RunE: func(_ *cobra.Command, args []string) error {
			path := configPaths(a.config)[0]
			return l.edit(path, func(list, _ *yaml.Node) error {
				for _, name := range distinct(args) {
					i := indexOfEntry(list, name)
					if i < 0 {
						return &exitError{exitFailed, path + " has no " + l.one + " " + name, "\"rstream " + l.one + "\" lists those of all config files"}
					}
					list.Content = slices.Delete(list.Content, i, i+1)
				}
				return nil
			})
		},
	}
}

// completeNames completes the names of entries that are not yet in the command line.
func (l *namedList[T]) completeNames(a *app) cobra.CompletionFunc {
	return func(cmd *cobra.Command, args []string, _ string) ([]cobra.Completion, cobra.ShellCompDirective) {
		names := l.names(a, cmd)
		return slices.DeleteFunc(names, func(name string) bool { return slices.Contains(args, name) }), cobra.ShellCompDirectiveNoFileComp
	}
}

// completeFirst completes the first argument.
func (l *namedList[T]) completeFirst(a *app) cobra.CompletionFunc {
	return func(cmd *cobra.Command, args []string, _ string) (names []cobra.Completion, _ cobra.ShellCompDirective) {
		if len(args) == 0 {
			names = l.names(a, cmd)
		}
		return names, cobra.ShellCompDirectiveNoFileComp
	}
}

// names returns the names of the entries of all config files, for a shell.
func (l *namedList[T]) names(a *app, cmd *cobra.Command) (names []string) {
	a.servers = nil // the word being completed is not a name yet
	if a.configure(cmd, nil) != nil || a.settings.file == nil {
		return nil
	}
	for _, entry := range l.entries(a.settings.file) {
		names = append(names, l.nameOf(&entry))
	}
	return names
}

// add adds an entry to the user's file. mayAdd returns an error if it may not be added to a
// file, which is nil if there is nothing in it.
func (l *namedList[T]) add(a *app, name string, entry *yaml.Node, mayAdd func(top *yaml.Node) error) error {
	return l.edit(configPaths(a.config)[0], func(list, top *yaml.Node) error {
		if indexOfEntry(list, name) >= 0 {
			return &exitError{exitFailed, l.one + " " + name + " exists already", "\"rstream " + l.one + " rm " + shellWord(name) + "\" removes it"}
		}
		if err := mayAdd(top); err != nil {
			return err
		}
		list.Content = append(list.Content, entry)
		return nil
	})
}

// has reports whether a file, whose top level is top, has an entry of a name.
func (l *namedList[T]) has(top *yaml.Node, name string) bool {
	_, list := listIn(top, l.setting)
	return list != nil && indexOfEntry(list, name) >= 0
}

// isWord reports whether a name cannot be taken for a URL or a topic.
func isWord(name string) bool {
	return name != "" && !strings.ContainsAny(name, "/:") && strings.TrimSpace(name) == name
}

// indexOfEntry returns the index of the entry of a name in a list, -1 if it is not there.
func indexOfEntry(list *yaml.Node, name string) int {
	return slices.IndexFunc(list.Content, func(item *yaml.Node) bool {
		item = aliasTarget(item)
		for i := 0; i+1 < len(item.Content); i += 2 {
			if item.Content[i].Value == "name" && item.Content[i+1].Value == name {
				return true
			}
		}
		return false
	})
}

// textNode returns a text as it is written in a file.
func textNode(text string) *yaml.Node {
	n := &yaml.Node{}
	n.SetString(text)
	return n
}
