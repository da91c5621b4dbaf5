package server

import (
	"cmp"
	"context"
	"crypto/rand"
	"encoding/hex"
	"errors"
	"log/slog"
	"sync"
	"sync/atomic"
	"time"

	"github.com/rstream-dev/rstream/event"
	"github.com/rstream-dev/rstream/internal/hub"
	"github.com/rstream-dev/rstream/window"
)

// An Appender gives drafts their ids and makes them durable, all or none.
type Appender interface {
	Append(ctx context.Context, drafts []event.Draft) ([]event.Receipt, error)
}

// A Log is what a server serves. *cache.DB is one.
type Log interface {
	Appender
	hub.Source
	// AppendLines is Read that appends the events to b, as NDJSON.
	AppendLines(ctx context.Context, b []byte, topics []event.Topic, after, until event.ID, limit int) (lines []byte, next event.ID, err error)
	// Log returns the log's name, 16 characters.
	Log() string
	// Parent returns the log that this one goes on from and the position up to
	// which they are the same, event.MaxID if that is not known; log is empty if
	// there is none.
	Parent(ctx context.Context) (log string, head event.ID, err error)
	// Head returns the newest position, HeadPoint also its mark.
	Head() event.ID
	HeadPoint() event.Point
	// Horizon returns the position below which history is not complete.
	Horizon(ctx context.Context) (event.ID, error)
	// PositionAt returns the position of the last event at or before t.
	PositionAt(ctx context.Context, t event.Time) (event.ID, error)
	// BeforeLast returns the newest position in from to until after which the
	// topics have n events up to until, or from.
	BeforeLast(ctx context.Context, topics []event.Topic, n int, from, until event.ID) (event.ID, error)
	// Leaves returns the leaves of topic in span: what its digest is made of.
	Leaves(ctx context.Context, topic event.Topic, span window.Span) ([]window.Leaf, error)
	// StateAfter calls fn with the events that make the state of topic at
	// position at, in the order of users and paths: those behind a storage.
	StateAfter(ctx context.Context, topic event.Topic, at event.ID, after event.Storage, fn func(*event.Event) error) error
	// ByHash calls fn with the events that have the hashes, in the order of ids,
	// each once. What the log does not have is left out.
	ByHash(ctx context.Context, hashes []event.Hash, fn func(*event.Event) error) error
	// LastAt returns the time of the last event at or before position at, which is
	// not below the horizon, and the mark of the position; ok is false if there is
	// none. A mark that is not known is zero.
	LastAt(ctx context.Context, at event.ID) (t event.Time, mark event.Mark, ok bool, err error)
	// OnCommit sets what is shown each transaction's events, after Head shows
	// them and before they are acknowledged. Nil events mean that what lies
	// below the head must be read.
	OnCommit(func(evs []event.Event, head event.ID))
}

// Config says how to serve. The zero Config works.
type Config struct {
	// Heartbeat is the longest silence on a stream. If not positive, 15
	// seconds.
	Heartbeat time.Duration
	// Retry is the delay that readers are told to keep before they come back.
	// If not positive, 1 second.
	Retry time.Duration
	// WriteTimeout is how long a connection of Patient may take nothing before it
	// is cut. If not positive, 30 seconds.
	WriteTimeout time.Duration
	// MaxStreamAge ends streams at the end of an event once they are that old, or
	// up to half of it younger, so that readers who came together do not come back
	// together. If not positive, streams do not end for their age.
	MaxStreamAge time.Duration
	// BodyTimeout is how long a request's body may take to arrive. If not
	// positive, 1 minute.
	BodyTimeout time.Duration
	// Queue is how many events wait for one reader before it reads from the
	// log instead. If not positive, the hub's choice.
	Queue int
	// Loopback refuses requests whose Host is not of this machine, so that a
	// web page cannot reach the server under a name of its own.
	Loopback bool
	// Origins are the web origins besides the server's own that may use it;
	// "*" is any.
	Origins []string
	// Version is told by GET /.
	Version string
	// Sizes tells how many bytes the log's file and its write-ahead log have, for
	// GET /metrics. If nil, they are left out.
	Sizes func() (file, wal int64)
	// Clock tells how far the log's last event is ahead of the clock and how often
	// the clock has jumped ahead, for GET /metrics. If nil, they are left out.
	Clock func() (ahead time.Duration, jumps int64)
	// Logger gets what fails and what is refused, at debug also each request. If
	// nil, nothing is logged.
	Logger *slog.Logger
	// Now is the clock. If nil, time.Now.
	Now func() time.Time
}

// A Server answers requests about one log.
type Server struct {
	log       Log
	hub       *hub.Hub
	cfg       Config
	salt      string
	metrics   *metrics
	paths     map[string]methods
	replaying replaying

	holding  atomic.Int64 // bytes of requests' bodies in memory
	slowTold atomic.Int64 // when it was last said that an append was slow, in Unix nanoseconds

	comparing chan struct{} // holds a token for each comparison of sets under way

	stopOnce sync.Once
	stopped  chan struct{}
}

// ErrStopped ends streams when the server stops.
var ErrStopped = errors.New("server is stopping")

// New returns a server of log. It takes over the log's OnCommit.
func New(log Log, cfg Config) *Server {
	cfg.Heartbeat = cmp.Or(max(cfg.Heartbeat, 0), 15*time.Second)
	cfg.Retry = cmp.Or(max(cfg.Retry, 0), time.Second)
	cfg.WriteTimeout = cmp.Or(max(cfg.WriteTimeout, 0), 30*time.Second)
	cfg.BodyTimeout = cmp.Or(max(cfg.BodyTimeout, 0), time.Minute)
	if cfg.Logger == nil {
		cfg.Logger = slog.New(slog.DiscardHandler)
	}
	if cfg.Now == nil {
		cfg.Now = time.Now
	}
	var salt [16]byte
	rand.Read(salt[:]) // never fails
	s := &Server{log: log, cfg: cfg, salt: hex.EncodeToString(salt[:]), stopped: make(chan struct{}),
		comparing: make(chan struct{}, maxComparing)}
	s.hub = hub.New(log, log.Head(), hub.Config{Queue: cfg.Queue})
	s.metrics = newMetrics(s)
	s.paths = s.routes()
	log.OnCommit(s.hub.Publish)
	// What was committed between the two lines above was shown to nobody.
	s.hub.Advance(log.Head())
	return s
}

// Stop ends all streams at the end of an event. New ones end at once; other
// requests are still answered. Stopping twice is fine.
func (s *Server) Stop() {
	s.stopOnce.Do(func() { close(s.stopped) })
	s.hub.Close(ErrStopped)
}

// isStopped reports whether streams are to end.
func (s *Server) isStopped() bool {
	select {
	case <-s.stopped:
		return true
	default:
		return false
	}
}
