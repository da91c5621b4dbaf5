package main

import (
	"strings"
	"testing"
	"time"

	"github.com/rstream-dev/rstream/cache"
)

// A short upgrade is silent, and a long one is told of once a second.
func TestUpgradeNotes(t *testing.T) {
	var b strings.Builder
	start := time.Now()
	notes := upgradeNotes{a: &app{err: &b}, path: "x.db", next: start.Add(upgradePause)}
	for ms := 0; ms < 3500; ms += 100 {
		notes.note(start.Add(time.Duration(ms)*time.Millisecond), cache.Progress{Done: int64(ms / 100), Total: 100, Waiting: ms >= 2500})
	}
	want := `rstream: x.db: upgrading the file to this version: 10%
rstream: x.db: upgrading the file to this version: 20%
rstream: x.db: another process is upgrading the file to this version; waiting for it
`
	if b.String() != want {
		t.Errorf("it says\n%swant\n%s", &b, want)
	}
}
