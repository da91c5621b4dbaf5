//go:build unix

package main

import (
	"context"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/rstream-dev/rstream/internal/auth"
)

// A command of --token-command may do anything. Its errors say what is wrong, and do not quote what
// it has printed.
func TestTokenCommand(t *testing.T) {
	for command, want := range map[string]string{
		"echo letmein":                    "",
		"printf ' letmein\\n\\n'":         "",
		"true":                            "the output of --token-command has no token",
		"echo":                            "the output of --token-command has no token",
		"echo letmein; echo again":        "the output of --token-command has more than a token",
		"echo password: letmein":          "the output of --token-command has more than a token",
		"printf 'letmein\\377'":           "the output of --token-command has more than a token",
		"yes letmein | head -n 9999":      "the output of --token-command has more than a token",
		"echo letmein; exit 1":            "--token-command: exit status 1",
		"echo letmein; kill -9 $$":        "--token-command: signal: killed",
		"no-such-program-of-rstream 2>&-": "--token-command: exit status 127",
	} {
		var tokens commandTokens
		token, err := tokens.runCommand(t.Context(), command)
		if want == "" && (err != nil || token != "letmein") || want != "" && (err == nil || err.Error() != want || token != "") {
			t.Errorf("%s: %q, %v, want %q", command, token, err, want)
		}
		if err != nil && strings.Contains(err.Error(), "letmein") {
			t.Errorf("%s: the error has the output: %v", command, err)
		}
	}
}

// A command that hangs ends with its time, also if a program that it has started keeps its output
// open, and an interrupt ends it at once.
func TestTokenCommandHangs(t *testing.T) {
	inParallel(t)
	var tokens commandTokens
	began := time.Now()
	late, cancel := context.WithTimeout(t.Context(), 10*time.Millisecond)
	defer cancel()
	if _, err := tokens.runCommand(late, "sleep 30 2>/dev/null; echo letmein"); err == nil || !strings.Contains(err.Error(), "printed no token within") {
		t.Error(err)
	}
	interrupted, interrupt := context.WithCancel(t.Context())
	time.AfterFunc(10*time.Millisecond, interrupt)
	if _, err := tokens.runCommand(interrupted, "sleep 30 2>/dev/null & wait"); err == nil {
		t.Error("an interrupted command has a token")
	}
	if token, err := tokens.runCommand(t.Context(), "sleep 30 2>/dev/null & echo letmein"); err != nil || token != "letmein" {
		t.Errorf("with a program in the background: %q, %v", token, err)
	}
	if took := time.Since(began); took > 25*time.Second {
		t.Errorf("they took %s", took)
	}
}

// The output is used again until half a minute before the token expires, and for a minute at most.
func TestTokenCommandRunsAgain(t *testing.T) {
	key, err := auth.NewKey(auth.EdDSA)
	if err != nil {
		t.Fatal(err)
	}
	for left, runs := range map[time.Duration]string{time.Hour: "1", 20 * time.Second: "3"} {
		token, err := key.Sign(auth.NewClaims("bob", auth.Rights{}, time.Now(), left))
		if err != nil {
			t.Fatal(err)
		}
		count := filepath.Join(t.TempDir(), "count")
		var tokens commandTokens
		for range 3 {
			if got, err := tokens.runCommand(t.Context(), "echo >>"+count+"; echo "+token); err != nil || got != token {
				t.Errorf("%q, %v", got, err)
			}
		}
		if n, err := tokens.runCommand(t.Context(), "wc -l <"+count); err != nil || n != runs {
			t.Errorf("with %s left, 3 requests ran the command %s times, %v", left, n, err)
		}
	}
}
