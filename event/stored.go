package event

import (
	"bytes"
	"encoding/hex"
	"fmt"
)

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

// AppendNotice appends what tells of an event without its time, key and value: which event
// it is, and of which storage. No notice is an event's line, or the other way round.
func (ev *Event) AppendNotice(b []byte) []byte {
	b = append(b, `{"id":"`...)
	b = ev.ID.AppendTo(b)
	b = append(append(b, `","type":"`...), ev.Type...)
	b = appendString(append(b, `","user":`...), ev.User)
	b = appendString(append(b, `,"path":`...), ev.Path)
	b = hex.AppendEncode(append(b, `,"hash":"`...), ev.Hash[:])
	return append(b, `"}`...)
}

// MarshalText returns the text of t.
func (t Time) MarshalText() ([]byte, error) { return t.AppendTo(nil), nil }

// UnmarshalText reads the canonical text of a Time.
func (t *Time) UnmarshalText(b []byte) (err error) {
	*t, err = parseTime(b)
	return err
}

// Text returns the string that m holds.
func (m Member) Text() (string, error) { return m.text() }

// AppendJSON appends d as the JSON object that ParseDraft reads.
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

// FixedTime returns the time that m names; ok is false if it names none or one that
// depends on when it is asked.
func (m Moment) FixedTime() (t Time, ok bool) { return m.time, m.kind == momentTime }
