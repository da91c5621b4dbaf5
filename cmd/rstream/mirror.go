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
	"github.com/rstream-dev/rstream/internal/natslog"
	"github.com/rstream-dev/rstream/internal/server"
	"github.com/rstream-dev/rstream/internal/wire"
)

// A followed is the log that a server follows instead of assigning ids itself: that of the server
// of --mirror, or of the stream of --nats.
type followed struct {
	upstream mirror.Upstream
	words    followedWords
	node     *node          // nil for --mirror
	name     string         // of the upstream, without secrets
	close    func()         // ends its connections
	topics   []event.Topic  // those to mirror; none for all
	mirror   *mirror.Mirror // once the file is open
	said     string         // the trouble that was logged last
}

// followedWords are how messages call what is followed.
type followedWords struct{ doing, what, key string }

var mirrorWords = followedWords{"mirroring", "the mirrored server", "mirror"}

// newFollowed returns the log that serve follows, nil if it assigns ids itself.
func (a *app) newFollowed(ctx context.Context, o *serveOptions) (*followed, error) {
	topics, err := parseMirrored(o)
	switch {
	case err != nil:
		return nil, err
	case o.mirror != "":
		return a.newMirrored(ctx, o, topics)
	case o.nats != "":
		return a.newNode(ctx, o)
	}
	return nil, nil
}

