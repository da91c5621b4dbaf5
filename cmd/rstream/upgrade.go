package main

import (
	"context"
	"time"

	"github.com/rstream-dev/rstream/cache"
)

// openDB opens a file. If that takes longer than a second, since the file is of an earlier
// version, openDB says how far its upgrade is: on a terminal in its last lines, elsewhere
// once a second.
func (a *app) openDB(ctx context.Context, path string, cfg cache.Config) (*cache.DB, error) {
	upgrades := false
	report := a.fileProgress(path)
	cfg.Progress = func(p cache.Progress) {
		upgrades = upgrades || p.Step == cache.StepUpgrade
		report(p)
	}
	db, err := cache.Open(ctx, path, cfg)
	if upgrades {
		a.progress.end()
	}
	return db, err
}

// fileProgress returns a function that reports how far work on a file is.
func (a *app) fileProgress(path string) func(cache.Progress) {
	notes := upgradeNotes{a: a, path: path, next: time.Now().Add(upgradePause)}
	return func(p cache.Progress) {
		switch {
		case a.footer == nil && p.Step == cache.StepUpgrade, a.say != nil && p.Step == cache.StepUpgrade:
			notes.note(time.Now(), p)
		case a.say != nil: // a server works on its file all the time
		case p.Waiting:
			a.progress.report(stage{verb: "waiting for the process that upgrades the file", unit: inParts}, 0, 0)
		default:
			a.progress.report(stepStages[p.Step], p.Done, p.Total)
		}
	}
}

// stepStages are the steps of work on a file as a person reads them.
var stepStages = map[cache.Step]stage{
	cache.StepUpgrade:   {verb: "upgrading the file", unit: inParts},
	cache.StepStructure: {verb: "checking structure", unit: inParts},
	cache.StepPages:     {verb: "checking pages", unit: inPages},
	cache.StepPostings:  {verb: "checking lists", unit: inParts},
	cache.StepStates:    {verb: "checking states", unit: inParts},
	cache.StepDigests:   {verb: "checking digests", unit: inParts},
	cache.StepCopy:      {verb: "copying", unit: inBytes},
	cache.StepDrop:      {verb: "dropping history", unit: inEvents},
	cache.StepRewrite:   {verb: "rewriting the file", unit: inBytes},
	cache.StepForget:    {verb: "forgetting", unit: inParts},
	cache.StepSearch:    {verb: "searching", unit: inPages},
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
	n.a.note("%s: upgrading the file to this version: %d%%", n.path, p.Done*100/max(p.Total, 1))
}
