package main

import (
	"cmp"
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"io/fs"
	"net/url"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"github.com/spf13/cobra"

	"github.com/rstream-dev/rstream/cache"
	"github.com/rstream-dev/rstream/client"
	"github.com/rstream-dev/rstream/event"
	"github.com/rstream-dev/rstream/internal/source"
	"github.com/rstream-dev/rstream/internal/wire"
)

// A chosenSource is the source that a command is about.
type chosenSource struct {
	name string // in the log: the name in the config file, or the URL's host
	url  string
	kind source.Kind

	inConfig bool   // it has its name there
	path     string // of its file

	maxBytes    int64 // bounds it
	credentials credentials
}

// syncCommand is the command that syncs the source.
func (s *chosenSource) syncCommand() string {
	if s.inConfig {
		return "rstream sync -s " + shellWord(s.name)
	}
	return "rstream sync " + shellWord(source.ShownURL(s.url))
}

// sourceCommands are the commands that work on a source in place of a server.
var sourceCommands = []string{"tail", "sync", "log", "ls", "export", "state", "get", "windows", "status", "verify", "reset", "doctor", "cursor", "dead"}

// worksOnSource reports whether cmd is one of sourceCommands, or of their commands.
func worksOnSource(cmd *cobra.Command) bool {
	return cmd != nil && (slices.Contains(sourceCommands, cmd.Name()) || worksOnSource(cmd.Parent()))
}

// isURL reports whether an argument is a URL. A topic may not contain "//".
func isURL(arg string) bool { return strings.Contains(arg, "://") }

// afterURL is check for commands whose first argument may be a URL.
func afterURL(check cobra.PositionalArgs) cobra.PositionalArgs {
	return func(cmd *cobra.Command, args []string) error {
		if len(args) > 0 && isURL(args[0]) {
			args = args[1:]
		}
		return check(cmd, args)
	}
}

// chooseURL takes a URL off the front of args: that of a source, or of a server. Without
// another argument its topic is *. The commands of events call it.
func (a *app) chooseURL(cmd *cobra.Command, args []string) (rest []string, err error) {
	given := len(args) > 0 && isURL(args[0])
	if given {
		if a.source != nil || a.named {
			return nil, usagef("%s and --server cannot be combined", source.ShownURL(args[0]))
		}
		if err := a.chooseAddress(cmd, args[0]); err != nil {
			return nil, err
		}
		args = args[1:]
	}
	f := cmd.Flags().Lookup("all")
	needsTopic := f != nil && !f.Changed && cmd.Name() != "verify" && cmd.Name() != "ls"
	if (given || a.source != nil) && len(args) == 0 && needsTopic {
		args = []string{event.All.String()}
	}
	return args, nil
}

// chooseAddress sets what the command is about: the server at a URL, or else the source.
func (a *app) chooseAddress(cmd *cobra.Command, address string) error {
	server := strings.TrimRight(address, "/")
	if slices.Contains(a.knownServers(), server) {
		return a.chooseServer(server)
	}
	a.servers = []string{server}
	if err := a.dropServerCredentials(); err != nil || a.isServerAddress(cmd, address) {
		return err
	}
	return a.chooseSource(cmd, address, nil)
}

// isServerAddress reports whether a server of rstream is at a URL that is not in the settings. It
// asks there only if nothing on this machine knows: neither the copies, nor the sources.
func (a *app) isServerAddress(cmd *cobra.Command, address string) bool {
	u, err := source.ParseURL(address)
	if err != nil || u.RawQuery != "" || !source.KindOf(u).IsGuess() {
		return false
	}
	server := strings.TrimRight(address, "/")
	if known, err := loadServers(); err == nil && known[wire.WithoutUser(server)] != "" {
		return true
	}
	if path, err := sourcePath(u, nil); err != nil || exists(path) || slices.Contains([]string{"log", "export", "windows"}, cmd.Name()) {
		return false
	}
	ctx, cancel := context.WithTimeout(cmd.Context(), probeTime)
	defer cancel()
	return client.Ready(ctx, client.Config{Servers: []string{server}, TLS: a.tls}) == nil // no token: it may be anybody's
}

