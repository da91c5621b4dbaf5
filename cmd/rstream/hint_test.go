package main

import (
	"errors"
	"fmt"
	"io/fs"
	"net/http"
	"path/filepath"
	"strings"
	"syscall"
	"testing"

	"github.com/spf13/cobra"

	"github.com/rstream-dev/rstream/cache"
	"github.com/rstream-dev/rstream/client"
)

// The first matching hint counts, and no hint is better than a wrong one.
func TestHints(t *testing.T) {
	denied := &fs.PathError{Op: "open", Path: "x", Err: fs.ErrPermission}
	backup := &cobra.Command{Use: "backup"}
	withFlag := func(flag string) *cobra.Command {
		cmd := &cobra.Command{Use: "x"}
		cmd.Flags().String(flag, "", "")
		return cmd
	}
	for _, c := range []struct {
		cmd  *cobra.Command
		err  error
		want string
	}{
		{nil, errors.New("x"), ""},
		{nil, denied, "--cache FILE"},
		{nil, &inputError{denied}, ""},
		{nil, fmt.Errorf("import: %w", &inputError{denied}), ""},
		{nil, &claimError{err: &inputError{denied}}, ""},
		{backup, denied, "use a file in a writable folder"},
		{nil, &exitError{status: 1, text: "x"}, ""},
		{nil, errors.Join(&exitError{status: 1, text: "x"}, cache.ErrFull), ""},
		{nil, &claimError{err: cache.ErrFull}, "free some space"},
		{nil, &claimError{err: cache.ErrFull, hint: "go on"}, "go on"},
		{nil, &usageError{errors.New("x")}, ""},
		{backup, &usageError{errors.New("x")}, `see "backup --help"`},
		{nil, &client.UnreachableError{URL: "http://x", Err: syscall.ECONNREFUSED}, "is a server running?"},
		{nil, &client.UnreachableError{URL: "http://x", Err: syscall.EHOSTUNREACH}, "check the name and the network"},
		{nil, &client.StatusError{Status: http.StatusConflict}, "shows where the server's log ends"},
		{nil, &client.StatusError{Status: http.StatusNotFound}, ""},
		{nil, fmt.Errorf("open x: %w", cache.ErrLocked), "stop the other server"},
		{withFlag("db"), fmt.Errorf("open x: %w", cache.ErrRole), "name a server's log with --db"},
		{withFlag("print"), fmt.Errorf("open x: %w", cache.ErrRole), "name the file of a copy with --cache"},
	} {
		if got := hintFor(c.cmd, c.err); !strings.Contains(got, c.want) || c.want == "" && got != "" {
			t.Errorf("the hint for %v is %q, want %q", c.err, got, c.want)
		}
	}
	for _, h := range valueHints {
		if got := hintFor(nil, fmt.Errorf("x: %w", h.err)); got != h.text {
			t.Errorf("the hint for %v is %q, want %q", h.err, got, h.text)
		}
	}
}

// Hinted commands work as printed, whatever the names of files.
func TestHintsQuoteFiles(t *testing.T) {
	file := filepath.Join(t.TempDir(), "my copy.db")
	for _, test := range []struct{ got, want string }{
		{hintFor(nil, &carriedError{errors.New("other log"), "my copy.db", "my new copy.db"}), "continue with --cache 'my new copy.db'; "},
		{moveCommand(file, "--server URL"), "--cache '" + file + "' | "},
		{hintFor(nil, &client.ShortenedError{URL: "http://bob:secret@a.example"}), "\"rstream doctor 'http://***@a.example'\""},
	} {
		if !strings.Contains(test.got, test.want) {
			t.Errorf("%s: lacks %s", test.got, test.want)
		}
	}
}
