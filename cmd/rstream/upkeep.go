package main

import (
	"context"
	"sync"
	"time"

	"github.com/rstream-dev/rstream/cache"
)

// startRetention drops what a log need not keep, and seals its states, until ctx ends; working
// waits for both.
func (a *app) startRetention(ctx context.Context, working *sync.WaitGroup, log *cache.DB, r cache.Retention) {
	said := map[string]bool{}
	r.Damaged = func(err error) { // called by one goroutine
		if text := err.Error(); !said[text] && len(said) < maxDamageLines {
			said[text] = true
			a.note("%s", text)
		}
	}
	outgrown := false
	r.Outgrown = func() { // by the same one
		if !outgrown {
			outgrown = true
			a.note("the file stays larger than %s: hashes and the current state take most of it", formatSize(r.MaxBytes))
		}
	}
	working.Go(func() { a.keepUp(ctx, log.Snapshots().KeepStates) })
	working.Go(func() { a.keepUp(ctx, func(ctx context.Context) error { return log.Retain(ctx, r) }) })
}

// minUpkeepPause and maxUpkeepPause bound the pause after which background work that has failed
// is tried again: each is twice as long as the one before.
const minUpkeepPause, maxUpkeepPause = time.Second, time.Minute

// keepUp does background work that ends only with ctx, or once all is done. If it fails, it is done
// again after a pause: a disk that fails for some seconds must not let a file grow for ever. An
// error is noted, but not twice in a row.
func (a *app) keepUp(ctx context.Context, work func(context.Context) error) {
	last := ""
	for pause := minUpkeepPause; ; pause = min(2*pause, maxUpkeepPause) {
		begun := time.Now()
		err := work(ctx)
		if err == nil || ctx.Err() != nil {
			return
		}
		if time.Since(begun) > maxUpkeepPause { // it worked in between
			last, pause = "", minUpkeepPause
		}
		if text := err.Error(); text != last {
			a.note("%s; trying again", text)
			last = text
		}
		select {
		case <-time.After(pause):
		case <-ctx.Done():
			return
		}
	}
}
