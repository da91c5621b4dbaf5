package event

import (
	"bytes"
	"fmt"
	"unicode/utf16"
	"unicode/utf8"
)

// TurnsText reports whether r is a bidirectional control character, which changes the
// direction of the text around it, so that the text is not shown in the order of its bytes.
func TurnsText(r rune) bool {
	return r == 0x061c || r == 0x200e || r == 0x200f || 0x202a <= r && r <= 0x202e || 0x2066 <= r && r <= 0x2069
}

// CheckNew is Check for a draft that is to be appended. It also refuses drafts that logs may
// contain from earlier versions: names with bidirectional control characters, and values
// with lone surrogates, which are not text and which each parser replaces in its own way. A
// DEL may have such a name, so that the value there can be removed.
func (d *Draft) CheckNew() error {
	if err := d.Check(); err != nil || d.Type == Del {
		return err
	}
	for _, name := range [...]struct{ what, text string }{{"user", d.User}, {"path", d.Path}, {"key", d.Key}} {
		if isPlain(name.text) {
			continue
		}
		for _, r := range name.text {
			if TurnsText(r) {
				return fmt.Errorf("%s %.40q: must not contain %U, which changes the direction of text", name.what, name.text, r)
			}
		}
	}
	return CheckNewValue(d.Value)
}

// CheckNewValue refuses a compact value with a lone surrogate, as CheckNew does.
func CheckNewValue(v []byte) error {
	if at := halfPair(v); at >= 0 {
		return fmt.Errorf("value: lone surrogate %s at byte %d of the compact value", v[at:at+6], at+1)
	}
	return nil
}

// halfPair returns the index of the first lone surrogate in a JSON value, or -1.
func halfPair(v []byte) int {
	for i := bytes.IndexByte(v, '\\'); 0 <= i && i+1 < len(v); i++ {
		if v[i] != '\\' {
			continue
		}
		i++
		if v[i] != 'u' {
			continue
		}
		r, at := hexRune(v[i+1:]), i-1
		i += 4
		if !utf16.IsSurrogate(r) {
			continue
		}
		if i+6 >= len(v) || v[i+1] != '\\' || v[i+2] != 'u' || utf16.DecodeRune(r, hexRune(v[i+3:])) == utf8.RuneError {
			return at
		}
		i += 6
	}
	return -1
}
