package main

import (
	"slices"
	"testing"
)

// An origin that no browser would send is an error, or is written as browsers do.
func TestParseOrigins(t *testing.T) {
	got, err := parseOrigins([]string{"*", "null", "https://ok.example/", "HTTPS://Up.Example:443", "http://localhost:80", "http://[::1]:8080", "chrome-extension://abc"})
	want := []string{"*", "null", "https://ok.example", "https://up.example", "http://localhost", "http://[::1]:8080", "chrome-extension://abc"}
	if err != nil || !slices.Equal(got, want) {
		t.Errorf("parseOrigins = %q, %v, want %q", got, err, want)
	}
	for _, text := range []string{"", "example.com", "localhost:8080", "https://ok.example/page", "https://ok.example?x", "https://", "https://*.example.com", "https://a@b.example", "https://app.example:", "https://app.example:0443", "https://app.example:99999", "https://bücher.example", "https://app.example?", "https://a.b,c.d"} {
		if got, err := parseOrigins([]string{text}); err == nil {
			t.Errorf("%q was taken, as %q", text, got)
		}
	}
}
