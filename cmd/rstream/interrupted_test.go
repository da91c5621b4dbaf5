package main

import (
	"context"
	"errors"
	"strings"
	"syscall"
	"testing"

	"github.com/rstream-dev/rstream/event"
)

func stopped(t *testing.T) (context.Context, error) {
	ctx, cancel := context.WithCancelCause(t.Context())
	cause := &signalError{syscall.SIGTERM}
	cancel(cause)
	return ctx, cause
}

func TestSendLinesStopped(t *testing.T) {
	ctx, cause := stopped(t)
	closed := make(chan lineItem)
	close(closed)
	for range 20 { // the end of the lines, and the signal, are both there
		if _, _, err := nextBatch(ctx, closed); !errors.Is(err, cause) {
			t.Fatalf("nextBatch = %v, want %v", err, cause)
		}
	}
	var claim *claimError
	refuse := func([]event.Draft) (fate, showFunc, error) { return untaken, nil, context.Cause(ctx) }
	err := sendLines(ctx, strings.NewReader(numbered(10)), &lineClaim{name: "in"}, refuse, parseEvent)
	if !errors.As(err, &claim) || claim.claim != "nothing was appended" {
		t.Errorf("sendLines = %v", err)
	}
}
