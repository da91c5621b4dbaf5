package main

import (
	"bytes"
	"cmp"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"syscall"

	"github.com/spf13/cobra"
	"github.com/spf13/pflag"
	"github.com/spf13/viper"
	"go.yaml.in/yaml/v3"

	"github.com/rstream-dev/rstream/internal/wire"
)

// A configFile holds the settings of a config file, or of several. Scalars keep their text:
// YAML would turn 0123 and 14:05 into numbers and drop zeros of an id.
type configFile struct {
	paths   []string            // those that exist
	secrets []string            // those of paths that have a secret
	values  map[string][]string // of each setting
	places  map[string]string   // the file and the line of each setting
	servers []namedServer
	sources []namedSource
}

// A namedServer names the servers of one log.
type namedServer struct {
	name string
	urls []string

	credentials credentials
}

// placeOf returns the file and line of a setting.
func (c *configFile) placeOf(setting string) string { return c.places[setting] }

// systemConfig is the config file for all users of a machine.
const systemConfig = "/etc/rstream/config.yaml"

// configPaths returns the config files, of which an earlier one overrides a later one. One
// that is named stands alone.
func configPaths(named string) []string {
	if named = cmp.Or(named, os.Getenv(envName("config"))); named != "" {
		return []string{named}
	}
	paths := []string{filepath.Join(configDir(), "rstream", "config.yaml")}
	for _, dir := range filepath.SplitList(os.Getenv("XDG_CONFIG_DIRS")) {
		if filepath.IsAbs(dir) {
			paths = append(paths, filepath.Join(dir, "rstream", "config.yaml"))
		}
	}
	return append(paths, systemConfig)
}

// readConfig reads the config files into v. A file named by the user must exist; the
// default ones need not.
func (s *settings) readConfig(named string, v *viper.Viper, root *cobra.Command) error {
	s.names = flagNames(root)
	slices.Sort(s.names)
	s.names = slices.Compact(s.names)
	paths := configPaths(named)
	values := map[string]any{}
	for i, path := range slices.Backward(paths) {
		file, err := readConfigFile(path, s.names)
		switch {
		case i > 0 && errors.Is(err, fs.ErrPermission):
			continue // the settings of a server are not for all users
		case err != nil:
			return err
		case file == nil && len(paths) == 1:
			return noConfigError(path)
		}
		s.file = file.over(s.file)
	}
	if s.file != nil {
		for name, list := range s.file.values {
			values[name] = list
		}
	}
	return v.MergeConfigMap(values)
}

// readConfigFile reads one file, nil if it does not exist. known are the settings that there
// are.
func readConfigFile(path string, known []string) (*configFile, error) {
	b, err := os.ReadFile(path)
	if errors.Is(err, fs.ErrNotExist) || errors.Is(err, syscall.ENOTDIR) { // or a file has the name of its folder
		return nil, nil
	}
	if err != nil {
		return nil, usagef("read config: %w", err)
	}
	file := &configFile{paths: []string{path}, values: map[string][]string{}, places: map[string]string{}}
	if err := file.parseSettings(b, known); err != nil {
		return nil, usagef("read config %s: %w", path, err)
	}
	if file.hasSecret() {
		file.secrets = []string{path}
	}
	return file, nil
}

// hasSecret reports whether the settings have a header, which may be one, or a URL with a password.
// The names of files with secrets are none.
func (c *configFile) hasSecret() bool {
	urls, headers := []string{}, slices.Clone(c.values["header"])
	for _, values := range c.values {
		urls = append(urls, values...)
	}
	for _, s := range c.servers {
		urls, headers = append(urls, s.urls...), append(headers, s.credentials.headerArgs...)
	}
	for _, s := range c.sources {
		urls, headers = append(urls, s.url), append(headers, s.credentials.headerArgs...)
	}
	return slices.ContainsFunc(urls, func(text string) bool { return wire.Redact(text) != text }) ||
		slices.ContainsFunc(headers, func(arg string) bool { return !strings.HasPrefix(arg, "@") })
}

// noConfigError says that a file that was named does not exist.
func noConfigError(path string) error {
	return usagef("read config: open %s: no such file or directory", path)
}

