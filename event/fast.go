package event

import (
	"bytes"
	"fmt"
)

// These are shortcuts for the module's other packages, which read many lines that have
// been checked before: Stored and Skim for the cache, SkimMark for the server's streams,
// ScanBody for the bodies that wire reads. They are here since they need to know how an
// event keeps its line.

// Stored reads an event's line that came from a trusted place, where ParseLine had
// been before it: it cuts the line into its members without checking the names,
// the value and the hash again. The event keeps the line, which the caller must
// not change any more.
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

// A Skimmed line is the beginning of an event's line. It shares the line's bytes.
type Skimmed struct {
	ID         ID
	User, Path []byte
	Type       Type
}

// Skim is Stored for what a line begins with: it looks no further, and allocates
// nothing unless a name has a quote or a backslash.
func Skim(line []byte) (s Skimmed, err error) {
	p := lineParser{rest: line}
	s, _, err = p.skim()
	if err != nil {
		return s, fmt.Errorf("read stored event %.60q: %w", line, err)
	}
	return s, nil
}

// SkimMark is Skim that also returns the mark of the event's own position.
func SkimMark(line []byte) (s Skimmed, m Mark, err error) {
	p := lineParser{rest: line}
	s, text, err := p.skim()
	p.text(`,"key":`)
	hash := p.text(`,"hash":`)
	if err == nil {
		err = p.err
	}
	var t Time
	if err == nil {
		t, err = parseTime(text)
	}
	var h Hash
	if err == nil {
		h, err = ParseHash(hash)
	}
	if err != nil {
		return s, 0, fmt.Errorf("read stored event %.60q: %w", line, err)
	}
	return s, MarkOf(s.ID, t, h), nil
}

// skim cuts off what a line begins with, up to its type, and returns its time as it
// stands.
func (p *lineParser) skim() (s Skimmed, time []byte, err error) {
	id := p.text(`{"id":`)
	time = p.text(`,"time":`)
	user, path, typ := p.text(`,"user":`), p.text(`,"path":`), p.text(`,"type":`)
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

// ScanBody returns the draft that a JSON object with value, key and type makes for a
// storage, if that is as it nearly always is, and whether it names a key. What it does
// not take may still be right.
func ScanBody(object []byte, user, path string) (d Draft, keyed, ok bool) {
	d = Draft{User: user, Path: path, Type: Put}
	given, ok := scanDraft(object, &d, hasType|hasKey|hasValue)
	return d, given&hasKey != 0, ok
}
