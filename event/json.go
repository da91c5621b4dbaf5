package event

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"strconv"
	"unicode/utf16"
	"unicode/utf8"
)

// MaxDepth is how deep arrays and objects in a value may nest.
const MaxDepth = 512

// CompactValue returns the one form in which a value is stored: the JSON text v
// without the white space between its tokens and otherwise byte for byte as it
// was written. It refuses what is not one JSON value, invalid UTF-8 and nesting
// over MaxDepth. The result shares no bytes with v.
func CompactValue(v []byte) ([]byte, error) {
	spaces, err := checkJSON(v, MaxDepth)
	if err != nil {
		return nil, fmt.Errorf("value: %w", err)
	}
	return compact(v, spaces), nil
}

// CheckJSON says what is wrong with v if it is not one JSON value in valid UTF-8 that nests
// no deeper than MaxDepth.
func CheckJSON(v []byte) error {
	_, err := checkJSON(v, MaxDepth)
	return err
}

// compact returns a JSON value without so many bytes of white space that stand between its
// tokens.
func compact(v []byte, spaces int) []byte {
	if spaces == 0 {
		return bytes.Clone(v)
	}
	b := make([]byte, 0, len(v)-spaces)
	inString := false
	for i := 0; i < len(v); i++ {
		switch c := v[i]; {
		case inString && c == '\\':
			b = append(b, c)
			i++
		case c == '"':
			inString = !inString
		case !inString && isSpace(c):
			continue
		}
		b = append(b, v[i])
	}
	return b
}

// checkCompact refuses a value that CompactValue would not have written.
func checkCompact(v []byte) error {
	spaces, err := checkJSON(v, MaxDepth)
	if err == nil && spaces > 0 {
		err = errSpaced
	}
	if err != nil {
		return fmt.Errorf("value: %w", err)
	}
	return nil
}

var errSpaced = errors.New("has white space between its tokens")

// checkJSON refuses what is not one JSON value in valid UTF-8 that nests at most
// deepest deep, and counts the bytes of white space between its tokens. It
// allocates nothing.
func checkJSON(v []byte, deepest int) (spaces int, err error) {
	if spaces, ok := isJSON(v, deepest); ok {
		return spaces, nil
	}
	return checkJSONStrictly(v, deepest)
}

// checkJSONStrictly is checkJSON that can say what is wrong.
func checkJSONStrictly(v []byte, deepest int) (spaces int, err error) {
	if !utf8.Valid(v) {
		return 0, errors.New("is not valid UTF-8")
	}
	depth, spaces := survey(v)
	if depth > deepest {
		return 0, fmt.Errorf("is nested deeper than %d", deepest)
	}
	if !json.Valid(v) {
		return 0, syntaxError(v)
	}
	return spaces, nil
}

// survey returns how deep the brackets of v nest and how many bytes of white
// space stand between its tokens.
func survey(v []byte) (deepest, spaces int) {
	depth, inString := 0, false
	for i := 0; i < len(v); i++ {
		switch c := v[i]; {
		case inString && c == '\\':
			i++
		case c == '"':
			inString = !inString
		case inString:
		case c == '{' || c == '[':
			depth++
			deepest = max(deepest, depth)
		case c == '}' || c == ']':
			depth--
		case isSpace(c):
			spaces++
		}
	}
	return deepest, spaces
}

func isSpace(c byte) bool { return c == ' ' || c == '\t' || c == '\n' || c == '\r' }

// syntaxError says where v, which is not JSON, goes wrong.
func syntaxError(v []byte) error {
	if len(bytes.Trim(v, " \t\r\n")) == 0 {
		return errors.New("is empty; want JSON")
	}
	var discard any
	err := json.Unmarshal(v, &discard)
	if syntax, ok := errors.AsType[*json.SyntaxError](err); ok {
		return fmt.Errorf("is not JSON at byte %d: %w", syntax.Offset, err)
	}
	return fmt.Errorf("is not JSON: %w", err)
}

// A Member is one name and value of a JSON object, the value's bytes as written.
type Member struct {
	Name  string
	Value json.RawMessage
}