// over returns the settings of both files, those of c where both have one. Either may be nil.
func (c *configFile) over(other *configFile) *configFile {
	if c == nil || other == nil {
		return cmp.Or(c, other)
	}
	c.paths, c.secrets = append(c.paths, other.paths...), append(c.secrets, other.secrets...)
	for name, values := range other.values {
		if c.values[name] == nil {
			c.values[name], c.places[name] = values, other.places[name]
		}
	}
	for _, s := range other.sources {
		if !slices.ContainsFunc(c.sources, func(own namedSource) bool { return own.name == s.name }) {
			c.sources = append(c.sources, s)
		}
	}
	for _, s := range other.servers {
		if !slices.ContainsFunc(c.servers, func(own namedServer) bool { return own.name == s.name }) {
			c.servers = append(c.servers, s)
		}
	}
	return c
}

// flagNames returns the names that a config file may set.
func flagNames(cmd *cobra.Command) (names []string) {
	for _, flags := range []*pflag.FlagSet{cmd.Flags(), cmd.PersistentFlags()} {
		flags.VisitAll(func(f *pflag.Flag) {
			if !isOwnFlag(f) {
				names = append(names, f.Name)
			}
		})
	}
	for _, c := range cmd.Commands() {
		names = append(names, flagNames(c)...)
	}
	return names
}

// parseSettings reads the settings in b.
func (c *configFile) parseSettings(b []byte, known []string) error {
	doc, err := parseDocument(b)
	top := topOf(doc)
	if err != nil || top == nil {
		return err
	}
	return eachKey(top, func(key string, value *yaml.Node) (err error) {
		switch {
		case key == "servers":
			c.servers, err = parseServers(value)
		case key == "sources":
			c.sources, err = parseSources(value)
		case !slices.Contains(known, key):
			err = fmt.Errorf("line %d: unknown setting %q", value.Line, key)
		default:
			c.places[key] = fmt.Sprintf("%s:%d", c.paths[0], value.Line)
			c.values[key], err = scalarValues(value)
		}
		return err
	})
}

// parseDocument returns the one document in b, nil if b has none.
func parseDocument(b []byte) (doc *yaml.Node, err error) {
	var second yaml.Node
	doc = &yaml.Node{}
	decoder := yaml.NewDecoder(bytes.NewReader(b))
	if err := decoder.Decode(doc); errors.Is(err, io.EOF) {
		return nil, nil
	} else if err != nil {
		return nil, plainYAML(err)
	}
	if err := decoder.Decode(&second); !errors.Is(err, io.EOF) {
		return nil, errors.New("has a second document; put all settings in one")
	}
	return doc, nil
}

// topOf returns the values of a document, nil if it only has comments.
func topOf(doc *yaml.Node) *yaml.Node {
	if doc == nil || doc.Content[0].Kind == yaml.ScalarNode && doc.Content[0].Tag == "!!null" {
		return nil
	}
	return doc.Content[0]
}

func plainYAML(err error) error {
	return errors.New(strings.TrimPrefix(err.Error(), "yaml: "))
}

// eachKey calls fn for each key of a mapping. A repeated key is an error.
func eachKey(node *yaml.Node, fn func(key string, value *yaml.Node) error) error {
	if node = aliasTarget(node); node.Kind != yaml.MappingNode {
		return fmt.Errorf("line %d: want lines such as \"name: value\"", node.Line)
	}
	seen := map[string]int{}
	for i := 0; i < len(node.Content); i += 2 {
		key, value := node.Content[i], node.Content[i+1]
		if first, doubled := seen[key.Value]; doubled {
			return fmt.Errorf("line %d: %q is already set in line %d", key.Line, key.Value, first)
		}
		seen[key.Value] = key.Line
		if err := fn(key.Value, value); err != nil {
			return err
		}
	}
	return nil
}

// aliasTarget returns the node that an alias refers to.
func aliasTarget(node *yaml.Node) *yaml.Node {
	if node.Kind == yaml.AliasNode {
		return node.Alias
	}
	return node
}

