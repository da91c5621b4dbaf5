package main

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/rstream-dev/rstream/internal/mirror"
	"github.com/rstream-dev/rstream/internal/natslog"
)

// The file of an adopted log is removed if there is no stream for it, and kept if there may be one.
func TestAdoptedFileIsKept(t *testing.T) {
	away := &mirror.UnreachableError{URL: "nats://n1", Err: errors.New("no answer")}
	for name, c := range map[string]struct {
		created bool
		err     error
		kept    bool
		status  int
	}{
		"created":              {true, nil, true, 0},
		"exists already":       {false, nil, false, exitFailed},
		"refused":              {false, &natslog.RefusedError{URL: "nats://n1"}, false, exitNotAllowed},
		"wrong":                {false, &natslog.SetupError{Text: "wrong"}, false, exitFailed},
		"not sent":             {false, away, false, exitUnreachable},
		"maybe created":        {false, fmt.Errorf("%w: %w", natslog.ErrMaybeCreated, away), true, exitUnreachable},
		"created and not read": {true, away, true, exitUnreachable},
	} {
		file := filepath.Join(t.TempDir(), "a.db")
		if err := os.WriteFile(file, nil, 0o600); err != nil {
			t.Fatal(err)
		}
		o := adoptOptions{streamFlags: streamFlags{stream: "log"}}
		err := o.settleAdoption(c.created, c.err, file)
		if exists(file) != c.kept {
			t.Errorf("%s: the file exists: %t", name, exists(file))
		}
		var exit *exitError
		if c.status == 0 && err != nil || c.status != 0 && (!errors.As(err, &exit) || exit.status != c.status) {
			t.Errorf("%s: %v", name, err)
		}
		if exit != nil && c.kept != strings.Contains(exit.hint, "keep "+file) {
			t.Errorf("%s: the hint is %q", name, exit.hint)
		}
	}
}
