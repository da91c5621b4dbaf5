package natslog

import (
	"context"
	"errors"
	"fmt"
	"iter"
	"time"

	"github.com/nats-io/nats.go/jetstream"

	"github.com/rstream-dev/rstream/event"
	"github.com/rstream-dev/rstream/internal/mirror"
	"github.com/rstream-dev/rstream/internal/wire"
)

// maxBatch and maxBatchSize bound the events that are yielded together, apart from the last
// page.
const (
	maxBatch     = 4096
	maxBatchSize = 2 << 20
)

// errStopped means that the caller wants no more.
var errStopped = errors.New("stopped")

// State implements mirror.Upstream. A stream has no states, only events: a node that lacks
// what is before the first message needs the file of another one.
func (l *Log) State(context.Context, mirror.Position) (event.Time, iter.Seq2[event.Event, error], error) {
	return 0, nil, setupErrorf("%s has no states; start this node with a seed file", l)
}

// Follow implements mirror.Upstream, with a consumer: a server sends messages as fast as they
// are taken, while direct gets have no flow control.
func (l *Log) Follow(ctx context.Context, after mirror.Position) iter.Seq2[mirror.Batch, error] {
	return func(yield func(mirror.Batch, error) bool) {
		f := follower{l: l, log: after.Log, at: after.Point, yield: yield}
		allowed, done := l.whileAllowed(ctx, "$JS.API.STREAM.", "$JS.API.CONSUMER.CREATE.", "$JS.API.CONSUMER.MSG.NEXT.")
		err := refusalOr(allowed, f.run(allowed))
		done()
		l.lease.setFollowing(false)
		stopped := errors.Is(err, errStopped) // the file cannot take the batch
		if stopped || IsLasting(err) {
			l.lease.giveUp() // another node may be able to commit
		}
		if !stopped {
			yield(mirror.Batch{}, err)
		}
	}
}

// A follower is one call of Follow.
type follower struct {
	l     *Log
	log   string
	at    event.Point // the position up to which events were added to the batch
	first uint64      // the first message, which may begin before at
	seq   uint64      // the last message that was added
	last  uint64      // the last message of the stream, as far as is known
	live  bool        // it was reached
	batch mirror.Batch
	after []func() // to be done once the batch is stored
	yield func(mirror.Batch, error) bool
}

func (f *follower) run(ctx context.Context) error {
	ctx, cancel := f.l.whileConnected(ctx)
	defer cancel()
	err := f.seek(ctx)
	if seemsOld(err) {
		return f.l.oldStream(err) // Describe has patience with it
	}
	if err != nil {
		f.l.leaveServer(err)
		return err
	}
	f.l.setLog(f.log)
	f.l.setApplied(f.seq, f.last, f.at)
	arrivals, failed, stop, err := f.consume(ctx)
	if err != nil {
		f.l.leaveServer(err)
		return err
	}
	defer stop()
	f.l.lease.setFollowing(true)
	if err := f.pass(); err != nil { // there may be nothing new
		return err
	}
	return f.takeAll(ctx, arrivals, failed)
}

// takeAll takes what arrives, until an error.
func (f *follower) takeAll(ctx context.Context, arrivals <-chan arrival, failed <-chan error) error {
	idle := time.NewTicker(idleTime)
	defer idle.Stop()
	var behind uint64 // the last message of the stream at the tick before
	for {
		select {
		case a := <-arrivals:
			behind = 0
			if err := f.take(ctx, a, arrivals); err != nil {
				return err
			}
		case <-idle.C:
			if behind > f.seq {
				return f.l.unreachable(errLost)
			}
			info, err := f.l.info(ctx)
			if err != nil {
				f.l.leaveServer(err)
				return err
			}
			behind = info.State.LastSeq
		case err := <-failed:
			return f.l.unreachable(err)
		case <-ctx.Done():
			return f.l.unreachable(context.Cause(ctx))
		}
	}
}

