package natslog

import (
	"context"
	"errors"
	"fmt"
	"strconv"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"
	"github.com/synadia-io/orbit.go/jetstreamext"

	"github.com/rstream-dev/rstream/event"
)

// errFence means that the last sequence of the stream is another one: somebody has committed.
var errFence = errors.New("another node has committed")

// errUnknown means that a batch may or may not have been stored.
var errUnknown = errors.New("the stream did not answer in time")

// errUnheard means that no server has got a message.
var errUnheard = errors.New("no NATS server has the stream")

// A refusal means that the server has refused to store a message, for good or for now.
type refusal struct{ err *jetstream.APIError }

func (e *refusal) Error() string { return fmt.Sprintf("NATS answers %q", e.err.Description) }

// publish sends messages once, to be stored after the message seq, all or none.
func (l *Log) publish(ctx context.Context, seq uint64, messages []*nats.Msg) (last uint64, err error) {
	ctx, cancel := l.whileConnected(ctx)
	defer cancel()
	ctx, done := l.whileAllowed(ctx, l.subject("log."))
	defer done()
	ctx, cancelWait := context.WithTimeout(ctx, l.cfg.AppendWait/3)
	defer cancelWait()
	h := messages[0].Header
	h.Set(jetstream.ExpectedStreamHeader, l.cfg.Stream)
	h.Set(jetstream.ExpectedLastSeqHeader, strconv.FormatUint(seq, 10))
	if len(messages) == 1 {
		var ack *jetstream.PubAck
		if ack, err = l.js.PublishMsg(ctx, messages[0], jetstream.WithRetryAttempts(0)); err == nil {
			last = ack.Sequence
		}
	} else {
		var ack *jetstreamext.BatchAck
		if ack, err = jetstreamext.PublishMsgBatch(ctx, l.js, messages, jetstreamext.BatchFlowControl{}); err == nil {
			last = ack.Sequence
		}
	}
	if err == nil && last != seq+uint64(len(messages)) {
		return 0, errFence // the stream is another one
	}
	var api *jetstream.APIError
	if errors.As(err, &api) {
		if api.ErrorCode == jetstream.JSErrCodeStreamWrongLastSequence {
			return 0, errFence
		}
		return 0, &refusal{api}
	}
	if errors.Is(err, jetstream.ErrNoStreamResponse) || errors.Is(err, nats.ErrNoResponders) {
		return 0, errUnheard
	}
	return last, refusalOr(ctx, err)
}

// A batch is what the committer publishes at once, and the requests that it answers.
type batch struct {
	seq      uint64 // it follows this message
	messages []message
	ready    chan struct{} // closed once encoded is set
	encoded  []*nats.Msg
	requests []*request
	end      event.Point   // after it
	settled  chan struct{} // closed once the stream has shown whether it was stored
	stored   bool          // it was; guarded by settled
	result   chan error    // has the outcome
}

// encode sets encoded, while the batch before b is published.
func (b *batch) encode() {
	defer close(b.ready)
	for i := range b.messages {
		b.encoded = append(b.encoded, b.messages[i].encode())
	}
}

// publishUntilKnown publishes b until its outcome is known: nil, errFence or a *refusal. After
// AppendWait it is errUnknown, or errNotCommitter if no server has got b.
func (c *committer) publishUntilKnown(ctx context.Context, b *batch) error {
	deadline := time.After(c.l.cfg.AppendWait)
	for sent := false; ; { // if sent, an earlier attempt may have been stored, or will be
		_, err := c.l.publish(ctx, b.seq, b.encoded)
		var refused *refusal
		switch {
		case err == nil:
			return nil
		case errors.Is(err, errFence) && !sent:
			return errFence
		case errors.As(err, &refused) && !sent && !isPassing(refused.err) && (!isFull(refused.err) || c.l.isUntouched(ctx, b)):
			return refused
		case errors.As(err, new(*RefusedError)) && !sent:
			return errFence // it was not stored; this node commits no more
		}
		sent = sent || !errors.Is(err, errUnheard)
		if c.l.conn.IsClosed() {
			return notStored(sent, err)
		}
		pause := time.After(repeatPause)
		if errors.Is(err, errFence) {
			pause = nil // the stream has another message there, and Follow will show it
		}
		select {
		case <-b.settled:
			if b.stored {
				return nil
			}
			return errFence
		case <-pause:
			c.l.count(func(n *Counters) { n.Repeats++ })
		case <-deadline:
			return notStored(sent, err)
		}
	}
}

// notStored returns the outcome of a batch that was not confirmed in time. If sent, it may have been
// stored.
func notStored(sent bool, err error) error {
	var refused *refusal
	switch {
	case !sent:
		return errNotCommitter
	case errors.As(err, &refused):
		return fmt.Errorf("%w: %w", errUnknown, refused)
	}
	return errUnknown
}

// repeatPause is how long to wait before a batch is sent again.
const repeatPause = 100 * time.Millisecond

// isPassing reports whether a refusal may pass soon: there is no leader at the moment, or it
// has changed in the middle of the batch.
func isPassing(err *jetstream.APIError) bool {
	return !isFull(err) && (err.Code >= 500 || err.Code == 429 || err.ErrorCode == jetstreamext.JSErrCodeBatchPublishIncomplete)
}
