package auth

import (
	"bytes"
	"cmp"
	"context"
	"crypto/sha256"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"log/slog"
	"net/http"
	"net/url"
	"os"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"github.com/rstream-dev/rstream/event"
)

// Errors of Check besides InvalidError.
var (
	// ErrNoToken means that no token was given and nothing is public.
	ErrNoToken = errors.New("no token was given")
	// ErrNoKeys means that the keys could not be fetched yet, so that no token can be
	// verified.
	ErrNoKeys = errors.New("the keys could not be fetched yet")
	// ErrStale means that the keys or the revocations could not be read for MaxAge: a token
	// may have been revoked since.
	ErrStale = errors.New("the keys or the revocations could not be read for too long")
)

// Config configures a Guard. It needs Keys or JWKS.
type Config struct {
	// Keys is a file with a JWK Set.
	Keys string
	// JWKS is the URL of a JWK Set.
	JWKS string
	// Revoked is a file with a jti in each line. Lines that begin with # are comments.
	// If empty, no token is revoked.
	Revoked string
	// Issuer and Audience are the iss and aud that tokens must have. If empty, any.
	Issuer, Audience string
	// Public are topics that everybody may read, without a token.
	Public []event.Topic
	// MaxAge is how old the keys and the revocations may be: if they could not be read for so
	// long, no token is accepted. If zero, they may be of any age.
	MaxAge time.Duration
	// HTTP fetches JWKS. If nil, http.DefaultClient.
	HTTP *http.Client
	// Logger logs changes of the keys and failures to read them. If nil, nothing is
	// logged.
	Logger *slog.Logger
	// Now returns the current time. If nil, time.Now.
	Now func() time.Time
}

const (
	// reloadEvery is how often files are read again.
	reloadEvery = 5 * time.Second
	// fetchEvery is how often JWKS is fetched again, and refetchAfter how soon a token
	// with an unknown key id may cause that.
	fetchEvery   = 5 * time.Minute
	refetchAfter = 10 * time.Second
	// fetchWait bounds a fetch, so that a stranger's key id holds no request for long.
	fetchWait = 2 * time.Second
	// maxSet is the greatest size of a JWK Set or a list of revoked tokens, in bytes.
	maxSet = 4 << 20
	// maxGrants is how many verified tokens are remembered.
	maxGrants = 10_000
)

// A Guard verifies tokens. Its methods may be called from any goroutine.
type Guard struct {
	cfg    Config
	verify verification
	public Rights
	open   *Grant // for requests without a token, nil if nothing is public

	mu      sync.Mutex
	keys    []Key                // of the file and then of the URL
	file    []Key                // of the file
	fetched []Key                // of the URL
	revoked map[string]bool      // jti
	grants  map[tokenHash]*Grant // of verified tokens
	watched map[*Grant]struct{}  // those with watchers, which must learn of their end

	loading sync.Mutex                   // held while files are read
	seen    map[string][sha256.Size]byte // guarded by loading

	fetching chan struct{} // has an element while keys are fetched
	last     time.Time     // owned like fetching: of the last attempt

	filesRead, keysFetched atomic.Pointer[time.Time] // when that has last succeeded, nil if never
	since                  func(time.Time) time.Duration
}

type tokenHash [sha256.Size]byte

// NewGuard returns a Guard that has read its files. A file that cannot be read or is not
// valid is an error; a URL that does not answer is logged, since it may later.
func NewGuard(ctx context.Context, cfg Config) (*Guard, error) {
	if cfg.Logger == nil {
		cfg.Logger = slog.New(slog.DiscardHandler)
	}
	cfg.HTTP = cmp.Or(cfg.HTTP, http.DefaultClient)
	if cfg.Now == nil {
		cfg.Now = time.Now
	}
	g := &Guard{
		cfg: cfg, verify: verification{issuer: cfg.Issuer, audience: cfg.Audience, now: cfg.Now},
		public: Rights{Read: slices.Clone(cfg.Public)},
		grants: map[tokenHash]*Grant{}, watched: map[*Grant]struct{}{}, seen: map[string][sha256.Size]byte{},
		fetching: make(chan struct{}, 1),
		since:    func(at time.Time) time.Duration { return cfg.Now().Sub(at) },
	}
	if len(cfg.Public) > 0 {
		g.open = &Grant{Rights: g.public, guard: g}
	}
	if err := g.readFiles(); err != nil {
		return nil, err
	}
	if cfg.JWKS != "" {
		g.fetchKeys(ctx, 0)
	}
	return g, nil
}

// Run reads the files again every few seconds, and the URL every few minutes, until ctx
// ends.
func (g *Guard) Run(ctx context.Context) {
	ticker := time.NewTicker(reloadEvery)
	defer ticker.Stop()
	said := "" // the last error, which is not logged again every few seconds
	for {
		select {
		case <-ctx.Done():
			return
		case <-ticker.C:
			now := ""
			if err := g.readFiles(); err != nil {
				now = err.Error()
			}
			if now != "" && now != said {
				g.cfg.Logger.Error("keys were not reloaded; the old ones stay", "error", now)
			}
			said = now
			if g.cfg.JWKS != "" {
				g.fetchKeys(ctx, g.fetchPause())
			}
		}
	}
}

