package event

import (
	"strings"
	"testing"
)

// Whatever a check in one pass accepts, the full check accepts, whether it has a string or bytes.
func FuzzUsualName(f *testing.F) {
	for _, s := range []string{"", "alice", "a.b", ".", "..", ".x", "a/b.c", "/", "a/", "/a", "a//b", "a/../b", "a/.b", "a*", "a$", "a$b", "a,b", "a\x7f", "a\x1f", "é",
		strings.Repeat("a", MaxUser), strings.Repeat("a", MaxUser+1), strings.Repeat("a", MaxPath), strings.Repeat("a", MaxPath+1), strings.Repeat("a", MaxKey+1)} {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, s string) {
		for _, c := range []struct {
			what  string
			usual [2]bool
			check func(string) error
		}{
			{"user", [2]bool{isUsualUser(s), isUsualUser([]byte(s))}, CheckUser},
			{"path", [2]bool{isUsualPath(s), isUsualPath([]byte(s))}, CheckPath},
			{"key", [2]bool{isUsualKey(s), isUsualKey([]byte(s))}, CheckKey},
		} {
			if c.usual[0] != c.usual[1] || c.usual[0] && c.check(s) != nil {
				t.Errorf("%s %q is usual: %v, but %v", c.what, s, c.usual, c.check(s))
			}
		}
	})
}

func TestUsualNames(t *testing.T) {
	if !isUsualUser("bench-x.1") || !isUsualPath("posts/2026/a.txt") || !isUsualKey("") || !isUsualKey("k 1") {
		t.Error("a usual name takes the full check")
	}
}
