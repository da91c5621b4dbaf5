package source

import (
	"net/url"
	"strings"
	"testing"

	"github.com/rstream-dev/rstream/event"
)

func TestEncodeNames(t *testing.T) {
	for text, want := range map[string]string{
		"en.wikipedia.org": "en.wikipedia.org", "a/b*c$d,e%": "a%2Fb%2Ac%24d%2Ce%25", ".": "%2E", "..": "%2E%2E", "…": "…",
		"a\x00\x1b\u0085": "a%00%1B%C2%85", "\xff": "%FF", "\uFFFD": "\uFFFD",
	} {
		if got := encodeUser(text); got != want {
			t.Errorf("encodeUser(%q) = %q, want %q", text, got, want)
		}
	}
	for text, want := range map[string]string{
		"a/b": "a/b", "/a": "%2Fa", "a//b": "a/%2Fb", "a/": "a%2F", "a$": "a%24", "$a": "$a", "a/./b/../c": "a/%2E/b/%2E%2E/c", "/": "%2F", "*": "%2A",
	} {
		if got := encodePath(text); got != want {
			t.Errorf("encodePath(%q) = %q, want %q", text, got, want)
		}
	}
}

// Every text becomes a valid name, and different texts different ones.
func FuzzEncodeNames(f *testing.F) {
	for _, s := range []string{"a", "", ".", "a/../b", "%2F", "a$", "//", "\xff\x00", "a,b*"} {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, text string) {
		user, path := encodeUser(text), encodePath(text)
		for name, s := range map[string]string{"user": user, "path": path} {
			back, err := url.PathUnescape(s)
			if err != nil || back != text {
				t.Errorf("the %s %q of %q decodes to %q, %v", name, s, text, back, err)
			}
		}
		if text == "" {
			return
		}
		if err := event.CheckUser(user); err != nil && len(user) <= event.MaxUser {
			t.Errorf("encodeUser(%q): %v", text, err)
		}
		if err := event.CheckPath(path); err != nil && len(path) <= event.MaxPath {
			t.Errorf("encodePath(%q): %v", text, err)
		}
	})
}

func TestParsePlaces(t *testing.T) {
	for _, s := range []string{"id", "json:a.b", "line:cursor", "event:control:next", "none"} {
		if p, err := ParsePlace(s); err != nil || p.String() != s {
			t.Errorf("ParsePlace(%q) = %v, %v", s, p, err)
		}
	}
	for _, s := range []string{"header", "query:since", "users:user"} {
		if r, err := ParseResume(s); err != nil || r.String() != s {
			t.Errorf("ParseResume(%q) = %v, %v", s, r, err)
		}
	}
	for _, s := range []string{"", "json:", "line", "event:a", "event:a:", "event::b", "ID"} {
		if p, err := ParsePlace(s); err == nil {
			t.Errorf("ParsePlace(%q) = %v", s, p)
		}
		if r, err := ParseResume(s); err == nil {
			t.Errorf("ParseResume(%q) = %v", s, r)
		}
	}
	for s, want := range map[string]Place{"close": {}, "event:end": {InEvent, "end", ""}, "event:c:up": {InEvent, "c", "up"}, "json:up": {InMember, "", "up"}} {
		if p, atClose, err := ParseEnd(s); err != nil || p != want || atClose != (s == "close") {
			t.Errorf("ParseEnd(%q) = %v, %v, %v", s, p, atClose, err)
		}
	}
}

func TestKindOf(t *testing.T) {
	for address, want := range map[string]string{
		"https://stream.wikimedia.org/v2/stream/recentchange": "wikimedia",
		"https://hub.example/.well-known/mercure?match=a":     "mercure",
		"https://ntfy.sh/topic/sse":                           "ntfy",
		"https://home.example/events-stream?user=x":           "pubky",
		"https://example.com/events":                          "sse",
	} {
		u, err := ParseURL(address)
		if err != nil {
			t.Fatal(err)
		}
		if got := KindOf(u).Name; got != want {
			t.Errorf("KindOf(%s) = %s, want %s", address, got, want)
		}
	}
	for _, bad := range []string{"", "example.com", "ftp://a", "http://", "http://u:p/w@h/", "http://a:b:c"} {
		if _, err := ParseURL(bad); err == nil || strings.Contains(err.Error(), "p/w") {
			t.Errorf("ParseURL(%q): %v", bad, err)
		}
	}
	for _, name := range KindNames() {
		k, err := KindNamed(name)
		if err != nil {
			t.Fatal(err)
		}
		if _, err := NewMapper("x", k.Mapping); err != nil {
			t.Errorf("kind %s: %v", name, err)
		}
	}
}
