// Package rstream_test holds what is true of the module as a whole.
package rstream_test

import (
	"bytes"
	"errors"
	"go/parser"
	"go/token"
	"io/fs"
	"os"
	"path"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"testing"
)

const module = "github.com/rstream-dev/rstream"

// mayImport is the house: for each room, the rooms that it may know. What is not
// listed may not be imported, and a room that is not listed may not exist.
var mayImport = map[string][]string{
	"event":     {},
	"window":    {"event"},
	"reconcile": {"event", "window"},

	"cache":                    {"event", "window", "cache/internal/dbfile", "cache/internal/oldrows", "cache/internal/pages", "cache/internal/rows", "cache/internal/seen", "cache/internal/snapshot", "cache/internal/retention", "cache/internal/salvage", "internal/folder"},
	"cache/internal/dbfile":    {"event", "internal/machine"},
	"cache/internal/oldrows":   {"event", "cache/internal/dbfile", "cache/internal/pages"},
	"cache/internal/pages":     {"event", "window", "cache/internal/dbfile"},
	"cache/internal/rows":      {"event", "window", "cache/internal/dbfile", "cache/internal/pages"},
	"cache/internal/seen":      {"event", "window", "cache/internal/dbfile", "cache/internal/pages", "cache/internal/rows"},
	"cache/internal/salvage":   {"event", "window", "cache/internal/dbfile", "cache/internal/pages"},
	"cache/internal/snapshot":  {"event", "window", "cache/internal/dbfile", "cache/internal/pages", "cache/internal/rows"},
	"cache/internal/retention": {"event", "window", "cache/internal/dbfile", "cache/internal/pages", "cache/internal/rows", "cache/internal/seen", "cache/internal/snapshot"},

	"internal/wire":       {"event", "window"},
	"internal/hub":        {"event"},
	"internal/sse":        {},
	"internal/deliver":    {"event", "cache", "internal/wire"},
	"internal/jq":         {},
	"internal/source":     {"event", "cache", "internal/jq", "internal/sse", "internal/wire"},
	"internal/sourcetest": {},
	"internal/machine":    {},
	"internal/folder":     {},
	"internal/tempfile":   {},
	"internal/testfile":   {"event"},
	"internal/longtest":   {},
	"internal/testport":   {},
	"internal/pagetest":   {"event"},
	"internal/bench":      {"event", "window", "cache", "reconcile", "client", "internal/wire", "internal/hub"},
	"internal/demo":       {"event", "window", "cache", "client", "internal/server"},
	"internal/doctor":     {"event", "internal/wire"},
	"internal/auth":       {"event"},
	"internal/board":      {"event"},
	"internal/report":     {"internal/board", "internal/sse", "internal/wire"},
	"internal/mirror":     {"event", "cache", "internal/sse", "internal/tempfile", "internal/wire"},
	"internal/natslog":    {"event", "cache", "internal/mirror", "internal/wire"},
	"internal/server":     {"event", "window", "reconcile", "internal/auth", "internal/board", "internal/wire", "internal/hub"},

	"client":                  {"event", "window", "cache", "reconcile", "client/internal/imports", "internal/sse", "internal/wire", "internal/hub"},
	"client/internal/imports": {"event", "window", "cache", "reconcile", "internal/wire"},

	"rstreamtest": {"event", "cache", "internal/server"},
	"cmd/rstream": {"event", "window", "cache", "reconcile", "client", "internal/auth", "internal/board", "internal/report", "internal/sse", "internal/wire", "internal/server", "internal/bench", "internal/demo", "internal/doctor", "internal/folder", "internal/machine", "internal/mirror", "internal/natslog", "internal/source", "internal/tempfile", "internal/deliver", "internal/jq"},
}

// onlyIn lists imports that stay in one place.
var onlyIn = map[string]string{
	"github.com/r3labs/sse":  "internal/sse/",
	"gopkg.in/cenkalti/":     "internal/sse/",
	"github.com/spf13/":      "cmd/rstream/",
	"github.com/vbauerster/": "cmd/rstream/",
	"modernc.org/sqlite":     "cache/internal/dbfile/",

	"github.com/prometheus/": "internal/server/metrics.go",
	"github.com/golang-jwt/": "internal/auth/",
	"github.com/MicahParks/": "internal/auth/",
	"github.com/itchyny/":    "internal/",
	"github.com/nats-io/":    "internal/natslog/",
	"github.com/synadia-io/": "internal/natslog/",
}

// pure rooms do no I/O and read no clock.
var pure = []string{"event", "window", "reconcile"}

var impure = []string{"net", "net/http", "os", "database/sql", "log", "log/slog", "syscall"}

