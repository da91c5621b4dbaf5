package main

import (
	"errors"
	"math"
	"slices"
	"strings"

	"github.com/spf13/cobra"
	"go.yaml.in/yaml/v3"

	"github.com/rstream-dev/rstream/internal/wire"
)

func newServerCommand(a *app) *cobra.Command {
	cmd := &cobra.Command{
		Use:     "server [COMMAND]",
		GroupID: groupTools,
		Short:   "List, add and remove named servers",
		Long: `List the servers that have a name in the config files, or give one a name: then
--server takes the name in place of the URL.`,
		Example: `  rstream server add home https://stream.example.com
  rstream tail alice -s home`,
		Args:                  knownCommand,
		DisableFlagsInUseLine: true,
		RunE:                  func(*cobra.Command, []string) error { return a.runServerList() },
	}
	cmd.AddCommand(newServerListCommand(a), newServerAddCommand(a), newServerRmCommand(a))
	return cmd
}

func newServerListCommand(a *app) *cobra.Command {
	return &cobra.Command{
		Use:     "list",
		Short:   "List named servers",
		Example: `  rstream server list -o json | jq -r .name`,
		Args:    noArgs,
		RunE:    func(*cobra.Command, []string) error { return a.runServerList() },
	}
}

func (a *app) runServerList() error {
	if a.settings.file == nil || len(a.settings.file.servers) == 0 {
		if a.out.isForPerson() {
			return a.out.printf(nothingYet)
		}
		return nil
	}
	for i := range a.settings.file.servers {
		if err := a.out.printServer(&a.settings.file.servers[i]); err != nil {
			return err
		}
	}
	return nil
}

// printServer prints a named server, without the secrets of its URLs.
func (o *output) printServer(s *namedServer) error {
	urls := []string{}
	for _, url := range s.urls {
		urls = append(urls, wire.RedactURL(url))
	}
	if !o.isForPerson() {
		return o.writeJSON(struct {
			Type string   `json:"type"`
			Name string   `json:"name"`
			URLs []string `json:"urls"`
		}{"server", s.name, urls})
	}
	return o.printf("%-14s  %s\n", visible(s.name), visible(strings.Join(urls, " ")))
}

func newServerAddCommand(a *app) *cobra.Command {
	return &cobra.Command{
		Use:   "add NAME URL...",
		Short: "Give a server a name",
		Long: `Add a named server to the user's config file, which is created if it does not
exist. Several URLs are those of servers of the same log. Comments in the file stay.`,
		Example: `  rstream server add home https://stream.example.com
  rstream server add both https://one.example.com https://two.example.com`,
		Args:              argCount(2, math.MaxInt, "a NAME and the URL of a server"),
		PersistentPreRunE: checkUnconfigured, // the setting "server" may already have the name
		RunE: func(_ *cobra.Command, args []string) error {
			return a.runServerAdd(namedServer{name: args[0], urls: args[1:]})
		},
	}
}

func (a *app) runServerAdd(s namedServer) error {
	if s.name == "" || strings.ContainsAny(s.name, "/:") || strings.TrimSpace(s.name) != s.name {
		return usagef("name %q: want a word without : and /", s.name)
	}
	b := &app{servers: slices.Clone(s.urls), settings: &settings{}}
	if err := b.nameServers(); err != nil {
		return err
	}
	s.urls = b.servers
	err := editServers(configPaths(a.config)[0], func(servers *yaml.Node) error {
		if indexOfServer(servers, s.name) >= 0 {
			return &exitError{exitFailed, "server " + s.name + " exists already", "\"rstream server rm " + shellWord(s.name) + "\" removes it"}
		}
		servers.Content = append(servers.Content, s.node())
		return nil
	})
	if err != nil {
		return err
	}
	return a.out.printServer(&s)
}

// node returns s as it is written in a file.
func (s *namedServer) node() *yaml.Node {
	text := func(value string) *yaml.Node {
		n := &yaml.Node{}
		n.SetString(value)
		return n
	}
	urls := text(s.urls[0])
	if len(s.urls) > 1 {
		urls = &yaml.Node{Kind: yaml.SequenceNode}
		for _, url := range s.urls {
			urls.Content = append(urls.Content, text(url))
		}
	}
	return &yaml.Node{Kind: yaml.MappingNode, Content: []*yaml.Node{text("name"), text(s.name), text("url"), urls}}
}

func newServerRmCommand(a *app) *cobra.Command {
	return &cobra.Command{
		Use:               "rm NAME...",
		Short:             "Remove named servers",
		Long:              `Remove named servers from the user's config file, all or none.`,
		Example:           `  rstream server rm home`,
		ValidArgsFunction: a.completeServers,
		Args:              argCount(1, math.MaxInt, "the NAME of a server"),
		PersistentPreRunE: checkUnconfigured,
		RunE: func(_ *cobra.Command, args []string) error {
			path := configPaths(a.config)[0]
			return editServers(path, func(servers *yaml.Node) error {
				for _, name := range args {
					i := indexOfServer(servers, name)
					if i < 0 {
						return &exitError{exitFailed, path + " has no server " + name, "\"rstream server\" lists those of all config files"}
					}
					servers.Content = slices.Delete(servers.Content, i, i+1)
				}
				return nil
			})
		},
	}
}

// indexOfServer returns the index of a server in the list of a file, -1 if it is not there.
func indexOfServer(servers *yaml.Node, name string) int {
	return slices.IndexFunc(servers.Content, func(item *yaml.Node) bool {
		item = aliasTarget(item)
		for i := 0; i+1 < len(item.Content); i += 2 {
			if item.Content[i].Value == "name" && item.Content[i+1].Value == name {
				return true
			}
		}
		return false
	})
}

// errNoMapping means that a config file is not one.
var errNoMapping = errors.New("want lines such as \"name: value\"")
