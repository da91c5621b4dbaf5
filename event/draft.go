package event

import (
	"errors"
	"fmt"
)

// A Draft is an append as its author writes it: an event without an ID and a time.
type Draft struct {
	User, Path string
	Type       Type
	Key        string // the author's idempotency key: the same draft sent twice is one event
	Value      []byte // compact JSON, as returned by CompactValue; nil for Del
}

// Storage returns the storage of d.
func (d *Draft) Storage() Storage { return Storage{d.User, d.Path} }

// Check returns an error if d is not valid. It does not check the bytes of Value, which
// must come from CompactValue.
func (d *Draft) Check() error {
	if !isUsualUser(d.User) || !isUsualPath(d.Path) {
		if err := d.Storage().Check(); err != nil {
			return err
		}
	}
	if !isUsualKey(d.Key) {
		if err := CheckKey(d.Key); err != nil {
			return err
		}
	}
	switch {
	case d.Type != Put && d.Type != Del:
		return fmt.Errorf("type %.40q: want PUT or DEL", string(d.Type))
	case d.Type == Put && len(d.Value) == 0:
		return errors.New("value is missing; a PUT needs one (null is a value)")
	case d.Type == Del && len(d.Value) != 0:
		return errors.New("value is not allowed; a DEL has none")
	}
	return nil
}

// Hash returns the hash of d.
func (d *Draft) Hash() Hash { return hashOf(d.User, d.Path, d.Type, d.Key, d.Value) }

// AppendJSON appends d to b as a JSON object, which ParseDraft parses.
func (d *Draft) AppendJSON(b []byte) []byte {
	b = appendString(append(b, `{"user":`...), d.User)
	b = appendString(append(b, `,"path":`...), d.Path)
	b = appendString(append(b, `,"type":`...), string(d.Type))
	b = appendString(append(b, `,"key":`...), d.Key)
	if len(d.Value) > 0 {
		b = append(append(b, `,"value":`...), d.Value...)
	}
	return append(b, '}')
}

// ParseDraft parses an append in the form of a JSON object: user, path, type (by default
// PUT), key and value, in any order. It also parses an event's line: its hash must match,
// and its id, time and reason are ignored, since another log assigns its own. All other
// members are refused. The draft shares no bytes with object.
func ParseDraft(object []byte) (Draft, error) {
	d, _, err := ParseAppend(object)
	return d, err
}

// ParseAppend is ParseDraft for a log. settled reports whether the author determined the
// event's identity: by a key, which may be empty, or by a hash, which covers the key. If
// not, the log must make a key. Otherwise a second append of the same value would count as
// the first one again.
func ParseAppend(object []byte) (d Draft, settled bool, err error) {
	d = Draft{Type: Put}
	if given, ok := scanDraft(object, &d, hasUser|hasPath|hasType|hasKey|hasValue); ok {
		return d, given&hasKey != 0, nil
	}
	return parseDraft(object)
}

// parseDraft parses every draft that ParseAppend's fast path does not accept.
func parseDraft(object []byte) (d Draft, settled bool, err error) {
	ms, err := members(object)
	if err != nil {
		return Draft{}, false, err
	}
	d = Draft{Type: Put}
	var claimed *Hash
	for _, m := range ms {
		switch m.Name {
		case "user":
			d.User, err = m.Text()
		case "path":
			d.Path, err = m.Text()
		case "type":
			var s string
			s, err = m.Text()
			d.Type = Type(s)
		case "key":
			settled = true
			d.Key, err = m.Text()
		case "value":
			d.Value, err = CompactValue(m.Value)
		case "hash":
			settled = true
			claimed = new(Hash)
			*claimed, err = m.hash()
		case "id", "time", "reason":
		default:
			err = fmt.Errorf("unknown member %.40q", m.Name)
		}
		if err != nil {
			return Draft{}, false, err
		}
	}
	if err := d.Check(); err != nil {
		return Draft{}, false, err
	}
	if claimed != nil && *claimed != d.Hash() {
		return Draft{}, false, ErrHash
	}
	return d, settled, nil
}

// The members of a draft.
const (
	hasUser = 1 << iota
	hasPath
	hasType
	hasKey
	hasValue
)

// scanDraft is the fast path of ParseAppend and ScanBody. It sets the members of d from a
// JSON object in the usual form, and returns which ones are given. The draft shares no bytes
// with object.
func scanDraft(object []byte, d *Draft, allowed int) (given int, ok bool) {
	m, ok := scanMembers(object, allowed)
	if !ok {
		return 0, false
	}
	if m.given&hasType != 0 {
		d.Type = m.typ
	}
	if m.given&hasValue != 0 {
		d.Value = compactJSON(m.value, m.spaces)
	}
	d.setNames(m.given, m.user, m.path, m.key)
	return m.given, d.Check() == nil
}

// draftMembers are the members of a draft as they are written. They share the bytes of the
// object.
type draftMembers struct {
	given           int
	typ             Type // "" if it is not a type
	user, path, key []byte
	value           []byte
	spaces          int // bytes of white space between the tokens of value
}

// scanMembers scans a JSON object in the usual form: only allowed members, each at most once,
// and no escapes except in the value. It checks none of the names.
func scanMembers(object []byte, allowed int) (m draftMembers, ok bool) {
	s := scanner{b: object}
	s.skipSpace()
	if !s.skipByte('{') {
		return m, false
	}
	for more := true; more; more = s.skipByte(',') {
		s.skipSpace()
		name, ok := s.scanPlain()
		s.skipSpace()
		if !ok || !s.skipByte(':') {
			return m, false
		}
		s.skipSpace()
		bit := 0
		switch string(name) {
		case "user":
			bit = hasUser
			m.user, ok = s.scanPlain()
		case "path":
			bit = hasPath
			m.path, ok = s.scanPlain()
		case "type":
			var typ []byte
			bit = hasType
			typ, ok = s.scanPlain()
			m.typ = typeOf(typ)
		case "key":
			bit = hasKey
			m.key, ok = s.scanPlain()
		case "value":
			bit = hasValue
			from, spaces := s.i, s.spaces
			ok = s.scanValue(MaxDepth)
			m.value, m.spaces = s.b[from:s.i], s.spaces-spaces
		}
		if !ok || allowed&bit&^m.given == 0 {
			return m, false
		}
		m.given |= bit
		s.skipSpace()
	}
	if !s.skipByte('}') {
		return m, false
	}
	s.skipSpace()
	return m, s.i == len(object) && s.isText()
}

// setNames sets the given names, which share their memory.
func (d *Draft) setNames(given int, user, path, key []byte) {
	var buf [256]byte
	names := string(append(append(append(buf[:0], user...), path...), key...))
	if given&hasUser != 0 {
		d.User = names[:len(user)]
	}
	if given&hasPath != 0 {
		d.Path = names[len(user):][:len(path)]
	}
	if given&hasKey != 0 {
		d.Key = names[len(user)+len(path):]
	}
}
