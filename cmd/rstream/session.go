package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"time"

	"github.com/rstream-dev/rstream/cache"
	"github.com/rstream-dev/rstream/client"
	"github.com/rstream-dev/rstream/event"
	"github.com/rstream-dev/rstream/internal/wire"
)

// A session is a command's copy and the client that fills it.
type session struct {
	*client.Client
	db   *cache.DB
	app  *app
	made bool // the copy did not exist before
}

// openSession opens the copy of the servers' log, creates it if it does not exist, and
// opens a client that fills it. With wait, it keeps trying to reach a server.
func (a *app) openSession(ctx context.Context, wait bool) (*session, error) {
	cfg := a.clientConfig()
	cfg.Wait = wait
	return a.openSessionWith(ctx, cfg)
}

// openSessionWith is connect with another configuration.
func (a *app) openSessionWith(ctx context.Context, cfg client.Config) (*session, error) {
	path, log, err := a.cacheFile()
	if err != nil {
		return nil, err
	}
	made := log == ""
	if made {
		info, err := client.Probe(ctx, cfg)
		if err != nil {
			return nil, err
		}
		log = info.Log
		if path, err = a.newCacheFile(path, log); err != nil {
			return nil, err
		}
	}
	db, err := cache.Open(ctx, path, cache.Config{Role: cache.Client, Log: log})
	if err != nil {
		return nil, err
	}
	c, err := client.New(db, cfg)
	if err != nil {
		db.Close()
		return nil, &usageError{err}
	}
	s := &session{Client: c, db: db, app: a, made: made}
	if err := c.CheckServers(ctx); err != nil {
		return nil, errors.Join(err, s.Close())
	}
	return s, nil
}

// Close closes the client and the copy.
func (s *session) Close() error {
	s.Client.Close()
	return s.db.Close()
}

// clientConfig returns the configuration of a client of the servers.
func (a *app) clientConfig() client.Config {
	return client.Config{Servers: a.servers, OnRetry: a.onRetry, OnReconnect: a.onReconnect, OnSilence: a.onSilence, Timeout: a.timeout}
}

func (a *app) onSilence(server string) {
	a.note("%s has not answered yet; still waiting (\"rstream doctor %s\" shows what answers there)", server, server)
}

// onRetry says that an attempt failed: on a terminal, in one line that changes.
func (a *app) onRetry(err error, pause time.Duration) {
	if a.status != nil && !a.quiet {
		a.status.show("%s; trying again in %s", wire.Redact(err.Error()), pause.Round(100*time.Millisecond))
		return
	}
	a.note("%v; trying again in %s", err, pause.Round(100*time.Millisecond))
}

// onReconnect ends the line of onRetry.
func (a *app) onReconnect(server string, missed int) {
	if a.status != nil {
		a.note("connected to %s again, %s behind", server, count(missed, "event"))
	}
}

// cacheFile returns the file of the copy and its log, as far as they are known without
// a server.
func (a *app) cacheFile() (path, log string, err error) {
	if a.cache != "" {
		log, err := logOfFile(a.cache)
		return a.cache, log, err
	}
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
	err = changeServers(func(known map[string]string) {
		for _, url := range a.servers {
			known[wire.WithoutUser(url)] = log
		}
	})
	return path, err
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
func logOfFile(path string) (string, error) {
	if info, err := os.Stat(path); errors.Is(err, fs.ErrNotExist) || err == nil && info.Size() == 0 && info.Mode().IsRegular() {
		return "", nil
	}
	db, err := cache.Open(context.Background(), path, cache.Config{})
	if errors.Is(err, cache.ErrNoLog) {
		return "", nil // another process is creating it, or was killed while it did
	}
	if err != nil {
		return "", err
	}
	defer db.Close()
	return db.Log(), nil
}

// openOffline opens an existing copy for reading.
func (a *app) openOffline(ctx context.Context) (*cache.DB, error) {
	path, _, err := a.cacheFile()
	if err != nil {
		return nil, err
	}
	if path == "" {
		return nil, &exitError{exitFailed, fmt.Sprintf("there is no local copy of %s yet", wire.RedactURL(a.servers[0])),
			"run \"rstream sync\" first, or name a file with --cache FILE"}
	}
	return openFile(ctx, path, "name an existing copy with --cache FILE, or create one with \"rstream sync\"")
}

// openFile opens a file that must exist. hint says what to do if it does not.
func openFile(ctx context.Context, path, hint string) (*cache.DB, error) {
	if err := mustExist(path, hint); err != nil {
		return nil, err
	}
	return cache.Open(ctx, path, cache.Config{})
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

// serversFile returns the path of a small file, next to the copies, that records which
// server serves which log, so that offline commands work.
func serversFile() (string, error) {
	dir, err := dataDir()
	return filepath.Join(dir, "servers.json"), err
}

func loadServers() (map[string]string, error) {
	path, err := serversFile()
	if err != nil {
		return nil, err
	}
	known := map[string]string{}
	b, err := os.ReadFile(path)
	if errors.Is(err, fs.ErrNotExist) {
		return known, nil
	}
	if err != nil {
		return nil, err
	}
	if err := json.Unmarshal(b, &known); err != nil {
		return nil, fmt.Errorf("read %s: %w (remove the file to start over)", path, err)
	}
	for url, log := range known { // earlier versions kept passwords
		if bare := wire.WithoutUser(url); bare != url {
			delete(known, url)
			known[bare] = log
		}
	}
	return known, nil
}

// changeServers replaces the file as a whole, so that a reader never sees half of it.
func changeServers(change func(map[string]string)) error {
	path, err := serversFile()
	if err != nil {
		return err
	}
	known, err := loadServers()
	if err != nil {
		return err
	}
	change(known)
	b, err := json.MarshalIndent(known, "", "  ")
	if err != nil {
		return err
	}
	tmp, err := os.CreateTemp(filepath.Dir(path), "servers-*.json")
	if err != nil {
		return err
	}
	defer os.Remove(tmp.Name())
	_, err = tmp.Write(append(b, '\n'))
	if err = errors.Join(err, tmp.Close()); err != nil {
		return err
	}
	return os.Rename(tmp.Name(), path)
}

func learnServer(url, log string) error {
	return changeServers(func(known map[string]string) { known[wire.WithoutUser(url)] = log })
}

func forgetServer(url string) error {
	return changeServers(func(known map[string]string) { delete(known, wire.WithoutUser(url)) })
}
