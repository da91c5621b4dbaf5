package main

import (
	"context"
	"errors"
	"fmt"

	"github.com/rstream-dev/rstream/cache"
	"github.com/rstream-dev/rstream/client"
)

// check makes something of an error that concerns the cache as a whole: a server
// that serves another log now is learned anew by the next command. If its log was
// restored from the one that is held, what agrees is carried over first. The old
// copy stays.
func (s *session) check(ctx context.Context, err error) error {
	var other *client.OtherLogError
	if !errors.As(err, &other) || s.app.cache != "" {
		return err
	}
	return errors.Join(err, s.carryOver(ctx, other), forgetServer(other.URL))
}

func (s *session) carryOver(ctx context.Context, other *client.OtherLogError) error {
	cfg := client.Config{Servers: []string{other.URL}}
	info, err := client.Probe(ctx, cfg)
	if err != nil || info.Parent == nil || info.Parent.Log != s.db.Log() {
		return err
	}
	path, err := cacheFileOf(info.Log)
	if err != nil {
		return err
	}
	db, err := cache.Open(ctx, path, cache.Config{Role: cache.Client, Log: info.Log})
	if err != nil {
		return err
	}
	defer db.Close()
	c, err := client.New(db, cfg)
	if err != nil {
		return err
	}
	defer c.Close()
	parted := info.Parent.Head
	adopted, err := c.Adopt(ctx, s.db, parted)
	if err != nil {
		return fmt.Errorf("carry over: %w", err)
	}
	if err := db.CarryOver(ctx, s.db, parted); err != nil {
		return fmt.Errorf("carry over: %w", err)
	}
	s.app.note("the server was restored: its log %s goes on from %s at %s; %s in %s carried over, %s did not agree",
		info.Log, info.Parent.Log, parted, count(adopted.Events, "event"), count(adopted.Windows, "window"), count(adopted.Refused, "window"))
	return nil
}
