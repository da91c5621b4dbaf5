package source

import (
	"bytes"
	"context"
	"crypto/rand"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"strconv"
	"strings"

	"github.com/itchyny/gojq"

	"github.com/rstream-dev/rstream/event"
	"github.com/rstream-dev/rstream/internal/jq"
	"github.com/rstream-dev/rstream/internal/wire"
)

// A Mapping says which append becomes of an event. Each field is an expression of jq over
// the event's data, with the variables $id and $type. An empty field stands for what its
// comment says.
type Mapping struct {
	User  string // the source's name
	Path  string // the event's type, or message
	Key   string // the generation, the foreign id and the ordinal; random without an id
	Value string // the data: as it is if it is JSON, otherwise a string
	Where string // all events; the others are left out if it is false or null

	// Into is a topic, no expression: an event that would be stored elsewhere is refused. If
	// empty, any topic.
	Into string `json:",omitempty"` // without it, the ids of mappings stay what they were
}

// A Mapper turns the events of a source into drafts. It may be used by one goroutine.
type Mapper struct {
	name                          string
	id                            string // of the mapping: equal ones have the same
	salt                          string // of keys that the log makes, random
	isChanged                     bool   // there is an expression
	user, path, key, value, where *gojq.Code
	into                          *event.Topic // nil for any
}

// NewMapper returns the mapper of the source of that name.
func NewMapper(name string, m Mapping) (*Mapper, error) {
	text, _ := json.Marshal(m) // it has only text
	sum := sha256.Sum256(text)
	mapper := &Mapper{name: name, id: hex.EncodeToString(sum[:6]), salt: rand.Text(), isChanged: m != Mapping{}}
	for _, e := range []struct {
		name, text string
		code       **gojq.Code
	}{{"user", m.User, &mapper.user}, {"path", m.Path, &mapper.path}, {"key", m.Key, &mapper.key},
		{"value", m.Value, &mapper.value}, {"where", m.Where, &mapper.where}} {
		if e.text == "" {
			continue
		}
		code, err := jq.Compile(e.text, "$id", "$type")
		if err != nil {
			return nil, fmt.Errorf("%s %.200q: %w", e.name, e.text, err)
		}
		*e.code = code
	}
	if m.Into != "" {
		topic, err := event.ParseTopic(m.Into)
		if err != nil {
			return nil, fmt.Errorf("into: %w", err)
		}
		mapper.into = &topic
	}
	return mapper, nil
}

// Map returns the draft of an event of a generation. taken is false if the mapping leaves
// the event out. An error means that the event cannot be mapped, and nothing else.
func (m *Mapper) Map(ctx context.Context, f *Frame, generation uint32) (d event.Draft, taken bool, err error) {
	x := expressions{ctx: ctx, f: f}
	if m.where != nil {
		v, err := x.run("where", m.where)
		if err != nil || v == nil || v == false {
			return d, false, err
		}
	}
	d = event.Draft{Type: event.Put, User: m.name, Path: f.Type}
	if d.Path == "" {
		d.Path = "message"
	}
	if m.user != nil {
		d.User, err = x.runText("user", m.user)
	}
	if err == nil && m.path != nil {
		d.Path, err = x.runText("path", m.path)
	}
	if err == nil {
		d.Key, err = m.keyOf(&x, generation)
	}
	if err == nil {
		d.Value, err = m.valueOf(&x)
	}
	if err == nil && len(d.Value) > wire.MaxValue { // no client or mirror reads a longer line
		err = fmt.Errorf("value must be at most %d bytes long, not %d", wire.MaxValue, len(d.Value))
	}
	if err != nil {
		return d, false, err
	}
	d.User, d.Path = encodeUser(d.User), encodePath(d.Path)
	if strings.HasPrefix(d.User, ".") {
		return d, false, fmt.Errorf("user %.40q: names that begin with a dot belong to the log", d.User)
	}
	if m.into != nil && !m.into.Matches(d.User, d.Path) {
		return d, false, fmt.Errorf("%.80s is not in %s", d.User+"/"+d.Path, m.into)
	}
	err = d.CheckNew()
	return d, err == nil, err
}

