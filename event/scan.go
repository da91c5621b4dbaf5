package event

import (
	"bytes"
	"unicode/utf8"
)

// A scanner reads JSON in its usual form, as a fast path. It has no errors: the strict
// functions parse the input that it does not accept, or explain why it is invalid. They
// accept everything that it accepts, with the same result.
type scanner struct {
	b      []byte
	i      int  // index of the next byte
	spaces int  // bytes of white space between tokens
	high   bool // there are bytes beyond ASCII
}

// isJSON reports whether v is exactly one JSON value in valid UTF-8, nested at most deepest
// deep, and returns the number of bytes of white space between its tokens.
func isJSON(v []byte, deepest int) (spaces int, ok bool) {
	s := scanner{b: v}
	s.skipSpace()
	if !s.scanValue(deepest) {
		return 0, false
	}
	s.skipSpace()
	return s.spaces, s.i == len(v) && s.isText()
}

func (s *scanner) isText() bool { return !s.high || utf8.Valid(s.b) }

func (s *scanner) skipSpace() {
	for s.i < len(s.b) && isSpace(s.b[s.i]) {
		s.i++
		s.spaces++
	}
}

// peekByte returns the next byte, or 0 at the end.
func (s *scanner) peekByte() byte {
	if s.i < len(s.b) {
		return s.b[s.i]
	}
	return 0
}

// skipByte reads the byte c if it comes next.
func (s *scanner) skipByte(c byte) bool {
	if s.peekByte() != c {
		return false
	}
	s.i++
	return true
}

func (s *scanner) scanValue(deepest int) bool {
	switch c := s.peekByte(); c {
	case '"':
		return s.scanText()
	case '{', '[':
		return deepest > 0 && s.skipNested(c+2, deepest-1) // '{'+2 is '}', and '['+2 is ']'
	case 't':
		return s.skipWord("true")
	case 'f':
		return s.skipWord("false")
	case 'n':
		return s.skipWord("null")
	default:
		return s.skipNumber()
	}
}

// skipNested reads an object or an array, including its end.
func (s *scanner) skipNested(end byte, deepest int) bool {
	s.i++
	s.skipSpace()
	if s.skipByte(end) {
		return true
	}
	for {
		if end == '}' {
			if !s.scanText() {
				return false
			}
			s.skipSpace()
			if !s.skipByte(':') {
				return false
			}
			s.skipSpace()
		}
		if !s.scanValue(deepest) {
			return false
		}
		s.skipSpace()
		if s.skipByte(end) {
			return true
		}
		if !s.skipByte(',') {
			return false
		}
		s.skipSpace()
	}
}

// scanText reads a string.
func (s *scanner) scanText() bool {
	if !s.skipByte('"') {
		return false
	}
	for s.i < len(s.b) {
		c := s.b[s.i]
		s.i++
		switch {
		case c == '"':
			return true
		case c == '\\':
			if !s.scanEscape() {
				return false
			}
		case c < ' ':
			return false
		case c >= utf8.RuneSelf:
			s.high = true
		}
	}
	return false
}

// scanEscape reads the rest of an escape after its backslash.
func (s *scanner) scanEscape() bool {
	c := s.peekByte()
	s.i++
	switch c {
	case '"', '\\', '/', 'b', 'f', 'n', 'r', 't':
		return true
	case 'u':
		for range 4 {
			if !isHex(s.peekByte()) {
				return false
			}
			s.i++
		}
		return true
	}
	return false
}

func isHex(c byte) bool {
	return '0' <= c && c <= '9' || 'a' <= c && c <= 'f' || 'A' <= c && c <= 'F'
}

func (s *scanner) skipWord(w string) bool {
	if !bytes.HasPrefix(s.b[s.i:], []byte(w)) {
		return false
	}
	s.i += len(w)
	return true
}

func (s *scanner) skipNumber() bool {
	s.skipByte('-')
	if !s.skipByte('0') && !s.skipDigits() {
		return false
	}
	if s.skipByte('.') && !s.skipDigits() {
		return false
	}
	if s.skipByte('e') || s.skipByte('E') {
		if !s.skipByte('+') {
			s.skipByte('-')
		}
		return s.skipDigits()
	}
	return true
}

// skipDigits reads one or more digits.
func (s *scanner) skipDigits() bool {
	from := s.i
	for c := s.peekByte(); '0' <= c && c <= '9'; c = s.peekByte() {
		s.i++
	}
	return s.i > from
}

// scanPlain reads a string. It returns its text, and whether it has no escapes.
func (s *scanner) scanPlain() ([]byte, bool) {
	from := s.i + 1
	if !s.scanText() {
		return nil, false
	}
	b := s.b[from : s.i-1]
	return b, bytes.IndexByte(b, '\\') < 0
}