// take adds an arrival to the batch, and those that are there already, and passes them on.
func (f *follower) take(ctx context.Context, a arrival, arrivals <-chan arrival) error {
	for {
		if err := f.add(ctx, &a); err != nil {
			return errors.Join(err, f.pass())
		}
		if len(f.batch.Events) >= maxBatch || f.batch.Bytes >= maxBatchSize {
			return f.pass()
		}
		select {
		case a = <-arrivals:
		default:
			return f.pass()
		}
	}
}

// idleTime is how long no message may come until the stream is asked whether there is one: a
// message that is lost between two servers is not sent again.
const idleTime = 3 * time.Second

// errLost means that messages were lost on their way here.
var errLost = errors.New("messages of the stream were lost on the way")

// seek finds where to begin.
func (f *follower) seek(ctx context.Context) error {
	info, err := f.l.info(ctx)
	if err != nil {
		return err
	}
	d, err := describeMetadata(info.Config.Metadata)
	if err != nil {
		return err
	}
	if d.Log != f.log {
		return &mirror.ConflictError{Reason: wire.ReasonLog, Detail: fmt.Sprintf("%s has the log %s, not %s", f.l, d.Log, f.log)}
	}
	s := seeker{l: f.l, log: f.log, begin: d.Horizon, first: info.State.FirstSeq, last: info.State.LastSeq}
	if _, err := s.head(ctx); err != nil {
		return err
	}
	if f.first, err = s.seek(ctx, f.at); err != nil {
		return err
	}
	f.seq, f.last = f.first-1, s.last
	return nil
}

// An arrival is a message that has come from the server.
type arrival struct {
	message
	seq     uint64
	pending uint64 // messages after it
	err     error  // it cannot be taken
}

// open parses a message, except one that is probably this node's own. It is called while the
// messages before it are stored.
func (l *Log) open(msg jetstream.Msg) (a arrival) {
	meta, err := msg.Metadata()
	if err != nil {
		a.err = fmt.Errorf("read a message of the stream: %w", err)
		return a
	}
	a.seq, a.pending = meta.Sequence.Stream, meta.NumPending
	a.message, a.err = decode(msg.Subject(), msg.Headers(), msg.Data(), a.seq)
	if a.err == nil && a.subject == l.subject(partEvents) && !l.committer.hasFlying(a.seq) {
		a.err = a.parseEvents(a.seq)
	}
	return a
}

// consume returns the messages of the stream from the first one, until stop.
func (f *follower) consume(ctx context.Context) (arrivals <-chan arrival, failed <-chan error, stop func(), err error) {
	l := f.l
	consumer, err := l.js.CreateConsumer(ctx, l.cfg.Stream, jetstream.ConsumerConfig{
		DeliverPolicy: jetstream.DeliverByStartSequencePolicy, OptStartSeq: f.first,
		AckPolicy: jetstream.AckNonePolicy, MemoryStorage: true, Replicas: 1, InactiveThreshold: 30 * time.Second,
		Metadata: map[string]string{metaNode: l.cfg.Node, metaBoot: l.boot},
	})
	if err != nil {
		return nil, nil, nil, l.streamError(err)
	}
	arrived, broken, done := make(chan arrival, maxArrived), make(chan error, 1), make(chan struct{})
	consuming, err := consumer.Consume(func(msg jetstream.Msg) {
		select {
		case arrived <- l.open(msg):
		case <-done:
		}
	}, jetstream.PullMaxBytes(pullBytes), jetstream.PullExpiry(10*time.Second), jetstream.PullHeartbeat(2*time.Second),
		jetstream.ConsumeErrHandler(func(_ jetstream.ConsumeContext, err error) {
			select {
			case broken <- err:
			default: // the first one ends it
			}
		}))
	if err != nil {
		return nil, nil, nil, l.unreachable(err)
	}
	return arrived, broken, func() {
		close(done)
		consuming.Stop()
		ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), time.Second)
		defer cancel()
		_ = l.js.DeleteConsumer(ctx, l.cfg.Stream, consumer.CachedInfo().Name) // or the server does it after a while
	}, nil
}

