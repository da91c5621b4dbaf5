package event

import (
	"errors"
	"fmt"
	"strings"
	"unicode/utf8"
)

// The longest names, in bytes.
const (
	MaxUser = 128
	MaxPath = 1024
	MaxKey  = 256
)

// CheckUser returns an error if user is not a valid user: 1 to 128 bytes of UTF-8 without
// control characters and without / * $ and comma, and not "." or "..", which URL parsers
// remove.
func CheckUser(user string) error {
	if user == "" {
		return errors.New("user: must not be empty")
	}
	if err := checkText("user", user, MaxUser); err != nil {
		return err
	}
	if i := strings.IndexAny(user, "/*$,"); i >= 0 {
		return fmt.Errorf("user %.40q: must not contain %q", user, user[i])
	}
	if user == "." || user == ".." {
		return fmt.Errorf("user %q: not allowed, because URL parsers remove it", user)
	}
	return nil
}

// CheckPath returns an error if path is not valid: 1 to 1,024 bytes of UTF-8 without
// control characters, without an empty, "." or ".." segment, without * and without a $ at
// its end.
func CheckPath(path string) error {
	if path == "" {
		return errors.New("path: must not be empty")
	}
	if err := checkPathText(path); err != nil {
		return err
	}
	if strings.HasSuffix(path, "$") {
		return fmt.Errorf("path %.40q: must not end with $", path)
	}
	for segment := range strings.SplitSeq(path, "/") {
		if err := checkSegment(path, segment); err != nil {
			return err
		}
	}
	return nil
}

// CheckKey returns an error if key is not valid: at most 256 bytes of UTF-8 without control
// characters.
func CheckKey(key string) error { return checkText("key", key, MaxKey) }

func checkPathText(path string) error {
	if err := checkText("path", path, MaxPath); err != nil {
		return err
	}
	if strings.Contains(path, "*") {
		return fmt.Errorf("path %.40q: must not contain *", path)
	}
	return nil
}

func checkSegment(path, segment string) error {
	switch segment {
	case "":
		return fmt.Errorf("path %.40q: must not have an empty segment", path)
	case ".", "..":
		return fmt.Errorf("path %.40q: must not have the segment %q", path, segment)
	}
	return nil
}

func checkText(what, s string, most int) error {
	if len(s) > most {
		return fmt.Errorf("%s %.40q…: must be at most %d bytes long, not %d", what, s[:min(len(s), 32)], most, len(s))
	}
	if isPlain(s) {
		return nil
	}
	if !utf8.ValidString(s) {
		return fmt.Errorf("%s %.40q: must be valid UTF-8", what, s)
	}
	for _, r := range s {
		if r < 0x20 || 0x7f <= r && r < 0xa0 {
			return fmt.Errorf("%s %.40q: must not contain the control character %U", what, s, r)
		}
	}
	return nil
}

// isPlain reports whether s is ASCII without control characters.
func isPlain(s string) bool {
	for i := range len(s) {
		if s[i] < ' ' || s[i] > '~' {
			return false
		}
	}
	return true
}
