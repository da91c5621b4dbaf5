package auth

import (
	"crypto/sha256"
	"math"
	"sync"
	"sync/atomic"
	"time"
)

// A Grant is what a token allows, or what everybody is allowed without one.
type Grant struct {
	Rights
	Subject string
	ID      string    // jti
	Expires time.Time // zero if it never does

	guard  *Guard
	key    *[sha256.Size]byte    // fingerprint of the key that signed the token
	ended  atomic.Pointer[error] // why it ended before it expired, or nil
	newest *watcher              // guarded by guard.mu; the others follow by older
}

// A watcher is a place in the list of a grant: most grants have one, and a map would be larger
// than the grant.
type watcher struct {
	older, newer *watcher // guarded by guard.mu

	mu sync.Mutex // held while fn runs
	fn func()     // nil once it was called or stopped
}

// call calls fn, unless it was called or stopped before.
func (w *watcher) call() {
	w.mu.Lock()
	defer w.mu.Unlock()
	if w.fn != nil {
		w.fn()
	}
	w.fn = nil
}

// stop makes call do nothing. It waits for a call that has begun.
func (w *watcher) stop() {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.fn = nil
}

// IsPublic reports whether the grant is that of requests without a token.
func (g *Grant) IsPublic() bool { return g == g.guard.open }

// Err returns an InvalidError once the grant has ended, and ErrStale while the keys are too
// old to know.
func (g *Grant) Err() error {
	if !g.IsPublic() {
		if err := g.guard.checkAge(); err != nil {
			return err
		}
	}
	if why := g.ended.Load(); why != nil {
		return *why
	}
	if g.Left() <= 0 {
		return invalidf("has expired")
	}
	return nil
}

// Left returns how long the grant is valid unless it is revoked, or the longest Duration if
// it never expires.
func (g *Grant) Left() time.Duration {
	if g.Expires.IsZero() {
		return math.MaxInt64
	}
	return g.Expires.Sub(g.guard.cfg.Now())
}

// Watch calls fn once if the grant ends before it expires, until stop is called. Once stop has
// returned, fn is not running, and is not called any more. fn must not block or call stop, and may
// be called before Watch returns.
func (g *Grant) Watch(fn func()) (stop func()) {
	w := &watcher{fn: fn}
	if g.guard.watch(g, w) != nil {
		w.call()
		return func() {}
	}
	return func() {
		g.guard.unwatch(g, w)
		w.stop()
	}
}

// watch adds a watcher, and returns an error instead if the grant has ended.
func (g *Guard) watch(grant *Grant, w *watcher) error {
	g.mu.Lock()
	defer g.mu.Unlock()
	if why := grant.ended.Load(); why != nil {
		return *why
	}
	if err := g.endedLocked(grant); err != nil { // it was dropped, and nobody has noticed
		grant.ended.Store(&err)
		return err
	}
	if grant.newest == nil {
		g.watched[grant] = struct{}{}
	} else {
		grant.newest.newer = w
	}
	w.older, grant.newest = grant.newest, w
	return nil
}

// unwatch removes a watcher. One of a grant that has ended is in no list any more.
func (g *Guard) unwatch(grant *Grant, w *watcher) {
	g.mu.Lock()
	defer g.mu.Unlock()
	switch {
	case w.newer != nil:
		w.newer.older = w.older
	case grant.newest == w:
		grant.newest = w.older
	default:
		return
	}
	if w.older != nil {
		w.older.newer = w.newer
	}
	w.older, w.newer = nil, nil
	if grant.newest == nil {
		delete(g.watched, grant)
	}
}

// endGrants ends the grants that are no longer valid, and forgets them and those that have
// expired.
func (g *Guard) endGrants() {
	for _, w := range g.takeEnded() {
		w.call() // without the lock: it may call the guard
	}
}

// takeEnded marks the grants that are no longer valid as ended, and returns their watchers.
func (g *Guard) takeEnded() (watchers []*watcher) {
	g.mu.Lock()
	defer g.mu.Unlock()
	for hash, grant := range g.grants {
		if g.endedLocked(grant) != nil || grant.Left() <= 0 {
			delete(g.grants, hash)
		}
	}
	for grant := range g.watched {
		err := g.endedLocked(grant)
		if err == nil {
			continue
		}
		grant.ended.Store(&err)
		for w := grant.newest; w != nil; {
			watchers = append(watchers, w)
			w.newer = nil
			w, w.older = w.older, nil
		}
		grant.newest = nil
		delete(g.watched, grant)
	}
	return watchers
}
