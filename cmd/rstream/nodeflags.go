package main

import (
	"context"
	"crypto/tls"
	"errors"
	"io"
	"maps"
	"net/http"
	"net/url"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/spf13/pflag"

	"github.com/rstream-dev/rstream/internal/board"
	"github.com/rstream-dev/rstream/internal/report"
	"github.com/rstream-dev/rstream/internal/server"
	"github.com/rstream-dev/rstream/internal/sse"
	"github.com/rstream-dev/rstream/internal/wire"
)

// nodeFlags are the flags of a server that reports its readers to the boards of others.
type nodeFlags struct {
	boards    []string
	node      string
	advertise string
	nodeTLS   *tls.Config // for the nodes of this board
}

func (o *nodeFlags) addNodeFlags(f *pflag.FlagSet) {
	f.StringArrayVar(&o.boards, "board", nil, "report who reads to the board of the server at `URL`, while somebody looks at it; repeat for more")
	f.StringVar(&o.node, "node", "", "`NAME` of this server on boards and in cluster status (default: the id of its log; with --nats, the name of the host, so nodes on one host need names)")
	f.StringVar(&o.advertise, "advertise", "", "`URL` of this server for the others on a board, to ask for rooms, and for cluster status")
}

// checkNodeFlags refuses flags that make no sense. inCluster says that the server is a node of a
// cluster.
func (o *nodeFlags) checkNodeFlags(inCluster bool) error {
	if o.node == "" && len(o.boards) > 0 {
		return usagef("--board: wants --node, the name of this server on the board")
	}
	if o.node != "" {
		if err := board.CheckNodeName(o.node); err != nil {
			return usagef("--node %.80q: %w", o.node, err)
		}
	}
	if o.advertise == "" {
		return nil
	}
	if len(o.boards) == 0 && !inCluster {
		return usagef("--advertise: wants --board or --nats")
	}
	u, err := url.Parse(o.advertise)
	if err != nil || u.Scheme != "http" && u.Scheme != "https" || u.Host == "" || u.User != nil || u.RawQuery != "" || u.Fragment != "" {
		return usagef("--advertise %q: want a URL such as https://b.example.com", wire.RedactURL(o.advertise))
	}
	return nil
}

// A boardLink is a board to which this server reports.
type boardLink struct {
	url     string
	headers http.Header // of requests, without the token
	cfg     report.Config
	meter   report.Meter

	mu   sync.Mutex
	said string // the error that was logged last
}

// newBoardLinks returns the links to the boards, with the credentials that the command line, the
// environment and the config file have for them.
func (a *app) newBoardLinks(o *nodeFlags) (links boardLinks, err error) {
	for _, name := range o.boards {
		alone := &app{settings: a.settings, credentials: a.credentials, headers: a.headers, servers: []string{name}, err: a.err, quiet: a.quiet}
		if err := alone.nameServers(); err != nil {
			return nil, err
		}
		if len(alone.servers) != 1 {
			return nil, usagef("--board %s: wants the URL of one server", name)
		}
		if err := alone.checkAuthorization(); err != nil {
			return nil, err
		}
		if alone.tls, err = alone.tlsConfig(); err != nil {
			return nil, err
		}
		base := alone.servers[0]
		if slices.ContainsFunc(links, func(l *boardLink) bool { return wire.RedactURL(l.url) == wire.RedactURL(base) }) {
			return nil, usagef("--board %s: is named twice", wire.RedactURL(base))
		}
		secrets := func(*url.URL) http.Header { return alone.requestHeaders(base) }
		links = append(links, &boardLink{url: base, headers: alone.requestHeaders(base), cfg: report.Config{Board: base,
			HTTP: &http.Client{Transport: sse.NewTransport(boardAnswer, alone.tls), CheckRedirect: sse.RedirectPolicy(secrets, nil)},
			Header: func(ctx context.Context) (http.Header, error) {
				header := http.Header{"User-Agent": {"rstream"}}
				maps.Copy(header, alone.requestHeaders(base))
				token, err := alone.serverToken(ctx, base)
				if err == nil && token != "" {
					header.Set("Authorization", "Bearer "+token)
				}
				return header, err
			}}})
	}
	return links, nil
}

// peers returns the boards, to be asked for rooms. They are asked for others, with the token of each,
// and never with what lets this server in.
func (links boardLinks) peers() (peers []server.Peer) {
	for _, l := range links {
		headers := l.headers.Clone()
		headers.Del("Authorization")
		headers.Del("Cookie")
		peers = append(peers, server.Peer{URL: wire.WithoutUser(l.url), Header: headers, HTTP: &http.Client{Transport: l.cfg.HTTP.Transport,
			CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse }}})
	}
	return peers
}

// nodeTLS returns how to check the certificates of the nodes of the board: no server of the config
// file is one of them.
func (a *app) nodeTLS() (*tls.Config, error) {
	return (&app{credentials: a.credentials, servers: []string{""}, err: a.err, quiet: a.quiet}).tlsConfig()
}

// boardAnswer is how long a board may take to answer.
const boardAnswer = 5 * time.Second

type boardLinks []*boardLink

// reportReaders reports the readers of srv to the boards until stop, which waits for the end.
func (links boardLinks) reportReaders(ctx context.Context, srv *server.Server, say *serveLog) (stop func()) {
	ctx, cancel := context.WithCancel(ctx)
	var reporting sync.WaitGroup
	for _, l := range links {
		l.cfg.Registry, l.cfg.Node, l.cfg.Meter = srv.Readers(), srv.Node, &l.meter
		l.cfg.OnError = func(err error) { l.logError(say, err) }
		l.cfg.OnConnect = func() { l.logConnected(say) }
		reporting.Go(func() { report.New(l.cfg).Run(ctx) })
	}
	return func() {
		cancel()
		reporting.Wait()
	}
}

// logError logs an error, unless that is usual or was logged before.
func (l *boardLink) logError(say *serveLog, err error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if errors.Is(err, io.EOF) {
		l.said = ""
		return
	}
	if text := wire.Redact(wire.SteadyText(err)); text != l.said {
		l.said = text
		say.Warn("nothing can be reported to the board", "board", wire.RedactURL(l.url), "error", strings.TrimSpace(text))
	}
}

// logConnected logs that the board is there, if it was missed.
func (l *boardLink) logConnected(say *serveLog) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.said != "" {
		l.said = ""
		say.Info("connected to the board again", "board", wire.RedactURL(l.url))
	}
}

// reports returns the function that tells how the links are, nil if there are none.
func (links boardLinks) reports() func() []server.BoardLink {
	if len(links) == 0 {
		return nil
	}
	return func() (all []server.BoardLink) {
		for _, l := range links {
			all = append(all, server.BoardLink{URL: wire.RedactURL(l.url), Connected: l.meter.Connected.Load(), Reporting: l.meter.Reporting.Load(),
				Reports: l.meter.Reports.Load(), Bytes: l.meter.Bytes.Load(), Failed: l.meter.Failed.Load()})
		}
		return all
	}
}
