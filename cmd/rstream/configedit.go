package main

import (
	"bytes"
	"errors"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"go.yaml.in/yaml/v3"
)

// edit changes the list in a config file, which need not exist. The file is replaced as a
// whole, and only by one that can be read. change also gets all of the file, nil if there
// is nothing in it.
func (l *namedList[T]) edit(path string, change func(list, top *yaml.Node) error) error {
	if target, err := filepath.EvalSymlinks(path); err == nil {
		path = target // a link to a file of dotfiles stays one
	}
	old, err := os.ReadFile(path)
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return usagef("read config: %w", err)
	}
	b, err := editedList(old, l.setting, l.check, change)
	if err != nil {
		var exit *exitError
		if errors.As(err, &exit) {
			return err
		}
		return usagef("read config %s: %w", path, err)
	}
	return replaceConfig(path, b)
}

// editedList returns a config file with a changed list. All else keeps each of its bytes,
// unless the list is written in one line: then the file keeps its comments, but not its
// spaces.
func editedList(old []byte, setting string, check func(*yaml.Node) error, change func(list, top *yaml.Node) error) ([]byte, error) {
	doc, err := parseDocument(old)
	if err != nil {
		return nil, err
	}
	top := topOf(doc)
	if top != nil && top.Kind != yaml.MappingNode {
		return nil, errNoMapping
	}
	key, list := listIn(top, setting)
	if list == nil {
		list = &yaml.Node{Kind: yaml.SequenceNode}
		if err := change(list, top); err != nil {
			return nil, err
		}
		added, err := encodeYAML(&yaml.Node{Kind: yaml.MappingNode, Content: []*yaml.Node{textNode(setting), list}})
		if err != nil {
			return nil, err
		}
		return checkedList(append(lineEnded(old), added...), setting, check)
	}
	if err := check(list); err != nil {
		return nil, err
	}
	before := slices.Clone(list.Content)
	if len(before) == 0 {
		list.Style = 0 // an empty list is written as []
	}
	if err := change(list, top); err != nil {
		return nil, err
	}
	want, err := encodeYAML(doc)
	if err != nil {
		return nil, err
	}
	if b, ok := editedLines(old, top, key, list, before); ok && isSameYAML(b, want) {
		return b, nil
	}
	return checkedList(want, setting, check)
}

// editedLines returns a file in which the lines of the removed entries of a list are gone
// and those of the added ones follow the last one. No comment is removed, not even above an
// entry. ok is false if the list has no line for each entry.
func editedLines(old []byte, top, key, list *yaml.Node, before []*yaml.Node) (_ []byte, ok bool) {
	lines := slices.Collect(strings.Lines(string(lineEnded(old))))
	name := &lines[key.Line-1]
	if empty := key.Value + ": []"; len(before) == 0 && strings.HasPrefix(*name, empty) {
		*name = key.Value + ":" + (*name)[len(empty):] + strings.Join(entryLines(list.Content, 2), "")
		return []byte(strings.Join(lines, "")), true
	}
	if list.Style&yaml.FlowStyle != 0 || list.Line == key.Line || len(before) == 0 {
		return nil, false
	}
	end := len(lines) // of the list, as an index
	for i := 0; i < len(top.Content); i += 2 {
		if n := top.Content[i].Line - 1; n >= list.Line {
			end = min(end, n)
		}
	}
	kept := slices.Clone(lines[:before[0].Line-1])
	for i, entry := range before {
		next := end
		if i+1 < len(before) {
			next = before[i+1].Line - 1
		}
		own := lastWithText(lines[:next], entry.Line-1) + 1
		if slices.Contains(list.Content, entry) {
			kept = append(kept, lines[entry.Line-1:own]...)
		}
		if i+1 == len(before) {
			kept = append(kept, entryLines(without(list.Content, before), list.Column-1)...)
		}
		kept = append(kept, lines[own:next]...)
	}
	if len(list.Content) == 0 {
		kept[key.Line-1] = strings.Replace(kept[key.Line-1], key.Value+":", key.Value+": []", 1)
	}
	return []byte(strings.Join(append(kept, lines[end:]...), "")), true
}

// lastWithText returns the index of the last line, from first on, that is neither empty nor a
// comment.
func lastWithText(lines []string, first int) int {
	last := first
	for i := first; i < len(lines); i++ {
		if text := strings.TrimSpace(lines[i]); text != "" && text[0] != '#' {
			last = i
		}
	}
	return last
}

// entryLines returns the lines of new entries of a list.
func entryLines(entries []*yaml.Node, indent int) (lines []string) {
	if len(entries) == 0 {
		return nil
	}
	text, err := encodeYAML(&yaml.Node{Kind: yaml.SequenceNode, Content: entries})
	if err != nil {
		return nil // then the file differs from the one that was encoded
	}
	for line := range strings.Lines(string(text)) {
		lines = append(lines, strings.Repeat(" ", indent)+line)
	}
	return lines
}

// without returns the nodes of all that are not in some.
func without(all, some []*yaml.Node) (rest []*yaml.Node) {
	for _, n := range all {
		if !slices.Contains(some, n) {
			rest = append(rest, n)
		}
	}
	return rest
}

// isSameYAML reports whether two files have the same values, whatever their form.
func isSameYAML(a, b []byte) bool {
	docA, errA := parseDocument(a)
	docB, errB := parseDocument(b)
	return errA == nil && errB == nil && isSameNode(topOf(docA), topOf(docB))
}

func isSameNode(a, b *yaml.Node) bool {
	if a == nil || b == nil {
		return a == b
	}
	return a.Kind == b.Kind && a.ShortTag() == b.ShortTag() && a.Value == b.Value && a.Anchor == b.Anchor &&
		slices.EqualFunc(a.Content, b.Content, isSameNode)
}

// encodeYAML returns a node as it is written in a file.
func encodeYAML(node *yaml.Node) ([]byte, error) {
	var b bytes.Buffer
	enc := yaml.NewEncoder(&b)
	enc.SetIndent(2)
	err := errors.Join(enc.Encode(node), enc.Close())
	return b.Bytes(), err
}

// lineEnded returns a file whose last line has an end.
func lineEnded(b []byte) []byte {
	if len(b) > 0 && b[len(b)-1] != '\n' {
		return append(slices.Clone(b), '\n')
	}
	return b
}

// checkedList returns a file if its list can be read.
func checkedList(b []byte, setting string, check func(*yaml.Node) error) ([]byte, error) {
	doc, err := parseDocument(b)
	if err != nil {
		return nil, err
	}
	_, list := listIn(topOf(doc), setting)
	return b, check(list)
}

// listIn returns a list of a file and its name, nil if it has none.
func listIn(top *yaml.Node, setting string) (key, list *yaml.Node) {
	if top == nil {
		return nil, nil
	}
	for i := 0; i+1 < len(top.Content); i += 2 {
		if top.Content[i].Value == setting {
			return top.Content[i], aliasTarget(top.Content[i+1])
		}
	}
	return nil, nil
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