func TestArrows(t *testing.T) {
	files := 0
	err := filepath.WalkDir(".", func(file string, d fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		if d.IsDir() && (strings.HasPrefix(d.Name(), ".") && d.Name() != "." || d.Name() == "testdata") {
			return fs.SkipDir
		}
		file = filepath.ToSlash(file)
		if d.IsDir() || !strings.HasSuffix(file, ".go") || strings.HasSuffix(file, "_test.go") {
			return nil
		}
		files++
		checkFile(t, file)
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	if files < 20 {
		t.Errorf("only %d files were looked at", files)
	}
}

func checkFile(t *testing.T, file string) {
	t.Helper()
	f, err := parser.ParseFile(token.NewFileSet(), file, nil, parser.ImportsOnly)
	if err != nil {
		t.Fatal(err)
	}
	room := path.Dir(file)
	allowed, known := mayImport[room]
	if !known {
		t.Errorf("%s: the house has no room %s", file, room)
	}
	for _, spec := range f.Imports {
		imported, err := strconv.Unquote(spec.Path.Value)
		if err != nil {
			t.Fatal(err)
		}
		if bad := broken(file, room, imported, allowed); bad != "" {
			t.Errorf("%s: must not import %s: %s", file, imported, bad)
		}
	}
}

// broken says which law the import breaks, if one.
func broken(file, room, imported string, allowed []string) string {
	if inner, ok := strings.CutPrefix(imported, module+"/"); ok && !slices.Contains(allowed, inner) {
		return room + " does not know " + inner
	}
	for prefix, place := range onlyIn {
		if strings.HasPrefix(imported, prefix) && !strings.HasPrefix(file, place) {
			return "it stays in " + place
		}
	}
	if slices.Contains(pure, room) && slices.Contains(impure, imported) {
		return room + " does no I/O"
	}
	return ""
}

// The law itself must be able to catch: these imports break it.
func TestArrowsCatch(t *testing.T) {
	for _, c := range []struct{ file, imported string }{
		{"event/id.go", module + "/window"},
		{"internal/hub/hub.go", module + "/cache"},
		{"internal/server/set.go", module + "/client"},
		{"internal/board/board.go", module + "/internal/server"},
		{"client/client.go", module + "/internal/server"},
		{"internal/sse/session.go", module + "/client"},
		{"internal/doctor/doctor.go", module + "/client"},
		{"internal/source/connect.go", module + "/client"},
		{"internal/deliver/run.go", module + "/client"},
		{"internal/source/connect.go", "github.com/r3labs/sse/v2"},
		{"cmd/rstream/tail.go", "github.com/itchyny/gojq"},
		{"client/pull.go", "github.com/r3labs/sse/v2"},
		{"client/pull.go", "github.com/spf13/viper"},
		{"internal/server/set.go", "modernc.org/sqlite"},
		{"cache/read.go", "modernc.org/sqlite"},
		{"cache/internal/dbfile/file.go", module + "/cache"},
		{"cache/internal/dbfile/file.go", module + "/cache/internal/rows"},
		{"cache/internal/pages/store.go", module + "/cache/internal/rows"},
		{"cache/internal/pages/store.go", "modernc.org/sqlite"},
		{"internal/server/set.go", "github.com/prometheus/client_golang/prometheus"},
		{"window/span.go", "net/http"},
		{"internal/natslog/log.go", module + "/internal/server"},
		{"cmd/rstream/serve.go", "github.com/nats-io/nats.go"},
	} {
		room := path.Dir(c.file)
		if broken(c.file, room, c.imported, mayImport[room]) == "" {
			t.Errorf("%s may import %s", c.file, c.imported)
		}
	}
	if bad := broken("internal/sse/session.go", "internal/sse", "github.com/r3labs/sse/v2", mayImport["internal/sse"]); bad != "" {
		t.Errorf("internal/sse/session.go: %s", bad)
	}
}

// A file's name is one that every system, and a module's archive, can have. No text has the marks of a
// merge that was not finished.
func TestFileNames(t *testing.T) {
	err := filepath.WalkDir(".", func(file string, d fs.DirEntry, err error) error {
		if err == nil && d.IsDir() && d.Name() == ".git" {
			return filepath.SkipDir
		}
		if strings.ContainsAny(d.Name(), "\"'*<>?`|/\\:\t\n") {
			t.Errorf("%q: not on every system", file)
		}
		if slices.Contains([]string{".md", ".go", ".txtar", ".sh", ".html", ".js", ".css"}, filepath.Ext(file)) {
			b, failed := os.ReadFile(file)
			if err = errors.Join(err, failed); bytes.Contains(b, []byte("\n"+"<<<<<<< ")) || bytes.Contains(b, []byte("\n"+">>>>>>> ")) {
				t.Errorf("%s: marks of a merge", file)
			}
		}
		return err
	})
	if err != nil {
		t.Error(err)
	}
}
