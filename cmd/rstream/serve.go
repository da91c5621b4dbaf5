package main

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/http"
	"net/netip"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"time"

	"github.com/spf13/cobra"

	"github.com/rstream-dev/rstream/cache"
	"github.com/rstream-dev/rstream/internal/auth"
	"github.com/rstream-dev/rstream/internal/server"
	"github.com/rstream-dev/rstream/internal/wire"
)

type serveOptions struct {
	listen    string
	db        string
	urlFile   string
	insecure  bool
	origins   []string
	heartbeat time.Duration
	asNewLog  bool
	noPage    bool
	sources   []string
	mirror    string
	topics    []string // of mirror
	retain    retainOptions

	guardFlags
	logFlags
	nodeFlags
	clusterFlags
}

func newServeCommand(a *app) *cobra.Command {
	var o serveOptions
	cmd := &cobra.Command{
		Use:     "serve",
		GroupID: groupServe,
		Short:   "Serve a log over HTTP",

		Annotations: map[string]string{silentAnnotation: silentAlways},
		Long: `Serve the log in a file over HTTP. The file is created if it does not exist.

Once the server accepts requests, it prints one line with its address on standard error.
It listens on loopback only, where everybody on the machine may read and append
everything. With --keys or --jwks it asks for tokens, which "rstream token" makes, and
with --tls-cert or --acme it serves https. Any other address needs both, or --insecure.

By default nothing is deleted. With --history or --max-bytes, old events are dropped in
blocks of 4,096; the current state is kept, and a reader that fell behind gets an
explicit gap. A clock that is wrong for a while deletes nothing.

With --source, the server is a relay: it follows event streams of other servers, which
"rstream source add" has named, and appends their events to its log. GET /sources says
how each is, GET /origin where an event came from, and docs/sources.md what each kind of
stream can promise.

With --mirror, the server serves the log of another server from a file of its own, with
the same ids, and goes on with it while the other one is away. An append is passed on
with the token of the caller. With --topic, it has the events of these topics only, and
answers 421 to those who ask for others: a client then asks the next server that it knows.
docs/mirrors.md says when to use one, and how old its answers can be.

With --nats, the server is a node of a cluster: the log is in a JetStream stream, each node
has a file with all of it, any node takes appends, and one of them assigns the ids. --init
creates the stream for a new log. docs/cluster.md says how to set NATS up, and when an
append is durable.

With --ttl, a value that is not set again in time is removed by a DEL, which every reader
receives. --ttl TOPIC=AGE applies to one topic, and TOPIC=never exempts it; repeat the
flag for more topics. The narrowest matching topic decides: one user before all users,
then the longer path, then the exact path ($) before the path and its children, and that
before a prefix (*).

Every server has a board that shows who reads what: "rstream top", or in a browser
/dashboard. With --board, the server also reports its readers to the board of another
one, which then shows the readers of all of its nodes. Nothing is sent while nobody
looks. If that server asks for tokens, this one needs a token with --board write, from
--token-file or RSTREAM_TOKEN.

On SIGHUP, the server reads keys, revocations and certificates again, as it does every
few seconds, and applies the log-level of the config file. If a file is invalid, the
server logs an error and keeps the old settings.

If you replaced the file by an older copy, the log will give ids to new events that it
gave to others before. Clients detect this and stop. Start the server once with
--as-new-log: the log gets a new id, and clients keep the events that both logs share.
Files written by "rstream backup" do not need this.`,
		Example: `  rstream serve
  rstream serve --listen 127.0.0.1:0 --db events.db --url-file url
  rstream serve --history 30d
  rstream serve --ttl 30d --ttl '*/presence=90s' --ttl alice/notes=never
  rstream serve --source wiki --source lab
  rstream serve --mirror https://log.example.com --db mirror.db --keys keys.json
  rstream serve --mirror https://log.example.com --topic alice --db alice.db
  rstream serve --nats nats://127.0.0.1:4222 --stream log --init --db a.db
  rstream serve --keys keys.json --tls-cert cert.pem --tls-key key.pem -l :443
  rstream serve --keys keys.json --acme log.example.com -l :443
  rstream serve --board https://board.example.com --node b --token-file b.token
  rstream serve --log-format json --max-stream-age 1h`,
		Args: noArgs,
		RunE: func(cmd *cobra.Command, _ []string) error { return runServe(cmd.Context(), a, o) },
	}
	f := cmd.Flags()
	f.SortFlags = false
	f.StringVarP(&o.listen, "listen", "l", "127.0.0.1:8420", "`ADDRESS` to listen on; port 0 picks a free port")
	f.StringVar(&o.db, "db", "rstream.db", "`FILE` of the log")
	f.StringSliceVar(&o.sources, "source", nil, "append the events of the source `NAME` to the log; repeat for more")
	f.StringVar(&o.mirror, "mirror", "", "serve the log of the server at `URL`, and pass appends on to it")
	f.StringArrayVar(&o.topics, "topic", nil, "mirror the `TOPIC` only; repeat for more")
	o.clusterFlags.addClusterFlags(cmd)
	f.StringVar(&o.urlFile, "url-file", "", "write the URL to `FILE` once the server accepts requests")
	f.BoolVar(&o.insecure, "insecure", false, "allow an address beyond loopback, open to everyone")
	f.StringArrayVar(&o.origins, "allow-origin", nil, "let web pages of `ORIGIN` use the server; repeat for more, * for all")
	f.BoolVar(&o.noPage, "no-dashboard", false, "serve no page at /dashboard")
	f.DurationVar(&o.heartbeat, "heartbeat", 15*time.Second, "longest silence on a stream, as a `DURATION`")
	o.guardFlags.addGuardFlags(f)
	o.retain.addRetainFlags(f)
	o.logFlags.addLogFlags(f)
	o.nodeFlags.addNodeFlags(f)
	f.BoolVar(&o.asNewLog, "as-new-log", false, "give the log a new id, after its file was replaced by an older copy")
	excludeFlags(cmd, "mirror", "source", "ttl", "as-new-log")
	excludeFlags(cmd, "topic", "nats", "source")                    // of a mirror
	_ = cmd.RegisterFlagCompletionFunc("mirror", a.completeServers) // fails only for an unknown flag
	return cmd
}

