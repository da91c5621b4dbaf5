package event

import (
	"bytes"
	"errors"
	"fmt"
	"slices"
	"strings"
)

// ErrHash is wrapped by the error of ParseLine if a line's hash does not match its contents.
var ErrHash = errors.New("hash does not match the contents")

// ParseLine parses an event's line and checks all of it: the order and form of its members,
// its names, its value and its hash. The event keeps the line, which the caller must not
// change. A line that ParseLine accepts is exactly the line that the event prints.
func ParseLine(line []byte) (Event, error) {
	ev, err := parseLine(line)
	if err != nil {
		return Event{}, fmt.Errorf("parse event %.60q: %w", line, err)
	}
	return ev, nil
}

func parseLine(line []byte) (Event, error) {
	ev, tail, err := cutLine(line)
	if err != nil {
		return ev, err
	}
	if ev.Extra, ev.Value, err = splitTail(tail); err != nil {
		return ev, err
	}
	if err := ev.Check(); err != nil {
		return ev, err
	}
	if ev.Draft.Hash() != ev.Hash {
		return ev, ErrHash
	}
	return ev, nil
}

// cutLine parses a line up to its hash and returns the rest as tail. It checks the form of
// the members, but not the names in them.
func cutLine(line []byte) (ev Event, tail []byte, err error) {
	p := lineParser{rest: line}
	id, t := p.cutFixed(`{"id":`, IDLen), p.cutFixed(`,"time":`, timeLen)
	user, path := p.cutText(`,"user":`), p.cutText(`,"path":`)
	typ, key, hash := p.cutText(`,"type":`), p.cutText(`,"key":`), p.cutFixed(`,"hash":`, hashLen)
	if p.err != nil {
		return ev, nil, p.err
	}
	var ok bool
	if ev.ID, ok = parseID(id); !ok {
		return ev, nil, idError(string(id))
	}
	if ev.ID == Beginning {
		return ev, nil, errors.New("id: must not be zero, the position before the first event")
	}
	if ev.Time, err = parseTime(t); err != nil {
		return ev, nil, err
	}
	if ev.Hash, err = ParseHash(hash); err != nil {
		return ev, nil, err
	}
	ev.User, ev.Path, ev.Type, ev.Key = unescape(user), unescape(path), typeOf(typ), unescape(key)
	ev.line = line
	return ev, p.rest, nil
}

// typeOf converts b without an allocation for the known types.
func typeOf(b []byte) Type {
	switch string(b) {
	case "PUT":
		return Put
	case "DEL":
		return Del
	}
	return Type(b)
}

// A lineParser parses the leading members of a line. It keeps its first error.
type lineParser struct {
	rest []byte
	err  error
}

// cutText parses label and the JSON string after it, and returns the bytes between the quotes.
// It accepts only the escapes that appendString writes.
func (p *lineParser) cutText(label string) []byte {
	if p.err != nil {
		return nil
	}
	n := len(label)
	if len(p.rest) <= n || string(p.rest[:n]) != label || p.rest[n] != '"' {
		p.err = fmt.Errorf("want the member %s and a string, not %.30q", strings.Trim(label, "{,:"), p.rest)
		return nil
	}
	b := p.rest[n+1:]
	if i := bytes.IndexByte(b, '"'); i >= 0 && bytes.IndexByte(b[:i], '\\') < 0 {
		p.rest = b[i+1:]
		return b[:i]
	}
	for i := 0; i < len(b); i++ {
		switch b[i] {
		case '"':
			p.rest = b[i+1:]
			return b[:i]
		case '\\':
			if i++; i < len(b) && b[i] != '"' && b[i] != '\\' {
				p.err = fmt.Errorf("%s: not a string in its shortest form", strings.Trim(label, "{,:"))
				return nil
			}
		}
	}
	p.err = fmt.Errorf("%s: unterminated string", strings.Trim(label, "{,:"))
	return nil
}

// skipText is cutText for a string that is not needed, and may have any escapes.
func (p *lineParser) skipText(label string) {
	n := len(label) + 1
	if p.err == nil && len(p.rest) > n && string(p.rest[:n-1]) == label && p.rest[n-1] == '"' {
		b := p.rest[n:]
		if i := bytes.IndexByte(b, '"'); i == 0 || i > 0 && b[i-1] != '\\' {
			p.rest = b[i+1:]
			return
		}
	}
	p.cutText(label)
}

// cutFixed is cutText for a string that has n bytes, or is wrong. The caller checks the
// bytes, a backslash among them included.
func (p *lineParser) cutFixed(label string, n int) []byte {
	from := len(label) + 1
	end := from + n
	if p.err != nil || len(p.rest) <= end || string(p.rest[:from-1]) != label || p.rest[from-1] != '"' ||
		bytes.IndexByte(p.rest[from:end+1], '"') != n {
		return p.cutText(label)
	}
	b := p.rest[from:end]
	p.rest = p.rest[end+1:]
	return b
}

// unescape reverses appendString.
func unescape(b []byte) string {
	if bytes.IndexByte(b, '\\') < 0 {
		return string(b)
	}
	s := make([]byte, 0, len(b))
	for i := 0; i < len(b); i++ {
		if b[i] == '\\' {
			i++
		}
		s = append(s, b[i])
	}
	return string(s)
}

// splitTail splits the rest of a line after its hash into the unknown members and the
// value. Both share b's bytes.
func splitTail(b []byte) (extra, value []byte, err error) {
	if string(b) == "}" {
		return nil, nil, nil
	}
	if len(b) < 3 || b[0] != ',' || b[1] != '"' || b[len(b)-1] != '}' {
		return nil, nil, fmt.Errorf("want a member or the end after the hash, not %.30q", b)
	}
	b = b[1 : len(b)-1]
	if v, ok := bytes.CutPrefix(b, []byte(`"value":`)); ok {
		return nil, v, checkCompact(v)
	}
	object := slices.Concat([]byte{'{'}, b, []byte{'}'})
	spaces, err := checkJSON(object, MaxDepth+1)
	if err != nil {
		return nil, nil, fmt.Errorf("members after the hash: %w", err)
	}
	if spaces > 0 {
		return nil, nil, fmt.Errorf("members after the hash: %w", errSpaced)
	}
	ms, err := members(object)
	if err != nil {
		return nil, nil, err
	}
	for i, m := range ms {
		switch {
		case isLineMember(m.Name):
			return nil, nil, fmt.Errorf("member %q is given twice", m.Name)
		case m.Name == "value" && i < len(ms)-1:
			return nil, nil, errors.New("value: not the last member")
		case m.Name == "value":
			n := len(b) - len(m.Value)
			extra, ok := bytes.CutSuffix(b[:n], []byte(`,"value":`))
			if !ok {
				return nil, nil, errors.New(`value: its name must be written "value"`)
			}
			return extra, b[n:], nil
		}
	}
	return b, nil, nil
}

// isLineMember reports whether name is one of the first members of every line.
func isLineMember(name string) bool {
	switch name {
	case "id", "time", "user", "path", "type", "key", "hash":
		return true
	}
	return false
}
