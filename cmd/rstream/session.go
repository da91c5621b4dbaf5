package main

import (
	"context"
	"errors"
	"strings"
	"time"

	"github.com/rstream-dev/rstream/cache"
	"github.com/rstream-dev/rstream/client"
	"github.com/rstream-dev/rstream/internal/wire"
)

// A session is a command's copy and the client that fills it.
type session struct {
	*client.Client
	db   *cache.DB
	app  *app
	made bool // the copy did not exist before
}

// openSession opens the copy of the servers' log, creates it if it does not exist, and
// opens a client that fills it. With wait, it keeps trying to reach a server.
func (a *app) openSession(ctx context.Context, wait bool) (*session, error) {
	cfg := a.clientConfig()
	cfg.Wait = wait
	return a.openSessionWith(ctx, cfg)
}

// openSessionWith is connect with another configuration.
func (a *app) openSessionWith(ctx context.Context, cfg client.Config) (*session, error) {
	db, made, err := a.openOrMakeCopy(ctx, cfg)
	if err != nil {
		return nil, err
	}
	c, err := client.New(db, cfg)
	if err != nil {
		db.Close()
		return nil, &usageError{err}
	}
	s := &session{Client: c, db: db, app: a, made: made}
	if err := c.CheckServers(ctx); err != nil {
		return nil, errors.Join(err, s.Close())
	}
	return s, nil
}

// openOrMakeCopy opens the copy of the servers' log. If there is none, it asks a server which log
// that is, and makes one.
func (a *app) openOrMakeCopy(ctx context.Context, cfg client.Config) (db *cache.DB, made bool, err error) {
	if a.cache != "" {
		if db, err := a.openIfCreated(ctx, a.cache, cache.Client); err != nil || db != nil {
			return db, false, err
		}
	}
	path, log, err := a.cacheFile(ctx)
	if err != nil {
		return nil, false, err
	}
	if made = log == ""; made {
		info, err := client.Probe(ctx, cfg)
		if err != nil {
			return nil, false, err
		}
		log = info.Log
		if path, err = a.newCacheFile(path, log); err != nil {
			return nil, false, err
		}
	}
	db, err = a.openDB(ctx, path, cache.Config{Role: cache.Client, Log: log})
	return db, made, err
}

// Close closes the client and the copy.
func (s *session) Close() error {
	s.Client.Close()
	return s.db.Close()
}

// clientConfig returns the configuration of a client of the servers.
func (a *app) clientConfig() client.Config {
	return client.Config{Servers: a.servers, Token: a.serverToken, Header: a.requestHeaders, TLS: a.tls, OnRetry: a.onRetry, OnReconnect: a.onReconnect, OnSilence: a.onSilence, OnAside: a.onAside, OnLeave: a.onLeave, Timeout: a.timeout}
}

func (a *app) onSilence(server string) {
	a.note("%s has not answered yet (\"rstream doctor %s\" shows what answers there)", server, shellWord(wire.RedactURL(server)))
}

// onAside says that one of several servers has sent a wrong answer.
func (a *app) onAside(server string, cause error) {
	a.note("%s is set aside for ten minutes: %s", server, strings.TrimPrefix(cause.Error(), server+": "))
}

// leftTime is how long onLeave says nothing more of a server. A command may have several clients.
const leftTime = 10 * time.Minute

// onLeave says that another one of several servers is asked.
func (a *app) onLeave(server string, cause error) {
	now := time.Now()
	if at, known := a.left.LoadOrStore(server, now); known && now.Sub(at.(time.Time)) < leftTime {
		return
	}
	a.left.Store(server, now)
	text, _ := probeProblem(cause)
	a.note("%s is left for another server: %s", server, text)
}

// onRetry says that an attempt failed: on a terminal, in one line that changes.
func (a *app) onRetry(err error, pause time.Duration) {
	if a.footer != nil && !a.quiet {
		a.footer.show("%s; trying again in %s", visibleLine(wire.Redact(err.Error())), pause.Round(100*time.Millisecond))
		return
	}
	a.note("%v; trying again in %s", err, pause.Round(100*time.Millisecond))
}

// onReconnect ends the line of onRetry.
func (a *app) onReconnect(server string, missed int) {
	if a.footer != nil {
		a.note("connected to %s again, %s behind", server, count(missed, "event"))
	}
}
