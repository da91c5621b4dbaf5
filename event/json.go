package event

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"strconv"
	"strings"
	"unicode/utf16"
	"unicode/utf8"
)

// MaxDepth is how deep arrays and objects in a value may be nested.
const MaxDepth = 512

// CompactValue returns the form in which a value is stored: the JSON text v without the
// white space between its tokens, and otherwise unchanged byte for byte. It returns an error
// if v is not exactly one JSON value, has invalid UTF-8 or is nested deeper than MaxDepth.
// The result shares no bytes with v.
func CompactValue(v []byte) ([]byte, error) {
	spaces, err := checkJSON(v, MaxDepth)
	if err != nil {
		return nil, fmt.Errorf("value: %w", err)
	}
	return compactJSON(v, spaces), nil
}

// CheckJSON returns an error if v is not exactly one JSON value in valid UTF-8, nested no
// deeper than MaxDepth.
func CheckJSON(v []byte) error {
	_, err := checkJSON(v, MaxDepth)
	return err
}

// compactJSON returns a copy of a JSON value without the white space between its tokens, which
// takes the given number of bytes.
func compactJSON(v []byte, spaces int) []byte {
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

// checkCompact returns an error if CompactValue would not return v unchanged.
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

var errSpaced = errors.New("white space between tokens")

// checkJSON returns an error if v is not exactly one JSON value in valid UTF-8, nested at
// most deepest deep. It returns the number of bytes of white space between its tokens. For a
// valid value, it does not allocate.
func checkJSON(v []byte, deepest int) (spaces int, err error) {
	if spaces, ok := isJSON(v, deepest); ok {
		return spaces, nil
	}
	return checkJSONStrictly(v, deepest)
}

// checkJSONStrictly is the slow path of checkJSON, which can explain an error.
func checkJSONStrictly(v []byte, deepest int) (spaces int, err error) {
	if !utf8.Valid(v) {
		return 0, errors.New("not valid UTF-8")
	}
	depth, spaces := surveyJSON(v)
	if depth > deepest {
		return 0, fmt.Errorf("nested deeper than %d", deepest)
	}
	if !json.Valid(v) {
		return 0, syntaxError(v)
	}
	return spaces, nil
}

// surveyJSON returns how deep the brackets of v are nested, and the number of bytes of white
// space between its tokens.
func surveyJSON(v []byte) (deepest, spaces int) {
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

// syntaxError returns the error in v, which is not valid JSON, and its place.
func syntaxError(v []byte) error {
	if len(bytes.Trim(v, " \t\r\n")) == 0 {
		return errors.New("empty; want JSON")
	}
	var discard any
	err := json.Unmarshal(v, &discard)
	if syntax, ok := errors.AsType[*json.SyntaxError](err); ok {
		return fmt.Errorf("invalid JSON at byte %d: %w", syntax.Offset, err)
	}
	return fmt.Errorf("invalid JSON: %w", err)
}

// A Member is one name and value of a JSON object, with the bytes of the value as written.
type Member struct {
	Name  string
	Value json.RawMessage
}

// Members splits one JSON object into its members, in their order. Names are exact, while
// encoding/json would fold their case, keep the last of two and replace lone surrogates. It
// returns an error if a name is given twice or has a lone surrogate. The result shares no
// bytes with object.
func Members(object []byte) ([]Member, error) { return members(bytes.Clone(object)) }

// members is like Members, but the values share the bytes of object.
func members(object []byte) ([]Member, error) {
	if _, err := checkJSON(object, MaxDepth+2); err != nil {
		return nil, err
	}
	rest := trimSpace(object)
	if rest[0] != '{' {
		return nil, errors.New("not a JSON object")
	}
	// From here on, object is known to be well formed.
	var ms []Member
	seen := map[string]bool{}
	rest = trimSpace(rest[1:])
	for rest[0] != '}' {
		n := valueLen(rest)
		name, ok := unquote(rest[:n])
		if !ok {
			return nil, fmt.Errorf("name %.40q contains a lone surrogate", rest[:n])
		}
		if seen[name] {
			return nil, fmt.Errorf("member %.40q is given twice", name)
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

// valueLen returns the length of the value at the start of b, which must be well formed.
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

// unquote returns the text of the JSON string b. ok is false if b contains a lone surrogate
// such as \ud800: it is not text, and encoding/json would silently replace it by U+FFFD.
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

// hexRune parses the four hex digits at the start of b.
func hexRune(b []byte) rune {
	n, _ := strconv.ParseUint(string(b[:4]), 16, 16)
	return rune(n)
}

// appendString appends s as a JSON string. It escapes only the quote and the backslash, which
// is enough because names contain no control characters. encoding/json would also escape
// < > & and more.
func appendString(b []byte, s string) []byte {
	b = append(b, '"')
	if strings.IndexByte(s, '"') < 0 && strings.IndexByte(s, '\\') < 0 {
		return append(append(b, s...), '"')
	}
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
		return "", fmt.Errorf("%s: %.40q contains a lone surrogate", m.Name, m.Value)
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
