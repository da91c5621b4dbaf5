package natslog

import (
	"context"
	"errors"
	"net/http"
	"strings"
	"testing"
	"time"

	"github.com/rstream-dev/rstream/event"
	"github.com/rstream-dev/rstream/internal/wire"
)

// While no node commits, an append that waits is not sent to the last committer again and again.
func TestVacantRole(t *testing.T) {
	t.Parallel()
	url := sharedURL(t)
	a := startNode(t, newConfig(t, url, "a"), nil)
	a.mustAppend(draft("p", "one"))
	cfg := newConfig(t, url, "b")
	cfg.AppendWait = 2 * time.Second
	b := startNode(t, cfg, nil)
	awaitHead(t, 1, b)
	b.log.lease.setBarred(true)
	a.kill()
	awaitGone(t, a, b)
	_, err := b.append(draft("p", "two"))
	var problem *wire.Error
	if !errors.As(err, &problem) || problem.Status != http.StatusServiceUnavailable || !strings.HasPrefix(problem.Detail, wire.NothingAppended) {
		t.Errorf("the append got %v", err)
	}
	if n := b.log.Status().Counters.Forwarded; n > 7 {
		t.Errorf("the append was forwarded %d times", n)
	}
	b.log.lease.setBarred(false)
	b.mustAppend(draft("p", "two"))
	checkEqual(t, 2, b)
}

// An append that ends because its server stops says so, and whether the event may be in the log.
func TestStoppedAppend(t *testing.T) {
	t.Parallel()
	p := newProxy(t, sharedURL(t))
	cfg := newConfig(t, p.url(), "a")
	cfg.AppendWait = 3 * time.Second
	a := startNode(t, cfg, nil)
	a.mustAppend(draft("p", "one"))
	stopped := errors.New("the test is over")
	check := func(want string, until func() bool) {
		t.Helper()
		ctx, stop := context.WithCancelCause(t.Context())
		done := make(chan error)
		go func() {
			_, err := a.mirror.Append(ctx, wire.Caller{}, []event.Draft{draft("p", "two")})
			done <- err
		}()
		await(t, "the append waits", until)
		stop(stopped)
		var problem *wire.Error
		if err := <-done; !errors.As(err, &problem) || problem.Status != http.StatusServiceUnavailable || !strings.HasPrefix(problem.Detail, want) || !strings.HasSuffix(problem.Detail, ": "+stopped.Error()) {
			t.Errorf("the append got %v, want %q", err, want)
		}
	}
	p.setMute()
	check("the outcome of the append is unknown", func() bool { return a.log.Status().Counters.Repeats > 0 })
	await(t, "the node gives up", func() bool { return !a.log.lease.isMine() })
	check(wire.NothingAppended, func() bool { return true })
}
