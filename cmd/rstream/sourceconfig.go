package main

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/spf13/cobra"
	"go.yaml.in/yaml/v3"

	"github.com/rstream-dev/rstream/cache"
	"github.com/rstream-dev/rstream/client"
	"github.com/rstream-dev/rstream/internal/source"
	"github.com/rstream-dev/rstream/internal/wire"
)

// A namedSource is a source that has a name in the config file.
type namedSource struct {
	name, url string
	flags     sourceFlags

	credentials credentials
}

func (s *namedSource) nameOrEmpty() string {
	if s == nil {
		return ""
	}
	return s.name
}

// settings returns the settings of f and their names, in the order of a file.
func (f *sourceFlags) settings() (names []string, values []*string) {
	return []string{"kind", "cursor", "id", "resume", "end", "user", "path", "key", "value", "where", "into", "since", "max-bytes"},
		[]*string{&f.kind, &f.cursor, &f.id, &f.resume, &f.end, &f.user, &f.path, &f.key, &f.value, &f.where, &f.into, &f.since, &f.maxBytes}
}

// parseSources reads the list of named sources.
func parseSources(node *yaml.Node) (sources []namedSource, err error) {
	list := aliasTarget(node)
	if list.Kind != yaml.SequenceNode {
		return nil, fmt.Errorf("line %d: sources: want a list of name and url", node.Line)
	}
	for _, item := range list.Content {
		var s namedSource
		if err := eachKey(item, s.parseSetting); err != nil {
			return nil, err
		}
		if s.name == "" || s.url == "" {
			return nil, fmt.Errorf("line %d: sources: want a name and a url", item.Line)
		}
		if slices.ContainsFunc(sources, func(other namedSource) bool { return other.name == s.name }) {
			return nil, fmt.Errorf("line %d: sources: %q is named twice", item.Line, s.name)
		}
		sources = append(sources, s)
	}
	return sources, nil
}

// parseSetting reads a setting of a named source.
func (s *namedSource) parseSetting(key string, value *yaml.Node) (err error) {
	names, values := s.flags.settings()
	switch i := slices.Index(names, key); {
	case key == "name":
		s.name, err = scalarValue(value)
	case key == "url":
		s.url, err = scalarValue(value)
	case i >= 0:
		*values[i], err = scalarValue(value)
	default:
		err = s.credentials.parseCredential("sources", key, value)
	}
	return err
}

// node returns s as it is written in a file.
func (s *namedSource) node() *yaml.Node {
	node := &yaml.Node{Kind: yaml.MappingNode, Content: []*yaml.Node{textNode("name"), textNode(s.name), textNode("url"), textNode(s.url)}}
	names, values := s.flags.settings()
	for i, name := range names {
		if *values[i] != "" {
			node.Content = append(node.Content, textNode(name), textNode(*values[i]))
		}
	}
	node.Content = append(node.Content, s.credentials.nodes()...)
	return node
}

// namedSources is the list of named sources.
var namedSources = &namedList[namedSource]{
	one: "source", setting: "sources",
	entries: func(file *configFile) []namedSource { return file.sources },
	nameOf:  func(s *namedSource) string { return s.name },
	header:  "NAME            KIND       URL",
	print:   (*output).printSource,
	check:   func(list *yaml.Node) error { _, err := parseSources(list); return err },
}

// printSource prints a named source, without the secrets of its URL.
func (o *output) printSource(s *namedSource) error {
	u, err := source.ParseURL(s.url)
	if err != nil {
		return usagef("source %s: %w", s.name, err)
	}
	kind, err := s.flags.kindOf(u)
	if err != nil {
		return usagef("source %s: %w", s.name, err)
	}
	if !o.isForPerson() {
		return o.writeJSON(struct {
			Type string `json:"type"`
			Name string `json:"name"`
			URL  string `json:"url"`
			Kind string `json:"kind"`
		}{"source", s.name, source.ShownURL(s.url), kind.Name})
	}
	return o.printf("%-14s  %-9s  %s\n", visible(s.name), kind.Name, visible(source.ShownURL(s.url)))
}

func newSourceAddCommand(a *app) *cobra.Command {
	var flags sourceFlags
	cmd := &cobra.Command{
		Use:   "add NAME URL",
		Short: "Give a source a name",
		Long: `Add a named source to the user's config file, which is created if it does not exist.
--server then takes the name. The flags say how the stream is read and what becomes of
its events; "rstream source try" shows it. Without --kind, a server of which the URL says
nothing is asked once whether it is rstream's. --token-file, --ca and the other flags
for credentials become settings of the source. Comments in the file stay.`,
		Example: `  rstream source add wiki https://stream.wikimedia.org/v2/stream/recentchange
  rstream source add chat https://a.example/sse --path .room --where '.bot|not'`,
		Args:              argCount(2, 2, "a NAME and the URL of a stream"),
		PersistentPreRunE: checkUnconfigured, // the setting "server" may already have the name
		RunE: func(cmd *cobra.Command, args []string) error {
			return a.runSourceAdd(cmd.Context(), namedSource{name: args[0], url: args[1], flags: flags})
		},
	}
	cmd.Flags().SortFlags = false
	flags.addSourceFlags(cmd)
	cmd.Flags().StringVar(&flags.maxBytes, "max-bytes", "", "drop the oldest events while the file is larger than `SIZE`, such as 10GB; keep the state (default 1GiB)")
	forLineOnly(cmd.Flags(), "max-bytes")
	return cmd
}

