package deliver

import (
	"context"
	"errors"
	"testing"
	"testing/synctest"
	"time"
)

// A stubbornWorker works until it is made to end, and has then done nothing.
type stubbornWorker struct{}

func (stubbornWorker) Do(ctx context.Context, _ *Try) error { <-ctx.Done(); return ctx.Err() }
func (stubbornWorker) Close()                               {}

// Tries that go on for longer than the grace are broken off. That is an error beside the cause of
// the end, and the events are not done.
func TestAbandoned(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := newListStore(2, 2)
		ctx, cancel := context.WithTimeout(t.Context(), time.Second)
		defer cancel()
		begun := time.Now()
		var status Status
		err := Run(ctx, Config{Store: s, Batches: s.batches, Workers: 2, Grace: 5 * time.Second, NewWorker: func() Worker { return stubbornWorker{} },
			TryTimeout: time.Minute, OnStatus: func(st Status) { status = st }})
		var abandoned *AbandonedError
		if !errors.Is(err, context.DeadlineExceeded) || !errors.As(err, &abandoned) || *abandoned != (AbandonedError{2, 5 * time.Second}) {
			t.Errorf("it ends with %v", err)
		}
		if took := time.Since(begun); took != 6*time.Second || status.Done != 0 {
			t.Errorf("it ends after %s with %d events done", took, status.Done)
		}
	})
}
