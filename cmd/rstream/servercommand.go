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
		RunE:                  func(*cobra.Command, []string) error { return namedServers.runList(a) },
	}
	cmd.AddCommand(namedServers.newListCommand(a), newServerAddCommand(a), namedServers.newRmCommand(a,
		`Remove named servers from the user's config file, all or none. Comments in the file
stay.`, `  rstream server rm home`))
	return cmd
}

// namedServers is the list of named servers.
var namedServers = &namedList[namedServer]{
	one: "server", setting: "servers",
	entries: func(file *configFile) []namedServer { return file.servers },
	nameOf:  func(s *namedServer) string { return s.name },
	header:  "NAME            URL",
	print:   (*output).printServer,
	check:   func(list *yaml.Node) error { _, err := parseServers(list); return err },
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
exist. Several URLs are those of servers of the same log. --token-file, --ca and the
other flags for credentials become settings of the server. Comments in the file stay.`,
		Example: `  rstream server add home https://stream.example.com
  rstream server add log https://log.example.com --token-file bob.token
  rstream server add both https://one.example.com https://two.example.com`,
		Args:              argCount(2, math.MaxInt, "a NAME and the URL of a server"),
		PersistentPreRunE: checkUnconfigured, // the setting "server" may already have the name
		RunE: func(_ *cobra.Command, args []string) error {
			return a.runServerAdd(namedServer{name: args[0], urls: args[1:]})
		},
	}
}

func (a *app) runServerAdd(s namedServer) error {
	if !isWord(s.name) {
		return usagef("name %q: want a word without : and /", s.name)
	}
	b := &app{servers: slices.Clone(s.urls), settings: &settings{}}
	err := b.nameServers()
	if err != nil {
		return err
	}
	s.urls = b.servers
	if s.credentials, err = a.storedCredentials(b); err != nil {
		return err
	}
	err = namedServers.add(a, s.name, s.node(), func(top *yaml.Node) error {
		if namedSources.has(top, s.name) {
			return &exitError{exitFailed, "source " + s.name + " exists already, and --server would no longer find it", "choose another name"}
		}
		return nil
	})
	if err != nil {
		return err
	}
	a.recordDone("the server was added")
	return a.out.printServer(&s)
}

// node returns s as it is written in a file.
func (s *namedServer) node() *yaml.Node {
	urls := textNode(s.urls[0])
	if len(s.urls) > 1 {
		urls = &yaml.Node{Kind: yaml.SequenceNode}
		for _, url := range s.urls {
			urls.Content = append(urls.Content, textNode(url))
		}
	}
	return &yaml.Node{Kind: yaml.MappingNode, Content: append([]*yaml.Node{textNode("name"), textNode(s.name), textNode("url"), urls}, s.credentials.nodes()...)}
}

// errNoMapping means that a config file is not one.
var errNoMapping = errors.New("want lines such as \"name: value\"")
