package natslog

import (
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"strings"
	"time"

	"github.com/nats-io/nats.go/jetstream"

	"github.com/rstream-dev/rstream/event"
	"github.com/rstream-dev/rstream/internal/mirror"
	"github.com/rstream-dev/rstream/internal/wire"
)

// Names in the metadata of the stream.
const (
	metaFormat     = "rstream-format"
	metaLog        = "rstream-log"
	metaParent     = "rstream-parent"
	metaParentHead = "rstream-parent-head"
	metaBegin      = "rstream-begin"
)

// minServer is the oldest server that is used: earlier ones sync several times for a batch,
// and may lose the first sequence of a stream when they recover.
var minServer = [2]int{2, 15}

// minPayload is the least max_payload of a server: an event's line must fit in one message, with
// its headers, and also in base64 in an answer of the server.
const minPayload = wire.MaxLine*4/3 + 16<<10

// ErrNoStream means that the server has no stream of the name.
var ErrNoStream = errors.New("the stream does not exist")

// ErrMaybeCreated means that Create got no answer: the stream may exist now, or soon.
var ErrMaybeCreated = errors.New("whether the stream was created is not known")

// A SetupError means that a server or a stream is not set up as the log needs it.
type SetupError struct{ Text string }

func (e *SetupError) Error() string { return e.Text }

func setupErrorf(format string, args ...any) error { return &SetupError{fmt.Sprintf(format, args...)} }

// A BeginError means that a stream does not have the first events of its log, and that a node
// does not have them, either.
type BeginError struct {
	Stream      string
	Begin, Held event.ID // where the stream begins, and the file ends
}

func (e *BeginError) Error() string {
	return fmt.Sprintf("%s begins after %s, so each node needs a file that has all events up to there; that of this node ends at %s", e.Stream, e.Begin, e.Held)
}

// Create creates the stream, unless it exists, and returns the log that it has. If two nodes
// create it at the same time, one of them wins, and both return its log. created is true also if
// the stream could not be read after that. If the error is none of ErrMaybeCreated, and created is
// false, this call has created nothing.
func (l *Log) Create(ctx context.Context, c Creation) (d mirror.Description, created bool, err error) {
	if err := l.checkServer(); err != nil {
		return d, false, err
	}
	cfg, err := l.streamConfig(&c)
	if err != nil {
		return d, false, err
	}
	allowed, cancel := l.whileAllowed(ctx, "$JS.API.STREAM.CREATE.")
	defer cancel()
	_, err = l.js.CreateStream(allowed, cfg)
	switch {
	case err == nil:
		created = true
	case !errors.Is(err, jetstream.ErrStreamNameAlreadyInUse):
		err = refusalOr(allowed, l.streamError(err))
		var away *mirror.UnreachableError
		if errors.As(err, &away) && !away.Unsent {
			err = fmt.Errorf("%w: %w", ErrMaybeCreated, err)
		}
		return d, false, err
	}
	d, err = l.Describe(ctx, mirror.Position{})
	return d, created, err
}

// streamConfig returns the configuration of a new stream.
func (l *Log) streamConfig(c *Creation) (jetstream.StreamConfig, error) {
	log := c.Log
	if log == "" {
		var random [10]byte
		rand.Read(random[:]) // never fails
		log = event.NewLogID(random)
	}
	if !event.ValidLogID(log) || c.Parent != "" && !event.ValidLogID(c.Parent) {
		return jetstream.StreamConfig{}, fmt.Errorf("create log %.40q: not the id of a log", log)
	}
	meta := map[string]string{metaFormat: format, metaLog: log}
	if c.Parent != "" {
		meta[metaParent], meta[metaParentHead] = c.Parent, c.ParentHead.String()
	}
	if c.Begin.ID != event.Beginning {
		meta[metaBegin] = c.Begin.Cursor(log).String()
	}
	replicas := l.cfg.Replicas
	if replicas == 0 {
		replicas = 3
	}
	return jetstream.StreamConfig{
		Name: l.cfg.Stream, Description: "rstream log", Subjects: []string{l.subject(allStored)}, Metadata: meta, Replicas: replicas,
		Storage: jetstream.FileStorage, Retention: jetstream.LimitsPolicy, Discard: jetstream.DiscardNew,
		AllowDirect: true, AllowAtomicPublish: true, DenyDelete: true, DenyPurge: true,
	}, nil
}

