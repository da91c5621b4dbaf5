package event

import (
	"strings"
	"testing"
)

func TestCheckNew(t *testing.T) {
	for _, c := range []struct {
		user, path, key, value string
		refused                string
	}{
		{"alice", "x", "k", `"a"`, ""},
		{"zoë", "日本/✓", "ключ", `"שלום"`, ""},
		{"alice", "שלום", "", "1", ""},       // a script that runs the other way needs no marks
		{"👩‍👩‍👧", "x", "", "1", ""},          // a joiner turns nothing
		{"alice", "x", "", "\"\u202e\"", ""}, // a value is what it is
		{"al\u202eice", "x", "", "1", "user"},
		{"alice", "a/\u061cb", "", "1", "path"},
		{"alice", "\u200e", "", "1", "U+200E"},
		{"alice", "x\u200f", "", "1", "U+200F"},
		{"alice", "x", "k\u2066", "1", "key"},
		{"alice", "x", "k\u2069", "1", "U+2069"},
		{"alice", "x\u202a", "", "1", "U+202A"},
		{"alice", "x", "", `"\ud83d\ude00"`, ""},
		{"alice", "x", "", `"\\ud800"`, ""},
		{"alice", "x", "", `"\\\\ud800"`, ""},
		{"alice", "x", "", `"\ud800"`, `value: lone surrogate \ud800 at byte 2`},
		{"alice", "x", "", `"\uDFFF"`, `\uDFFF at byte 2`},
		{"alice", "x", "", `{"a":["\ud83d\ude00","\ud83dx"]}`, `\ud83d at byte 23`},
		{"alice", "x", "", `"\ud800\ud800"`, "at byte 2"},
		{"alice", "x", "", `"\ude00\ud83d"`, "at byte 2"},
		{"alice", "x", "", `"\ud83d\n"`, "at byte 2"},
		{"alice", "x", "", `{"\ud800":1}`, "at byte 3"},
		{"alice", "x", "", `"\\\ud800"`, "at byte 4"},
	} {
		d := Draft{User: c.user, Path: c.path, Key: c.key, Type: Put, Value: []byte(c.value)}
		if err := d.Check(); err != nil {
			t.Errorf("an old %q: %v", d, err)
		}
		if del := (Draft{User: c.user, Path: c.path, Key: c.key, Type: Del}); del.CheckNew() != nil {
			t.Errorf("a DEL of %q is refused", del)
		}
		err := d.CheckNew()
		if (err == nil) != (c.refused == "") || err != nil && !strings.Contains(err.Error(), c.refused) {
			t.Errorf("a new %q %q %q %s: %v, want %q", c.user, c.path, c.key, c.value, err, c.refused)
		}
	}
}

// halfPair finds exactly the escapes that a strict parser would replace.
func FuzzHalfPair(f *testing.F) {
	for _, s := range []string{`"\ud800"`, `"\ud83d\ude00"`, `"\\ud800"`, `"\ud800\u0041"`, `"\ud800`, `{"a":"\udc00"}`} {
		f.Add([]byte(s))
	}
	f.Fuzz(func(t *testing.T, v []byte) {
		if _, err := CompactValue(v); err != nil || v[0] != '"' || v[len(v)-1] != '"' {
			return
		}
		if _, ok := unquote(v); ok != (halfPair(v) < 0) {
			t.Errorf("halfPair(%s) = %d, unquote says %t", v, halfPair(v), ok)
		}
	})
}
