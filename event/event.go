package event

import (
	"bytes"
	"errors"
	"fmt"
	"slices"
	"strings"
)

// A Type says what an event does to the state of its storage.
type Type string

// The types of events.
const (
	Put Type = "PUT" // sets the storage's value
	Del Type = "DEL" // removes it
)

// A Draft is an append as its author writes it: an event without a place in a
// log.
type Draft struct {
	User, Path string
	Type       Type
	Key        string // the author's idempotency key: the same draft sent twice is one event
	Value      []byte // compact JSON, as CompactValue returns it; nil for DEL
}

// Storage returns the storage that d is written to.
func (d *Draft) Storage() Storage { return Storage{d.User, d.Path} }

// Check says what is wrong with d. It does not look at the value's bytes: those
// have been through CompactValue.
func (d *Draft) Check() error {
	if err := d.Storage().Check(); err != nil {
		return err
	}
	if err := CheckKey(d.Key); err != nil {
		return err
	}
	switch {
	case d.Type != Put && d.Type != Del:
		return fmt.Errorf("type %.40q: want PUT or DEL", string(d.Type))
	case d.Type == Put && len(d.Value) == 0:
		return errors.New("value: is missing; a PUT needs one (null is a value)")
	case d.Type == Del && len(d.Value) != 0:
		return errors.New("value: must not be given; a DEL has none")
	}
	return nil
}

// Hash returns the hash of what d says.
func (d *Draft) Hash() Hash { return sum(d.User, d.Path, d.Type, d.Key, d.Value) }

// An Event is one immutable entry of a log. One that New or ParseLine returned
// keeps its line and is not changed any more.
type Event struct {
	ID   ID
	Time Time
	Draft
	Hash  Hash
	Extra []byte // members that stand before the value, as they are written: `"a":1,"b":2`
	line  []byte
	mark  Mark // if KeepMark has made it
}

// New returns the event that a log makes of d: its place, its time and its hash
// given, its line encoded once. d has passed Check, id is not Beginning, t is
// Valid and h is d's hash.
func New(id ID, t Time, d Draft, h Hash) Event {
	ev := Event{ID: id, Time: t, Draft: d, Hash: h, Extra: d.extra()}
	ev.line = ev.AppendLine(make([]byte, 0, len(d.Value)+len(d.User)+len(d.Path)+len(d.Key)+224))
	return ev
}

// Line returns the event's one line, without a line feed. The caller must not
// change it.
func (ev *Event) Line() []byte {
	if ev.line == nil {
		return ev.AppendLine(nil)
	}
	return ev.line
}

// Mark returns the mark of the event's own position.
func (ev *Event) Mark() Mark {
	if ev.mark != 0 {
		return ev.mark
	}
	return MarkOf(ev.ID, ev.Time, ev.Hash)
}

// KeepMark makes Mark once for all. It must not run beside anything that uses ev.
func (ev *Event) KeepMark() { ev.mark = ev.Mark() }

// AppendLine appends the event's line, without a line feed, to b.
func (ev *Event) AppendLine(b []byte) []byte {
	if ev.line != nil {
		return append(b, ev.line...)
	}
	b = append(b, `{"id":"`...)
	b = ev.ID.AppendTo(b)
	b = append(b, `","time":"`...)
	b = ev.Time.AppendTo(b)
	b = append(b, `","user":`...)
	b = appendString(b, ev.User)
	b = append(b, `,"path":`...)
	b = appendString(b, ev.Path)
	b = append(b, `,"type":"`...)
	b = append(b, ev.Type...)
	b = append(b, `","key":`...)
	b = appendString(b, ev.Key)
	b = append(b, `,"hash":"`...)
	for _, c := range ev.Hash {
		b = append(b, "0123456789abcdef"[c>>4], "0123456789abcdef"[c&15])
	}
	b = append(b, '"')
	if len(ev.Extra) > 0 {
		b = append(append(b, ','), ev.Extra...)
	}
	if len(ev.Value) > 0 {
		b = append(append(b, `,"value":`...), ev.Value...)
	}
	return append(b, '}')
}

// ErrHash is wrapped by ParseLine when a line's hash is not that of its contents.
var ErrHash = errors.New("hash does not match the contents")

// ParseLine reads an event's line and checks all of it: the order and form of its
// members, its names, its value and its hash. The event keeps the line, which the
// caller must not change any more. A line that ParseLine accepts is the line that
// the event prints.
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

