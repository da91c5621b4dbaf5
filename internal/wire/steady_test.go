package wire

import (
	"errors"
	"testing"
)

func TestSteadyText(t *testing.T) {
	for text, want := range map[string]string{
		"nats: read tcp 127.0.0.1:58716->127.0.0.1:4222: i/o timeout":           "nats: read tcp 127.0.0.1:4222: i/o timeout",
		"write tcp [::1]:58716->[::1]:4222: write: broken pipe":                 "write tcp [::1]:4222: write: broken pipe",
		"read tcp [fe80::1%eth0]:1->[fe80::2%eth0]:2: connection reset by peer": "read tcp [fe80::2%eth0]:2: connection reset by peer",
		"dial tcp 127.0.0.1:4222: connection refused":                           "dial tcp 127.0.0.1:4222: connection refused",
		"a->b": "a->b",
		"read tcp 10.0.0.1:1->10.0.0.2:2: i/o timeout; read tcp 10.0.0.1:3->10.0.0.2:2: connection was reset": "read tcp 10.0.0.2:2: i/o timeout; read tcp 10.0.0.2:2: connection was reset",
	} {
		if got := SteadyText(errors.New(text)); got != want {
			t.Errorf("%q: %q, want %q", text, got, want)
		}
	}
}
