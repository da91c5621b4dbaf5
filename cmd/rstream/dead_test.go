//go:build unix

package main

import (
	"context"
	"encoding/json"
	"errors"
	"path/filepath"
	"strings"
	"testing"

	"github.com/rstream-dev/rstream/cache"
	"github.com/rstream-dev/rstream/event"
)

// newDead returns a copy whose consumer has dead letters.
func newDead(t *testing.T, n int) (path string, db *cache.DB) {
	t.Setenv("XDG_DATA_HOME", t.TempDir())
	t.Setenv("XDG_CONFIG_HOME", t.TempDir())
	path = filepath.Join(t.TempDir(), "copy.db")
	db, err := cache.Open(t.Context(), path, cache.Config{Role: cache.Client, Log: event.NewLogID([10]byte{1})})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { db.Close() })
	c, err := db.HoldConsumer(t.Context(), "mailer", []event.Topic{event.All})
	if err != nil {
		t.Fatal(err)
	}
	step := &cache.ConsumerStep{}
	for i := range n {
		d := event.Draft{User: "shop", Path: "orders", Type: event.Put, Key: string(rune('a' + i)), Value: json.RawMessage("1")}
		step.Bury = append(step.Bury, cache.DeadLetter{Event: event.New(event.ID(i+1), 1, d, d.Hash()), Tries: 1, Error: "no"})
	}
	if err := errors.Join(c.Step(t.Context(), step), c.Release(t.Context())); err != nil {
		t.Fatal(err)
	}
	return path, db
}

// A dead letter that is done while all are picked does not keep the others from being changed. Of
// those that were named, either all are changed or none.
func TestDeadDoneMeanwhile(t *testing.T) {
	defer func(retry, drop deadChange) { deadRetry, deadDrop = retry, drop }(deadRetry, deadDrop)
	for _, change := range []*deadChange{&deadRetry, &deadDrop} {
		path, db := newDead(t, 3)
		apply := change.apply
		change.apply = func(db *cache.DB, ctx context.Context, name string, numbers []int64) error {
			if err := db.DropDead(ctx, name, []int64{2}); err != nil && !errors.Is(err, cache.ErrNoDeadLetter) {
				return err
			}
			return apply(db, ctx, name, numbers)
		}
		changed := func() (changed int) {
			t.Helper()
			letters, err := db.DeadLetters(t.Context(), "mailer", false, 0, 10)
			if err != nil {
				t.Fatal(err)
			}
			for _, d := range letters {
				if !d.Retry {
					changed--
				}
			}
			return changed + 2
		}
		if r := runCommand(t, "dead", change.verb, "--name", "mailer", "--cache", path, "1", "2"); r.status != exitFailed || changed() != 0 {
			t.Errorf("%s: %+v, and %d are changed", change.verb, r, changed())
		}
		path, db = newDead(t, 3)
		r := runCommand(t, "dead", change.verb, "--name", "mailer", "--cache", path, "--all")
		if r.status != exitDone || changed() != 2 || !strings.Contains(r.err, "left out: 1 dead letter, done or dropped") {
			t.Errorf("%s --all: %+v, and %d are changed", change.verb, r, changed())
		}
	}
}
