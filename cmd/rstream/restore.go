package main

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"path/filepath"
	"strings"

	"github.com/rstream-dev/rstream/cache"
	"github.com/rstream-dev/rstream/client"
	"github.com/rstream-dev/rstream/event"
	"github.com/rstream-dev/rstream/internal/wire"
)

// explainOtherLog handles the error that the server now serves another log than the
// copy's: the next command will learn the server's log. If that log was restored from
// the copy's, the part that agrees is carried over first, or, after an error, by the next
// command: the outbox and the cursors are in the old copy alone, which stays. A file named by
// --cache belongs to the old log for good, so the new copy goes into a file next to it, which
// the user then has to name.
func (s *session) explainOtherLog(ctx context.Context, err error) error {
	var other *client.OtherLogError
	if !errors.As(err, &other) {
		return err
	}
	path, failed := s.carryOver(ctx, other)
	if path == "" && failed == nil {
		s.noteLeft(ctx)
	}
	switch {
	case failed != nil:
		return errors.Join(err, s.uncarried(failed, path))
	case s.app.cache == "" && path == "":
		return errors.Join(err, s.relearnServers(other.URL, ""))
	case s.app.cache == "":
		return errors.Join(err, s.relearnServers(other.URL, other.Got))
	case path == "":
		return err
	}
	return &carriedError{err, s.app.cache, path}
}

// relearnServers records that a server serves a log, or that its log is not known if that is "". The
// other servers of the command are taken to do as it does if they were known for the old log: one that
// is away for good would keep the old copy in use.
func (s *session) relearnServers(url, log string) error {
	return changeServers(func(known map[string]string) {
		urls := []string{url}
		for _, other := range s.app.servers {
			if known[wire.WithoutUser(other)] == s.db.Log() {
				urls = append(urls, other)
			}
		}
		setLog(known, log, urls)
	})
}

// noteLeft notes appends that wait for a log that the server no longer serves.
func (s *session) noteLeft(ctx context.Context) {
	if aside, err := s.db.Aside(ctx); err == nil && aside.Queued+aside.Refused > 0 {
		n := aside.Queued + aside.Refused
		s.app.note("%s for the old log: left in %s", count(n, "append"), s.db.Path())
		s.app.note("\"rstream outbox --cache %s | rstream put --from -\" appends to the new one", shellWord(s.db.Path()))
	}
}

// A carriedError says that the server's log continues in another file.
type carriedError struct {
	error
	old, path string
}

func (e *carriedError) Unwrap() error { return e.error }

// An uncarriedError says why the server's log does not continue in another file yet.
type uncarriedError struct {
	error
	path string // which has what was carried over so far
}

func (e *uncarriedError) Unwrap() error { return e.error }

// hint returns how to go on. The next command may fail in the same way; without --cache it goes on
// with the old copy as long as there is one.
func (e *uncarriedError) hint() string {
	var status *client.StatusError
	if errors.As(e.error, &status) && status.FromLog && status.Status == http.StatusUnauthorized {
		return unauthorizedHint
	}
	return fmt.Sprintf("run the command again to go on; --cache %s goes on without the rest", shellWord(e.path))
}

// uncarried returns the error of carryOver.
func (s *session) uncarried(failed error, path string) error {
	if !exists(path) {
		return failed
	}
	return &uncarriedError{failed, path}
}

// newFile returns the file for the copy of a restored log.
func (s *session) newFile(log string) (string, error) {
	if s.app.cache == "" {
		return cacheFileOf(log)
	}
	kind := filepath.Ext(s.app.cache)
	return strings.TrimSuffix(s.app.cache, kind) + "-" + log + kind, nil
}

// carryOver returns the file that it created, "" if the server's log does not continue
// the copy's.
func (s *session) carryOver(ctx context.Context, other *client.OtherLogError) (path string, err error) {
	cfg := s.app.clientConfig()
	cfg.Servers = []string{other.URL}
	info, err := client.Probe(ctx, cfg)
	if err != nil {
		return "", err
	}
	if info.Parent == nil || info.Parent.Log != s.db.Log() {
		return "", nil
	}
	if path, err = s.newFile(info.Log); err != nil {
		return "", err
	}
	return path, s.carryInto(ctx, path, cfg, info)
}

// partingPoint returns where the copy's log and the log that continues it diverge.
func (s *session) partingPoint(ctx context.Context, c *client.Client, parent *client.Parent) (event.ID, error) {
	if parent.Head != nil {
		return *parent.Head, nil
	}
	return c.Parted(ctx, s.db)
}

// carryInto carries the copy over once, since what was removed from the new one must not come back.
// What is queued in the old one afterwards, by a command that has not met the server yet, follows.
func (s *session) carryInto(ctx context.Context, path string, cfg client.Config, info client.Info) error {
	db, err := s.app.openDB(ctx, path, cache.Config{Role: cache.Client, Log: info.Log})
	if err != nil {
		return err
	}
	defer db.Close()
	if err := db.MigrateOutbox(ctx, s.db); err != nil {
		return fmt.Errorf("carry over the outbox: %w", err)
	}
	if done, err := db.MigratedFrom(ctx, s.db.Log()); err != nil || done {
		return err
	}
	c, err := client.New(db, cfg)
	if err != nil {
		return err
	}
	defer c.Close()
	parted, err := s.partingPoint(ctx, c, info.Parent)
	if err != nil {
		return err
	}
	adopted, err := c.Adopt(ctx, s.db, parted)
	if err != nil {
		return fmt.Errorf("carry over: %w", err)
	}
	damaged, err := db.MigrateCursors(ctx, s.db, parted)
	if err != nil {
		return fmt.Errorf("carry over: %w", err)
	}
	damagedImports, err := db.MigrateImported(ctx, s.db, parted)
	if err != nil {
		return fmt.Errorf("carry over: %w", err)
	}
	if err := db.SetMigrated(ctx, s.db.Log()); err != nil {
		return err
	}
	what := "the server was restored: its log %s continues %s from %s; %s in %s carried over, %s did not agree"
	if info.Parent.Head == nil {
		what = "the server's log was rolled back and continues as a new one: %s equals %s up to %s; %s in %s carried over, %s did not agree"
	}
	s.app.note(what, info.Log, info.Parent.Log, parted, count(adopted.Events, "event"), count(adopted.Windows, "window"), count(adopted.Refused, "window"))
	if adopted.Hidden > 0 {
		s.app.note("%s left out: the server does not have their topics, or not for you", count(adopted.Hidden, "window"))
	}
	if damagedImports {
		s.app.note("damaged imports left out; \"rstream import\" adds them again")
	}
	for _, name := range damaged {
		s.app.note("cursor %s left out: it is damaged; \"rstream cursor set\" creates it again", shellWord(name))
	}
	return nil
}