func (a *app) runSourceAdd(ctx context.Context, s namedSource) error {
	if !isWord(s.name) || strings.HasPrefix(s.name, ".") {
		return usagef("name %q: want a word without : and /, which does not begin with a dot", s.name)
	}
	if strings.ContainsAny(s.name, ",\"") { // --source takes a list
		return usagef("name %q: want a word without commas and quotes", s.name)
	}
	u, err := source.ParseURL(s.url)
	if err != nil {
		return usagef("URL: %w", err)
	}
	kind, err := s.flags.kindOf(u)
	if err != nil {
		return err
	}
	b := &app{source: &chosenSource{url: s.url}, stranger: true, settings: &settings{}}
	if s.credentials, err = a.storedCredentials(b); err != nil {
		return err
	}
	if s.flags == (sourceFlags{maxBytes: s.flags.maxBytes}) && kind.IsGuess() && isRstreamSource(ctx, s.url, b.tls) {
		s.flags.kind = rstreamKind
	}
	if _, err := source.NewMapper(s.name, kind.Mapping); err != nil {
		return usagef("--%w", err)
	}
	if s.flags.kind == rstreamKind && kind.Mapping != (source.Mapping{}) {
		return usagef("events of an rstream server are not mapped: want no expressions")
	}
	if _, err := s.flags.maxFileBytes(); err != nil {
		return err
	}
	if s.flags.since != "" { // an age would be another time at each start
		t, err := momentTime(s.flags.since)
		if err != nil {
			return usagef("--since: %w", err)
		}
		s.flags.since = t.UTC().Format(time.RFC3339Nano)
	}
	err = namedSources.add(a, s.name, s.node(), func(top *yaml.Node) error {
		if namedServers.has(top, s.name) {
			return &exitError{exitFailed, "server " + s.name + " exists already, and --server would take it", "choose another name"}
		}
		return nil
	})
	if err != nil {
		return err
	}
	a.recordDone("the source was added")
	return a.out.printSource(&s)
}

// rstreamKind is the kind of servers of rstream's.
const rstreamKind = "rstream"

// isRstreamSource asks the server at the URL of a source, without a token, whether it is one of
// rstream's. One that does not answer is not.
func isRstreamSource(ctx context.Context, address string, secure *tls.Config) bool {
	server, err := source.ServerURL(address)
	if err != nil {
		return false
	}
	ctx, cancel := context.WithTimeout(ctx, probeTime)
	defer cancel()
	return client.Ready(ctx, client.Config{Servers: []string{server}, TLS: secure}) == nil
}

func newSourceResetCommand(a *app) *cobra.Command {
	return &cobra.Command{
		Use:   "reset NAME|URL",
		Short: "Forget the cursor of a source",
		Long: `Forget the cursor of a source, and with which mapping its events were stored: the next
tail or sync begins as if it were the first. The events in the source's file stay. An
event that the server sends again is stored once more only if it has become another one.`,
		Example: `  rstream source reset wiki`,
		Args:    argCount(1, 1, "the NAME or the URL of a source"),

		ValidArgsFunction: namedSources.completeFirst(a),
		Annotations: map[string]string{
			silentAnnotation: silentAlways,
		},
		RunE: func(cmd *cobra.Command, args []string) (err error) {
			if err := a.chooseArgument(cmd, args[0]); err != nil {
				return err
			}
			if err := mustExist(a.source.path, "nothing of the source was stored yet"); err != nil {
				return err
			}
			db, err := a.openDB(cmd.Context(), a.source.path, cache.Config{Role: cache.Server})
			if err != nil {
				return err
			}
			defer func() { err = errors.Join(err, db.Close()) }()
			state, err := db.SourceState(cmd.Context(), a.source.name)
			if err != nil {
				return err
			}
			if state, err = source.ResetState(state); err != nil {
				return err
			}
			return db.ResetSource(cmd.Context(), a.source.name, state)
		},
	}
}

// chooseArgument is chooseSource for an argument that is a name or a URL.
func (a *app) chooseArgument(cmd *cobra.Command, arg string) error {
	if strings.Contains(arg, "://") {
		return a.chooseSource(cmd, arg, nil)
	}
	if a.settings.file != nil {
		for i := range a.settings.file.sources {
			if a.settings.file.sources[i].name == arg {
				return a.chooseSource(cmd, "", &a.settings.file.sources[i])
			}
		}
	}
	return usagef("source %q: is neither a URL nor the name of a source in the config file", wire.RedactURL(arg))
}