// shutdownTime is how long requests may continue after the server is stopped.
const shutdownTime = 10 * time.Second

func runServe(ctx context.Context, a *app, o serveOptions) error {
	ignored := func() {} // a server continues when its terminal is closed
	a.onHangup.Store(&ignored)
	if err := checkHeartbeat(o.heartbeat); err != nil {
		return err
	}
	open := o.insecure || o.isGuarded() && o.hasTLS()
	why := "other machines could read and write; use 127.0.0.1, --keys or --insecure"
	if o.isGuarded() {
		why = "tokens would be sent in the clear; use --tls-cert, --acme or --insecure"
	}
	if err := errors.Join(o.logFlags.checkLogFlags(), o.guardFlags.checkGuardFlags(), o.nodeFlags.checkNodeFlags(o.nats != ""), o.clusterFlags.checkClusterFlags(), checkListen("--listen", o.listen, open, why)); err != nil {
		return err
	}
	if o.admin != "" {
		if err := checkListen("--admin", o.admin, o.insecure, "metrics and profiles would be open to other machines; use 127.0.0.1 or --insecure"); err != nil {
			return err
		}
	}
	origins, err := parseOrigins(o.origins)
	if err != nil {
		return err
	}
	o.origins = origins
	relay, err := a.newRelay(o.sources)
	if err != nil {
		return err
	}
	boards, err := a.newBoardLinks(&o.nodeFlags)
	if err != nil {
		return err
	}
	if o.nodeTLS, err = a.nodeTLS(); err != nil {
		return err
	}
	if a.onServe != nil {
		a.onServe(o)
		return nil
	}
	say := newServeLog(a, &o.logFlags)
	followed, err := a.newFollowed(ctx, &o)
	if err != nil {
		return err
	}
	defer followed.disconnect()
	secrets := &secretFiles{}
	stop := a.reloadOnHangup(say, func() error { return a.reloadLevel(say, o) }, func() error { return secrets.reload(ctx) })
	defer stop()
	return say.logFailed(serveFile(ctx, a, o, say, secrets, relay, boards, followed))
}