// scalarValues returns the value, or the list of values, of a node.
func scalarValues(node *yaml.Node) ([]string, error) {
	if list := aliasTarget(node); list.Kind == yaml.SequenceNode {
		var values []string
		for _, item := range list.Content {
			s, err := scalarValue(item)
			if err != nil {
				return nil, err
			}
			values = append(values, s)
		}
		return values, nil
	}
	s, err := scalarValue(node)
	return []string{s}, err
}

// scalarValue returns a value as written.
func scalarValue(node *yaml.Node) (string, error) {
	value := aliasTarget(node)
	switch {
	case value.Kind != yaml.ScalarNode:
		return "", fmt.Errorf("line %d: want a value or a list of values", node.Line)
	case value.Value == "":
		return "", fmt.Errorf("line %d: must not be empty", node.Line)
	case value.Tag == "!!null":
		return "", fmt.Errorf("line %d: %s means no value in YAML; quote it to use it as text", node.Line, value.Value)
	}
	return value.Value, nil
}

// parseCredential reads a setting of a named server or source, which is in a list.
func (c *credentials) parseCredential(list, key string, value *yaml.Node) (err error) {
	if key == "header" {
		return c.parseHeaderSetting(list, value)
	}
	for _, s := range c.settings() {
		if s.name == key {
			*s.value, err = scalarValue(value)
			return err
		}
	}
	return fmt.Errorf("line %d: %s: unknown setting %q", value.Line, list, key)
}

// A credentialSetting is a setting of a named server besides its headers.
type credentialSetting struct {
	name   string
	value  *string
	isFile bool
}

func (c *credentials) settings() []credentialSetting {
	return []credentialSetting{{"token-file", &c.tokenFile, true}, {"token-command", &c.tokenCommand, false},
		{"ca", &c.ca, true}, {"client-cert", &c.clientCert, true}, {"client-key", &c.clientKey, true}}
}

// makeAbsolute makes the names of files mean the same in every folder.
func (c *credentials) makeAbsolute() (err error) {
	for _, s := range c.settings() {
		if s.isFile && *s.value != "" && err == nil {
			*s.value, err = filepath.Abs(*s.value)
		}
	}
	for i, arg := range c.headerArgs {
		if path, isFile := strings.CutPrefix(arg, "@"); isFile && err == nil {
			path, err = filepath.Abs(path)
			c.headerArgs[i] = "@" + path
		}
	}
	return err
}

// nodes returns names and values as they are written in a file.
func (c *credentials) nodes() (nodes []*yaml.Node) {
	for _, s := range c.settings() {
		if *s.value != "" {
			nodes = append(nodes, textNode(s.name), textNode(*s.value))
		}
	}
	if len(c.headerArgs) == 0 {
		return nodes
	}
	list := &yaml.Node{Kind: yaml.SequenceNode}
	for _, arg := range c.headerArgs {
		list.Content = append(list.Content, textNode(arg))
	}
	return append(nodes, textNode("header"), list)
}

// parseHeaderSetting reads the headers of a named server or source.
func (c *credentials) parseHeaderSetting(list string, value *yaml.Node) error {
	values, err := scalarValues(value)
	if err != nil {
		return err
	}
	if c.headers, err = parseRequestHeaders(values); err != nil {
		return fmt.Errorf("line %d: %s: %w", value.Line, list, err)
	}
	c.headerArgs = values
	return nil
}

// parseServers reads the list of named servers.
func parseServers(node *yaml.Node) (servers []namedServer, err error) {
	list := aliasTarget(node)
	if list.Kind != yaml.SequenceNode {
		return nil, fmt.Errorf("line %d: servers: want a list of name and url", node.Line)
	}
	for _, item := range list.Content {
		var s namedServer
		err := eachKey(item, func(key string, value *yaml.Node) (err error) {
			switch key {
			case "name":
				s.name, err = scalarValue(value)
			case "url":
				s.urls, err = scalarValues(value)
			default:
				err = s.credentials.parseCredential("servers", key, value)
			}
			return err
		})
		if err != nil {
			return nil, err
		}
		if slices.ContainsFunc(servers, func(other namedServer) bool { return other.name == s.name }) {
			return nil, fmt.Errorf("line %d: servers: %q is named twice", item.Line, s.name)
		}
		servers = append(servers, s)
	}
	return servers, nil
}