func exists(path string) bool {
	_, err := os.Stat(path)
	return !errors.Is(err, fs.ErrNotExist)
}

// chooseSource sets the source that the command is about: a named one, or one with a URL.
// Offline commands then read its file as they do with --cache.
func (a *app) chooseSource(cmd *cobra.Command, address string, named *namedSource) error {
	if !worksOnSource(cmd) {
		return usagef("%s needs a server, and %s is a source", cmd.Name(), cmp.Or(named.nameOrEmpty(), source.ShownURL(address)))
	}
	s := &chosenSource{url: address}
	if named != nil {
		s.url, s.name, s.credentials, s.inConfig = named.url, named.name, named.credentials, true
	}
	u, err := source.ParseURL(s.url)
	if err != nil {
		return usagef("source %s: %w", source.ShownURL(s.url), err)
	}
	var flags sourceFlags
	if named != nil {
		flags = named.flags
	}
	if s.kind, err = flags.kindOf(u); err != nil {
		return err
	}
	if s.maxBytes, err = flags.maxFileBytes(); err != nil {
		return err
	}
	if s.name == "" {
		s.name = u.Host
	}
	if s.path = a.cache; s.path == "" {
		if s.path, err = sourcePath(u, named); err != nil {
			return err
		}
	}
	a.source, a.cache = s, s.path
	return a.dropServerCredentials()
}

// sourceConfig returns how to connect to the source.
func (a *app) sourceConfig() source.Config {
	s := a.source
	return source.Config{URL: s.url, Knobs: s.kind.Knobs, TLS: a.tls, Header: a.requestHeaders(s.url),
		Token: func(ctx context.Context) (string, error) { return a.serverToken(ctx, s.url) }}
}

// sourcePath returns the default file of a source. Secrets of the URL have no part in its
// name.
func sourcePath(u *url.URL, named *namedSource) (string, error) {
	dir, err := dataDir()
	if err != nil {
		return "", err
	}
	name := ""
	if named != nil {
		name = source.GapPath(named.name)
	} else {
		bare := *u
		bare.User = nil
		sum := sha256.Sum256([]byte(bare.String()))
		name = source.GapPath(u.Host) + "-" + hex.EncodeToString(sum[:4])
	}
	return filepath.Join(dir, "sources", name+".db"), nil
}

// openSourceFile opens the file of the source, as the one process that follows it or, if
// there is another one, to read along.
func (a *app) openSourceFile(ctx context.Context) (db *cache.DB, follows bool, err error) {
	if err := os.MkdirAll(filepath.Dir(a.source.path), 0o700); err != nil {
		return nil, false, err
	}
	if err := a.checkSourceFile(ctx); err != nil {
		return nil, false, err
	}
	db, err = a.openDB(ctx, a.source.path, cache.Config{Role: cache.Server})
	if !errors.Is(err, cache.ErrLocked) {
		return db, err == nil, err
	}
	db, err = a.openDB(ctx, a.source.path, cache.Config{})
	return db, false, err
}

// checkSourceFile refuses a file that exists and is not of the source: a server's log would
// get events that nobody has put there.
func (a *app) checkSourceFile(ctx context.Context) error {
	if _, err := os.Stat(a.source.path); errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	db, err := a.openDB(ctx, a.source.path, cache.Config{})
	if errors.Is(err, cache.ErrNoLog) {
		return nil // another process is creating it, or was killed while it did
	}
	if err != nil {
		return err
	}
	defer db.Close()
	names, err := db.SourceNames(ctx)
	if err != nil {
		return err
	}
	if db.Role() != cache.Server || db.Head() > 0 && !slices.Contains(names, a.source.name) || len(names) > 0 && !slices.Contains(names, a.source.name) {
		return &exitError{exitUsage, a.source.path + " is not the file of the source " + a.source.name, "name another file with --cache, or leave --cache out"}
	}
	return nil
}