// newMirrored returns the log of the server of --mirror.
func (a *app) newMirrored(ctx context.Context, o *serveOptions, topics []event.Topic) (*followed, error) {
	alone := &app{settings: a.settings, servers: []string{o.mirror}, credentials: a.credentials, headers: a.headers, err: a.err, quiet: a.quiet}
	if err := alone.nameServers(); err != nil {
		return nil, err
	}
	if len(alone.servers) != 1 {
		return nil, usagef("--mirror %s: want one server, not %d", o.mirror, len(alone.servers))
	}
	from := alone.servers[0]
	if err := alone.checkAuthorization(); err != nil {
		return nil, err
	}
	secure, err := alone.tlsConfig()
	if err != nil {
		return nil, err
	}
	cfg := mirror.HTTPConfig{URL: from, TLS: secure, Header: alone.requestHeaders(from), Topics: topics, Compress: !isOnLoopback(from),
		Token: func(ctx context.Context) (string, error) { return alone.serverToken(ctx, from) }}
	token, err := cfg.Token(ctx)
	if err != nil {
		return nil, err
	}
	if hasSecrets := token != "" || len(cfg.Header) > 0 || strings.Contains(from, "@") || secure != nil && len(secure.Certificates) > 0; hasSecrets && !o.isGuarded() && !o.insecure {
		return nil, &exitError{exitUsage, "--mirror with credentials: every reader would read with them",
			"ask readers for tokens with --keys or --jwks; or let everybody read, with --insecure"}
	}
	upstream, err := mirror.NewHTTP(cfg)
	if err != nil {
		return nil, usagef("--mirror %w", err)
	}
	return &followed{upstream: upstream, words: mirrorWords, name: upstream.String(), close: upstream.Close, topics: topics}, nil
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

// config adds to cfg what a file needs to follow the log. A new file is one of the log
// that the upstream has now.
func (f *followed) config(ctx context.Context, a *app, path string, cfg cache.Config) (cache.Config, error) {
	if f == nil {
		return cfg, nil
	}
	log, err := a.logOfFile(ctx, path)
	if err != nil {
		return cfg, err
	}
	cfg.Log, cfg.Mirror = log, &cache.Mirrored{Topics: f.topics}
	if log != "" {
		return cfg, nil
	}
	d, err := f.firstDescription(ctx)
	if err != nil && ctx.Err() != nil {
		return cfg, context.Cause(ctx)
	}
	if err != nil {
		return cfg, err
	}
	cfg.Log, cfg.Mirror = d.Log, &cache.Mirrored{Parent: d.Parent, ParentHead: d.ParentHead, Topics: f.topics}
	return cfg, nil
}

// firstDescription returns what the upstream says of the log that a new file is for.
func (f *followed) firstDescription(ctx context.Context) (mirror.Description, error) {
	if f.node != nil {
		return f.node.firstDescription(ctx)
	}
	d, err := f.upstream.Describe(ctx, mirror.Position{})
	if err != nil {
		return d, mirrorError(err)
	}
	return d, nil
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

// open prepares to follow the log into a file.
func (f *followed) open(log *cache.DB, say *serveLog) {
	if f == nil {
		return
	}
	cfg := mirror.Config{Upstream: f.upstream, Name: f.name, Dir: filepath.Dir(log.Path()), OnTrouble: func(err error, pause time.Duration) {
		f.logTrouble(say, err, pause)
	}}
	if f.node != nil {
		cfg.RetryMax = maxNodePause
		cfg = f.node.MirrorConfig(cfg)
	}
	f.mirror = mirror.New(log, cfg)
}

// logTrouble logs why there is no connection, unless that was logged before.
func (f *followed) logTrouble(say *serveLog, err error, pause time.Duration) {
	if err == nil {
		f.said = ""
		say.Info("connected to "+f.words.what+" again", f.words.key, f.name)
		return
	}
	what := "not connected to " + f.words.what + "; reads go on"
	if errors.As(err, new(*mirror.StoreError)) {
		what = "what " + f.words.what + " sends cannot be stored; reads go on"
	}
	if text := wire.SteadyText(err); text != f.said {
		f.said = text
		say.Warn(what, f.words.key, f.name, "error", text, "retry", pause.Round(time.Millisecond).String())
	}
}

// forServer returns the mirror for the configuration of a server.
func (f *followed) forServer() server.Mirror {
	if f == nil {
		return nil
	}
	return f.mirror
}

// retention adds to r that history is dropped when the upstream has dropped it.
func (f *followed) retention(r cache.Retention) cache.Retention {
	switch {
	case f == nil:
		return r
	case f.node != nil:
		return f.node.Retention(r)
	}
	r.Horizon = f.mirror.Horizon
	return r
}

// cluster returns the function that says how the server is as a node, nil if it is none.
func (f *followed) cluster() func() wire.Cluster {
	if f == nil || f.node == nil {
		return nil
	}
	return f.node.clusterReport
}

// introduce says what the other nodes learn of this server.
func (f *followed) introduce(url string) {
	if f == nil || f.node == nil {
		return
	}
	f.node.Introduce(func() natslog.About {
		about := natslog.About{URL: url, Version: programVersion()}
		if err := f.mirror.Ready(); err != nil {
			about.Trouble = err.Error()
		}
		return about
	})
}

// fillPause is how often serve says how far the first fill of a mirror is.
const fillPause = 2 * time.Second

// follow follows the log until stop, which waits for it. It says how far the file is until it
// has everything. The end of ctx does not end it: when a server ends, its last appends wait for
// their events.
func (f *followed) follow(ctx context.Context, a *app, log *cache.DB, say *serveLog) (stop func()) {
	if f == nil {
		return func() {}
	}
	a.note("%s %s", f.words.doing, f.name)
	ctx, cancel := context.WithCancel(context.WithoutCancel(ctx))
	var following sync.WaitGroup
	following.Go(func() { f.mirror.Run(ctx) })
	following.Go(func() { f.noteFill(ctx, a) })
	if f.node != nil {
		following.Go(func() { f.node.takePart(ctx, log, say) })
	}
	return func() {
		cancel()
		following.Wait()
	}
}

// disconnect ends the connections to the upstream, also if nothing was followed.
func (f *followed) disconnect() {
	if f != nil {
		f.close()
	}
}

// noteFill notes how far the first fill is.
func (f *followed) noteFill(ctx context.Context, a *app) {
	ticker := time.NewTicker(fillPause)
	defer ticker.Stop()
	for {
		select {
		case <-ctx.Done():
			return
		case <-ticker.C:
		}
		r := f.mirror.Report()
		if r.Ready {
			a.note("the file has all of %s", r.Upstream)
			return
		}
		if r.Connected {
			a.note("%s %s", f.words.doing, fillText(&r, f.mirror.Head()))
		}
	}
}

// fillText says how far the first fill of a mirror is, whose log ends at head.
func fillText(r *wire.Mirror, head event.ID) string {
	share := 100.0
	if r.Head > r.Horizon {
		share = 100 * float64(max(head, r.Horizon)-r.Horizon) / float64(r.Head-r.Horizon)
	}
	return fmt.Sprintf("%s: %s received, at %s of %s (%.0f%%)", r.Upstream, count(int(r.Events), "event"), head, r.Head, share)
}
