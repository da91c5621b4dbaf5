package main

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/http"
	"net/url"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/rstream-dev/rstream/cache"
	"github.com/rstream-dev/rstream/event"
	"github.com/rstream-dev/rstream/internal/mirror"
	"github.com/rstream-dev/rstream/internal/server"
	"github.com/rstream-dev/rstream/internal/wire"
)

// A mirrored is the server whose log serve --mirror mirrors.
type mirrored struct {
	*app     // with this one server
	upstream *mirror.HTTP
	topics   []event.Topic  // those to mirror; none for all
	mirror   *mirror.Mirror // once the file is open
	said     string         // the trouble that was logged last
}

// newMirrored returns the server of --mirror, nil without the flag.
func (a *app) newMirrored(ctx context.Context, o *serveOptions) (*mirrored, error) {
	topics, err := parseMirrored(o)
	if err != nil || o.mirror == "" {
		return nil, err
	}
	m := &mirrored{topics: topics, app: &app{settings: a.settings, servers: []string{o.mirror}, credentials: a.credentials, headers: a.headers, err: a.err}}
	if err := m.nameServers(); err != nil {
		return nil, err
	}
	if len(m.servers) != 1 {
		return nil, usagef("--mirror %s: want one server, not %d", o.mirror, len(m.servers))
	}
	from := m.servers[0]
	if err := m.checkAuthorization(); err != nil {
		return nil, err
	}
	secure, err := m.tlsConfig()
	if err != nil {
		return nil, err
	}
	cfg := mirror.HTTPConfig{URL: from, TLS: secure, Header: m.requestHeaders(from), Topics: topics, Compress: !isOnLoopback(from),
		Token: func(ctx context.Context) (string, error) { return m.serverToken(ctx, from) }}
	token, err := cfg.Token(ctx)
	if err != nil {
		return nil, err
	}
	if hasSecrets := token != "" || len(cfg.Header) > 0 || strings.Contains(from, "@") || secure != nil && len(secure.Certificates) > 0; hasSecrets && !o.isGuarded() && !o.insecure {
		return nil, &exitError{exitUsage, "--mirror with credentials: every reader would read with them",
			"ask readers for tokens with --keys or --jwks; or let everybody read, with --insecure"}
	}
	if m.upstream, err = mirror.NewHTTP(cfg); err != nil {
		return nil, usagef("--mirror %w", err)
	}
	return m, nil
}

// parseMirrored returns the topics of --topic, without those that others contain, and none if
// that is all.
func parseMirrored(o *serveOptions) (topics []event.Topic, err error) {
	if len(o.topics) > 0 && o.mirror == "" {
		return nil, usagef("--topic %s: only a mirror can have some topics; add --mirror URL", o.topics[0])
	}
	for _, name := range o.topics {
		t, err := event.ParseTopic(name)
		if err != nil {
			return nil, usagef("--topic %q: %w", name, err)
		}
		if t == event.All {
			return nil, nil
		}
		if slices.ContainsFunc(topics, func(wider event.Topic) bool { return wider.Contains(t) }) {
			continue
		}
		topics = slices.DeleteFunc(topics, t.Contains)
		topics = append(topics, t)
	}
	return topics, nil
}

// isOnLoopback reports whether a server is on this machine: compressing takes longer than
// sending there.
func isOnLoopback(address string) bool {
	u, err := url.Parse(address)
	if err != nil {
		return false
	}
	ip := net.ParseIP(u.Hostname())
	return u.Hostname() == "localhost" || ip != nil && ip.IsLoopback()
}

// config adds to cfg what a file needs to be that of a mirror. A new file is one of the log
// that the server has now.
func (m *mirrored) config(ctx context.Context, path string, cfg cache.Config) (cache.Config, error) {
	if m == nil {
		return cfg, nil
	}
	log, err := m.logOfFile(ctx, path)
	if err != nil {
		return cfg, err
	}
	cfg.Log, cfg.Mirror = log, &cache.Mirrored{Topics: m.topics}
	if log != "" {
		return cfg, nil
	}
	d, err := m.upstream.Describe(ctx, mirror.Position{})
	if err != nil && ctx.Err() != nil {
		return cfg, context.Cause(ctx)
	}
	if err != nil {
		return cfg, mirrorError(err)
	}
	cfg.Log, cfg.Mirror = d.Log, &cache.Mirrored{Parent: d.Parent, ParentHead: d.ParentHead, Topics: m.topics}
	return cfg, nil
}

