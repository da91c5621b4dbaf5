package natslog

import (
	"context"
	"fmt"
	"net/http"

	"github.com/nats-io/nats.go/jetstream"

	"github.com/rstream-dev/rstream/internal/wire"
)

// Error codes of a server that has no room for a message. The library has no names for them.
const (
	codeAccountResources  = 10002 // the limit of the account
	codeServerResources   = 10023 // the limit of the server
	codeStorageResources  = 10047
	codeStreamStoreFailed = 10077 // the limits of the stream
	codeStreamMaxBytes    = 10122
)

// isFull reports whether a refusal means that there is no room for a message.
func isFull(err *jetstream.APIError) bool {
	switch err.ErrorCode {
	case codeAccountResources, codeServerResources, codeStorageResources, codeStreamStoreFailed, codeStreamMaxBytes:
		return true
	}
	return false
}

// problemOf returns the response to an append that the server has refused.
func problemOf(refused *refusal) *wire.Error {
	if isFull(refused.err) {
		return wire.Errorf(http.StatusInsufficientStorage, "%s: the stream is full: NATS answers %q", wire.NothingAppended, refused.err.Description)
	}
	return wire.Errorf(http.StatusServiceUnavailable, "%s: the stream answers: %s", wire.NothingAppended, refused.err.Description)
}

// isUntouched reports whether a batch that was refused as too large for the room left no message.
// A server that is no cluster checks the limits of the server and the account for each message of a
// batch, so it may refuse the last one after it has stored the others.
func (l *Log) isUntouched(ctx context.Context, b *batch) bool {
	if len(b.encoded) == 1 {
		return true
	}
	ctx, cancel := l.whileConnected(ctx)
	defer cancel()
	ctx, done := l.whileAllowed(ctx, "$JS.API.STREAM.")
	defer done()
	ctx, cancelWait := context.WithTimeout(ctx, requestWait)
	defer cancelWait()
	info, err := l.info(ctx)
	return err == nil && info.State.LastSeq == b.seq
}

// noteRefused logs that the stream takes no messages, once until it takes one again.
func (l *Log) noteRefused(refused *refusal) {
	text := fmt.Sprintf("the stream takes no messages: NATS answers %q", refused.err.Description)
	if isFull(refused.err) {
		text = fmt.Sprintf("the stream is full: NATS answers %q; appends are refused until it has room", refused.err.Description)
	}
	l.mu.Lock()
	again := l.refused == text
	l.refused = text
	l.mu.Unlock()
	if !again {
		l.news("%s", text)
	}
}

// noteStored notes that a message was stored.
func (l *Log) noteStored() {
	l.mu.Lock()
	again := l.refused != ""
	l.refused = ""
	l.mu.Unlock()
	if again {
		l.news("the stream takes messages again")
	}
}