// Members splits one JSON object into its members, in their order. Names are
// exact: encoding/json would fold their case, keep the last of two and replace
// what is no text. A name that stands twice is refused, and so is one with half
// of a surrogate pair. The result shares no bytes with object.
func Members(object []byte) ([]Member, error) { return members(bytes.Clone(object)) }

// members is Members, with values that share object's bytes.
func members(object []byte) ([]Member, error) {
	if _, err := checkJSON(object, MaxDepth+2); err != nil {
		return nil, err
	}
	rest := trimSpace(object)
	if rest[0] != '{' {
		return nil, errors.New("is not a JSON object")
	}
	// From here on object is known to be well formed.
	var ms []Member
	seen := map[string]bool{}
	rest = trimSpace(rest[1:])
	for rest[0] != '}' {
		n := valueLen(rest)
		name, ok := unquote(rest[:n])
		if !ok {
			return nil, fmt.Errorf("has the name %.40q, which has half of a surrogate pair", rest[:n])
		}
		if seen[name] {
			return nil, fmt.Errorf("has the member %.40q twice", name)
		}
		seen[name] = true
		rest = trimSpace(rest[n:])
		rest = trimSpace(rest[1:]) // the colon
		n = valueLen(rest)
		ms = append(ms, Member{Name: name, Value: json.RawMessage(rest[:n:n])})
		if rest = trimSpace(rest[n:]); rest[0] == ',' {
			rest = trimSpace(rest[1:])
		}
	}
	return ms, nil
}

func trimSpace(b []byte) []byte {
	for len(b) > 0 && isSpace(b[0]) {
		b = b[1:]
	}
	return b
}

// valueLen returns the length of the value that b, well-formed JSON from there
// on, begins with.
func valueLen(b []byte) int {
	depth, inString := 0, false
	for i := 0; i < len(b); i++ {
		switch c := b[i]; {
		case inString && c == '\\':
			i++
		case c == '"':
			inString = !inString
			if !inString && depth == 0 {
				return i + 1
			}
		case inString:
		case c == '{' || c == '[':
			depth++
		case depth > 0 && (c == '}' || c == ']'):
			depth--
			if depth == 0 {
				return i + 1
			}
		case depth == 0 && (c == ',' || c == ':' || c == '}' || c == ']' || isSpace(c)):
			return i // the end of a number or a word
		}
	}
	return len(b)
}

// unquote returns the text of the JSON string b. It is not ok if b has half of a
// surrogate pair, such as \ud800: that is no text, and encoding/json would
// silently make it U+FFFD.
func unquote(b []byte) (s string, ok bool) {
	if bytes.IndexByte(b, '\\') < 0 {
		return string(b[1 : len(b)-1]), true
	}
	for i := 0; i < len(b); i++ {
		if b[i] != '\\' {
			continue
		}
		i++
		if b[i] != 'u' {
			continue
		}
		r := hexRune(b[i+1:])
		i += 4
		if !utf16.IsSurrogate(r) {
			continue
		}
		if b[i+1] != '\\' || b[i+2] != 'u' || utf16.DecodeRune(r, hexRune(b[i+3:])) == utf8.RuneError {
			return "", false
		}
		i += 6
	}
	return s, json.Unmarshal(b, &s) == nil
}

// hexRune reads the four hex digits that b begins with.
func hexRune(b []byte) rune {
	n, _ := strconv.ParseUint(string(b[:4]), 16, 16)
	return rune(n)
}

// appendString appends s as JSON, escaping nothing but what must be: names hold
// no control characters, so that is the quote and the backslash. encoding/json
// would rewrite < > & and more.
func appendString(b []byte, s string) []byte {
	b = append(b, '"')
	for i := range len(s) {
		if c := s[i]; c == '"' || c == '\\' {
			b = append(b, '\\')
		}
		b = append(b, s[i])
	}
	return append(b, '"')
}

// Text returns m's value, which must be a string.
func (m Member) Text() (string, error) {
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
	s, err := m.Text()
	if err != nil {
		return Hash{}, err
	}
	return ParseHash(s)
}
