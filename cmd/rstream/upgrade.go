package main

import (
	"context"
	"time"

	"github.com/rstream-dev/rstream/cache"
)

// openDB opens a file. If that takes longer than a second, since the file is of an earlier
// version, openDB says once a second how far its upgrade is.
func (a *app) openDB(ctx context.Context, path string, cfg cache.Config) (*cache.DB, error) {
	notes := upgradeNotes{a: a, path: path, next: time.Now().Add(upgradePause)}
	cfg.Progress = func(p cache.Progress) { notes.note(time.Now(), p) }
	return cache.Open(ctx, path, cfg)
}

// upgradePause is the least time between two notes, and before the first.
const upgradePause = time.Second

// upgradeNotes are the notes on the upgrade of a file.
type upgradeNotes struct {
	a    *app
	path string
	next time.Time // not before
}

func (n *upgradeNotes) note(now time.Time, p cache.Progress) {
	if now.Before(n.next) {
		return
	}
	n.next = now.Add(upgradePause)
	if p.Waiting {
		n.a.note("%s: another process is upgrading the file to this version; waiting for it", n.path)
		return
	}
	n.a.note("%s: upgrading the file to this version: %d%%", n.path, p.Percent)
}
