package main

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"github.com/spf13/cobra"
	"github.com/spf13/pflag"
	"github.com/spf13/viper"
	"go.yaml.in/yaml/v3"
)

// A configFile holds the settings of a config file. Scalars keep their text: YAML would
// turn 0123 and 14:05 into numbers and drop zeros of an id.
type configFile struct {
	path    string
	lines   map[string]int // of each setting
	servers []namedServer
}

// A namedServer names the servers of one log.
type namedServer struct {
	name string
	urls []string

	credentials credentials
}

// placeOf returns the file and line of a setting.
func (c *configFile) placeOf(setting string) string {
	return fmt.Sprintf("%s:%d", c.path, c.lines[setting])
}

// readConfig reads the config file into v. A file named by the user must exist; the
// default one need not.
func (s *settings) readConfig(path string, v *viper.Viper, root *cobra.Command) error {
	if path == "" {
		path = v.GetString("config")
	}
	named := path != ""
	if !named {
		path = filepath.Join(configDir(), "rstream", "config.yaml")
	}
	b, err := os.ReadFile(path)
	if !named && errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	if err != nil {
		return usagef("read config: %w", err)
	}
	file := &configFile{path: path, lines: map[string]int{}}
	values, err := file.parseSettings(b, flagNames(root))
	if err == nil {
		err = v.MergeConfigMap(values)
	}
	if err != nil {
		return usagef("read config %s: %w", path, err)
	}
	s.file = file
	return nil
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
func (c *configFile) parseSettings(b []byte, known []string) (map[string]any, error) {
	top, err := onlyDocument(b)
	if err != nil || top == nil {
		return nil, err
	}
	values := map[string]any{}
	err = eachKey(top, func(key string, value *yaml.Node) (err error) {
		switch {
		case key == "servers":
			c.servers, err = parseServers(value)
		case !slices.Contains(known, key):
			err = fmt.Errorf("line %d: unknown setting %q", value.Line, key)
		default:
			c.lines[key] = value.Line
			values[key], err = scalarValues(value)
		}
		return err
	})
	return values, err
}

// onlyDocument returns the one document in b, nil if there is none.
func onlyDocument(b []byte) (*yaml.Node, error) {
	var doc, second yaml.Node
	decoder := yaml.NewDecoder(bytes.NewReader(b))
	if err := decoder.Decode(&doc); errors.Is(err, io.EOF) {
		return nil, nil
	} else if err != nil {
		return nil, plainYAML(err)
	}
	if err := decoder.Decode(&second); !errors.Is(err, io.EOF) {
		return nil, errors.New("has a second document; put all settings in one")
	}
	top := doc.Content[0]
	if top.Kind == yaml.ScalarNode && top.Tag == "!!null" {
		return nil, nil // only comments
	}
	return top, nil
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

// parseCredential reads a setting of a named server.
func (c *credentials) parseCredential(key string, value *yaml.Node) (err error) {
	fields := map[string]*string{"token-file": &c.tokenFile, "token-command": &c.tokenCommand,
		"ca": &c.ca, "client-cert": &c.clientCert, "client-key": &c.clientKey}
	field, ok := fields[key]
	if !ok {
		return fmt.Errorf("line %d: servers: want name, url, token-file, token-command, ca, client-cert or client-key, not %q", value.Line, key)
	}
	*field, err = scalarValue(value)
	return err
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
				err = s.credentials.parseCredential(key, value)
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
