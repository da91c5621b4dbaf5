package source

import (
	"fmt"
	"strings"
	"unicode/utf8"

	"github.com/rstream-dev/rstream/event"
)

// encodeUser returns text as a user's name: what a name cannot have is percent-encoded,
// and so is a percent sign.
func encodeUser(text string) string {
	s := percentEncode(text, func(r rune, _ bool) bool { return strings.ContainsRune("/*$,", r) })
	if s == "." || s == ".." {
		return strings.ReplaceAll(s, ".", "%2E")
	}
	return s
}

// encodePath returns text as a path. Its slashes separate segments, except those that would
// leave an empty one.
func encodePath(text string) string {
	s := percentEncode(text, func(r rune, begins bool) bool { return r == '*' || r == '/' && begins })
	if strings.HasSuffix(s, "/") {
		s = s[:len(s)-1] + "%2F"
	}
	if strings.HasSuffix(s, "$") {
		s = s[:len(s)-1] + "%24"
	}
	if !strings.Contains(s, ".") {
		return s
	}
	segments := strings.Split(s, "/")
	for i, segment := range segments {
		if segment == "." || segment == ".." {
			segments[i] = strings.ReplaceAll(segment, ".", "%2E")
		}
	}
	return strings.Join(segments, "/")
}

// percentEncode encodes percent signs, control characters, also bidirectional ones, bytes that are
// not UTF-8, and the characters for which also returns true. begins is whether r begins a segment.
func percentEncode(text string, also func(r rune, begins bool) bool) string {
	b := make([]byte, 0, len(text))
	for i := 0; i < len(text); {
		r, size := utf8.DecodeRuneInString(text[i:])
		c := text[i : i+size]
		i += size
		if r < 0x20 || 0x7f <= r && r < 0xa0 || r == '%' || event.TurnsText(r) || r == utf8.RuneError && size == 1 || also(r, len(b) == 0 || b[len(b)-1] == '/') {
			for _, octet := range []byte(c) {
				b = fmt.Appendf(b, "%%%02X", octet)
			}
			continue
		}
		b = append(b, c...)
	}
	return string(b)
}
