package main

import (
	"bytes"
	"errors"
	"io/fs"
	"os"
	"path/filepath"

	"go.yaml.in/yaml/v3"
)

// editServers changes the list of named servers in a config file.
func editServers(path string, change func(servers *yaml.Node) error) error {
	return editList(path, "servers", func(servers, _ *yaml.Node) error { return change(servers) })
}

// editList changes a list of a config file, which need not exist: that of servers or of
// sources. The file is replaced as a whole, and only by one that can be read. change also
// gets all of the file, nil if there is nothing in it.
func editList(path, setting string, change func(list, top *yaml.Node) error) error {
	if target, err := filepath.EvalSymlinks(path); err == nil {
		path = target // a link to a file of dotfiles stays one
	}
	old, err := os.ReadFile(path)
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return usagef("read config: %w", err)
	}
	b, err := withList(old, setting, change)
	if err != nil {
		var exit *exitError
		if errors.As(err, &exit) {
			return err
		}
		return usagef("read config %s: %w", path, err)
	}
	return replaceConfig(path, b)
}

// withList returns a config file with a changed list. A file without it keeps each of its
// bytes, and the list follows.
func withList(old []byte, setting string, change func(list, top *yaml.Node) error) ([]byte, error) {
	top, err := onlyDocument(old)
	if err != nil {
		return nil, err
	}
	if top != nil && top.Kind != yaml.MappingNode {
		return nil, errNoMapping
	}
	list, doc := listIn(top, setting), top
	isNew := list == nil
	if isNew {
		list = &yaml.Node{Kind: yaml.SequenceNode}
		name := &yaml.Node{}
		name.SetString(setting)
		doc = &yaml.Node{Kind: yaml.MappingNode, Content: []*yaml.Node{name, list}}
	}
	if err := checkList(setting, list); err != nil {
		return nil, err
	}
	if len(list.Content) == 0 {
		list.Style = 0 // an empty list is written as []
	}
	if err := change(list, top); err != nil {
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
		err = checkList(setting, listIn(check, setting))
	}
	return b.Bytes(), err
}

// checkList returns an error if a list of servers or sources is none.
func checkList(setting string, list *yaml.Node) (err error) {
	if setting == "sources" {
		_, err = parseSources(list)
	} else {
		_, err = parseServers(list)
	}
	return err
}

// listIn returns a list of a file, nil if it has none.
func listIn(top *yaml.Node, setting string) *yaml.Node {
	if top == nil {
		return nil
	}
	for i := 0; i+1 < len(top.Content); i += 2 {
		if top.Content[i].Value == setting {
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