// fetchPause returns how often the URL is fetched: often enough that one failure does not
// make the keys too old. Keys that are, perhaps only by a clock that was set, are fetched sooner.
func (g *Guard) fetchPause() time.Duration {
	switch {
	case g.cfg.MaxAge <= 0:
		return fetchEvery
	case g.isStale(&g.keysFetched):
		return min(refetchAfter, g.cfg.MaxAge/3)
	}
	return min(fetchEvery, g.cfg.MaxAge/3)
}

// checkAge returns ErrStale if what was read last is too old.
func (g *Guard) checkAge() error {
	if g.cfg.MaxAge <= 0 {
		return nil
	}
	if g.isStale(&g.filesRead) || g.cfg.JWKS != "" && g.isStale(&g.keysFetched) {
		return ErrStale
	}
	return nil
}

// isStale reports whether more than MaxAge has passed since a time, by the clock that has gone
// further: that of the system can be set back, and the other one stands still while the system is
// suspended.
func (g *Guard) isStale(read *atomic.Pointer[time.Time]) bool {
	at := read.Load()
	if at == nil {
		return true
	}
	return max(g.since(*at), g.cfg.Now().Round(0).Sub(at.Round(0))) > g.cfg.MaxAge
}

// Reload reads the files and the URL at once. After an error the old keys stay.
func (g *Guard) Reload(ctx context.Context) error {
	err := g.readFiles()
	if g.cfg.JWKS != "" {
		g.fetchKeys(ctx, 0)
	}
	return err
}

// Check returns the grant of a token, or of no token if it is empty. The same token gets
// the same grant for as long as it is valid, without being verified again.
func (g *Guard) Check(ctx context.Context, token string) (*Grant, error) {
	if token == "" {
		if g.open == nil {
			return nil, ErrNoToken
		}
		return g.open, nil
	}
	if err := g.checkAge(); err != nil && !g.lacksFetched() { // then the reason is ErrNoKeys
		return nil, err
	}
	hash := tokenHash(sha256.Sum256([]byte(token)))
	g.mu.Lock()
	grant, keys := g.grants[hash], g.keys
	g.mu.Unlock()
	if grant != nil {
		return grant, grant.Err()
	}
	claims, key, known, err := g.verify.verify(token, keys)
	if !known && g.cfg.JWKS != "" {
		g.fetchKeys(ctx, refetchAfter) // a provider may have a new key
		g.mu.Lock()
		keys = g.keys
		g.mu.Unlock()
		claims, key, known, err = g.verify.verify(token, keys)
	}
	if err != nil {
		if !known && g.lacksFetched() {
			err = ErrNoKeys
		}
		return nil, err
	}
	return g.addGrant(hash, claims, key)
}

// Known returns the grant of a token that Check has verified before, nil if it has not.
func (g *Guard) Known(token string) *Grant {
	g.mu.Lock()
	defer g.mu.Unlock()
	return g.grants[tokenHash(sha256.Sum256([]byte(token)))]
}

// lacksFetched reports whether the keys of the URL have never been fetched: a token may be
// signed with one of them.
func (g *Guard) lacksFetched() bool {
	g.mu.Lock()
	defer g.mu.Unlock()
	return g.cfg.JWKS != "" && g.fetched == nil
}

// addGrant returns the grant of a token that was verified.
func (g *Guard) addGrant(hash tokenHash, c *Claims, key *Key) (*Grant, error) {
	grant := &Grant{
		Rights:  Rights{Read: append(slices.Clone(c.Rights.Read), g.public.Read...), Write: c.Rights.Write, Board: c.Rights.Board},
		Subject: c.Subject, ID: c.ID, Expires: c.expiry(), key: &key.print, guard: g,
	}
	g.mu.Lock()
	defer g.mu.Unlock()
	if other := g.grants[hash]; other != nil {
		return other, other.Err()
	}
	if err := g.endedLocked(grant); err != nil { // the keys changed meanwhile, or it is revoked
		return nil, err
	}
	if len(g.grants) >= maxGrants { // they are only a cache: Grant.Watch does not need them
		clear(g.grants)
	}
	g.grants[hash] = grant
	return grant, nil
}

// endedLocked returns the reason for which a grant must end. That of requests without a token never
// does.
func (g *Guard) endedLocked(grant *Grant) error {
	switch {
	case grant == g.open:
		return nil
	case g.revoked[grant.ID] && grant.ID != "":
		return invalidf("was revoked")
	case !slices.ContainsFunc(g.keys, func(k Key) bool { return k.print == *grant.key }):
		return invalidf("is not signed with a key of this server")
	}
	return nil
}