// checkServer refuses a server that cannot keep the log.
func (l *Log) checkServer() error {
	version := l.conn.ConnectedServerVersion()
	if version == "" {
		err := l.conn.LastError() // of the last attempt
		if err == nil {
			err = errors.New("not connected")
		}
		return l.unreachable(err)
	}
	if err := checkVersion(version); err != nil {
		return err
	}
	if most := l.conn.MaxPayload(); most < minPayload {
		return setupErrorf("max_payload of the NATS server is %d; set it to 2MB", most)
	}
	return nil
}

func checkVersion(version string) error {
	var major, minor int
	_, err := fmt.Sscanf(version, "%d.%d.", &major, &minor)
	if err != nil || major < minServer[0] || major == minServer[0] && minor < minServer[1] {
		return setupErrorf("the NATS server is version %.20s; want %d.%d or later", version, minServer[0], minServer[1])
	}
	return nil
}

// checkStream refuses a stream that is not set up as Create does it.
func (l *Log) checkStream(cfg *jetstream.StreamConfig) error {
	want := "stream " + l.cfg.Stream
	if err := newerFormat(want, cfg.Metadata[metaFormat]); err != nil {
		return l.messageError(err)
	}
	switch {
	case cfg.Metadata[metaLog] == "":
		return setupErrorf("%s has no log: another program made it", want)
	case cfg.Metadata[metaFormat] != format:
		return setupErrorf("%s is of format %.20q, not %s", want, cfg.Metadata[metaFormat], format)
	case !event.ValidLogID(cfg.Metadata[metaLog]):
		return setupErrorf("%s has no valid log id", want)
	case len(cfg.Subjects) != 1 || cfg.Subjects[0] != l.subject(allStored):
		return setupErrorf("%s has the subjects %.80q", want, strings.Join(cfg.Subjects, " "))
	case cfg.Storage != jetstream.FileStorage:
		return setupErrorf("%s is not stored in files", want)
	case !cfg.AllowAtomicPublish:
		return setupErrorf("%s has no atomic batches: set allow_atomic", want)
	case !cfg.DenyDelete || !cfg.DenyPurge:
		return setupErrorf("%s can lose messages: set deny_delete and deny_purge", want)
	case cfg.Retention != jetstream.LimitsPolicy || cfg.MaxAge != 0 || cfg.MaxMsgs > 0 || cfg.MaxMsgsPerSubject > 0 || cfg.AllowMsgTTL || cfg.AllowRollup:
		return setupErrorf("%s drops messages: it must have no limits", want)
	case cfg.MaxBytes > 0 && cfg.Discard != jetstream.DiscardNew:
		return setupErrorf("%s drops its oldest messages when full: set discard to new", want)
	case cfg.MaxMsgSize > 0 && cfg.MaxMsgSize < minPayload:
		return setupErrorf("%s has a max_msg_size of %d; want at least %d", want, cfg.MaxMsgSize, minPayload)
	case cfg.Mirror != nil || len(cfg.Sources) > 0 || cfg.SubjectTransform != nil || cfg.Sealed || cfg.NoAck:
		return setupErrorf("%s is a mirror, has sources, or is sealed", want)
	case l.cfg.Replicas != 0 && cfg.Replicas != l.cfg.Replicas:
		return setupErrorf("%s has %d replicas, not %d", want, cfg.Replicas, l.cfg.Replicas)
	}
	return nil
}

// Codes of errors that are answers about the configuration of a stream, although the server gives
// them the status 500.
const (
	codeInvalidConfig = 10052
	codeReplicas      = 10074
)

// streamError returns the error for one of the stream's API.
func (l *Log) streamError(err error) error {
	var api *jetstream.APIError
	switch {
	case errors.Is(err, jetstream.ErrStreamNotFound):
		return fmt.Errorf("stream %s: %w", l.cfg.Stream, ErrNoStream)
	case errors.As(err, &api) && (api.Code < 500 || api.ErrorCode == codeInvalidConfig || api.ErrorCode == codeReplicas):
		return setupErrorf("stream %s: %s", l.cfg.Stream, api.Description)
	}
	return l.unreachable(err)
}