// mirrorError returns the error of a server that could not be asked for its log.
func mirrorError(err error) error {
	status := exitUnreachable
	var refused *mirror.RefusedError
	if errors.As(err, &refused) {
		status = exitFailed
		if s := refused.Problem.Status; s == http.StatusUnauthorized || s == http.StatusForbidden {
			status = exitNotAllowed
		}
	}
	return &exitError{status, "--mirror: " + err.Error(), "the first start needs the server; later ones do not"}
}

// open opens the mirror of the server in log.
func (m *mirrored) open(log *cache.DB, say *serveLog) {
	if m == nil {
		return
	}
	m.mirror = mirror.New(log, mirror.Config{Upstream: m.upstream, Name: m.upstream.String(), Dir: filepath.Dir(log.Path()), OnTrouble: func(err error, pause time.Duration) {
		m.logTrouble(say, err, pause)
	}})
}

// logTrouble logs why there is no connection, unless that was logged before.
func (m *mirrored) logTrouble(say *serveLog, err error, pause time.Duration) {
	if err == nil {
		m.said = ""
		say.Info("connected to the mirrored server again", "mirror", m.upstream.String())
		return
	}
	what := "not connected to the mirrored server; reads go on"
	if errors.As(err, new(*mirror.StoreError)) {
		what = "what the mirrored server sends cannot be stored; reads go on"
	}
	if text := err.Error(); text != m.said {
		m.said = text
		say.Warn(what, "mirror", m.upstream.String(), "error", text, "retry", pause.Round(time.Millisecond).String())
	}
}

// forServer returns the mirror for the configuration of a server.
func (m *mirrored) forServer() server.Mirror {
	if m == nil {
		return nil
	}
	return m.mirror
}

// retention adds to r that history is dropped when the mirrored server has dropped it.
func (m *mirrored) retention(r cache.Retention) cache.Retention {
	if m != nil {
		r.Horizon = m.mirror.Horizon
	}
	return r
}

// fillPause is how often serve says how far the first fill of a mirror is.
const fillPause = 2 * time.Second

// follow follows the server until stop, which waits for it. It says how far the mirror is
// until it has everything.
func (m *mirrored) follow(ctx context.Context, a *app) (stop func()) {
	if m == nil {
		return func() {}
	}
	a.note("mirroring %s", m.upstream)
	ctx, cancel := context.WithCancel(ctx)
	var following sync.WaitGroup
	following.Go(func() { m.mirror.Run(ctx) })
	following.Go(func() { m.noteFill(ctx, a) })
	return func() {
		cancel()
		following.Wait()
		m.upstream.Close()
	}
}

// noteFill notes how far the first fill is.
func (m *mirrored) noteFill(ctx context.Context, a *app) {
	ticker := time.NewTicker(fillPause)
	defer ticker.Stop()
	for {
		select {
		case <-ctx.Done():
			return
		case <-ticker.C:
		}
		r := m.mirror.Report()
		if r.Ready {
			a.note("the mirror has all of %s", r.Upstream)
			return
		}
		if r.Connected {
			a.note("%s", fillLine(&r, m.mirror.Head()))
		}
	}
}

// fillLine says how far the first fill of a mirror is, whose log ends at head.
func fillLine(r *wire.Mirror, head event.ID) string {
	share := 100.0
	if r.Head > r.Horizon {
		share = 100 * float64(max(head, r.Horizon)-r.Horizon) / float64(r.Head-r.Horizon)
	}
	return fmt.Sprintf("mirroring %s: %s received, at %s of %s (%.0f%%)", r.Upstream, count(int(r.Events), "event"), head, r.Head, share)
}