// maxArrived bounds the messages that are parsed and not stored.
const maxArrived = 16

// pullBytes bounds the bytes that are on the way from the server.
const pullBytes = 8 << 20

// add adds a message to the batch.
func (f *follower) add(ctx context.Context, a *arrival) error {
	m, seq, err := &a.message, a.seq, a.err
	if seq != f.seq+1 && seq != 0 {
		return f.explainGap(ctx, seq)
	}
	if err != nil {
		return f.l.messageError(err)
	}
	s := seeker{l: f.l}
	inside := seq == f.first && m.after.ID < f.at.ID
	if m.log != f.log || !inside && (m.after.ID != f.at.ID || !m.after.Mark.Agrees(f.at.Mark)) {
		return s.conflict(wire.ReasonMark, "has another history: message %d follows %s, and %s is here", seq, m.after.Cursor(m.log), f.at.Cursor(f.log))
	}
	known := f.l.committer.observe(seq, m)
	switch m.subject {
	case f.l.subject(partEvents):
		err = f.addEvents(m, known, seq)
	case f.l.subject(partClaim):
		var c claim
		if c, err = m.parseClaim(seq); err == nil {
			f.after = append(f.after, func() { f.l.lease.noteClaim(c, seq) })
		}
	case f.l.subject(partBound):
		var at event.Point
		if at, err = m.parseBound(seq); err == nil {
			f.after = append(f.after, func() { f.l.noteHorizon(at) })
		}
	default:
		err = &newerError{fmt.Sprintf("message %d of the stream has the subject %.80s, which this node does not know", seq, m.subject)}
	}
	if err != nil {
		return f.l.messageError(err)
	}
	f.seq, f.last = seq, max(f.last, seq+a.pending)
	return nil
}

// explainGap returns the error for a message that does not follow the last one: messages were
// lost on the way, or the stream does not have them.
func (f *follower) explainGap(ctx context.Context, seq uint64) error {
	_, _, err := f.l.get(ctx, fmt.Sprintf(`{"seq":%d}`, f.seq+1))
	if errors.Is(err, errNoMessage) {
		s := seeker{l: f.l}
		return s.conflict(wire.ReasonMark, "has message %d and not %d: it was purged", seq, f.seq+1)
	}
	return f.l.unreachable(errLost)
}

// addEvents adds the events of a page except those before at. known has them if this node has
// published it.
func (f *follower) addEvents(m, known *message, seq uint64) error {
	if known != nil {
		m = known
	} else if m.events == nil {
		if err := m.parseEvents(seq); err != nil {
			return err
		}
	}
	evs := m.events
	if m.after.ID < f.at.ID {
		n := f.at.ID - m.after.ID
		if uint64(n) >= uint64(len(evs)) {
			return &foreignError{seq, "ends before this node's position"}
		}
		if mark := evs[n-1].Mark(); !mark.Agrees(f.at.Mark) {
			return &foreignError{seq, "has another event at this node's position"}
		}
		evs = evs[n:]
	}
	f.batch.Events = append(f.batch.Events, evs...)
	f.batch.Bytes += m.size
	f.at = m.end()
	return nil
}

// pass yields the batch, and then notes how far the file is.
func (f *follower) pass() error {
	b := f.batch
	f.batch = mirror.Batch{}
	b.To, b.Head, b.Live = f.at, f.at.ID, f.seq >= f.last && !f.live
	if (len(b.Events) > 0 || b.Live) && !f.yield(b, nil) {
		return errStopped
	}
	f.live = f.live || b.Live
	f.l.setApplied(f.seq, f.last, f.at)
	for _, do := range f.after {
		do()
	}
	f.after = nil
	if f.live {
		f.l.lease.tell()
	}
	return nil
}