func serveFile(ctx context.Context, a *app, o serveOptions, say *serveLog, secrets *secretFiles, relay *relay, boards boardLinks, followed *followed) (err error) {
	begun, err := o.begin(ctx, say)
	if err != nil {
		return err
	}
	defer begun.Close()
	guard, secure := begun.guard, begun.secure
	secrets.guard.Store(guard)
	secrets.tls.Store(secure)
	if o.asNewLog {
		if err := mustExist(o.db, noLog); err != nil {
			return err
		}
	}
	url := urlOf(begun.listener.Addr(), secure)
	publish, discard, err := stageURL(o.urlFile, url)
	if err != nil {
		return err
	}
	defer discard()
	cfg, err := followed.config(ctx, a, o.db, cache.Config{Role: cache.Server, AsNewLog: o.asNewLog})
	if err != nil {
		return err
	}
	log, err := a.openDB(ctx, o.db, cfg)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, log.Close()) }()
	if o.asNewLog {
		if err := a.noteNewLog(ctx, log); err != nil {
			return err
		}
	}
	if err := relay.open(ctx, log, say); err != nil {
		return err
	}
	followed.open(log, say)
	file, err := filepath.EvalSymlinks(o.db) // SQLite keeps the WAL next to the file itself
	if err != nil {
		return err
	}
	srv := server.New(log, server.Config{
		Guard: guard, Rates: begun.rates, Heartbeat: o.heartbeat, Loopback: !o.insecure && guard == nil, Origins: o.origins, Behind: begun.proxies, NoDashboard: o.noPage, Version: programVersion(),
		MaxStreamAge: o.maxStreamAge, Sizes: func() (int64, int64) { return fileSize(file), fileSize(file + "-wal") },
		Node: o.node, Advertise: o.advertise, Boards: boards.reports(), Peers: boards.peers(), NodeTLS: o.nodeTLS, Clock: log.Clock, Sources: relay.reports(), Damaged: log.Damaged, Mirror: followed.forServer(), Cluster: followed.cluster(), Logger: say.Logger,
	})
	if admin := begun.admin; admin != nil {
		defer serveAdmin(admin, srv, !o.insecure, say.Logger)()
		a.note("serving metrics and profiles on %s", urlOf(admin.Addr(), nil))
	}
	say.logStarted(log.Log(), log.Head(), url, o.db)
	if err := publish(); err != nil {
		return err
	}
	defer secrets.startReading(ctx, say)()
	stop := a.startUpkeep(ctx, log, followed.retention(o.retain.retention()), say)
	defer stop()
	followed.introduce(cmp.Or(o.advertise, url))
	defer relay.follow(ctx)()
	defer boards.reportReaders(ctx, srv, say)()
	defer followed.follow(ctx, a, log, say)()
	defer func() { say.logStopped(log.Head()) }()
	s := serving{hs: newHTTPServer(srv, secure, say), srv: srv, say: say, patience: shutdownTime}
	return s.serveUntil(ctx, begun.listener)
}

// A begunServer is what a server has before it has a file.
type begunServer struct {
	listener, admin net.Listener // admin is nil without --admin
	guard           *auth.Guard
	secure          *serverTLS
	rates           *wire.Rates
	proxies         []netip.Prefix
}

// begin listens and reads the files that the flags name, so that no log is created for a server
// that cannot start.
func (o *serveOptions) begin(ctx context.Context, say *serveLog) (*begunServer, error) {
	s := &begunServer{}
	if err := s.begin(ctx, o, say); err != nil {
		s.Close()
		return nil, err
	}
	return s, nil
}

func (s *begunServer) begin(ctx context.Context, o *serveOptions, say *serveLog) (err error) {
	if s.listener, err = listenOn(ctx, "--listen", o.listen); err != nil {
		return err
	}
	if o.admin != "" {
		if s.admin, err = listenOn(ctx, "--admin", o.admin); err != nil {
			return err
		}
	}
	if s.guard, err = o.openGuard(ctx, say); err != nil {
		return err
	}
	if s.secure, err = o.openTLS(o.db, say); err != nil {
		return err
	}
	if s.rates, err = o.parseLimits(); err != nil {
		return err
	}
	s.proxies, err = o.parseBehind()
	return err
}

// Close stops listening.
func (s *begunServer) Close() {
	for _, l := range []net.Listener{s.listener, s.admin} {
		if l != nil {
			_ = l.Close() // nobody can do anything about it
		}
	}
}

// newHTTPServer returns a server of h. It speaks TLS if secure is not nil.
func newHTTPServer(h http.Handler, secure *serverTLS, say *serveLog) *http.Server {
	hs := &http.Server{
		Handler:           h,
		ReadHeaderTimeout: 10 * time.Second,
		IdleTimeout:       2 * time.Minute,
		MaxHeaderBytes:    64 << 10,
		ErrorLog:          slog.NewLogLogger(say.Handler(), slog.LevelWarn),
		HTTP2:             &http.HTTP2Config{MaxConcurrentStreams: maxStreams},
	}
	if secure != nil {
		hs.TLSConfig = secure.config
	}
	return hs
}

// maxStreams is how many requests one HTTP/2 connection may carry at a time: browsers and
// proxies share one among all streams.
const maxStreams = 1000

// noteNewLog notes the log's old and new id.
func (a *app) noteNewLog(ctx context.Context, log *cache.DB) error {
	old, _, err := log.Parent(ctx)
	if err == nil {
		a.note("the log is now %s and continues %s; start the server without --as-new-log next time", log.Log(), old)
	}
	return err
}

// fileSize returns the size of a file, 0 if it does not exist.
func fileSize(path string) int64 {
	info, err := os.Stat(path)
	if err != nil {
		return 0
	}
	return info.Size()
}

