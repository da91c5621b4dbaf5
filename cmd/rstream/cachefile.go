package main

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"

	"github.com/rstream-dev/rstream/cache"
	"github.com/rstream-dev/rstream/event"
	"github.com/rstream-dev/rstream/internal/source"
	"github.com/rstream-dev/rstream/internal/wire"
)

// cacheFile returns the file of the copy and its log, as far as they are known without
// a server.
func (a *app) cacheFile(ctx context.Context) (path, log string, err error) {
	if a.cache != "" {
		log, err := a.logOfFile(ctx, a.cache)
		return a.cache, log, err
	}
	return a.defaultFile()
}

// copyPath is cacheFile for a caller that opens the file anyway: the log of one that --cache
// names is "".
func (a *app) copyPath() (path, log string, err error) {
	if a.cache != "" {
		return a.cache, "", nil
	}
	return a.defaultFile()
}

// defaultFile returns the default file for the copy of the servers' log, if that is known.
func (a *app) defaultFile() (path, log string, err error) {
	known, err := loadServers()
	if err != nil {
		return "", "", err
	}
	for _, url := range a.servers {
		if log := known[wire.WithoutUser(url)]; event.ValidLogID(log) {
			path, err := cacheFileOf(log)
			return path, log, err
		}
	}
	return "", "", nil
}

// cacheFileOf returns the default file for the copy of a log.
func cacheFileOf(log string) (string, error) {
	dir, err := dataDir()
	return filepath.Join(dir, log+".db"), err
}

// newCacheFile returns the file for a log that was just learned, and remembers which
// servers serve it.
func (a *app) newCacheFile(path, log string) (string, error) {
	if path != "" {
		return path, nil
	}
	path, err := newDataFile(log)
	if err != nil {
		return "", err
	}
	return path, learnServers(log, a.servers...)
}

// newDataFile returns the default file for the copy of a log, in a folder that exists.
func newDataFile(log string) (string, error) {
	path, err := cacheFileOf(log)
	if err != nil {
		return "", err
	}
	return path, os.MkdirAll(filepath.Dir(path), 0o700)
}

// logOfFile returns the log that an existing file belongs to, "" if there is none.
func (a *app) logOfFile(ctx context.Context, path string) (string, error) {
	db, err := a.openIfCreated(ctx, path, "")
	if err != nil || db == nil {
		return "", err
	}
	defer db.Close()
	return db.Log(), nil
}

// openIfCreated opens an existing file of a role, or of any if that is empty. It returns nil if
// there is no file yet, or none that belongs to a log.
func (a *app) openIfCreated(ctx context.Context, path string, role cache.Role) (*cache.DB, error) {
	if info, err := os.Stat(path); errors.Is(err, fs.ErrNotExist) || err == nil && info.Size() == 0 && info.Mode().IsRegular() {
		return nil, nil
	}
	db, err := a.openDB(ctx, path, cache.Config{Role: role})
	if errors.Is(err, cache.ErrNoLog) || errors.Is(err, fs.ErrNotExist) {
		return nil, nil // another process is creating it, or was killed while it did
	}
	return db, err
}

// openOffline opens an existing copy for reading.
func (a *app) openOffline(ctx context.Context) (*cache.DB, error) {
	if a.source != nil {
		return a.openSourceOffline(ctx)
	}
	path, _, err := a.copyPath()
	if err != nil {
		return nil, err
	}
	if path == "" {
		return nil, a.noCopyError()
	}
	return a.openFile(ctx, path, "name an existing copy with --cache FILE, or create one with \"rstream sync\"")
}

// noCopyError says that there is no copy of the server yet.
func (a *app) noCopyError() error {
	if u, err := source.ParseURL(a.servers[0]); err == nil {
		if path, err := sourcePath(u, nil); err == nil && exists(path) {
			shown := source.ShownURL(a.servers[0])
			return &exitError{exitFailed, shown + " is a source, not a server", fmt.Sprintf("name it as the first argument, as in \"rstream log %s\"", shellWord(shown))}
		}
	}
	return &exitError{exitFailed, fmt.Sprintf("there is no local copy of %s yet", wire.RedactURL(a.servers[0])),
		"run \"rstream sync\" first, or name a file with --cache FILE"}
}

// openFile opens a file that must exist. hint says what to do if it does not.
func (a *app) openFile(ctx context.Context, path, hint string) (*cache.DB, error) {
	if err := mustExist(path, hint); err != nil {
		return nil, err
	}
	return a.openDB(ctx, path, cache.Config{})
}

// mustExist returns an error with hint if a file does not exist.
func mustExist(path, hint string) error {
	if _, err := os.Stat(path); errors.Is(err, fs.ErrNotExist) {
		return &exitError{exitFailed, fmt.Sprintf("open %s: no such file or directory", path), hint}
	}
	return nil
}

// noLog is the hint if a server's file does not exist.
const noLog = "name the file of the log with --db FILE, as for \"rstream serve\""
