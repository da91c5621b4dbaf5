package natslog

import (
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"sync"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"

	"github.com/rstream-dev/rstream/cache"
	"github.com/rstream-dev/rstream/event"
	"github.com/rstream-dev/rstream/internal/mirror"
)

// A Log is a log in a JetStream stream, as one node of it sees it. Its methods may be called
// at the same time.
type Log struct {
	cfg  Config
	conn *nats.Conn
	js   jetstream.JetStream
	boot string // the name of this Log alone

	pageBytes int           // the usual size of a page; a field for the tests
	nodesWait time.Duration // the constant, or that of a test
	patience  time.Duration // the constant, or that of a test
	minStay   time.Duration // see leaveServer
	forced    bool          // for tests: it stays the committer whatever others claim

	namesakeWait time.Duration // the constant, or that of a test

	about     func() About // of Introduce; nil: nothing
	lease     lease
	committer *committer
	forwards  forwards
	refusals  refusals

	mu       sync.Mutex
	log      string    // the id of the log, once it is known
	db       *cache.DB // of Run
	applied  applied
	advanced chan struct{}   // closed when applied changes
	link     context.Context // ends when the connection does
	endLink  context.CancelFunc
	linked   time.Time   // when the connection was made; zero if that is not known
	horizon  event.Point // the newest one in the stream, as far as it was read
	counters Counters
	refused  string // why the stream takes no messages, as it was logged; "" if it does
}

// applied is how far the file has followed the stream.
type applied struct {
	seq  uint64      // the last message that is in the file
	at   event.Point // its end
	last uint64      // the last message of the stream, as far as is known
}

// Connect connects to a NATS server. It returns an error if none of them answers, unless
// Config.Later is set.
func Connect(ctx context.Context, cfg Config) (*Log, error) {
	if err := cfg.checkConfig(); err != nil {
		return nil, err
	}
	cfg.setDefaults()
	l := &Log{cfg: cfg, boot: rand.Text(), pageBytes: pageBytes, patience: patience, nodesWait: cfg.within(nodesWait), minStay: minStay, namesakeWait: namesakeWait, advanced: make(chan struct{})}
	l.link, l.endLink = context.WithCancel(context.Background())
	l.lease.init(l)
	l.committer = newCommitter(l)
	options, err := cfg.options(cfg.Credentials)
	if err != nil {
		return nil, err
	}
	options = append(options, nats.DisconnectErrHandler(func(_ *nats.Conn, err error) {
		l.noteCut()
		if err != nil {
			l.news("the connection to NATS ended: %v", err)
		}
	}), nats.ReconnectHandler(func(c *nats.Conn) {
		l.forgetRefusals()
		l.noteLinked()
		l.news("connected to NATS again: %s", c.ConnectedServerName())
	}), nats.ErrorHandler(l.noteError))
	if cfg.Later {
		options = append(options, nats.RetryOnFailedConnect(true))
	}
	if l.conn, err = connect(ctx, cfg.URL, options); err != nil {
		return nil, l.unreachable(err)
	}
	if l.js, err = jetstream.New(l.conn, jetstream.WithDefaultTimeout(cfg.within(requestWait))); err != nil {
		l.conn.Close()
		return nil, err
	}
	return l, nil
}

// requestWait is how long a request to the server may take.
const requestWait = 5 * time.Second

// connect connects until ctx ends: the library gives up after a time of its own.
func connect(ctx context.Context, url string, options []nats.Option) (*nats.Conn, error) {
	type result struct {
		conn *nats.Conn
		err  error
	}
	done := make(chan result, 1)
	go func() {
		c, err := nats.Connect(url, options...)
		done <- result{c, err}
	}()
	select {
	case r := <-done:
		return r.conn, r.err
	case <-ctx.Done():
		go func() {
			if r := <-done; r.err == nil {
				r.conn.Close()
			}
		}()
		return nil, ctx.Err()
	}
}

// Close closes the connection. Run must have returned.
func (l *Log) Close() { l.conn.Close() }

// String returns the addresses of the servers, without secrets, and the stream.
func (l *Log) String() string { return l.cfg.shown() + " stream " + l.cfg.Stream }

func (l *Log) news(format string, args ...any) {
	if l.cfg.OnNews != nil {
		l.cfg.OnNews(fmt.Sprintf(format, args...))
	}
}

// unreachable returns the error of a request that got no answer.
func (l *Log) unreachable(err error) error {
	var refused *RefusedError
	switch {
	case errors.As(err, &refused):
		return refused
	case isRefusal(err):
		return &RefusedError{URL: l.cfg.shown(), Err: err}
	}
	unsent := errors.Is(err, nats.ErrNoServers) || errors.Is(err, nats.ErrNoResponders) || errors.Is(err, nats.ErrConnectionClosed)
	return &mirror.UnreachableError{URL: l.cfg.shown(), Unsent: unsent, Err: err}
}

// subject returns the subject of one kind of message of the stream, or beside it.
func (l *Log) subject(part string) string { return "rstream." + l.cfg.Stream + "." + part }

// Run makes this node one of the cluster: it can become the committer, with db as its file,
// which must be the file of a mirror of the log, and takes appends of other nodes when it is.
// It returns once ctx ends, after what was begun.
func (l *Log) Run(ctx context.Context, db *cache.DB) error {
	l.mu.Lock()
	l.db = db
	l.mu.Unlock()
	subs, err := l.subscribe(ctx)
	if err != nil {
		return l.unreachable(err)
	}
	var running sync.WaitGroup
	running.Go(func() { l.committer.run(ctx) })
	running.Go(func() { l.lease.run(ctx) })
	running.Go(func() { l.tellNamesake(ctx) })
	<-ctx.Done()
	running.Wait()
	for _, s := range subs {
		_ = s.Unsubscribe() // the connection may be closed
	}
	l.forwards.Wait()
	return context.Cause(ctx)
}

// state returns how far the file is, and a channel that is closed when that changes.
func (l *Log) state() (applied, <-chan struct{}) {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.applied, l.advanced
}

// setApplied notes how far the file is.
func (l *Log) setApplied(seq, last uint64, at event.Point) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.applied = applied{seq, at, max(l.applied.last, last, seq)}
	close(l.advanced)
	l.advanced = make(chan struct{})
}

// noteCut ends what waits for answers on the connection: they are lost.
func (l *Log) noteCut() {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.endLink()
	l.link, l.endLink = context.WithCancel(context.Background())
}

// whileConnected returns a context that also ends when the connection does: the library waits
// on for answers that cannot come.
func (l *Log) whileConnected(ctx context.Context) (context.Context, context.CancelFunc) {
	ctx, cancel := context.WithCancelCause(ctx)
	l.mu.Lock()
	defer l.mu.Unlock()
	stop := context.AfterFunc(l.link, func() { cancel(errLost) })
	return ctx, func() {
		stop()
		cancel(nil)
	}
}

func (l *Log) setLog(id string) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.log = id
}

// logID returns the id of the log, "" if it is not known yet.
func (l *Log) logID() string {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.log
}
