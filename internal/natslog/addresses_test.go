package natslog

import (
	"strings"
	"testing"
)

func TestParseAddresses(t *testing.T) {
	for _, c := range []struct{ text, want, shown string }{
		{"127.0.0.1:4222", "nats://127.0.0.1:4222", "nats://127.0.0.1:4222"},
		{"nats://a, b:1 ,tls://c/", "nats://a,nats://b:1,tls://c/", "nats://a,nats://b:1,tls://c/"},
		{"u:secret@a:1", "nats://u:secret@a:1", "nats://***@a:1"},
		{"a:1,u:secret@b", "nats://a:1,nats://u:secret@b", "nats://a:1,nats://***@b"},
		{"secret@a", "nats://secret@a", "nats://***@a"},
		{"ws://u:secret@a,wss://u:secret@[::1]:8080", "ws://u:secret@a,wss://u:secret@[::1]:8080", "ws://***@a,wss://***@[::1]:8080"},
		{"nats://u:s%23e%2C%40cret@a", "nats://u:s%23e%2C%40cret@a", "nats://***@a"},
	} {
		got, err := ParseAddresses(c.text)
		if got != c.want || err != nil {
			t.Errorf("%q is parsed as %q, %v; want %q", c.text, got, err, c.want)
		}
		if again, err := ParseAddresses(got); again != got || err != nil {
			t.Errorf("%q is parsed as %q, %v; want the same", got, again, err)
		}
		if shown := ShownAddresses(c.text); shown != c.shown {
			t.Errorf("%q is shown as %q, want %q", c.text, shown, c.shown)
		}
	}
	for _, text := range []string{"", ",", "nats://", "nats://a,", "http://a", "nats://a/log", "nats://a?x=secret", "nats://u:secret#pw@a", "nats://u:secret/pw@a",
		"nats://u:secret,pw@a", "u:secret@pw@a", "nats://u:secret pw@a", "nats://u:secret\"pw@a", "nats://u:secret'pw@a", "u:secret<pw@a", "nats://u:secret%zz@a"} {
		if got, err := ParseAddresses(text); err == nil {
			t.Errorf("%q is parsed as %q, want an error", text, got)
		} else if strings.Contains(err.Error(), "secret") {
			t.Errorf("the error of %q is %v", text, err)
		}
		if shown := ShownAddresses(text); strings.Contains(shown, "secret") && strings.Contains(text, "@") {
			t.Errorf("%q is shown as %q", text, shown)
		}
	}
}
