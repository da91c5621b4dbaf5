package wire

import (
	"strings"
	"testing"
)

func TestRedactURL(t *testing.T) {
	for s, want := range map[string]string{
		"http://127.0.0.1:8420":              "http://127.0.0.1:8420",
		"http://user:pw@host/x":              "http://***@host/x",
		"https://user:p%40w@host:1/":         "https://***@host:1/",
		"http://token@host":                  "http://***@host",
		"http://user:@host":                  "http://***@host",
		"http://:pw@host":                    "http://***@host",
		"HTTP://user:pw@host":                "HTTP://***@host",
		"http://user:p@w@host":               "http://***@host",
		"http://user:p/w@host":               "http://***@host",
		"http://user:1/w@host":               "http://***@host",
		"http://user:1#w@host":               "http://***@host",
		"http://user:1?w@host":               "http://***@host",
		"http://user:p@0?w@host":             "http://***@host",
		"http://user:p w@host":               "http://***@host",
		"http://user:p\"w@host":              "http://***@host",
		"http://user:p#w@host":               "http://***@host",
		"http://user:p?w@host":               "http://***@host",
		"http://user:pw@[::1]:8420/base?q=1": "http://***@[::1]:8420/base?q=1",
		"http://host/?mail=a@b":              "http://host/?mail=a@b",
		"user:pw@host:8420":                  "***@host:8420",
		"host":                               "host",
		"":                                   "",
	} {
		if got := RedactURL(s); got != want {
			t.Errorf("RedactURL(%q) = %q, want %q", s, got, want)
		}
	}
}

func FuzzRedactURL(f *testing.F) {
	for _, s := range []string{"pw", "p@w", "p/w", "p?w", "p#w", "p w", "p:w", "p%zz", "://", "[", "p\\w", "p\nw"} {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, password string) {
		secret := "s3cr3t" + password + "s3cr3t"
		got := RedactURL("http://user:" + secret + "@host/x")
		if strings.Contains(got, "s3cr3t") || !strings.HasSuffix(got, "host/x") {
			t.Errorf("a password %q is shown as %q", secret, got)
		}
	})
}

func TestRedact(t *testing.T) {
	for text, want := range map[string]string{
		`parse "http://u:p@h": bad, then https://x:y@z/q`: `parse "http://***@h": bad, then https://***@z/q`,
		"socks5://u:p@h: refused":                         "socks5://***@h: refused",
		"mail a@b about http://h/x":                       "mail a@b about http://h/x",
	} {
		if got := Redact(text); got != want {
			t.Errorf("Redact(%q) = %q, want %q", text, got, want)
		}
	}
}

func TestWithoutUser(t *testing.T) {
	for s, want := range map[string]string{"http://u:p@h:1/x": "http://h:1/x", "http://h/x": "http://h/x", "http://t@[::1]": "http://[::1]"} {
		if got := WithoutUser(s); got != want {
			t.Errorf("WithoutUser(%q) = %q, want %q", s, got, want)
		}
	}
}