// startUpkeep runs the log's background work while the server runs; stop ends it and
// waits. An error is noted and does not stop the server.
func (a *app) startUpkeep(ctx context.Context, log *cache.DB, r cache.Retention, say *serveLog) (stop func()) {
	ctx, cancel := context.WithCancel(ctx)
	var tending sync.WaitGroup
	a.startRetention(ctx, &tending, log, r)
	tending.Go(func() { log.WatchClock(ctx, say.logClock) })
	if log.Restored() {
		say.Warn("a row of the file was damaged, and was restored from its copy")
	}
	tending.Go(func() { a.findDamage(ctx, log, say) })
	return func() {
		cancel()
		tending.Wait()
	}
}

// maxDamageLines bounds the lines about damage that is found at the start.
const maxDamageLines = 100

// findDamage looks for damaged pages, and logs a line for each: they are errors to those who
// read them, which may be a year later, when no backup has them any more.
func (a *app) findDamage(ctx context.Context, log *cache.DB, say *serveLog) {
	n := 0
	err := log.FindDamage(ctx, func(damage error) {
		if n++; n <= maxDamageLines {
			say.Warn("damaged", "error", damage.Error())
		}
	})
	if err != nil && ctx.Err() == nil {
		a.note("%v", err)
	}
	if n > 0 {
		say.Warn("the file is damaged: \"rstream verify --offline --db FILE\" says which events are affected", "parts", n, "db", log.Path())
	}
}

// checkListen refuses addresses that other machines can reach, unless they may. why is the reason, with
// what to do.
func checkListen(flag, address string, open bool, why string) error {
	host, port, err := net.SplitHostPort(address)
	if err == nil {
		_, err = net.LookupPort("tcp", port)
	}
	if err != nil || strings.Contains(address, "@") {
		return usagef("%s %q: want an address such as 127.0.0.1:8420", flag, wire.RedactURL(address))
	}
	if open || host == "localhost" {
		return nil
	}
	if ip := net.ParseIP(host); ip == nil || !ip.IsLoopback() {
		return usagef("%s %s: %s", flag, address, why)
	}
	return nil
}

// listenOn listens. An error names the address and the cause.
func listenOn(ctx context.Context, flag, address string) (net.Listener, error) {
	l, err := (&net.ListenConfig{}).Listen(ctx, "tcp", address)
	if err == nil {
		return l, nil
	}
	var bad *net.AddrError
	if errors.As(err, &bad) {
		return nil, usagef("%s %s: %s", flag, address, bad.Err)
	}
	var call *os.SyscallError
	if errors.As(err, &call) {
		err = call.Err
	}
	return nil, fmt.Errorf("listen %s: %w", address, err)
}

// writeURL replaces the file as a whole, so that a process that waits for it never
// reads half a URL.
func writeURL(path, url string) error {
	publish, discard, err := stageURL(path, url)
	if err != nil {
		return err
	}
	defer discard()
	return publish()
}

// stageURL writes the URL next to path. Its functions rename that to path, or remove it if it was not
// renamed.
func stageURL(path, url string) (publish func() error, discard func(), err error) {
	nothing := func() {}
	if path == "" {
		return func() error { return nil }, nothing, nil
	}
	b := []byte(url + "\n")
	target, err := replaceable(path)
	if err != nil {
		return nil, nil, err
	}
	if target == "" {
		return func() error { return writeDevice(path, b) }, nothing, nil
	}
	tmp := filepath.Join(filepath.Dir(target), "."+filepath.Base(target)+".tmp")
	if err := os.WriteFile(tmp, b, 0o644); err != nil {
		return nil, nil, err
	}
	published := false
	publish = func() error {
		err := os.Rename(tmp, target)
		published = err == nil
		return err
	}
	discard = func() {
		if !published {
			_ = os.Remove(tmp) // the server ends for another reason, which it reports
		}
	}
	return publish, discard, nil
}

// A serving is a server that answers requests.
type serving struct {
	hs       *http.Server
	srv      *server.Server
	say      *serveLog
	patience time.Duration // how long requests may continue after the end
}

// serveUntil serves until ctx ends. It first ends streams, each after an event:
// Shutdown would wait for them forever. Readers that take nothing are cut off in the end.
func (s *serving) serveUntil(ctx context.Context, l net.Listener) error {
	hs, srv := s.hs, s.srv
	failed := make(chan error, 1)
	go func() {
		if hs.TLSConfig != nil {
			failed <- hs.ServeTLS(srv.Patient(l), "", "")
		} else {
			failed <- hs.Serve(srv.Patient(l))
		}
	}()
	select {
	case err := <-failed:
		return err
	case <-ctx.Done():
	}
	srv.Stop()
	stopping, cancel := context.WithTimeout(context.WithoutCancel(ctx), s.patience)
	defer cancel()
	err := hs.Shutdown(stopping)
	if errors.Is(err, context.DeadlineExceeded) {
		s.say.Warn("connections were cut off: their requests took too long", "connections", srv.Connected())
		err = hs.Close()
	}
	if err != nil {
		return fmt.Errorf("stop: %w", err)
	}
	return context.Cause(ctx)
}