// readFiles reads the files that have changed.
func (g *Guard) readFiles() error {
	g.loading.Lock()
	defer g.loading.Unlock()
	var errs []error
	if g.cfg.Keys != "" {
		errs = append(errs, g.readFile(g.cfg.Keys, func(b []byte) error {
			keys, err := parseServerKeys(b)
			if err == nil {
				g.setKeys(func() { g.file = keys })
			}
			return err
		}))
	}
	if g.cfg.Revoked != "" {
		errs = append(errs, g.readFile(g.cfg.Revoked, func(b []byte) error {
			revoked := parseRevoked(b)
			g.setKeys(func() { g.revoked = revoked })
			return nil
		}))
	}
	g.endGrants()
	err := errors.Join(errs...)
	if err == nil {
		now := g.cfg.Now()
		g.filesRead.Store(&now)
	}
	return err
}

// readFile calls use with the contents of a file if they have changed since the last call
// that succeeded.
func (g *Guard) readFile(path string, use func([]byte) error) error {
	b, err := ReadSetting(path)
	if err != nil {
		return fmt.Errorf("read %s: %w", path, err)
	}
	sum := sha256.Sum256(b)
	if old, ok := g.seen[path]; ok && old == sum {
		return nil
	}
	if err := use(b); err != nil {
		return fmt.Errorf("read %s: %w", path, err)
	}
	if _, again := g.seen[path]; again {
		g.cfg.Logger.Info("file was read again", "file", path)
	}
	g.seen[path] = sum
	return nil
}

// ReadSetting reads a file that is read again and again, such as one with keys. It refuses a
// pipe, which could wait for ever, and a file that is too large.
func ReadSetting(path string) ([]byte, error) {
	info, err := os.Stat(path)
	if err == nil && !info.Mode().IsRegular() {
		err = errors.New("is not a regular file")
	}
	if err != nil {
		return nil, withoutPath(err)
	}
	f, err := os.Open(path)
	if err != nil {
		return nil, withoutPath(err)
	}
	defer f.Close()
	b, err := readBounded(f)
	return b, withoutPath(err)
}

// withoutPath removes the path from an error of package os, since messages name it anyway.
func withoutPath(err error) error {
	var failed *fs.PathError
	if errors.As(err, &failed) {
		return failed.Err
	}
	return err
}

// parseServerKeys parses a set that must have keys: an empty one would lock everybody out.
func parseServerKeys(b []byte) ([]Key, error) {
	keys, err := ParseKeys(b)
	if err == nil && len(keys) == 0 {
		err = errors.New("has no key for tokens")
	}
	return keys, err
}

func parseRevoked(b []byte) map[string]bool {
	revoked := map[string]bool{}
	for line := range bytes.Lines(b) {
		if id := strings.TrimSpace(string(line)); id != "" && !strings.HasPrefix(id, "#") {
			revoked[id] = true
		}
	}
	return revoked
}

// setKeys calls change, which replaces a part of the keys or revocations.
func (g *Guard) setKeys(change func()) {
	g.mu.Lock()
	defer g.mu.Unlock()
	change()
	g.keys = slices.Concat(g.file, g.fetched)
}

// fetchKeys fetches the keys from the URL unless that was tried less than after ago. Only
// a set that has keys replaces the one before.
func (g *Guard) fetchKeys(ctx context.Context, after time.Duration) {
	g.fetching <- struct{}{} // held for fetchWait at most
	defer func() { <-g.fetching }()
	now := g.cfg.Now()
	if !g.last.IsZero() && now.Sub(g.last) < after {
		return
	}
	g.last = now
	keys, err := g.fetch(ctx)
	if err != nil {
		g.cfg.Logger.Error("keys were not fetched; the old ones stay", "url", redactedURL(g.cfg.JWKS), "error", err)
		return
	}
	g.setKeys(func() { g.fetched = keys })
	now = g.cfg.Now()
	g.keysFetched.Store(&now)
	g.endGrants()
}

// redactedURL returns a URL without its password.
func redactedURL(text string) string {
	u, err := url.Parse(text)
	if err != nil {
		return "not a URL"
	}
	return u.Redacted()
}

func (g *Guard) fetch(ctx context.Context) ([]Key, error) {
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), fetchWait) // others wait for it, too
	defer cancel()
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, g.cfg.JWKS, nil)
	if err != nil {
		return nil, err
	}
	req.Header.Set("Accept", "application/jwk-set+json, application/json")
	resp, err := g.cfg.HTTP.Do(req)
	if err != nil {
		return nil, err
	}
	defer resp.Body.Close()
	if resp.StatusCode != http.StatusOK {
		return nil, fmt.Errorf("status %s", resp.Status)
	}
	b, err := readBounded(resp.Body)
	if err != nil {
		return nil, err
	}
	return parseServerKeys(b)
}

func readBounded(r io.Reader) ([]byte, error) {
	b, err := io.ReadAll(io.LimitReader(r, maxSet+1))
	if err == nil && len(b) > maxSet {
		err = fmt.Errorf("is larger than %d bytes", maxSet)
	}
	return b, err
}