// info returns how the stream is, if it is set up for a log.
func (l *Log) info(ctx context.Context) (*jetstream.StreamInfo, error) {
	if err := l.checkServer(); err != nil {
		return nil, err
	}
	stream, err := l.js.Stream(ctx, l.cfg.Stream)
	if err != nil {
		return nil, l.streamError(err)
	}
	info := stream.CachedInfo()
	return info, l.checkStream(&info.Config)
}

// Describe implements mirror.Upstream. Its horizon is not after held: a node reads all of the
// stream, and drops history as the messages of the stream say it.
func (l *Log) Describe(ctx context.Context, held mirror.Position) (mirror.Description, error) {
	for began := time.Now(); ; {
		d, err := l.describe(ctx, held)
		var conflict *mirror.ConflictError
		if !errors.As(err, &conflict) {
			l.leaveServer(err)
			return d, err
		}
		if !seemsOld(err) || time.Since(began) > l.patience {
			l.lease.giveUp() // others may follow the stream
			return d, err
		}
		select {
		case <-time.After(500 * time.Millisecond):
		case <-ctx.Done():
			return d, l.oldStream(err)
		}
	}
}

// patience is for how long the stream may seem to end before a position that it has.
const patience = 12 * time.Second

// MirrorConfig adds to cfg what is special about a mirror whose upstream is the stream.
func (l *Log) MirrorConfig(cfg mirror.Config) mirror.Config {
	cfg.Patience, cfg.Lasting = l.patience, IsLasting
	return cfg
}

// seemsOld reports whether an error means that the stream ends before a position. That may pass: a
// leader that was cut off from the others shows the stream as it was, until it notices.
func seemsOld(err error) bool {
	var conflict *mirror.ConflictError
	return errors.As(err, &conflict) && conflict.Reason == wire.ReasonAhead
}

// oldStream returns the error for a stream that seems to be old, and may not be. The conflict is not
// wrapped: it would be found, and taken for certain.
func (l *Log) oldStream(conflict error) error { return l.unreachable(errors.New(conflict.Error())) }

func (l *Log) describe(ctx context.Context, held mirror.Position) (d mirror.Description, err error) {
	ctx, cancel := l.whileConnected(ctx)
	defer cancel()
	ctx, done := l.whileAllowed(ctx, "$JS.API.STREAM.")
	defer done()
	defer func() { err = refusalOr(ctx, err) }()
	info, err := l.info(ctx)
	if err != nil {
		return d, err
	}
	if d, err = describeMetadata(info.Config.Metadata); err != nil {
		return d, err
	}
	if held.Log != "" && held.Log != d.Log {
		return d, &mirror.ConflictError{Reason: wire.ReasonLog, Detail: fmt.Sprintf("%s has the log %s, not %s", l, d.Log, held.Log)}
	}
	s := seeker{l: l, log: d.Log, begin: d.Horizon, first: info.State.FirstSeq, last: info.State.LastSeq}
	if d.Head, err = s.head(ctx); err != nil {
		return d, err
	}
	d.Horizon = event.Point{}
	if held.Log == "" {
		return d, nil
	}
	if _, err := s.seek(ctx, held.Point); err != nil {
		return d, err
	}
	if err := l.readHorizon(ctx, d.Log); err != nil {
		return d, err
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	l.log = d.Log
	if l.horizon.ID <= held.ID {
		d.Horizon = l.horizon
	}
	return d, nil
}

// describeMetadata returns what the metadata of a stream say of its log. The horizon is where
// the stream begins.
func describeMetadata(meta map[string]string) (d mirror.Description, err error) {
	d = mirror.Description{Log: meta[metaLog], ParentHead: event.MaxID}
	if parent := meta[metaParent]; event.ValidLogID(parent) {
		d.Parent = parent
		if at, err := event.ParseID(meta[metaParentHead]); err == nil {
			d.ParentHead = at
		}
	}
	if begin := meta[metaBegin]; begin != "" {
		at, err := event.ParseCursor(begin)
		if err != nil || !at.Of(d.Log) {
			return d, setupErrorf("the stream begins at %.40q, which is no position of its log", begin)
		}
		d.Horizon = at.Point()
	}
	return d, nil
}
