package natslog

import (
	"context"
	"errors"
	"testing"
	"time"

	"github.com/rstream-dev/rstream/event"
	"github.com/rstream-dev/rstream/internal/mirror"
)

// A stream that ends before the file may be that of a leader that was cut off. Until that has lasted, the
// error says only that the stream was not reached.
func TestStaleStream(t *testing.T) {
	t.Parallel()
	n := startNode(t, newPatientConfig(t, sharedURL(t), "a"), func(l *Log) { l.patience = time.Hour })
	n.mustAppend(draft("p", "x"))
	later := mirror.Position{Log: n.db.Log(), Point: event.Point{ID: n.db.Head() + 1}}
	check := func(name string, err error) {
		t.Helper()
		var away *mirror.UnreachableError
		var conflict *mirror.ConflictError
		if !errors.As(err, &away) || errors.As(err, &conflict) {
			t.Errorf("%s: %v", name, err)
		}
	}
	for _, err := range n.log.Follow(t.Context(), later) {
		check("Follow", err)
	}
	ctx, cancel := context.WithTimeout(t.Context(), 50*time.Millisecond)
	defer cancel()
	_, err := n.log.Describe(ctx, later)
	check("Describe", err)
}

// A reader that the stream does not have is refused, after a while. That is no reason for the committer to
// give up.
func TestReaderAhead(t *testing.T) {
	t.Parallel()
	n := startNode(t, newPatientConfig(t, sharedURL(t), "a"), func(l *Log) { l.patience = 100 * time.Millisecond })
	n.mustAppend(draft("p", "x"))
	for range 2 {
		await(t, "the reader is refused", func() bool { return n.mirror.Await(t.Context(), n.db.Head()+1) == nil })
	}
	if s := n.log.Status(); !s.IsCommitter || s.Counters.Claims != 1 {
		t.Errorf("the node has claimed %d times, and commits: %t", s.Counters.Claims, s.IsCommitter)
	}
}
