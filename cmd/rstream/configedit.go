package main

import (
	"bytes"
	"errors"
	"io/fs"
	"os"
	"path/filepath"

	"go.yaml.in/yaml/v3"
)

// editServers changes the list of named servers in a config file, which need not exist. The
// file is replaced as a whole, and only by one that can be read.
func editServers(path string, change func(servers *yaml.Node) error) error {
	if target, err := filepath.EvalSymlinks(path); err == nil {
		path = target // a link to a file of dotfiles stays one
	}
	old, err := os.ReadFile(path)
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return usagef("read config: %w", err)
	}
	b, err := withServers(old, change)
	if err != nil {
		var exit *exitError
		if errors.As(err, &exit) {
			return err
		}
		return usagef("read config %s: %w", path, err)
	}
	return replaceConfig(path, b)
}

// withServers returns a config file with a changed list of servers. A file without one keeps
// each of its bytes, and the list follows.
func withServers(old []byte, change func(servers *yaml.Node) error) ([]byte, error) {
	top, err := onlyDocument(old)
	if err != nil {
		return nil, err
	}
	if top != nil && top.Kind != yaml.MappingNode {
		return nil, errNoMapping
	}
	servers, doc := serversIn(top), top
	isNew := servers == nil
	if isNew {
		servers = &yaml.Node{Kind: yaml.SequenceNode}
		name := &yaml.Node{}
		name.SetString("servers")
		doc = &yaml.Node{Kind: yaml.MappingNode, Content: []*yaml.Node{name, servers}}
	}
	if _, err := parseServers(servers); err != nil {
		return nil, err
	}
	if len(servers.Content) == 0 {
		servers.Style = 0 // an empty list is written as []
	}
	if err := change(servers); err != nil {
		return nil, err
	}
	var b bytes.Buffer
	if isNew {
		b.Write(old)
		if len(old) > 0 && old[len(old)-1] != '\n' {
			b.WriteByte('\n')
		}
	}
	enc := yaml.NewEncoder(&b)
	enc.SetIndent(2)
	if err := errors.Join(enc.Encode(doc), enc.Close()); err != nil {
		return nil, err
	}
	check, err := onlyDocument(b.Bytes())
	if err == nil {
		_, err = parseServers(serversIn(check))
	}
	return b.Bytes(), err
}

// serversIn returns the list of servers of a file, nil if it has none.
func serversIn(top *yaml.Node) *yaml.Node {
	if top == nil {
		return nil
	}
	for i := 0; i+1 < len(top.Content); i += 2 {
		if top.Content[i].Value == "servers" {
			return aliasTarget(top.Content[i+1])
		}
	}
	return nil
}

// replaceConfig writes a config file that only its user may read, unless it has a mode. It
// may have passwords.
func replaceConfig(path string, b []byte) error {
	mode := fs.FileMode(0o600)
	if info, err := os.Stat(path); err == nil {
		mode = info.Mode().Perm()
	}
	if err := os.MkdirAll(filepath.Dir(path), 0o700); err != nil {
		return err
	}
	return replaceFile(path, b, mode)
}
