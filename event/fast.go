package event

import (
	"bytes"
	"fmt"
)

// The functions of this file are fast paths for other packages of the module, which read
// many lines that were checked before: Stored and Skim for the cache, SkimPoint for the
// server's streams, SkimHash for digests, ScanDraft, IsUsualNew and ScanBody for drafts. They are here
// because they need to know how an event keeps its line.

// Stored parses a line that ParseLine has accepted before, from a trusted source such as the
// file. It does not check the names, the value and the hash again. The event keeps the
// line, which the caller must not change.
func Stored(line []byte) (Event, error) {
	ev, tail, err := cutLine(line)
	if err == nil {
		if v, ok := bytes.CutPrefix(tail, []byte(`,"value":`)); ok && len(v) > 1 && v[len(v)-1] == '}' {
			ev.Value = v[:len(v)-1]
		} else {
			ev.Extra, ev.Value, err = splitTail(tail)
		}
	}
	if err != nil {
		return Event{}, fmt.Errorf("read stored event %.60q: %w", line, err)
	}
	return ev, nil
}

// Skimmed holds the first members of an event's line. It shares the line's bytes.
type Skimmed struct {
	ID         ID
	User, Path []byte
	Type       Type
}

// Skim is Stored for the first members of a line. It reads no further, and allocates
// nothing unless a name contains a quote or a backslash.
func Skim(line []byte) (s Skimmed, err error) {
	p := lineParser{rest: line}
	s, _, err = p.skim()
	if err != nil {
		return s, fmt.Errorf("read stored event %.60q: %w", line, err)
	}
	return s, nil
}

// SkimPoint returns the position of an event, with its mark, and its type. Like Skim, it is
// for a line that was checked before.
func SkimPoint(line []byte) (at Point, typ Type, err error) {
	if at, typ, ok := skimPlain(line); ok {
		return at, typ, nil
	}
	p := lineParser{rest: line}
	id, text := p.cutFixed(`{"id":`, IDLen), p.cutFixed(`,"time":`, timeLen)
	p.skipText(`,"user":`)
	p.skipText(`,"path":`)
	typ = typeOf(p.cutText(`,"type":`))
	p.skipText(`,"key":`)
	digits := p.cutFixed(`,"hash":`, hashLen)
	err = p.err
	var ok bool
	if at.ID, ok = parseID(id); !ok && err == nil {
		err = idError(string(id))
	}
	var t Time
	if err == nil {
		t, err = parseTime(text)
	}
	var h Hash
	if err == nil {
		h, err = ParseHash(digits)
	}
	if err != nil {
		return Point{}, "", fmt.Errorf("read stored event %.60q: %w", line, err)
	}
	at.Mark = MarkOf(at.ID, t, h)
	return at, typ, nil
}

// skimPlain is SkimPoint for a line without escapes in its names and its key, as nearly all
// are. It runs for each event of a replay.
func skimPlain(line []byte) (at Point, typ Type, ok bool) {
	const (
		id   = `{"id":"`
		time = `","time":"`
		user = `","user":"`
		path = `,"path":"`
		put  = `,"type":"PUT","key":"`
		del  = `,"type":"DEL","key":"`
		hash = `,"hash":"`

		timeAt = len(id) + IDLen + len(time)
		userAt = timeAt + timeLen + len(user)
	)
	if len(line) < userAt || string(line[:len(id)]) != id || string(line[timeAt-len(time):timeAt]) != time ||
		string(line[userAt-len(user):userAt]) != user {
		return at, "", false
	}
	rest, ok := cutPlain(line[userAt:], path)
	if !ok {
		return at, "", false
	}
	if rest, ok = cutPlain(rest, ""); !ok || len(rest) < len(put) {
		return at, "", false
	}
	switch string(rest[:len(put)]) {
	case put:
		typ = Put
	case del:
		typ = Del
	default:
		return at, "", false
	}
	if rest, ok = cutPlain(rest[len(put):], hash); !ok || len(rest) <= hashLen || rest[hashLen] != '"' {
		return at, "", false
	}
	if at.ID, ok = parseID(line[len(id) : len(id)+IDLen]); !ok {
		return at, "", false
	}
	t, err := parseTime(line[timeAt : timeAt+timeLen])
	if err != nil {
		return at, "", false
	}
	h, err := ParseHash(rest[:hashLen])
	if err != nil {
		return at, "", false
	}
	at.Mark = MarkOf(at.ID, t, h)
	return at, typ, true
}

// cutPlain cuts off the rest of a string without escapes, its quote, and what must follow.
func cutPlain(b []byte, next string) (rest []byte, ok bool) {
	i := bytes.IndexByte(b, '"')
	if i < 0 || i > 0 && b[i-1] == '\\' || len(b)-i-1 < len(next) {
		return nil, false
	}
	b = b[i+1:]
	return b[len(next):], string(b[:len(next)]) == next
}

// SkimHash is Skim, and also returns the time and the hash of the event.
func SkimHash(line []byte) (s Skimmed, t Time, h Hash, err error) {
	p := lineParser{rest: line}
	s, text, err := p.skim()
	p.skipText(`,"key":`)
	digits := p.cutFixed(`,"hash":`, hashLen)
	if err == nil {
		err = p.err
	}
	if err == nil {
		t, err = parseTime(text)
	}
	if err == nil {
		h, err = ParseHash(digits)
	}
	if err != nil {
		return s, 0, Hash{}, fmt.Errorf("read stored event %.60q: %w", line, err)
	}
	return s, t, h, nil
}

// skim parses the first members of a line, up to its type, and returns its time as text.
func (p *lineParser) skim() (s Skimmed, time []byte, err error) {
	id := p.cutFixed(`{"id":`, IDLen)
	time = p.cutFixed(`,"time":`, timeLen)
	user, path, typ := p.cutText(`,"user":`), p.cutText(`,"path":`), p.cutText(`,"type":`)
	if p.err != nil {
		return s, nil, p.err
	}
	var ok bool
	if s.ID, ok = parseID(id); !ok {
		return s, nil, idError(string(id))
	}
	s.User, s.Path, s.Type = user, path, typeOf(typ)
	if bytes.IndexByte(user, '\\') >= 0 {
		s.User = []byte(unescape(user))
	}
	if bytes.IndexByte(path, '\\') >= 0 {
		s.Path = []byte(unescape(path))
	}
	return s, time, nil
}

// ScanDraft is ParseDraft for an object in the usual form, which no event's line has. If ok
// is false, the object may still be valid.
func ScanDraft(object []byte) (d Draft, ok bool) {
	d = Draft{Type: Put}
	_, ok = scanDraft(object, &d, hasUser|hasPath|hasType|hasKey|hasValue)
	return d, ok
}

// IsUsualNew reports whether object is a draft in the usual form, with usual names, that passes
// CheckNew. Others may pass it, too. It allocates nothing.
func IsUsualNew(object []byte) bool {
	m, ok := scanMembers(object, hasUser|hasPath|hasType|hasKey|hasValue)
	return ok && isUsualUser(m.user) && isUsualPath(m.path) && isUsualKey(m.key) &&
		(m.given&hasType == 0 || m.typ == Put) && len(m.value) > 0 && halfPair(m.value) < 0
}

// ScanBody returns the draft of a JSON object with value, key and type for a storage, and
// whether the object has a key. ok is false if object is not in the usual form: it may still
// be valid.
func ScanBody(object []byte, of Storage) (d Draft, keyed, ok bool) {
	d = Draft{User: of.User, Path: of.Path, Type: Put}
	given, ok := scanDraft(object, &d, hasType|hasKey|hasValue)
	return d, given&hasKey != 0, ok
}
