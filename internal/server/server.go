package server

import (
	"cmp"
	"context"
	"crypto/rand"
	"crypto/tls"
	"encoding/hex"
	"errors"
	"log/slog"
	"net/http"
	"net/netip"
	"sync"
	"sync/atomic"
	"time"

	"github.com/rstream-dev/rstream/event"
	"github.com/rstream-dev/rstream/internal/auth"
	"github.com/rstream-dev/rstream/internal/board"
	"github.com/rstream-dev/rstream/internal/hub"
	"github.com/rstream-dev/rstream/internal/wire"
	"github.com/rstream-dev/rstream/window"
)

// An Appender appends drafts durably, all or none.
type Appender interface {
	// Append assigns ids to drafts, and returns one receipt for each, in their order.
	Append(ctx context.Context, drafts []event.Draft) ([]event.Receipt, error)
}

// A Log is a log to serve. *cache.DB implements it.
type Log interface {
	Appender
	hub.Source
	// AppendLines is like Read, but appends the events to b as NDJSON.
	AppendLines(ctx context.Context, b []byte, topics []event.Topic, after, until event.ID, limit int) (lines []byte, next event.ID, err error)
	// Log returns the log id, 16 characters.
	Log() string
	// Parent returns the log from which this one was made and the position up to which
	// the two are equal, or event.MaxID if that is not known. log is empty if there is
	// no parent.
	Parent(ctx context.Context) (log string, head event.ID, err error)
	// Head returns the newest position, and HeadPoint also its mark.
	Head() event.ID
	HeadPoint() event.Point
	// Horizon returns the position below which history is not complete.
	Horizon(ctx context.Context) (event.ID, error)
	// PositionAt returns the position of the last event at or before t.
	PositionAt(ctx context.Context, t event.Time) (event.ID, error)
	// BeforeLast returns the newest position between from and until such that the
	// topics have n events after it up to until, or from if there are fewer.
	BeforeLast(ctx context.Context, topics []event.Topic, n int, from, until event.ID) (event.ID, error)
	// Leaves returns the leaves of the digest of topic in span, UnionLeaves those of the events
	// that belong to at least one of several topics.
	Leaves(ctx context.Context, topic event.Topic, span window.Span) ([]window.Leaf, error)
	UnionLeaves(ctx context.Context, topics []event.Topic, span window.Span) ([]window.Leaf, error)
	// LearnLeaves prepares Leaves for a reader of lines, which are all events of topics
	// in span: readers of pages compare digests next.
	LearnLeaves(topics []event.Topic, span window.Span, lines []byte)
	// StateAfter calls fn with the events that make the state of topic at position at,
	// in the order of storages, beginning with the first storage after the given one.
	StateAfter(ctx context.Context, topic event.Topic, at event.ID, after event.Storage, fn func(*event.Event) error) error
	// Usage returns how much the log holds of some storages of topic, in the order of
	// their names, beginning with the first one after the given one: of events up to
	// position until, and of at most limit storages.
	Usage(ctx context.Context, topic event.Topic, after event.Storage, until event.ID, limit int) (event.UsageList, error)
	// ByHash calls fn once with each event that has one of the hashes, in the order of
	// ids. It skips hashes that the log does not have.
	ByHash(ctx context.Context, hashes []event.Hash, fn func(*event.Event) error) error
	// EventsByID returns the events with the given ids, in ascending order. It skips ids
	// that the log does not have, or not any more.
	EventsByID(ctx context.Context, ids []event.ID) ([]event.Event, error)
	// LastAt returns the time of the last event at or before position at, which must
	// not be below the horizon, and the mark of the position, or zero if it is not
	// known. ok is false if there is no event.
	LastAt(ctx context.Context, at event.ID) (t event.Time, mark event.Mark, ok bool, err error)
	// Origins returns where events with the given ids came from, in their order, also those
	// that were dropped: the zero Origin for one that was appended here.
	Origins(ctx context.Context, ids []event.ID) ([]event.Origin, error)
	// OnCommit sets a function to call with the events of each transaction, after Head
	// includes them and before they are acknowledged. If evs is nil, the events up to
	// head must be read.
	OnCommit(func(evs []event.Event, head event.ID))
}

