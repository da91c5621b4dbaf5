package report

import (
	"cmp"
	"context"
	"crypto/rand"
	"errors"
	mathrand "math/rand/v2"
	"net/http"
	"net/url"
	"sync"
	"sync/atomic"
	"time"

	"github.com/rstream-dev/rstream/internal/board"
	"github.com/rstream-dev/rstream/internal/sse"
	"github.com/rstream-dev/rstream/internal/wire"
)

// A Config configures a Reporter. Board, Registry and Node are required.
type Config struct {
	// Board is the URL of the server with the board, without a slash at its end.
	Board string
	// Registry has the connections.
	Registry *board.Registry
	// Node describes this process.
	Node func() board.Node
	// HTTP makes the requests. If nil, a client of its own.
	HTTP *http.Client
	// Header returns the headers of a request, with the token. If nil, there are none.
	Header func(ctx context.Context) (http.Header, error)
	// OnError is called when the stream has ended or a report has failed. It is called by
	// several goroutines. If nil, nothing is called.
	OnError func(error)
	// OnConnect is called when a stream has begun. If nil, nothing is called.
	OnConnect func()
	// Every is the least time between two reports, in which changes are collected. If not
	// positive, 200 milliseconds.
	Every time.Duration
	// Meter counts the reports. If nil, nothing is counted.
	Meter *Meter
}

// A Meter says how a Reporter is.
type Meter struct {
	Connected atomic.Bool // it has a stream of the board
	Reporting atomic.Bool // somebody looks
	Reports   atomic.Int64
	Bytes     atomic.Int64 // of the bodies of reports
	Failed    atomic.Int64 // reports without an answer
}

// A Reporter reports to one board.
type Reporter struct {
	cfg    Config
	boot   string
	number uint64 // of the last report; owned by answerLooks

	lease lease
}

// New returns a reporter. The node must be the same for as long as the process runs, apart from
// its head.
func New(cfg Config) *Reporter {
	cfg.Every = cmp.Or(max(cfg.Every, 0), 200*time.Millisecond)
	if cfg.HTTP == nil {
		cfg.HTTP = &http.Client{Transport: sse.NewTransport(answerWait, nil), CheckRedirect: sse.CheckRedirect}
	}
	if cfg.Header == nil {
		cfg.Header = func(context.Context) (http.Header, error) { return http.Header{}, nil }
	}
	if cfg.OnError == nil {
		cfg.OnError = func(error) {}
	}
	if cfg.OnConnect == nil {
		cfg.OnConnect = func() {}
	}
	if cfg.Meter == nil {
		cfg.Meter = &Meter{}
	}
	// The text of times has the order of times. If a clock was set back, the board takes the
	// new process for the older one until it has not heard of the other for a while.
	boot := cfg.Node().Since.String() + "." + rand.Text()[:8]
	return &Reporter{cfg: cfg, boot: boot, lease: lease{changed: make(chan struct{}, 1)}}
}

// Run reports until ctx ends, and then tells the board that the node leaves.
func (r *Reporter) Run(ctx context.Context) {
	var following sync.WaitGroup
	following.Go(func() { r.followLooks(ctx) })
	r.answerLooks(ctx)
	following.Wait()
}

// A lease is what the board has announced last, and until when that holds.
type lease struct {
	changed chan struct{} // has an element if the look may be another one

	mu    sync.Mutex
	look  board.Look
	until time.Time // while somebody looks
}

// announce takes an announcement. One of an earlier look of the same board came late; the end
// of a look at another board is not that of this one.
func (l *lease) announce(look board.Look) {
	l.mu.Lock()
	defer l.mu.Unlock()
	same, held := look.Board == l.look.Board, l.holds()
	if same && look.Number < l.look.Number || !same && !look.Looking && held {
		return
	}
	if look.Looking {
		l.until = time.Now().Add(board.FreshFor)
	}
	if look != l.look || look.Looking && !held {
		l.set(look)
	}
}

// end ends a look, unless there is another one already.
func (l *lease) end(look board.Look) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.look == look {
		look.Looking = false
		l.set(look)
	}
}

// set sets the look. The caller holds mu.
func (l *lease) set(look board.Look) {
	l.look = look
	select {
	case l.changed <- struct{}{}:
	default:
	}
}

// holds reports whether somebody looks. The caller holds mu.
func (l *lease) holds() bool { return l.look.Looking && time.Now().Before(l.until) }

// current returns the look, and for how long it holds: 0 if nobody looks.
func (l *lease) current() (look board.Look, left time.Duration) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if !l.holds() {
		return l.look, 0
	}
	return l.look, time.Until(l.until)
}

const (
	// answerWait is how long an answer may take.
	answerWait = 5 * time.Second
	// streamSilence is how long the stream of looks may be silent while nobody looks: the
	// board sends something every 15 seconds.
	streamSilence = 40 * time.Second

	minPause = 250 * time.Millisecond
	maxPause = 4 * time.Second
)

// followLooks keeps a stream of the board's looks open until ctx ends.
func (r *Reporter) followLooks(ctx context.Context) {
	for pause := minPause; ctx.Err() == nil; {
		heard, err := r.followStream(ctx)
		r.cfg.Meter.Connected.Store(false)
		if ctx.Err() != nil {
			return
		}
		r.cfg.OnError(err)
		if heard {
			pause = minPause
		}
		if !sleep(ctx, pause+mathrand.N(pause/2)) { // not all nodes at once
			return
		}
		pause = min(2*pause, maxPause)
	}
}

// errSilent reports that nothing came from the board for too long.
var errSilent = errors.New("the board is silent")

// followStream takes the announcements of one stream until it ends. heard reports whether there
// was one.
func (r *Reporter) followStream(ctx context.Context) (heard bool, err error) {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	header, err := r.cfg.Header(ctx)
	if err != nil {
		return false, err
	}
	s, err := sse.Open(ctx, sse.Config{
		URL: r.cfg.Board + wire.PathLooks + "?node=" + url.QueryEscape(r.cfg.Node().Name), HTTP: r.cfg.HTTP, Header: header,
		Check: checkStream, MaxEvent: 64 << 10, Idle: streamSilence,
	})
	if err != nil {
		return false, err
	}
	defer func() { _ = s.Close() }()
	r.cfg.Meter.Connected.Store(true)
	r.cfg.OnConnect()
	// While somebody looks, a board that is silent is not there any more.
	watchdog := time.AfterFunc(streamSilence, cancel)
	defer watchdog.Stop()
	for {
		f, err := s.Next()
		if err != nil && ctx.Err() != nil {
			err = errSilent
		}
		if err != nil {
			return heard, err
		}
		look, ok := parseLook(&f)
		if !ok {
			continue
		}
		heard = true
		if r.lease.announce(look); look.Looking {
			watchdog.Reset(board.FreshFor)
		} else {
			watchdog.Reset(365 * 24 * time.Hour) // Idle is enough
		}
	}
}

// sleep waits for d, and reports whether ctx still lasts.
func sleep(ctx context.Context, d time.Duration) bool {
	timer := time.NewTimer(d)
	defer timer.Stop()
	select {
	case <-timer.C:
		return true
	case <-ctx.Done():
		return false
	}
}
