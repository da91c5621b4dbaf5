package main

import (
	"errors"
	"net/http"
	"os"
	"path/filepath"
	"reflect"
	"strings"
	"testing"
)

func TestParseRequestHeaders(t *testing.T) {
	file := filepath.Join(t.TempDir(), "headers")
	if err := os.WriteFile(file, []byte("\xef\xbb\xbfX-One: 1\r\nx-two:2\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	got, err := parseRequestHeaders([]string{"@" + file, "x-three: a b; c", "Cookie: k=v", "X-One: again"})
	want := http.Header{"X-One": {"1", "again"}, "X-Two": {"2"}, "X-Three": {"a b; c"}, "Cookie": {"k=v"}}
	if err != nil || !reflect.DeepEqual(got, want) {
		t.Errorf("%v, %v, want %v", got, err, want)
	}
	for _, bad := range []string{
		"hush", "hush hush: x", ": hush", "X-A: hush\r\nX-B: hush", "X-A: hush\nhush", "X-A: hush\x00", "X-A: \x7fhush", "X-A:", "X-A:  ",
		"Host: hush", "content-length: 5", "Transfer-Encoding: hush", "Connection: hush", "Accept: hush", "Last-Event-ID: hush",
		"Rstream-Held: hush", "If-None-Match: hush", "@/no/such/file",
	} {
		_, err := parseRequestHeaders([]string{bad})
		var usage *usageError
		if !errors.As(err, &usage) || strings.Contains(err.Error(), "hush") {
			t.Errorf("%q: %v", bad, err)
		}
	}
}

// TestAuthorizationOrToken: of an Authorization header and a token, the one that is set closer to
// the command is sent, and none of two in the same place.
func TestAuthorizationOrToken(t *testing.T) {
	const header = "Authorization: Basic x"
	dir := t.TempDir()
	token := filepath.Join(dir, "token")
	if err := os.WriteFile(token, []byte("t"), 0o600); err != nil {
		t.Fatal(err)
	}
	inServer := func(lines ...string) string {
		return "servers:\n  - name: here\n    url: https://a.example\n    " + strings.Join(lines, "\n    ") + "\nserver: here\n"
	}
	for _, test := range []struct {
		args   []string
		env    map[string]string
		config string
		want   string // header, token or refused
	}{
		{args: []string{"--header", header}, want: "header"},
		{args: []string{"--header", header, "--token-file", token}, want: "refused"},
		{args: []string{"--header", header}, env: map[string]string{"RSTREAM_TOKEN": "t"}, want: "header"},
		{args: []string{"--token-file", token}, env: map[string]string{"RSTREAM_HEADER": header}, want: "token"},
		{env: map[string]string{"RSTREAM_HEADER": header, "RSTREAM_TOKEN": "t"}, want: "refused"},
		{env: map[string]string{"RSTREAM_HEADER": "X-A: b c\n" + header}, want: "header"},
		{args: []string{"--header", header}, config: inServer("token-file: " + token), want: "header"},
		{args: []string{"--token-file", token}, config: inServer("header: '" + header + "'"), want: "token"},
		{config: inServer("header: '"+header+"'", "token-file: "+token), want: "refused"},
		{config: inServer("header: ['X-A: b', '" + header + "']"), want: "header"},
		{config: "header: '" + header + "'\n" + inServer("token-file: "+token), want: "header"},
		{config: inServer("token-file: " + token), want: "token"},
	} {
		alone(t)
		for name, value := range test.env {
			t.Setenv(name, value)
		}
		config := filepath.Join(dir, "config.yaml")
		if err := os.WriteFile(config, []byte(test.config), 0o600); err != nil {
			t.Fatal(err)
		}
		a := testApp(t)
		root := newRootCommand(a)
		cmd, rest, err := root.Find([]string{"ls"})
		if err != nil {
			t.Fatal(err)
		}
		if err := cmd.ParseFlags(append(rest, append(test.args, "--config", config)...)); err != nil {
			t.Fatal(err)
		}
		err = a.configure(cmd, nil)
		got := "refused"
		if err == nil {
			sent, err := a.serverToken(t.Context(), a.servers[0])
			hasHeader := a.requestHeaders(a.servers[0]).Get("Authorization") != ""
			switch {
			case err != nil:
				t.Error(err)
			case sent != "" && !hasHeader:
				got = "token"
			case sent == "" && hasHeader:
				got = "header"
			}
		}
		if got != test.want {
			t.Errorf("%v %v %q: %s (%v), want %s", test.args, test.env, test.config, got, err, test.want)
		}
	}
}