// A Config configures a Server. The zero Config works.
type Config struct {
	// Heartbeat is the longest silence on a stream. If not positive, 15 seconds.
	Heartbeat time.Duration
	// Retry is the delay after which readers are to reconnect. If not positive, 1
	// second.
	Retry time.Duration
	// WriteTimeout is how long a connection of Patient may make no progress before it
	// is closed. If not positive, 30 seconds.
	WriteTimeout time.Duration
	// MaxStreamAge ends each stream, at the end of an event, when its age reaches a
	// random value between half of MaxStreamAge and MaxStreamAge, so that readers that
	// connected together do not reconnect together. If not positive, streams do not
	// end because of their age.
	MaxStreamAge time.Duration
	// BodyTimeout is how long the body of a request may take to arrive. If not
	// positive, 1 minute.
	BodyTimeout time.Duration
	// Queue is how many events may wait for one reader before it must read them from
	// the log. If not positive, the hub's default.
	Queue int
	// Loopback refuses requests whose Host is not this machine, so that a web page
	// cannot reach the server by a name of its own.
	Loopback bool
	// Guard decides what the tokens of requests allow. If nil, everybody may read and
	// append everything.
	Guard *auth.Guard
	// Rates limit each client. If nil, none is limited.
	Rates *wire.Rates
	// Origins are the web origins, other than the server's own, whose pages may use
	// it. "*" allows all.
	Origins []string
	// Behind are the networks of proxies whose X-Forwarded-For, X-Forwarded-Proto and
	// Forwarded headers are believed. If empty, none is.
	Behind []netip.Prefix
	// Node is the name of this server on the board. If empty, the id of its log.
	Node string
	// Advertise is the URL of this server for other nodes. If empty, none asks it.
	Advertise string
	// NoDashboard leaves out the page at /dashboard.
	NoDashboard bool
	// Version is the version in GET / and on the board.
	Version string
	// Sizes returns the sizes in bytes of the log's file and its write-ahead log, for
	// GET /metrics. If nil, these metrics are left out.
	Sizes func() (file, wal int64)
	// Clock returns how far the time of the log's last event is ahead of the clock, and
	// how many times the clock jumped forward, for GET /metrics. If nil, these metrics
	// are left out.
	Clock func() (ahead time.Duration, jumps int64)
	// Damaged returns how many damaged pages of the log's file were found, for GET
	// /metrics. If nil, this metric is left out.
	Damaged func() int
	// Sources returns how the sources are whose events a relay appends to the log, never
	// nil. If nil, the server is not a relay.
	Sources func() []wire.Source
	// Boards returns how the links to the boards are to which this server reports. If nil, there
	// are none.
	Boards func() []BoardLink
	// Peers are the boards to which this server reports. They are asked for the rooms of topics
	// that the log does not have.
	Peers []Peer
	// NodeTLS has the certificates for the requests to the nodes of the board. If nil, the
	// defaults.
	NodeTLS *tls.Config
	// Mirror is what the server of a mirrored log needs of the server that assigns the ids.
	// If nil, Log assigns them.
	Mirror Mirror
	// Cluster returns how the server is as a node of a cluster, for GET /metrics. If nil, it is
	// none.
	Cluster func() wire.Cluster
	// Logger logs failures and refused requests, and at level debug all requests. If
	// nil, nothing is logged.
	Logger *slog.Logger
	// Now returns the current time. If nil, time.Now.
	Now func() time.Time
}

// A Server is an HTTP handler that serves one log.
type Server struct {
	log       Log
	hub       *hub.Hub
	cfg       Config
	salt      string
	metrics   *metrics
	limits    *limits // nil if no client is limited
	paths     map[string]methods
	replaying replaying
	readers   board.Registry
	board     *board.Board
	describe  func() board.Node
	began     time.Time
	hadNodes  atomic.Bool // a node has waited on the board
	nodeHTTP  *http.Client

	peerTroubles peerTroubles

	prefetching atomic.Int32 // number of prefetchers

	holding   atomic.Int64 // bytes of requests' bodies in memory
	connected atomic.Int64 // number of connections
	busyTold  atomic.Int64 // time of the last warning about a stranger's request beyond a limit, in Unix nanoseconds
	busyMore  atomic.Int64 // such requests since then
	slowTold  atomic.Int64 // time of the last warning about a slow append, in Unix nanoseconds

	comparing chan struct{} // has a token for each running comparison
	comparers comparers

	stopOnce  sync.Once
	stopped   chan struct{}
	passing   context.Context // ends some time after Stop, with the appends that are passed on
	endPassed context.CancelCauseFunc
}

// ErrStopped is the error of streams that end because the server stops.
var ErrStopped = errors.New("server is stopping")

// New returns a server of log. It sets the log's OnCommit.
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
	cfg.Node = cmp.Or(cfg.Node, log.Log())
	var salt [16]byte
	rand.Read(salt[:]) // never fails
	s := &Server{log: log, cfg: cfg, salt: hex.EncodeToString(salt[:]), stopped: make(chan struct{}),
		began: time.Now(), comparing: make(chan struct{}, maxComparing), nodeHTTP: newNodeClient(cfg.NodeTLS)}
	s.passing, s.endPassed = context.WithCancelCause(context.Background())
	s.hub = hub.New(log, log.Head(), hub.Config{Queue: cfg.Queue})
	s.describe = s.describeNode(event.TimeOf(cfg.Now()))
	s.board = board.New(&s.readers, board.Config{Node: s.describe})
	s.metrics = newMetrics(s)
	if cfg.Rates != nil {
		s.limits = newLimits(*cfg.Rates)
	}
	s.paths = s.routes()
	log.OnCommit(s.publisher())
	// The hub did not see commits between hub.New and OnCommit.
	s.hub.Advance(log.Head())
	return s
}

// passOnTime is how long after Stop appends wait for the server that assigns the ids: their clients
// get an answer before the process ends.
const passOnTime = 8 * time.Second

// Stop ends all streams at the end of an event. New streams end at once; other requests are
// still answered, but appends that are passed on end after eight seconds. Stop may be called more
// than once.
func (s *Server) Stop() {
	s.stopOnce.Do(func() {
		close(s.stopped)
		time.AfterFunc(passOnTime, func() { s.endPassed(ErrStopped) })
	})
	s.hub.Close(ErrStopped)
	s.board.Close()
}

// isStopped reports whether Stop was called.
func (s *Server) isStopped() bool {
	select {
	case <-s.stopped:
		return true
	default:
		return false
	}
}
