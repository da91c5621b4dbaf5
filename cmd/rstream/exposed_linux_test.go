package main

import (
	"bytes"
	"errors"
	"os"
	"path/filepath"
	"strings"
	"testing"
)

// TestWarnIfExposed: a note says once that others can read a secret, and not where this user can
// do nothing about it.
func TestWarnIfExposed(t *testing.T) {
	path := filepath.Join(t.TempDir(), "token")
	noteOf := func(path string, mode os.FileMode) string {
		t.Helper()
		_ = os.Remove(path) // if it cannot be written
		if err := os.WriteFile(path, nil, 0o600); err != nil {
			t.Fatal(err)
		}
		if err := os.Chmod(path, mode); err != nil {
			t.Fatal(err)
		}
		var said bytes.Buffer
		a := &app{err: &said}
		a.warnIfExposed(path)
		a.warnIfExposed(path)
		return said.String()
	}
	warning := "rstream: other users can read " + path + "; run \"chmod 600 " + path + "\"\n"
	for mode, want := range map[os.FileMode]string{0o600: "", 0o400: "", 0o640: warning, 0o604: warning, 0o444: warning, 0o611: ""} {
		if got := noteOf(path, mode); got != want {
			t.Errorf("mode %o: %q, want %q", mode, got, want)
		}
	}
	if isExposed(filepath.Dir(path)) || isExposed(path+".missing") {
		t.Error("a folder or a missing file has secrets")
	}
	if os.Geteuid() == 0 {
		if err := os.Chown(path, 1, -1); err != nil {
			t.Fatal(err)
		}
		if isExposed(path) {
			t.Error("a file of another user is exposed")
		}
	}
}

// Headers in a file are noted, and a config file if it has a secret itself.
func TestExposedSettings(t *testing.T) {
	alone(t)
	dir := t.TempDir()
	t.Setenv("XDG_DATA_HOME", dir)
	headers, config := filepath.Join(dir, "headers"), filepath.Join(dir, "config.yaml")
	write := func(path, text string, mode os.FileMode) {
		t.Helper()
		if err := errors.Join(os.WriteFile(path, []byte(text), mode), os.Chmod(path, mode)); err != nil {
			t.Fatal(err)
		}
	}
	noteOf := func(path string) string {
		return "rstream: other users can read " + path + "; run \"chmod 600 " + path + "\"\n"
	}
	const servers = "server: here\nservers:\n  - name: here\n    url: http://127.0.0.1:1\n"
	for _, test := range []struct {
		config string
		args   string
		file   string // that is noted, if its mode is not 0600
	}{
		{"quiet: false", "", ""},
		{"quiet: false", "--header @" + headers, headers},
		{"quiet: false", "--header X-Team:red", ""},
		{"header: '@" + headers + "'", "", headers},
		{servers + "    header: ['@" + headers + "']", "", headers},
		{servers + "    header: ['@" + headers + "']", "-s http://127.0.0.1:1/other", ""},
		{servers, "", ""},
		{servers + "    header: 'X-Door: secret'", "", config},
		{"header: ['@" + headers + "', 'X-Door: secret']", "--header X-Team:red", config},
		{"server: http://bob:secret@127.0.0.1:1", "", config},
		{"jwks: http://bob:secret@127.0.0.1:1", "", config},
		{"nats: nats://bob:secret@a.example,nats://bob:secret@b.example", "", config},
		{"servers:\n  - name: here\n    url: [http://127.0.0.1:1, http://bob:secret@127.0.0.1:1]", "", config},
		{"sources:\n  - name: there\n    url: http://bob:secret@127.0.0.1:1", "", config},
		{"sources:\n  - name: there\n    url: http://127.0.0.1:1\n    header: 'X-Door: secret'", "", config},
	} {
		for _, mode := range []os.FileMode{0o600, 0o644} {
			write(headers, "X-Door: secret\n", mode)
			write(config, test.config+"\n", mode)
			r := runCommand(t, append(strings.Fields("ls --timeout 1s --config "+config), strings.Fields(test.args)...)...)
			said, _, _ := strings.Cut(r.err, "rstream: error: ")
			want := ""
			if mode != 0o600 && test.file != "" {
				want = noteOf(test.file)
			}
			if said != want {
				t.Errorf("%q, %s, mode %o: it says %q, want %q", test.config, test.args, mode, said, want)
			}
		}
	}
}