func (m *Mapper) keyOf(x *expressions, generation uint32) (string, error) {
	if m.key != nil {
		key, err := x.runText("key", m.key)
		return shortKey(key), err
	}
	return m.defaultKey(x.f, generation), nil
}

// defaultKey returns the key of an event for which no expression makes one.
func (m *Mapper) defaultKey(f *Frame, generation uint32) string {
	if f.ID == "" {
		return rand.Text()
	}
	return shortKey(fmt.Sprintf("%d/%s/%d", generation, f.ID, f.Ordinal))
}

// shortKey returns text as a key: its hash if it cannot be one.
func shortKey(text string) string {
	if event.CheckKey(text) == nil && !strings.ContainsFunc(text, event.TurnsText) {
		return text
	}
	sum := sha256.Sum256([]byte(text))
	return "sha256:" + hex.EncodeToString(sum[:])
}

func (m *Mapper) valueOf(x *expressions) ([]byte, error) {
	if m.value == nil {
		return valueOfData(x.f.Data)
	}
	v, err := x.run("value", m.value)
	if err != nil {
		return nil, err
	}
	b, err := gojq.Marshal(v)
	if err != nil {
		return nil, fmt.Errorf("value: %w", err)
	}
	return event.CompactValue(b)
}

// valueOfData returns data as a value: itself if a new value may be so, otherwise a string.
func valueOfData(data []byte) ([]byte, error) {
	if v, err := event.CompactValue(data); err == nil && event.CheckNewValue(v) == nil {
		return bytes.Clone(v), nil
	}
	var b bytes.Buffer
	enc := json.NewEncoder(&b)
	enc.SetEscapeHTML(false)
	if err := enc.Encode(string(data)); err != nil {
		return nil, err
	}
	return event.CompactValue(b.Bytes())
}

// expressions runs expressions over one event.
type expressions struct {
	ctx    context.Context
	f      *Frame
	input  any // the data
	parsed bool
}

// run returns the value of an expression, which must have one.
func (x *expressions) run(name string, code *gojq.Code) (any, error) {
	if !x.parsed {
		x.input, x.parsed = parseData(x.f.Data), true
	}
	values := code.RunWithContext(x.ctx, x.input, x.f.ID, x.f.Type)
	v, ok := values.Next()
	if !ok {
		return nil, fmt.Errorf("%s: has no value", name)
	}
	if err, failed := v.(error); failed {
		return nil, fmt.Errorf("%s: %w", name, err)
	}
	if _, more := values.Next(); more {
		return nil, fmt.Errorf("%s: has more than one value", name)
	}
	return v, nil
}

// errNoText means that a name or a key is neither text nor a number.
var errNoText = errors.New("want a string or a number")

// runText is run for an expression whose value is text.
func (x *expressions) runText(name string, code *gojq.Code) (string, error) {
	v, err := x.run(name, code)
	if err != nil {
		return "", err
	}
	switch v := v.(type) {
	case string:
		return v, nil
	case int:
		return strconv.Itoa(v), nil
	case json.Number:
		return v.String(), nil
	case float64:
		if b, err := json.Marshal(v); err == nil { // it is neither infinite nor NaN
			return string(b), nil
		}
	case fmt.Stringer: // a big integer
		return v.String(), nil
	}
	return "", fmt.Errorf("%s: %w", name, errNoText)
}

// parseData returns data as the input of expressions: parsed if it is JSON that valueOfData takes, else
// as text. Parsed, a lone surrogate would be another character, the same for all of them.
func parseData(data []byte) any {
	if v, err := event.CompactValue(data); err == nil && event.CheckNewValue(v) == nil {
		dec := json.NewDecoder(bytes.NewReader(v))
		dec.UseNumber()
		var parsed any
		if dec.Decode(&parsed) == nil {
			return parsed
		}
	}
	return strings.ToValidUTF8(string(data), "\uFFFD")
}