// cutLine reads a line up to its hash and returns what follows as its tail. It
// checks the form of the members, not the names in them.
func cutLine(line []byte) (ev Event, tail []byte, err error) {
	p := lineParser{rest: line}
	id, t := p.text(`{"id":`), p.text(`,"time":`)
	user, path := p.text(`,"user":`), p.text(`,"path":`)
	typ, key, hash := p.text(`,"type":`), p.text(`,"key":`), p.text(`,"hash":`)
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

// typeOf avoids an allocation for the types there are.
func typeOf(b []byte) Type {
	switch string(b) {
	case "PUT":
		return Put
	case "DEL":
		return Del
	}
	return Type(b)
}

// A lineParser cuts the leading members off a line; the first thing that is wrong
// sticks.
type lineParser struct {
	rest []byte
	err  error
}

// text cuts off label and the JSON string behind it and returns what stands
// between the quotes, accepting only the escapes that appendString writes.
func (p *lineParser) text(label string) []byte {
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
				p.err = fmt.Errorf("%s is not a string in its shortest form", strings.Trim(label, "{,:"))
				return nil
			}
		}
	}
	p.err = fmt.Errorf("%s is a string without an end", strings.Trim(label, "{,:"))
	return nil
}

// unescape undoes what appendString does.
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

// splitTail splits what follows the hash of a line into the unknown members and
// the value. Both share b's bytes.
func splitTail(b []byte) (extra, value []byte, err error) {
	if string(b) == "}" {
		return nil, nil, nil
	}
	if len(b) < 3 || b[0] != ',' || b[1] != '"' || b[len(b)-1] != '}' {
		return nil, nil, fmt.Errorf("want a member or the end behind the hash, not %.30q", b)
	}
	b = b[1 : len(b)-1]
	if v, ok := bytes.CutPrefix(b, []byte(`"value":`)); ok {
		return nil, v, checkCompact(v)
	}
	object := slices.Concat([]byte{'{'}, b, []byte{'}'})
	spaces, err := checkJSON(object, MaxDepth+1)
	if err != nil {
		return nil, nil, fmt.Errorf("the members behind the hash: %w", err)
	}
	if spaces > 0 {
		return nil, nil, fmt.Errorf("the members behind the hash: %w", errSpaced)
	}
	ms, err := members(object)
	if err != nil {
		return nil, nil, err
	}
	for i, m := range ms {
		switch {
		case isLineMember(m.Name):
			return nil, nil, fmt.Errorf("has the member %q twice", m.Name)
		case m.Name == "value" && i < len(ms)-1:
			return nil, nil, errors.New("value: is not the last member")
		case m.Name == "value":
			n := len(b) - len(m.Value)
			extra, ok := bytes.CutSuffix(b[:n], []byte(`,"value":`))
			if !ok {
				return nil, nil, errors.New(`value: its name is not written "value"`)
			}
			return extra, b[n:], nil
		}
	}
	return b, nil, nil
}

// isLineMember reports whether name is one of the members that begin every line.
func isLineMember(name string) bool {
	switch name {
	case "id", "time", "user", "path", "type", "key", "hash":
		return true
	}
	return false
}

// ParseDraft reads an append written as a JSON object: user, path, type (PUT if
// not given), key and value, in any order. It also reads an event's line, whose id, time
// and reason it leaves aside (another log gives its own) and whose hash must match.
// Any other member is refused. The draft shares no bytes with object.
func ParseDraft(object []byte) (Draft, error) {
	d, _, err := ParseAppend(object)
	return d, err
}

// ParseAppend is ParseDraft for a log, which has to know whether the author has settled
// which event this is: by a key, an empty one included, or by a hash, which covers the
// key. If not, the log makes a key, or a second append of the same value would be the
// first one.
func ParseAppend(object []byte) (d Draft, settled bool, err error) {
	d = Draft{Type: Put}
	if given, ok := scanDraft(object, &d, hasUser|hasPath|hasType|hasKey|hasValue); ok {
		return d, given&hasKey != 0, nil
	}
	return parseDraft(object)
}

// parseDraft is ParseAppend of whatever comes.
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
			d.User, err = m.text()
		case "path":
			d.Path, err = m.text()
		case "type":
			var s string
			s, err = m.text()
			d.Type = Type(s)
		case "key":
			settled = true
			d.Key, err = m.text()
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

// text returns m's value, which must be a string.
func (m Member) text() (string, error) {
	if len(m.Value) < 2 || m.Value[0] != '"' {
		return "", fmt.Errorf("%s: want a string, not %.40q", m.Name, m.Value)
	}
	s, ok := unquote(m.Value)
	if !ok {
		return "", fmt.Errorf("%s: %.40q has half of a surrogate pair", m.Name, m.Value)
	}
	return s, nil
}

// hash returns m's value, which must be the text of a hash.
func (m Member) hash() (Hash, error) {
	s, err := m.text()
	if err != nil {
		return Hash{}, err
	}
	return ParseHash(s)
}

// A Receipt is the log's answer to one draft: the event that it is now, and
// whether the log had taken it before.
type Receipt struct {
	Event
	Known bool // the log already knew the hash; Event is the first one
	// Dropped means that the log has dropped the event since: besides what the draft
	// says, only its id is known.
	Dropped bool
}
